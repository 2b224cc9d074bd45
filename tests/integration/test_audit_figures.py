"""Figures 4 and 13 from the command line, at the quick size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paper.__main__ import main


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["fig4", "fig13"])
def test_quick_figures(figure: str, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    main([figure, "--quick", "--seeds", "0", *out])
    content = json.loads((tmp_path / "out" / f"{figure}.json").read_text())
    assert "too small for conclusions" in content["words"]
    for chart in content["charts"]:
        assert (tmp_path / "out" / f"{chart}.png").stat().st_size > 0
