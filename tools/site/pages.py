"""Pages that nobody writes by hand: run by mkdocs (plugin gen-files) while the site is built.

* reference/python: every public name, from its docstring.
* reference/commands: every command and option, from the dataclasses that parse them.
* tutorials/: every notebook, with what it printed.
* paper/ and the pages of the repository outside docs/, which the site shows as its own.
"""

from __future__ import annotations

from pathlib import Path

import mkdocs_gen_files

from tools import tutorials
from tools.site.commands import command_page
from tools.site.copies import COPIES
from tools.site.names import GROUPS, python_page

ROOT = Path(__file__).parents[2]


def write(path: str, text: str) -> None:
    """A page of the site, at `path` below its root."""
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


def commands() -> None:
    """One page a command, and a list of them."""
    from crossproof.cli import COMMANDS

    rows = [f"| [{name}]({name}.md) | {about} |" for name, about in COMMANDS.items()]
    head = "# Commands\n\n`crossproof COMMAND --help` says the same.\n\n| command | |\n|---|---|\n"
    write("reference/commands/index.md", head + "\n".join(rows) + "\n")
    for name in COMMANDS:
        write(f"reference/commands/{name}.md", command_page(name))


def python() -> None:
    """One page a group of public names, and a list of them."""
    rows = []
    for title, names in GROUPS.items():
        slug = title.lower().replace(" ", "-")
        write(f"reference/python/{slug}.md", python_page(title, names))
        linked = ", ".join(f"[{name}]({slug}.md#{name.lower()})" for name in names)
        rows.append(f"| [{title}]({slug}.md) | {linked} |")
    write(
        "reference/python/index.md",
        "# Python\n\n| | |\n|---|---|\n" + "\n".join(rows) + "\n",
    )


def notebooks() -> None:
    """One page a tutorial."""
    for script in tutorials.scripts():
        write(f"tutorials/{script.stem}.md", tutorials.page(script.stem))


def copies() -> None:
    """Pages and pictures of the repository that are not in docs/."""
    for source, page in COPIES.items():
        with mkdocs_gen_files.open(page, "wb") as file:
            file.write((ROOT / source).read_bytes())
    for picture in sorted((ROOT / "paper/pages/figures").glob("*.png")):
        with mkdocs_gen_files.open(f"paper/figures/{picture.name}", "wb") as file:
            file.write(picture.read_bytes())


commands()
python()
notebooks()
copies()
