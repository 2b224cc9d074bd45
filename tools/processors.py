"""Runs the tests as if on other processors, and prints a table of what failed where.

Libraries choose their code by what the processor offers; environment variables take that choice
over. `python -m tools.processors` runs everything in every environment, one after another;
`--only aten-default two-threads` some; what follows `--` goes to pytest:

    python -m tools.processors --only oldest -- tests/unit tests/property -n 2
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def threads(count: int) -> dict[str, str]:
    return dict.fromkeys(THREADS, str(count))


ENVIRONMENTS: dict[str, dict[str, str]] = {
    # PyTorch's own loops
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "aten-avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
    # how sums are split among threads
    "two-threads": threads(2),
    # matrix products and decompositions of PyTorch
    "mkl-compatible": {"MKL_CBWR": "COMPATIBLE"},
    "mkl-avx2": {"MKL_CBWR": "AVX2"},
    "mkl-sse": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    # those of NumPy and SciPy
    "openblas-prescott": {"OPENBLAS_CORETYPE": "Prescott"},
    "openblas-haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "openblas-skylakex": {"OPENBLAS_CORETYPE": "SkylakeX"},
    # the compiled kernels: for any x86-64 processor, and not at all
    "numba-generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "no-numba": {"CROSSPROOF_KERNELS": "torch"},
}
# everything at once
ENVIRONMENTS["haswell"] = {
    **ENVIRONMENTS["aten-avx2"],
    **ENVIRONMENTS["mkl-avx2"],
    **ENVIRONMENTS["openblas-haswell"],
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4",
}
ENVIRONMENTS["oldest"] = {
    **ENVIRONMENTS["aten-default"],
    **ENVIRONMENTS["mkl-compatible"],
    **ENVIRONMENTS["openblas-prescott"],
    **ENVIRONMENTS["numba-generic"],
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F",
}


@dataclass(frozen=True)
class Outcome:
    """What pytest said: its last line, and the names of the tests that failed."""

    status: int
    summary: str
    failed: tuple[str, ...]


def run(changes: dict[str, str], arguments: Sequence[str]) -> Outcome:
    """The tests in a process of their own, one thread unless `changes` say otherwise."""
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "--no-header", *arguments],
        env={**os.environ, **threads(1), **changes},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = process.stdout.splitlines()
    failed = [re.match(r"(?:FAILED|ERROR) (\S+)", line) for line in lines]
    names = tuple(match[1] for match in failed if match)
    ended = bool(lines) and re.search(r" in [0-9.]+s", lines[-1])
    summary = lines[-1] if ended else f"pytest ended with status {process.returncode}"
    return Outcome(process.returncode, summary, names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    options = parser.parse_args()
    worst = 0
    for name in options.only:
        start = time.monotonic()
        outcome = run(ENVIRONMENTS[name], options.pytest)
        minutes = (time.monotonic() - start) / 60
        print(f"{name:<18} {minutes:5.1f} min  {outcome.summary}", flush=True)
        for test in outcome.failed:
            print(f"    {test}", flush=True)
        worst = max(worst, outcome.status)
    return worst


if __name__ == "__main__":
    sys.exit(main())
