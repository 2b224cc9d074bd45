"""Changes a module wherever it can be changed, one place at a time; lists what no test notices.

    python -m tools.mutants MODULE [--tests TEST ...] [--limit N] [--seed N]

MODULE is a file or folder of the package. cosmic-ray makes the mutants (operators, comparisons,
numbers, ...) in a copy of the checkout, and each is tried in a process of its own, 10 seconds or
more: --limit tries a sample. A survivor is a missing test, or a mutant that changes nothing that
was promised; the second kind is for the reader to tell.
"""

from __future__ import annotations

import argparse
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
    "src/crossproof/interactions/penalty.py": (
        *("tests/unit/test_interactions.py", "tests/unit/test_objectives.py"),
        "tests/property/test_theorems.py",
    ),
    "src/crossproof": (
        *("tests/unit/test_bounds_*.py", "tests/unit/test_constants.py"),
        "tests/property/test_bounds_*.py",
    ),
}
"""The tests that guard a module: those of the first path here that it is, or lies in."""

OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|Pow_Mul|BitAnd_BitOr|BitOr_BitAnd)"
    r"|ReplaceComparisonOperator_(Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is)"
    r"|ReplaceUnaryOperator_Delete_.*|NumberReplacer|AddNot|ZeroIterationForLoop"
    r"|Replace(And|Or|True|False|Break|Continue)With.*)"
)
"""One replacement of each operator: cosmic-ray knows eleven of +, and most are errors of type."""


def suite(module: Path, root: Path) -> list[str]:
    """Test files that guard a module of the checkout, relative to it."""
    patterns = next(p for path, p in SUITES.items() if module.is_relative_to(path))
    return [str(path.relative_to(root)) for p in patterns for path in sorted(root.glob(p))]


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
    return [mutation for mutation in found if OPERATORS.fullmatch(mutation.operator_name)]


def run(module: Path, tests: Sequence[str], limit: int, seed: int) -> int:
    """Tries the mutants in the current folder; how many survive."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    chosen = mutations(module)
    print(f"{len(chosen)} mutants of {module}; the tests take {seconds:.0f} s", flush=True)
    if limit:
        chosen = random.Random(seed).sample(chosen, min(limit, len(chosen)))
    survived = 0
    for number, mutation in enumerate(chosen, 1):
        result = mutate_and_test([mutation], shlex.join(command), 3 * seconds + 10)
        alive = result.test_outcome == TestOutcome.SURVIVED
        survived += alive
        line = f"{mutation.module_path}:{mutation.start_pos[0]}"
        print(f"{number}/{len(chosen)} {'SURVIVED' if alive else 'killed'} {line}", flush=True)
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
        tests = options.tests or suite(options.module, copy)
        survived = run(options.module, tests, options.limit, options.seed)
        os.chdir(root)
    sys.exit(bool(survived))


if __name__ == "__main__":
    main()
