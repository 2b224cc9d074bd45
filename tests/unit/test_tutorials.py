"""Tutorials: notebooks are those of their scripts, and every script runs."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import pytest

from crossproof.training import OBJECTIVES
from tools.tutorials import FOLDER, Cell, cells_of, notebook, outputs, page, read_notebook, run
from tools.tutorials import scripts as listed

SCRIPTS = sorted(FOLDER.glob("*.py"))
NEEDS = {"saelens-penalty": "sae_lens"}
"""Tutorials that need a package which crossproof does not."""
SCRIPT = """# %% [markdown]
# # Title
#
# Prose.

# %%
x = 1
print(x)

# %%
print(x + 1)
"""


def test_a_script_becomes_a_notebook() -> None:
    cells = cells_of(SCRIPT)
    assert cells[0] == Cell("markdown", "# Title\n\nProse.")
    assert [cell.source for cell in cells[1:]] == ["x = 1\nprint(x)", "print(x + 1)"]
    printed = list(outputs(cells))
    assert printed == ["", "1\n", "2\n"]
    made = notebook(cells, printed)
    assert json.loads(json.dumps(made)) == made
    assert [cell.get("execution_count") for cell in made["cells"]] == [None, 1, 2]
    assert made["cells"][1]["outputs"][0]["text"] == ["1\n"]


def test_every_tutorial_is_listed_once() -> None:
    assert sorted(listed()) == SCRIPTS
    assert len(SCRIPTS) == 8


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebooks_are_those_of_the_scripts(script: Path) -> None:
    cells, stored = cells_of(script.read_text()), read_notebook(script.with_suffix(".ipynb"))
    sources = [Cell(c["cell_type"], "".join(c["source"])) for c in stored["cells"]]
    assert sources == cells  # else: python -m tools.tutorials
    text = "".join("".join(o["text"]) for c in stored["cells"] for o in c.get("outputs", []))
    assert text.strip()
    assert "/tmp" not in text  # nothing of the machine that ran it
    shown = page(script.stem)
    assert shown.startswith("# ")
    assert shown.count("```python\n") == sum(cell.kind == "code" for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_tutorials_run(script: Path) -> None:
    needed = NEEDS.get(script.stem)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    began = time.process_time()
    try:
        run(script)
    finally:
        OBJECTIVES.remove("few_neurons")
    assert time.process_time() - began < 240  # two minutes of two cores
