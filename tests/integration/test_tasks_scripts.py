"""The comparison of objectives and the modular curve, at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossproof.training.objectives import Objective
from paper.scripts import certified_continuum, modular_curve
from paper.scripts import compare_objectives_certified as compare
from paper.tasks import TASKS, Plan, modular


def line(objective: str, strength: float, seed: int, **accuracy: float) -> dict[str, Any]:
    """A line of runs.jsonl whose figures are all `test` or `validation`."""
    parts = {
        part: {engine: {"accuracy": value, "ce": 1 - value} for engine in compare.ENGINES}
        | {"model": 0.8, "reconstructed": 0.7, "fvu": 0.1, "l0": 2.0, "dead": 0.0}
        for part, value in accuracy.items()
    }
    return {"objective": objective, "strength": strength, "seed": seed} | parts


def test_interval_is_students() -> None:
    found = compare.interval([1.0, 2.0, 3.0])
    half = 4.303 / 3**0.5  # standard deviation one
    assert found["mean"] == 2
    assert found["ci"] == pytest.approx([2 - half, 2 + half])
    assert compare.interval([1.0])["ci"] is None


def test_strengths_are_chosen_on_validation_and_reported_on_test() -> None:
    lines = [line("none", 0.0, seed, validation=0.3, test=0.3) for seed in (0, 1)]
    lines += [line("certified", 0.1, seed, validation=0.6, test=0.5) for seed in (0, 1)]
    lines += [line("certified", 1.0, 0, validation=0.5, test=0.9)]
    lines += [line("certified", 1.0, 1, validation=0.9, test=0.9)]  # does not choose
    lines += [line("certified", 0.1, 2, validation=0.6, test=0.4)]
    lines += [line("none", 0.0, 2, validation=0.3, test=0.3)]
    rows = compare.summarise(lines, compare.CertifiedComparison(choosing_seed=0, seeds=(1, 2)))
    assert rows["certified"]["strength"] == 0.1
    assert rows["certified"]["signed"]["accuracy"]["seeds"] == [0.5, 0.4]  # not of the chooser
    assert rows["certified"]["signed"]["share_of_model"]["mean"] == pytest.approx(0.45 / 0.8)
    assert compare.lead(rows)["none"]["mean"] == pytest.approx(0.15)
    assert "certified | 0.1" in compare.summary_table(rows).splitlines()[-1]
    with pytest.raises(SystemExit, match="none 0 has not been run for seeds 3, 4: run without"):
        compare.summarise(lines, compare.CertifiedComparison(choosing_seed=0, seeds=(1, 3, 4)))


def test_every_objective_has_the_term_it_is_named_after() -> None:
    plan = TASKS["sparse"]
    assert isinstance(plan, Plan)
    for name, strength, recipe in compare.variants(plan.dictionary):
        wanted = {} if name == "none" else {name: strength}
        assert recipe.objective.strengths() == wanted
        assert replace(recipe, objective=Objective()) == replace(
            plan.dictionary, objective=Objective()
        )


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = TASKS["sparse"]
    assert isinstance(plan, Plan)
    network = replace(plan.network, steps=30, readouts=3)
    small = Plan(network, replace(plan.dictionary, steps=5))
    monkeypatch.setitem(TASKS, "sparse", small)
    monkeypatch.setitem(TASKS, "continuum", small)
    recipe = modular.ModularRecipe(p=7, steps=20, neurons=8, width=8, rank=8)
    monkeypatch.setitem(TASKS, "modular-7", recipe)
    few = {"none": [Objective()], "certified": [Objective(certified=0.1)]}
    monkeypatch.setattr(compare, "OBJECTIVES", few)


@pytest.mark.usefixtures("tiny")
def test_comparison_stops_after_so_many_and_only_the_choosing_seed_tries_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {"certified": [Objective(certified=s) for s in (0.1, 0.2)]}
    monkeypatch.setattr(compare, "OBJECTIVES", many)
    options = compare.CertifiedComparison(
        out=tmp_path, settings=("independent",), seeds=(1,), points=40
    )
    found = []
    for _ in range(4):
        compare.main(replace(options, most=1))
        lines = [json.loads(t) for t in (tmp_path / "runs.jsonl").read_text().splitlines()]
        found.append([(x["seed"], x["strength"]) for x in lines if x["objective"] != "true"])
    chosen = compare.strengths([x for x in lines if x["seed"] == 0])["certified"]
    assert found[0] == [(0, 0.1)]
    assert found[1] == [(0, 0.1), (0, 0.2)]
    assert found[2] == found[3] == [(0, 0.1), (0, 0.2), (1, chosen)]


@pytest.mark.usefixtures("tiny")
def test_comparison_runs_resumes_and_publishes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = compare.CertifiedComparison(
        out=tmp_path, settings=("independent",), seeds=(1,), points=40
    )
    compare.main(options)
    runs = tmp_path / "runs.jsonl"
    lines = [json.loads(text) for text in runs.read_text().splitlines()]
    assert [found["objective"] for found in lines] == 2 * ["true", "none", "certified"]
    assert [found["seed"] for found in lines] == [0, 0, 0, 1, 1, 1]
    for found in lines:
        test = found["test"]
        assert test["verified"]["accuracy"] <= test["model"]
        assert test["signed"]["accuracy"] >= test["additive"]["accuracy"]
        better = max(test["additive"]["accuracy"], test["dominant"]["accuracy"])
        assert test["verified"]["accuracy"] >= better  # the better engine, margin by margin
    before = runs.read_text()
    compare.main(options)
    assert runs.read_text() == before
    compare.main(replace(options, publish=tmp_path / "summary.json"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["settings"]["independent"]["objectives"]) == {"none", "certified", "true"}
    assert "| certified | 0.1 |" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_modular_curve_certifies_checkpoints(tmp_path: Path) -> None:
    out = tmp_path / "curve.json"
    purities = (0.0, 0.1)
    modular_curve.main(
        modular_curve.Curve(p=7, seeds=(0, 3), checkpoints=(0, 20), purities=purities, out=out)
    )
    content = json.loads(out.read_text())
    made = [(curve["seed"], curve["recipe"]["purity"]) for curve in content["curves"]]
    assert made == [(0, 0), (0, 0.1), (3, 0), (3, 0.1)]
    for curve in content["curves"]:
        assert [point["step"] for point in curve["points"]] == [0, 20]
        for point in curve["points"]:
            assert point["certified_accuracy"] <= point["accuracy"]
            assert 0 <= point["impurity"]["median"] <= point["impurity"]["largest"] <= 1


@pytest.mark.usefixtures("tiny")
def test_continuum_compares_dictionaries_and_bounds(tmp_path: Path) -> None:
    out = tmp_path / "continuum.json"
    options = certified_continuum.Continuum(seeds=(0,), nodes=400, points=500, out=out)
    certified_continuum.main(options)
    row = json.loads(out.read_text())["seeds"][0]
    assert set(row["dictionaries"]) == {"true features", "R + I", "no penalty"}
    for found in row["dictionaries"].values():
        for label in certified_continuum.BOUNDS:
            assert 0 <= found[label]["certified"] <= row["accuracy"] + 0.1  # Monte Carlo's noise
        # What knows no dictionary does not depend on one.
        linear = row["dictionaries"]["true features"]["linear"]["certified"]
        assert found["linear"]["certified"] == linear
