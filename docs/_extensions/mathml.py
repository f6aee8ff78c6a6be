"""Formulas as MathML, which every browser draws by itself: no script and no font is loaded."""

import re

from docutils import nodes
from latex2mathml.converter import convert

_THIN = '<mspace width="0.17em"/>'
_WORD = "<m[io]>(?:log|exp|max|min)</m[io]>"


def _mathml(latex, display):
    """Thin spaces around the names of functions and none inside bars, as TeX sets them and MathML does not."""
    text = convert(latex, display=display).replace("<mo>&#x0007C;", '<mo lspace="0" rspace="0">&#x0007C;')
    text = re.sub(rf"(?<=</mi>|</mn>)({_WORD})|(?<=</msub>|</msup>)({_WORD})", rf"{_THIN}\g<0>", text)
    return re.sub(rf"({_WORD})(?=<mi|<mn|<ms|<mun)", rf"\g<1>{_THIN}", text)


def _inline(translator, node):
    translator.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _display(translator, node):
    latex = node.astext()
    if "\\\\" in latex and "\\begin" not in latex:
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    translator.body.append(f'<div class="math">{_mathml(latex, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
