"""Pages of the repository outside docs/ that the site shows as its own, and links between both."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable

REPOSITORY = "https://github.com/crossproof/crossproof/blob/main/"

COPIES = {
    "paper/README.md": "paper/index.md",
    "paper/pages/results.md": "paper/results.md",
    "paper/pages/reproduce.md": "paper/reproduce.md",
    "paper/pages/search.md": "paper/search.md",
    "paper/data/clusters.md": "paper/clusters.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "models/README.md": "models-made.md",
    "examples/certificates/README.md": "certificates-shipped.md",
    "src/crossproof/lm/bundled/README.md": "bundled-model.md",
}
"""A file of the repository: its page on the site."""

ORIGINS = {page: source for source, page in COPIES.items()}
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def origin(page: str) -> str:
    """Where in the repository a page's text stands."""
    return ORIGINS.get(page, f"docs/{page}")


def site_path(file: str, exists: Callable[[str], bool]) -> str | None:
    """The page of the site that shows a file of the repository; None if none does."""
    if file in COPIES:
        return COPIES[file]
    if file.startswith("paper/pages/figures/"):
        return file.replace("paper/pages/", "paper/")
    inside = file.removeprefix("docs/")
    if inside == file:
        return None
    for each in (inside, posixpath.join(inside, "README.md")):
        if exists(each):
            return each
    return None


def relinked(text: str, page: str, exists: Callable[[str], bool]) -> str:
    """The page's Markdown with links to what the site shows, and else to the repository.

    `exists` says which paths below docs/ are there.
    """
    here = posixpath.dirname(origin(page))

    def replaced(link: re.Match[str]) -> str:
        target = link[2]
        if "://" in target or target.startswith(("mailto:", "/")):
            return link[0]
        file = posixpath.normpath(posixpath.join(here, target))
        shown = site_path(file, exists)
        if shown is None and page not in ORIGINS and not file.startswith(".."):
            # Pages that are made while the site is built.
            made = posixpath.relpath(file, "docs")
            shown = made if made.startswith(("reference/", "paper/", "tutorials/")) else None
        if shown is None:
            return f"{link[1]}{REPOSITORY}{file}{link[3]}"
        return f"{link[1]}{os.path.relpath(shown, posixpath.dirname(page) or '.')}{link[3]}"

    return LINK.sub(replaced, text)
