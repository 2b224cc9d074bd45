"""Which mutants `make mutants` makes, that they are tried, and which tests it asks."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools import mutants, mutation

ROOT = Path(__file__).parents[2]
SOURCE = """
LIMIT = 3
def f(x: float | None = None, *, y: "int") -> float | None:
    '''Words.'''
    if x is None:
        print(x)
        return None
    return x.add(max(*[x, y])), x.add(LIMIT, y + LIMIT), x.low
"""


def test_mutants_are_changes_of_behaviour(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    made = mutation.mutants(path)
    assert [(mutant.line, mutant.name) for mutant in made] == [
        (2, "module.module: 3 -> 4"),
        (2, "module.module: 3 -> 2"),
        (5, "module.f: if x is None: -> if not x is None:"),
        (5, "module.f: if x is None: -> if False:"),
        (5, "module.f: x is None -> x is not None"),
        (6, "module.f: print(x) -> None"),
        (8, "module.f: x.add -> x.subtract"),
        (8, "module.f: x.add(LIMIT, y + LIMIT) -> (lambda x: x)(LIMIT)"),
        (8, "module.f: x.add -> x.subtract (2)"),
        (8, "module.f: y + LIMIT -> y - LIMIT"),
        (8, "module.f: x.low -> x.high"),
        (8, "module.f: x.low -> x.value"),
    ]
    assert len({mutant.key for mutant in made}) == len(made)
    for mutant in made:
        assert ast.unparse(mutant.make()) != ast.unparse(ast.parse(SOURCE))


def test_keys_outlive_changes_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    keys = {mutant.name: mutant.key for mutant in mutation.mutants(path)}
    path.write_text("# a line more\n" + SOURCE.replace("LIMIT = 3", "LIMIT = 5"))
    again = {mutant.name: mutant.key for mutant in mutation.mutants(path)}
    assert {n: k for n, k in again.items() if ".f:" in n} == {
        n: k for n, k in keys.items() if ".f:" in n
    }
    assert not {k for n, k in again.items() if ".f:" not in n} & set(keys.values())


def test_a_mutant_goes_wherever_its_module_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "src" / "mutated_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "module.py").write_text(
        "LIMIT = 300000\ndef f(x: int = 7) -> int:\n    return x + LIMIT\n"
        "class C:\n    @property\n    def g(self) -> int:\n        return f() * 2\n"
    )
    (package / "other.py").write_text("from mutated_package.module import *\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "src")
    made = {m.name: m for m in mutation.mutants(Path("src/mutated_package/module.py"))}
    other = importlib.import_module("mutated_package.other")
    one = other.C()
    assert one.g == 600_014
    made["module.module: 300000 -> 300001"].install()
    assert (other.LIMIT, one.g) == (300_001, 600_016)
    made["module.f: 7 -> 8"].install()
    assert one.g == 600_016  # the limit is its own again
    made["module.C.g: 2 -> 3"].install()
    assert one.g == 900_021


def test_survivors_are_those_that_no_test_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep in a session that stands in for pytest's own: what is noticed is remembered."""
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    made = mutation.mutants(path)
    record, page = tmp_path / "record", tmp_path / "page.md"
    sweep = mutants.Sweep(made, 1.0, record)
    monkeypatch.setattr(mutants.Sweep, "_measure", lambda *_: None)
    noticed = {made[0].key: "a", made[3].key: "b"}
    monkeypatch.setattr(mutants.Sweep, "_try", lambda _, mutant, __: noticed.get(mutant.key))
    session = SimpleNamespace(items=[])
    assert sweep.pytest_runtestloop(session)  # type: ignore[arg-type]
    assert sweep.noticed == noticed
    noticed.clear()
    again = mutants.Sweep(made, 1.0, record)
    again.pytest_runtestloop(session)  # type: ignore[arg-type]
    assert again.noticed == sweep.noticed
    marks = "\n".join(mutants.MARKS)
    page.write_text(
        f"| mutant | why |\n|---|---|\n| `{made[1].name}` | is sound |\n| `x` | y |\n{marks}"
    )
    assert mutants.listed(page) == {made[1].name: "is sound", "x": "y"}
    assert mutants.report(again, page) == len(made) - 3
    mutants.write_table(page, mutants.table(made, again.noticed, mutants.listed(page)))
    assert f"| module | {len(made)} | 2 | 1 | {len(made) - 3} |" in page.read_text()
    assert f"| all | {len(made)} | 2 | 1 | {len(made) - 3} |" in page.read_text()
    printed = capsys.readouterr().out
    assert f"{len(made) - 2} of {len(made)} survived" in printed
    assert f"not listed: {made[2].name}" in printed
    assert "listed, and noticed or gone: x" in printed
    assert made[1].name not in printed.split("survived (")[1]


@pytest.mark.parametrize("path", mutants.SUITES)
def test_every_guarded_path_has_tests(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert mutants.suite(Path(path))


def test_an_unguarded_file_asks_for_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="no tests are known to guard"):
        mutants.suite(Path("src/crossproof/cli.py"))
