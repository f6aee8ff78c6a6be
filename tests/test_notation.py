"""E0.21: what each symbol of the REPS page means stands once, in the table at the top of that page."""

import re
from pathlib import Path

import pytest

from clauses import against

PAGE = (Path(__file__).parent.parent / "docs/explanation/relative_entropy_policy_search.md").read_text()
MATHS = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)
GREEK = r"\\(psi|phi|varepsilon|eta|delta|Sigma|gamma|pi|theta|omega|lambda|mu)\b"
SYMBOL = re.compile(GREEK + r"|(?<![\\a-zA-Z])([a-zA-Z])(?![a-zA-Z])")
MATHEMATICS = {"e"}
OF_OTHERS = {"o", "t"}
"""In features that are quoted from other code."""


def symbols(maths: str) -> list[str]:
    maths = re.sub(r"\\(mathbb|mathrm|mathcal|text)\{[^}]*\}", " ", maths).replace("_{", "_ {")
    return list(dict.fromkeys(greek or latin for greek, latin in SYMBOL.findall(maths)))


def without_the_policy_features(page: str) -> str:
    """As where one letter is a feature of the value here and of the policy there."""
    return "\n".join(line for line in page.splitlines() if not line.startswith("| $\\phi$"))


def with_one_letter_twice(page: str) -> str:
    """Z as the normalizer of p and as the denominator of the covariance."""
    return page.replace("| $g$ |", "| $g, Z$ |")


@pytest.mark.row("E0.21")
@against(lambda page: page, no_policy_features=without_the_policy_features, one_letter_twice=with_one_letter_twice)
def test_every_symbol_is_in_the_table_once(implementation):
    page = re.sub(r"```.*?```", "", implementation(PAGE), flags=re.DOTALL)
    table = [s for row in re.findall(r"^\| (\$.+?\$) \|", page, re.MULTILINE) for s in symbols(row)]
    used = {s for displayed, inline in MATHS.findall(page) for s in symbols(displayed or inline)}
    assert len(table) == len(set(table))
    assert used - MATHEMATICS - OF_OTHERS == set(table)
