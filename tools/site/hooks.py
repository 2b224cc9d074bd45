"""Hooks of mkdocs: links lead to what the site shows, formulas are typeset, no page asks a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.site.copies import relinked
from tools.site.mathematics import typeset

DOCS = Path(__file__).parents[2] / "docs"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for every page before it is rendered."""
    where = page.file.src_uri
    linked = relinked(markdown, where, lambda path: (DOCS / path).is_file())
    return linked if where.startswith("reference/") else typeset(linked)


def on_post_page(output: str, **_: Any) -> str:
    """Called by mkdocs for every page: the link to the repository stays a link.

    The theme's script would ask the repository's host for its stars and its latest release.
    """
    return output.replace(' data-md-component="source"', "")
