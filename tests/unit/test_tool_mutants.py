"""Which mutants `make mutants` makes, and which tests it asks."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="cosmic-ray comes with the extra `dev`")

from tools import mutants

ROOT = Path(__file__).parents[2]
SOURCE = """
LIMIT = 3
def f(x: float | None = None, *, y: "int") -> float | None:
    return None if x is None else max(*[x, y], x + y)
"""


def test_mutants_are_changes_of_behaviour(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    operators = sorted(m.operator_name.removeprefix("core/") for m in mutants.mutations(path))
    assert operators == [
        "AddNot",  # the condition
        "NumberReplacer",  # 4 for 3
        "NumberReplacer",  # 2 for 3
        "ReplaceBinaryOperator_Add_Sub",
        "ReplaceComparisonOperator_Is_IsNot",
    ]


@pytest.mark.parametrize("path", mutants.SUITES)
def test_every_guarded_path_has_tests(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert mutants.suite(Path(path))


def test_an_unguarded_file_asks_for_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="no tests are known to guard"):
        mutants.suite(Path("src/crossproof/cli.py"))
