"""The demo at its published size: what it promises on the bundled model (minutes: marked slow)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from crossproof.cli import main
from crossproof.commands.demo import _check_replaceable
from crossproof.training.config import LOOKED_AT, RECIPES, config_to_dict


@pytest.mark.slow
def test_the_demo_reaches_what_it_promises(tmp_path: Path) -> None:
    main(["demo", "--out", str(tmp_path / "demo")])
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    without, penalised = results["runs"]["unpenalised"], results["runs"]["penalised"]

    def phi(run: dict[str, dict[str, dict[str, dict[str, float]]]], scheme: str) -> float:
        return run["phi"][scheme]["exact_mid"]["mean"]

    assert phi(penalised, "keep-largest") >= 0.60
    assert phi(penalised, "keep-largest") > phi(without, "keep-largest") + 0.2
    assert phi(penalised, "none") >= phi(without, "none") - 0.05
    assert penalised["fvu"] <= 1.15 * without["fvu"]
    assert penalised["dead"] < 0.05
    assert without["dead"] < 0.05
    assert results["seconds"] < 900
    assert (tmp_path / "demo" / "report.html").exists()


def test_the_demo_replaces_demos_alone(tmp_path: Path) -> None:
    config = config_to_dict(replace(RECIPES["demo"], seed=7, threads=2))
    for name, content in (("longer", config | {"steps": 10**6}), ("damaged", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
        with pytest.raises(SystemExit, match=r"not a run of this demo|not hold a JSON object"):
            main(["demo", "--out", str(tmp_path / name)])
        assert (tmp_path / name / "config.json").exists()
    (tmp_path / "config.json").write_text(json.dumps(config))
    _check_replaceable(tmp_path, replace(RECIPES["demo"], seed=1))


def test_only_the_bundled_text_has_sequences_that_were_looked_at() -> None:
    for recipe in RECIPES.values():
        assert recipe.skipped == LOOKED_AT > 0
        assert replace(recipe, text="my.txt").skipped == 0
        assert replace(recipe, text="my.txt", evaluation_skip=3).skipped == 3
        assert replace(recipe, evaluation_skip=0).skipped == 0
