"""Which mutants `make mutants` makes, that they are tried, and which tests it asks."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    changes = [mutant.make()[1:] for mutant in mutants.mutants(path)]
    assert changes == [
        (2, "3 -> 4"),
        (2, "3 -> 2"),
        (4, "None if x is None else max(*[x, y], x + y) -> "
            "None if not x is None else max(*[x, y], x + y)"),
        (4, "x is None -> x is not None"),
        (4, "x + y -> x - y"),
    ]  # fmt: skip


def test_a_mutant_takes_the_modules_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "mutated_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "module.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "src")
    file = Path("src/mutated_package/module.py")
    first = mutants.mutants(file)[0]
    finder = mutants._Importing(mutants.dotted(file), first)
    monkeypatch.setattr("sys.meta_path", [finder, *__import__("sys").meta_path])
    import mutated_package.module as changed  # type: ignore[import-not-found]

    assert changed.LIMIT == 4
    assert file.read_text() == SOURCE


@pytest.mark.parametrize("path", mutants.SUITES)
def test_every_guarded_path_has_tests(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert mutants.suite(Path(path))


def test_an_unguarded_file_asks_for_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="no tests are known to guard"):
        mutants.suite(Path("src/crossproof/cli.py"))
