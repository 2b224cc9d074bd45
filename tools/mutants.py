"""Changes a module wherever it can be changed, one place at a time; lists what no test notices.

    python -m tools.mutants MODULE [--tests TEST ...] [--limit N] [--seed N] [--oracle]

MODULE is a file or folder of the package. A mutant is another operator, comparison, number,
condition or bound, put in while the module is imported; no file is changed. Each is tried in a
forked process that has everything else loaded already. --oracle asks `tests/oracle.py` alone, of
the verifier of certificates: a fraction of a second, for what is exact is computed before the fork.
A survivor is a missing test, or a mutant that changes nothing that was promised; the second kind
is for the reader to tell.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

CERTIFICATES = ("tests/unit/test_certificate_exact.py", "tests/unit/test_certificate_[!e]*.py")
SUITES = {
    "src/crossproof/proof/certificate": CERTIFICATES,
    "src/crossproof/proof/attribution": ("tests/*/test_attribution_*.py",),
    "src/crossproof/interactions/penalty.py": (
        *("tests/unit/test_interactions.py", "tests/unit/test_objectives.py"),
        "tests/property/test_theorems.py",
    ),
    **dict.fromkeys(
        ("src/crossproof/proof", "src/crossproof/lm", "src/crossproof/rounding.py"),
        ("tests/unit/test_constants.py", "tests/*/test_bounds_*.py"),
    ),
}
"""The tests that guard a file: those of the first path here that it is, or lies in."""

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
NAMES = {"minimum": "maximum", "min": "max", "relu": "below", "low": "high", "any": "all"}
NAMES |= {new: old for old, new in NAMES.items()} | {"add": "subtract", "subtract": "add"}
"""One replacement of each."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: Path
    place: int
    """Which of the nodes that can be changed."""
    way: int
    """Which of its changes."""

    def make(self) -> tuple[ast.Module, int, str]:
        """The changed module, the line, and the change in words."""
        tree = ast.parse(self.file.read_text(encoding="utf-8"))
        node = places(tree)[self.place]
        before = ast.unparse(node).split("\n")[0]
        list(_changes(node))[self.way]()
        after = ast.unparse(node).split("\n")[0]
        return ast.fix_missing_locations(tree), getattr(node, "lineno", 0), f"{before} -> {after}"


def suite(file: Path) -> list[str]:
    """Test files of the current folder's checkout that guard a file of the package."""
    patterns = next((p for path, p in SUITES.items() if file.is_relative_to(path)), ())
    files = [str(path) for pattern in patterns for path in sorted(Path().glob(pattern))]
    if not files:
        sys.exit(f"mutants: no tests are known to guard {file}; name them with --tests.")
    return list(dict.fromkeys(files))


def mutants(file: Path) -> list[Mutant]:
    """Every single change of a file: no annotations, no words."""
    nodes = places(ast.parse(file.read_text(encoding="utf-8")))
    return [
        Mutant(file, place, way)
        for place, node in enumerate(nodes)
        for way in range(len(list(_changes(node))))
    ]


def places(tree: ast.Module) -> list[ast.AST]:
    """The nodes that can be changed, in order."""
    return [node for node in _behaviour(tree) if next(_changes(node), None) is not None]


def _behaviour(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes in order, without annotations and strings."""
    yield tree
    skipped = ("annotation", "returns", "decorator_list")
    for name, value in ast.iter_fields(tree):
        children = value if isinstance(value, list) else [value]
        for child in children if name not in skipped else []:
            if isinstance(child, ast.AST):
                yield from _behaviour(child)


def _changes(node: ast.AST) -> Iterator[Any]:
    """Functions that change the node in place, one way each."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        yield lambda: setattr(node, "op", OPERATORS[type(node.op)]())
    if isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            if type(operator) in OPERATORS:
                new = OPERATORS[type(operator)]
                yield lambda at=at, new=new: node.ops.__setitem__(at, new())
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | bool):
        number = node.value
        values = [not number] if isinstance(number, bool) else [number + 1, number - 1]
        yield from [lambda v=v: setattr(node, "value", v) for v in values if v != number]
    if isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield lambda: setattr(node, "operand", ast.UnaryOp(node.op, node.operand))
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.For):
        yield lambda: setattr(node, "iter", ast.List([], ast.Load()))
    if isinstance(node, ast.Attribute) and node.attr in NAMES and isinstance(node.ctx, ast.Load):
        yield lambda: setattr(node, "attr", NAMES[node.attr])


class _Importing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another body."""

    def __init__(self, name: str, mutant: Mutant) -> None:
        self.name, self.mutant = name, mutant

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.name:
            return None
        file = self.mutant.file
        return importlib.util.spec_from_file_location(name, file.resolve(), loader=self)

    def exec_module(self, module: ModuleType) -> None:
        tree, _, _ = self.mutant.make()
        exec(compile(tree, str(self.mutant.file.resolve()), "exec"), module.__dict__)


def dotted(file: Path) -> str:
    """The module's name: `src/crossproof/a/b.py` is `crossproof.a.b`."""
    parts = file.with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def survives(mutant: Mutant | None, tests: Sequence[str], seconds: float) -> bool:
    """Whether the tests pass with the mutant in place, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        _child(mutant, tests, seconds)
    return os.waitpid(pid, 0)[1] == 0


def _child(mutant: Mutant | None, tests: Sequence[str], seconds: float) -> None:
    import pytest

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)  # ends the process
    for name in [n for n in sys.modules if n.startswith("crossproof")]:
        del sys.modules[name]
    if mutant is not None:
        sys.meta_path.insert(0, _Importing(dotted(mutant.file), mutant))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    plain = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-o", "addopts="]
    mode = ["--import-mode=importlib", "-m", "not slow", "--hypothesis-seed=0"]
    code = 3
    try:
        code = int(pytest.main([*plain, *mode, *tests]))
    finally:
        os._exit(code)


def survives_oracle(mutant: Mutant | None, prepared: Any, seconds: float) -> bool:
    """Whether `oracle.check` passes with the mutant in place, in a process of its own."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    code = 1
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        oracle = importlib.import_module("oracle")
        for name in [n for n in sys.modules if n.startswith(oracle.VERIFIER)]:
            del sys.modules[name]
        if mutant is not None:
            sys.meta_path.insert(0, _Importing(dotted(mutant.file), mutant))
        oracle.check(prepared)
        code = 0
    finally:
        os._exit(code)


def ask_oracle(files: Sequence[Path], limit: int, seed: int) -> list[Mutant]:
    """The mutants that the oracle does not notice."""
    prepared = importlib.import_module("oracle").prepare()
    if not survives_oracle(None, prepared, 3600):
        sys.exit("mutants: the oracle fails without a mutant.")
    survivors = []
    for mutant in drawn(files, limit, seed):
        if survives_oracle(mutant, prepared, 120):
            survivors.append(mutant)
            _, line, change = mutant.make()
            print(f"{mutant.file}:{line}: {change}", flush=True)
    print(f"{len(survivors)} survived")
    return survivors


def drawn(files: Sequence[Path], limit: int, seed: int) -> list[Mutant]:
    """The mutants to try, in random order."""
    chosen = [mutant for file in files for mutant in mutants(file)]
    random.Random(seed).shuffle(chosen)
    print(f"{len(chosen)} mutants of {len(files)} files", flush=True)
    return chosen[: limit or None]


def run(files: Sequence[Path], tests: Sequence[str], limit: int, seed: int) -> int:
    """Tries the mutants in the current folder; how many survive."""
    chosen = drawn(files, limit, seed)
    allowed: dict[Path, float] = {}
    survived = 0
    for number, mutant in enumerate(chosen, 1):
        asked = tests or suite(mutant.file)
        if mutant.file not in allowed:
            began = time.perf_counter()
            if not survives(None, asked, 3600):
                sys.exit(f"mutants: the tests fail without a mutant: {' '.join(asked)}")
            spent = time.perf_counter() - began
            allowed |= {f: 3 * spent + 10 for f in files if (tests or suite(f)) == asked}
        alive = survives(mutant, asked, allowed[mutant.file])
        survived += alive
        if alive:
            _, line, change = mutant.make()
            print(f"{mutant.file}:{line}: {change}", flush=True)
        elif number % 50 == 0:
            print(f"{number} of {len(chosen)} tried, {survived} survived", flush=True)
    print(f"{survived} of {len(chosen)} survived")
    return survived


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exits 1 if a mutant survives."""
    parser = argparse.ArgumentParser(description="List the mutants of a module that tests miss.")
    parser.add_argument("module", type=Path, help="file or folder below src/crossproof")
    parser.add_argument("--tests", nargs="+", help="test files instead of those in SUITES")
    parser.add_argument("--limit", type=int, default=0, help="mutants to draw; 0 takes all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--oracle", action="store_true", help="ask tests/oracle.py alone")
    options = parser.parse_args(arguments)
    module = options.module
    if not module.exists() or not module.is_relative_to("src/crossproof"):
        sys.exit(f"mutants: {module} is no file or folder below src/crossproof.")
    files = sorted(module.rglob("*.py")) if module.is_dir() else [module]
    sys.path[:0] = [str(Path(folder).resolve()) for folder in ("src", "tests", ".")]
    import crossproof.proof.certificate.proving  # noqa: F401 - what takes long to load, once

    if options.oracle:
        sys.exit(bool(ask_oracle(files, options.limit, options.seed)))
    sys.exit(bool(run(files, options.tests or [], options.limit, options.seed)))


if __name__ == "__main__":
    main()
