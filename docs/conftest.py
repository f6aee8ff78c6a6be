"""Every ```python block of these pages is a test; blocks of one page share their names."""

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["*.md", "**/*.md"],
    excludes=["rows.md", "_build/**", "_generated/**"],
).pytest()
