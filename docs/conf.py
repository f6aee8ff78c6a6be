"""Sphinx configuration. What a page shows is made here or lies in this folder: no network, no foreign scripts."""

import os
import re
import sys
from pathlib import Path

from jaxtyping import set_array_name_format
from sphinx.util.typing import stringify_annotation

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "_extensions")]
os.environ["MPLBACKEND"] = "Agg"
set_array_name_format("array")

import optimality  # noqa: E402
from optimality.core.numerics import Real  # noqa: E402

project = "Optimality"
author = "The Optimality developers"
release = version = optimality.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
exclude_patterns = ["_build", "_generated"]

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "Optimality"
html_static_path = ["_static"]
html_css_files = ["optimality.css"]
html_copy_source = False
html_show_sphinx = html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "native"

toc_object_entries_show_parents = "hide"
default_role = "code"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
autoclass_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def make_generated(app):
    """Figures, tables and the output of commands, into `_generated/`."""
    import figures

    figures.make_all(HERE / "_generated")


_LITERAL = ".. code-block:: text\n\n"
_EQUATION = re.compile(r"^[\w ]+(\([^)]*\))? = ")


_NOT_NAPOLEON = {"attribute", "property", "data"}
_kept = {}


def keep_from_napoleon(app, what, name, obj, options, lines):
    """A field is documented by sentences; napoleon would take what stands before a colon for a type."""
    if what in _NOT_NAPOLEON:
        _kept[name] = list(lines)
        lines.clear()


def literal_equations(app, what, name, obj, options, lines):
    """Docstrings hold equations as indented plain text: those blocks become literal blocks."""
    lines[:] = _kept.pop(name, lines)
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
    out, hangs = [], False  # hangs: inside a field, a list or a directive, whose indented blocks are its own
    for paragraph in paragraphs:
        first = paragraph.lstrip("\n").splitlines()[:1]
        indented = bool(first) and first[0].startswith(" ")
        if not indented:
            hangs = bool(first) and re.match(r":\w|\.\. |[-*] ", first[0]) is not None
            hangs = hangs or paragraph.rstrip().endswith("::")
        if indented and not hangs:
            out.append(_LITERAL + paragraph)
        elif paragraph.strip() and all(_EQUATION.match(line) for line in paragraph.strip().splitlines()):
            out.append(_LITERAL + "\n".join("    " + line for line in paragraph.strip().splitlines()))
        else:
            out.append(paragraph)
    lines[:] = "\n\n".join(out).splitlines()


def skip_members(app, what, name, obj, skip, options):
    """The criteria that a method accepts are a table of their own."""
    return True if name == "accepts" else None


def short_types():
    """`Real` instead of the union behind it, in signatures and fields."""

    def stringify(annotation, *args, **kwargs):
        spelled_out = stringify_annotation(Real, *args, **kwargs)
        return stringify_annotation(annotation, *args, **kwargs).replace(spelled_out, "Real")

    for name, module in list(sys.modules.items()):
        ours = name.startswith("sphinx.ext.autodoc") or name == "sphinx.util.inspect"
        if ours and hasattr(module, "stringify_annotation"):
            module.stringify_annotation = stringify


def setup(app):
    app.connect("builder-inited", make_generated)
    short_types()
    app.connect("autodoc-process-docstring", keep_from_napoleon, priority=100)
    app.connect("autodoc-process-docstring", literal_equations, priority=900)
    app.connect("autodoc-skip-member", skip_members)
