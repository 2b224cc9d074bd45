"""Tutorials: a script each, from which a notebook with its outputs and a page are made.

    python -m tools.tutorials [NAME ...]

docs/tutorials/NAME.py is what is written by hand, in the percent format that editors know: `# %%`
begins a cell of code, `# %% [markdown]` one of prose. It runs as it is; this runs it cell by cell
and writes docs/tutorials/NAME.ipynb beside it. Nothing of Jupyter is needed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
MARK = re.compile(r"^# %%(.*)\n", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """A piece of a tutorial."""

    kind: Literal["markdown", "code"]
    source: str


def scripts() -> list[Path]:
    """The tutorials, in the order of the list on their page."""
    listed = re.findall(r"\((\S+)\.md\)", (FOLDER / "index.md").read_text(encoding="utf-8"))
    return [path for name in listed if (path := FOLDER / f"{name}.py").exists()]


def cells_of(script: str) -> list[Cell]:
    """The cells of a script in the percent format."""
    _, *parts = MARK.split(script)
    made = []
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        if title.strip() == "[markdown]":
            prose = re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE)
            made.append(Cell("markdown", prose))
        else:
            made.append(Cell("code", body.strip()))
    return made


def outputs(cells: Sequence[Cell]) -> Iterator[str]:
    """What each cell prints, run in order in one namespace and in the working folder."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for at, cell in enumerate(cells):
        printed = io.StringIO()
        if cell.kind == "code":
            with contextlib.redirect_stdout(printed):
                exec(compile(cell.source, f"cell {at}", "exec"), names)
        yield printed.getvalue()


def notebook(cells: Sequence[Cell], printed: Sequence[str]) -> dict[str, Any]:
    """A notebook (nbformat 4.5) of cells and what they printed."""
    made: list[dict[str, Any]] = []
    for at, (cell, text) in enumerate(zip(cells, printed, strict=True)):
        entry: dict[str, Any] = {"cell_type": cell.kind, "id": f"cell-{at}", "metadata": {}}
        if cell.kind == "code":
            count = sum(c.kind == "code" for c in cells[: at + 1])
            stream = {"name": "stdout", "output_type": "stream", "text": _lines(text)}
            entry |= {"execution_count": count, "outputs": [stream] if text else []}
        made.append(entry | {"source": _lines(cell.source)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def page(name: str) -> str:
    """The Markdown of a stored notebook, and where to get it."""
    parts = [f"[Notebook]({name}.ipynb){{ .md-button }} [Script]({name}.py){{ .md-button }}"]
    for cell in read_notebook(FOLDER / f"{name}.ipynb")["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for each in cell["outputs"]:
            printed = "".join(each["text"]).rstrip()
            parts.append(f'```text title="prints"\n{printed}\n```')
    parts.insert(1, parts.pop(0))  # behind the title and what it is about
    return "\n\n".join(parts) + "\n"


def read_notebook(path: Path) -> dict[str, Any]:
    """A stored notebook."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def run(script: Path) -> dict[str, Any]:
    """The notebook of a script that has been run in a folder of its own."""
    cells, here = cells_of(script.read_text(encoding="utf-8")), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return notebook(cells, list(outputs(cells)))
        finally:
            os.chdir(here)


def main(names: Sequence[str]) -> None:
    """Runs tutorials, all unless some are named, and stores their notebooks."""
    for script in scripts():
        if names and script.stem not in names:
            continue
        began = time.perf_counter()
        made = json.dumps(run(script), indent=1, ensure_ascii=False)
        script.with_suffix(".ipynb").write_text(made + "\n", encoding="utf-8")
        print(f"{script.stem}: {time.perf_counter() - began:.0f} s", flush=True)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    main(sys.argv[1:])
