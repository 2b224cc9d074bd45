"""Hooks of mkdocs: links lead to what the site shows, formulas are typeset, no page asks a host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tools.site.copies import relinked
from tools.site.mathematics import typeset

DOCS = Path(__file__).parents[2] / "docs"
INLINE = re.compile(r"<code>(.*?)</code>")
OPTION = re.compile(r"--[a-z][a-z0-9-]*")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for every page before it is rendered."""
    where = page.file.src_uri
    if where.startswith(("decisions/", "changelog")):  # found behind what explains the use
        page.meta.setdefault("search", {"boost": 0.2})
    linked = relinked(markdown, where, lambda path: (DOCS / path).is_file())
    return linked if where.startswith("reference/") else typeset(linked)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for every page that is rendered: no line ends within an option of prose."""
    if page.file.src_uri.startswith("reference/"):  # columns of options, narrow on a phone
        return html
    whole = r'<span class="option">\g<0></span>'
    return INLINE.sub(lambda code: OPTION.sub(whole, code[0]), html)


def on_post_page(output: str, **_: Any) -> str:
    """Called by mkdocs for every page: the link to the repository stays a link.

    The theme's script would ask the repository's host for its stars and its latest release.
    """
    return output.replace(' data-md-component="source"', "")
