"""Formulas as the site shows them: subscripts and superscripts, without a script or a font of ours.

Pages write mathematics in plain characters, so that they read in any editor: `p_nh`, `A^γ`,
`Σ_{k≠h}`, and formulas of their own as indented blocks. Here `_` and `^` become HTML. Code,
headings (whose anchors are linked to) and links stay as they are.
"""

from __future__ import annotations

import re

LATIN = r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]"
BASE = (
    rf"(?<![A-Za-z0-9_]){LATIN}|[\u0370-\u03ff\u0300-\u036f)‖|\]>'’∇∂∏∫′²⁺⁻]"
    r"|\b(?:MLP|Lip|bias|log|min|(?:arg)?max)"
)
"""What has scripts: a single letter, an operator, a bracket. Names of things are longer."""
MARK = r"[_^](?:\{(?:[^{}]|\{[^{}]*\})*\}|\(\w\)|[A-Za-z0-9]++|[\u0370-\u03ff−+*⁺′∞])"
SCRIPTED = re.compile(f"({BASE})((?:{MARK})++)(?!=)")  # k_max=3 is a setting
APART = re.compile(r"(`+[^`]*`+|\]\([^)]*\)|<[^>]+>)")
FENCE = re.compile(r"^\s*(```|~~~)")
FORMULA = re.compile(r"[Σ∏‖⟨⟩≤≥≠∈√∂−·×∞\u0300-\u036f\u0370-\u03ff]")
TAG = {"_": "sub", "^": "sup"}


def scripts(text: str) -> str:
    """Text without Markdown of its own, marks as HTML."""

    def one(mark: re.Match[str]) -> str:
        inner = mark[0][1:]
        inner = scripts(inner[1:-1]) if inner.startswith("{") else inner
        return f"<{TAG[mark[0][0]]}>{inner}</{TAG[mark[0][0]]}>"

    return SCRIPTED.sub(lambda found: found[1] + re.sub(MARK, one, found[2]), text)


def typeset(markdown: str) -> str:
    """A page with its formulas typeset."""
    made: list[str] = []
    block: list[str] = []
    fenced = False
    for line in [*markdown.split("\n"), ""]:
        indented = line.startswith("    ") and (bool(block) or not made or not made[-1].strip())
        if not fenced and indented:
            block.append(line)
            continue
        made += _block(block)
        block = []
        if FENCE.match(line):
            fenced = not fenced
        apart = fenced or line.startswith(("#", "    ")) or FENCE.match(line)
        made.append(line if apart else _prose(line))
    return "\n".join(made[:-1])


def _prose(line: str) -> str:
    parts = APART.split(line)
    return "".join(part if at % 2 else scripts(part) for at, part in enumerate(parts))


def _block(lines: list[str]) -> list[str]:
    """An indented block: a formula if it holds mathematics, and else code as it was."""
    text = "\n".join(line[4:] for line in lines)
    if not FORMULA.search(text):
        return lines
    for character, spelt in {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.items():
        text = text.replace(character, spelt)
    text = re.sub(r"(?<=\S)  +", "\u2003", text)  # columns of a font with one width
    return [f'<pre class="formula">{scripts(text)}</pre>']
