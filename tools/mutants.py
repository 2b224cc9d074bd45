"""Changes a module wherever it can be changed, one place at a time; lists what no test notices.

    python -m tools.mutants MODULE [--tests TEST ...] [--limit N] [--seed N]

MODULE is a file or folder of the package. cosmic-ray makes the mutants (operators, comparisons,
numbers, ...) in a copy of the checkout, and each is tried in a process of its own, 10 seconds or
more: --limit tries a sample. A survivor is a missing test, or a mutant that changes nothing that
was promised; the second kind is for the reader to tell.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import MutationSpec, TestOutcome

SUITES = {
    "src/crossproof/proof/certificate": ("tests/unit/test_certificate_*.py",),
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

OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|Pow_Mul|BitAnd_BitOr|BitOr_BitAnd)"
    r"|ReplaceComparisonOperator_(Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is)"
    r"|ReplaceUnaryOperator_Delete_.*|NumberReplacer|AddNot|ZeroIterationForLoop"
    r"|Replace(And|Or|True|False|Break|Continue)With.*)"
)
"""One replacement of each operator: cosmic-ray knows eleven of +, and most are errors of type."""


STAR = re.compile(r"[\s({\[,]\*{1,2}[^\s*]")
"""A star that multiplies nothing: `*, key=0`, `f(*x)`. ruff puts a space after one that does."""


def suite(file: Path) -> list[str]:
    """Test files of the current folder's checkout that guard a file of the package."""
    patterns = next((p for path, p in SUITES.items() if file.is_relative_to(path)), ())
    files = [str(path) for pattern in patterns for path in sorted(Path().glob(pattern))]
    if not files:
        sys.exit(f"mutants: no tests are known to guard {file}; name them with --tests.")
    return files


def copy_checkout(root: Path, to: Path) -> None:
    """Every file that git knows or might (nothing that it ignores)."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, to / name)


def mutations(module: Path) -> list[MutationSpec]:
    """Every single change that cosmic-ray knows of the module's files."""
    files = sorted(module.rglob("*.py")) if module.is_dir() else [module]
    with tempfile.TemporaryDirectory() as folder:
        database = WorkDB(Path(folder) / "mutants.sqlite", WorkDB.Mode.create)
        init(files, database, {})
        found = [item.mutations[0] for item in database.work_items]
        database.close()
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    types = {file: annotated(text) for file, text in texts.items()}
    return [
        mutation
        for mutation in found
        if OPERATORS.fullmatch(mutation.operator_name)
        and not any(low <= mutation.start_pos < high for low, high in types[mutation.module_path])
        and not STAR.match(after(texts[mutation.module_path], mutation.start_pos))
    ]


def after(text: str, position: tuple[int, int]) -> str:
    """The line from the character before a position on."""
    line, column = position
    return f"\n{text.splitlines()[line - 1]}"[column:]


def annotated(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where a module's annotations begin and end (line, column): no behaviour of ours is there."""
    nodes = list(ast.walk(ast.parse(text)))
    parts = [getattr(node, name, None) for node in nodes for name in ("annotation", "returns")]
    return [
        ((part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0))
        for part in parts
        if isinstance(part, ast.expr)
    ]


def time_of(command: Sequence[str]) -> float:
    """Seconds that the tests take; they must pass as long as nothing is changed."""
    began = time.perf_counter()
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        sys.exit(f"mutants: the tests fail without a mutant: {shlex.join(command)}")
    return time.perf_counter() - began


def run(module: Path, tests: Sequence[str], limit: int, seed: int) -> int:
    """Tries the mutants in the current folder; how many survive."""
    chosen = mutations(module)
    print(f"{len(chosen)} mutants of {module}", flush=True)
    if limit:
        chosen = random.Random(seed).sample(chosen, min(limit, len(chosen)))
    seconds: dict[str, float] = {}
    survived = 0
    for number, mutation in enumerate(chosen, 1):
        files = tests or suite(mutation.module_path)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
        line = shlex.join(command)
        seconds[line] = seconds.get(line) or time_of(command)
        result = mutate_and_test([mutation], line, 3 * seconds[line] + 10)
        alive = result.test_outcome == TestOutcome.SURVIVED
        survived += alive
        place = f"{mutation.module_path}:{mutation.start_pos[0]}"
        print(f"{number}/{len(chosen)} {'SURVIVED' if alive else 'killed'} {place}", flush=True)
        if alive:
            print(result.diff, flush=True)
    print(f"{survived} of {len(chosen)} survived")
    return survived


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exits 1 if a mutant survives."""
    parser = argparse.ArgumentParser(description="List the mutants of a module that tests miss.")
    parser.add_argument("module", type=Path, help="file or folder below src/crossproof")
    parser.add_argument("--tests", nargs="+", help="test files instead of those in SUITES")
    parser.add_argument("--limit", type=int, default=0, help="mutants to draw; 0 takes all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parser.parse_args(arguments)
    root = Path(__file__).resolve().parents[1]
    if not (root / options.module).exists() or not options.module.is_relative_to("src/crossproof"):
        sys.exit(f"mutants: {options.module} is no file or folder below src/crossproof.")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve()
        copy_checkout(root, copy)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = f"{copy / 'src'}{os.pathsep}{copy}"
        survived = run(options.module, options.tests or [], options.limit, options.seed)
        os.chdir(root)
    sys.exit(bool(survived))


if __name__ == "__main__":
    main()
