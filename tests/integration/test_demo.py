"""The demo at its published size: what it promises on the bundled model (minutes: marked slow)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossproof.cli import main


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
