"""A page a command, from what `crossproof COMMAND --help` prints."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import indent
from unittest.mock import patch

BOX = re.compile(r"^[╭╰]")
TITLE = re.compile(r"^╭─ (.*?) ─+╮$")
CODE = re.compile(r"(?:^ {2}.*\n?)+", re.MULTILINE)
RULE = re.compile(r"^─+$")


@dataclass(frozen=True)
class Option:
    """An option, or a positional argument, of a command."""

    spelling: str
    """With what it takes: `--steps INT`."""
    help: str


@dataclass(frozen=True)
class Section:
    """Options that stand together."""

    title: str
    about: str
    options: tuple[Option, ...]


VARIANTS = {"prove": (("--kind", "statistical"), ("--kind", "contexts"))}
"""Commands that have other options behind an option, and that option."""


def help_text(command: str, *options: str) -> str:
    """What the command prints, in one column of boxes."""
    from crossproof.cli import main

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # an encoding that has boxes
    wide = patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"})
    with wide, contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([command, *options, "--help"])
    out.flush()
    return out.buffer.getvalue().decode()


def sections(text: str) -> Iterator[Section]:
    """The boxes of a help text."""
    title: str | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if named := TITLE.match(line):
            title, lines = named[1], []
        elif BOX.match(line) and title is not None:
            yield _section(title, lines)
            title = None
        elif title is not None:
            lines.append(line[2:-1].rstrip())


def introduction(text: str) -> str:
    """What stands before the first box, its examples as code."""
    head = text.partition("╭")[0].rstrip()
    return CODE.sub(lambda lines: "\n" + indent(lines[0], "  "), head)


def command_page(command: str) -> str:
    """Markdown, with the options behind an option under headings of their own."""
    parts = [f"# crossproof {command}", *_parts(help_text(command), "##")]
    for options in VARIANTS.get(command, ()):
        title = f"## crossproof {command} {' '.join(options)}"
        parts += [title, *_parts(help_text(command, *options), "###")]
    return "\n\n".join(parts) + "\n"


def every_option(command: str) -> list[Option]:
    """Of the command and its variants."""
    texts = [help_text(command, *options) for options in ((), *VARIANTS.get(command, ()))]
    return [option for text in texts for section in sections(text) for option in section.options]


def _parts(text: str, heading: str) -> list[str]:
    parts = ["```\n" + text.splitlines()[0] + "\n```"]
    parts.append(introduction(text).partition("\n")[2])
    for section in sections(text):
        parts.append(f"{heading} {section.title}\n\n{section.about}")
        rows = "\n".join(
            f"| <code>{_cell(o.spelling)}</code> | {_cell(o.help)} |" for o in section.options
        )
        parts.append("| | what it does |\n|---|---|\n" + rows)
    return parts


def _section(title: str, lines: list[str]) -> Section:
    rule = next((at for at, line in enumerate(lines) if RULE.match(line)), -1)
    about = [line.strip() for line in lines[: max(rule, 0)]]
    options: list[tuple[str, list[str]]] = []
    for line in lines[rule + 1 :]:
        if line[:1] != " ":
            spelling, _, text = line.partition("  ")
            options.append((spelling, [text.strip()]))
        else:
            options[-1][1].append(line.strip())
    name = title.removesuffix(" options").rpartition(".")[2].replace("-", " ")
    read = tuple(Option(spelling, " ".join(filter(None, text))) for spelling, text in options)
    return Section(name.capitalize(), " ".join(about), read)


def _cell(text: str) -> str:
    return text.replace("&", "&amp;").replace("|", "&#124;").replace("<", "&lt;")
