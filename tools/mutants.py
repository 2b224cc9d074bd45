"""Changes a module wherever it can be changed, one place at a time; lists what no test notices.

    python -m tools.mutants MODULE ... [--tests TEST ...] [--limit N] [--seed N] [--seconds S]
                            [--record FILE] [--listed FILE] [--table] [--pytest OPTIONS]

MODULE is a file or folder of the package. The tests run once without a mutant, which says what each
costs and which lines it reaches. Every mutant is then tried in a process forked from that one, by
the tests that reach its line: those that noticed its neighbours first, then the cheap ones, for up
to S seconds of processor time. --record keeps what was noticed: a later run asks only about what is
new or has survived. --listed compares the survivors with a table of those known to change nothing
that was promised; it is for a reader to tell. --table writes the counts of every module into that
page, from what the record knows, without asking any test.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import shlex
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tools.mutation import Mutant, mutants

CERTIFICATES = ("tests/unit/test_certificate_*.py",)
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
FIRST = 8
"""How many tests that noticed neighbours are asked before all others."""
MARKS = ("<!-- table: mutants -->", "<!-- end of table -->")
"""What a table of counts stands between."""
MEMORY = 4 * 2**30
"""Bytes that a mutant may take beyond what its parent has."""


def suite(file: Path) -> list[str]:
    """Test files of the current folder's checkout that guard a file of the package."""
    patterns = next((p for path, p in SUITES.items() if file.is_relative_to(path)), ())
    files = [str(path) for pattern in patterns for path in sorted(Path().glob(pattern))]
    if not files:
        sys.exit(f"mutants: no tests are known to guard {file}; name them with --tests.")
    return list(dict.fromkeys(files))


def sources(module: Path) -> list[Path]:
    """The Python files of a part of the package."""
    if not module.exists() or not module.is_relative_to("src/crossproof"):
        sys.exit(f"mutants: {module} is no file or folder below src/crossproof.")
    return sorted(module.rglob("*.py")) if module.is_dir() else [module]


@dataclass
class Cost:
    """What a test took without a mutant, and the lines it reached of each file."""

    seconds: float = 0.0
    lines: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))


@dataclass
class Sweep:
    """Tries mutants inside a pytest session that has everything loaded."""

    chosen: list[Mutant]
    seconds: float
    record: Path | None
    costs: dict[str, Cost] = field(default_factory=dict)
    killers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    noticed: dict[str, str] = field(default_factory=dict)
    """By a mutant's key: the test that noticed it."""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of running the tests: everything that this tool does."""
        items = {item.nodeid: item for item in session.items}
        self.noticed = dict(_read(self.record))
        asked = [mutant for mutant in self.chosen if mutant.key not in self.noticed]
        random.Random(0).shuffle(asked)  # so that a part tells of the whole
        if asked:
            self._measure(session.items)
        began = time.perf_counter()
        for number, mutant in enumerate(asked, 1):
            test = self._try(mutant, items)
            if test is None:
                print(mutant.name, flush=True)
                continue
            self.noticed[mutant.key] = test
            self.killers[_function(mutant)][test] += 1
            self.killers[mutant.file.name][test] += 1
            if self.record:
                with self.record.open("a") as file:
                    file.write(json.dumps([mutant.key, test]) + "\n")
            if number % 50 == 0:
                spent = time.perf_counter() - began
                print(f"# {number} of {len(asked)} tried in {spent:.0f} s", flush=True)
        return True

    def _measure(self, items: list[pytest.Item]) -> None:
        files = {str(mutant.file.resolve()) for mutant in self.chosen}
        for item, after in zip(items, [*items[1:], None], strict=True):
            cost = self.costs[item.nodeid] = Cost()
            began = time.process_time()
            sys.settrace(_tracer(files, cost.lines))
            reports = runtestprotocol(item, log=False, nextitem=after)
            sys.settrace(None)
            cost.seconds = time.process_time() - began
            if any(report.failed for report in reports):
                sys.exit(f"mutants: {item.nodeid} fails without a mutant.")
        gc.collect()
        gc.freeze()  # so that children do not copy what they only look at

    def _order(self, mutant: Mutant) -> list[str]:
        """The tests that reach a mutant's lines; all of a statement that runs at import."""
        file, lines = str(mutant.file.resolve()), set(range(mutant.line, mutant.stop + 1))
        reached = [test for test, cost in self.costs.items() if cost.lines[file] & lines]
        # Tests that import the file again are not the only ones that its numbers matter to.
        if _function(mutant).endswith(".module") or not reached:
            reached = list(self.costs)
        near, far = self.killers[_function(mutant)], self.killers[mutant.file.name]
        seconds = {test: self.costs[test].seconds for test in reached}
        reached.sort(key=lambda test: (-near[test], -far[test], seconds[test]))
        first, rest = reached[:FIRST], reached[FIRST:]
        files = defaultdict[str, float](float)
        for test in rest:
            files[test.split("::")[0]] += seconds[test]
        return first + sorted(rest, key=lambda test: (files[test.split("::")[0]], test))

    def _try(self, mutant: Mutant, items: dict[str, pytest.Item]) -> str | None:
        """The test that notices a mutant, in a process of its own; None if none does."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _child(mutant, [items[test] for test in self._order(mutant)], self.seconds, writing)
        os.close(writing)
        with open(reading, encoding="utf-8") as pipe:
            said = pipe.read().split("\n")
        status = os.waitpid(pid, 0)[1]
        return None if status == 0 else said[-1] or said[0] or "import"


def _child(mutant: Mutant, items: list[pytest.Item], seconds: float, writing: int) -> None:
    """Ends the process: 0 if every test passes, as far as `seconds` go."""
    code = 1
    try:
        gc.disable()
        _limit()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        mutant.install()
        began = time.process_time()
        for item, after in zip(items, [*items[1:], None], strict=True):
            spent = time.process_time() - began
            if spent > seconds:
                break
            os.write(writing, f"\n{item.nodeid}".encode())
            signal.setitimer(signal.ITIMER_PROF, 3 * seconds + 10)  # ends the process
            if any(report.failed for report in runtestprotocol(item, log=False, nextitem=after)):
                return
        code = 0
    finally:
        os._exit(code)


def _limit() -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc").exists() else 0
    if pages:
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def _tracer(files: set[str], lines: dict[str, set[int]]) -> Any:
    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            lines[frame.f_code.co_filename].add(frame.f_lineno)
        return local

    return lambda frame, *_: local if frame.f_code.co_filename in files else None


def _function(mutant: Mutant) -> str:
    return mutant.name.split(":")[0]


def _read(record: Path | None) -> Iterator[tuple[str, str]]:
    if record is not None and record.exists():
        yield from (json.loads(line) for line in record.read_text().splitlines())


def listed(page: Path) -> dict[str, str]:
    """The mutants that a page's tables say to be harmless, each with its reason."""
    rows = [line.strip("|").split(" | ") for line in page.read_text(encoding="utf-8").splitlines()]
    named = [row for row in rows if len(row) == 2 and row[0].strip().startswith("`")]
    return {row[0].strip().strip("`").replace("\\|", "|"): row[1].strip() for row in named}


def report(sweep: Sweep, page: Path | None) -> int:
    """Prints the counts of every module; how many survivors are not listed."""
    known = listed(page) if page else {}
    alive = [mutant for mutant in sweep.chosen if mutant.key not in sweep.noticed]
    files = Counter(mutant.file for mutant in sweep.chosen)
    left = Counter(mutant.file for mutant in alive)
    for file, count in files.items():
        print(f"{file}: {count} mutants, {left[file]} survived")
    print(f"{len(alive)} of {len(sweep.chosen)} survived ({len(alive) / len(sweep.chosen):.1%})")
    if page is None:
        return len(alive)
    names = {mutant.name for mutant in alive}
    unlisted = sorted(names - set(known))
    print("\n".join(f"not listed: {name}" for name in unlisted))
    print("\n".join(f"listed, and noticed or gone: {name}" for name in sorted(set(known) - names)))
    return len(unlisted)


def table(chosen: Sequence[Mutant], noticed: Container[str], known: Container[str]) -> str:
    """Rows of every module: mutants, noticed ones, and survivors with and without a reason."""
    rows: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for mutant in chosen:
        kind = 1 if mutant.key in noticed else 2 if mutant.name in known else 3
        for name in (mutant.file.stem, "all"):
            rows[name][0] += 1
            rows[name][kind] += 1
    rows["all"] = rows.pop("all")
    lines = ["| module | mutants | noticed | harmless | not explained |", "|---|---|---|---|---|"]
    return "\n".join(
        lines + [f"| {name} | {' | '.join(map(str, row))} |" for name, row in rows.items()]
    )


def write_table(page: Path, text: str) -> None:
    """Puts a table between the marks of a page."""
    head, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    tail = rest.split(MARKS[1])[1]
    page.write_text(f"{head}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{tail}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exits 1 if a mutant survives that is not listed."""
    parser = argparse.ArgumentParser(description="List the mutants of a module that tests miss.")
    parser.add_argument("module", type=Path, nargs="+", help="file or folder of src/crossproof")
    parser.add_argument("--tests", nargs="+", help="test files instead of those in SUITES")
    parser.add_argument("--limit", type=int, default=0, help="mutants to draw; 0 takes all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--seconds", type=float, default=20.0, help="of tests for each mutant")
    parser.add_argument("--record", type=Path, help="file that keeps what was noticed")
    parser.add_argument("--pytest", default="", help="further options of pytest, in one word")
    parser.add_argument("--listed", type=Path, help="page with the survivors that are harmless")
    parser.add_argument("--table", action="store_true", help="only write the page's table anew")
    options = parser.parse_args(arguments)
    files = [file for module in options.module for file in sources(module)]
    chosen = [mutant for file in files for mutant in mutants(file)]
    if options.limit:
        chosen = random.Random(options.seed).sample(chosen, min(options.limit, len(chosen)))
    if options.table and options.listed:
        noticed = dict(_read(options.record))
        write_table(options.listed, table(chosen, noticed, listed(options.listed)))
        return
    print(f"{len(chosen)} mutants of {len(files)} files", flush=True)
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(chosen, options.seconds, options.record)
    tests = options.tests or sorted({test for file in files for test in suite(file)})
    plain = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0"]
    code = pytest.main([*plain, *shlex.split(options.pytest), *tests], plugins=[sweep])
    sys.exit(int(code) or bool(report(sweep, options.listed)))


if __name__ == "__main__":
    main()
