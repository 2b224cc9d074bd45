"""Triton's programs compile for GPUs without one, and add nothing up in an order of chance."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

COMPILING = """
import json, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from crossproof.kernels import triton_gpu as programs

architecture, real = int(sys.argv[1]), sys.argv[2]
WHOLE = {"offsets", "indices", "starts", "tokens", "entries"}
OWNERS, SIZES = {"owner", "excluded"}, {"width", "count"}


def kind(name):
    if name in WHOLE:
        return "*i64"
    return "*i32" if name in OWNERS else "i32" if name in SIZES else f"*{real}"


def compiled(program, out=real, **constants):
    signature = {
        name: "constexpr" if name in constants else kind(name) for name in program.arg_names
    }
    if "out" in signature:
        signature["out"] = f"*{out}"
    places = {(program.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=program, signature=signature, constexprs=places)
    return compile(source, target=GPUTarget("cuda", architecture, 32)).asm["ptx"]


tile, pair = programs.TILE, {"SLOTS": programs.PAIR_SLOTS, "TILE": programs.PAIR_TILE}
rows = {"FEATURES": programs.FEATURES, "AT_ONCE": programs.AT_ONCE}
made = {
    "dominant": compiled(programs._dominant, EXCLUDED=False, BESIDE=False, TILE=tile),
    "runner-up": compiled(programs._dominant, EXCLUDED=True, BESIDE=False, TILE=tile),
    "of both": compiled(programs._dominant, EXCLUDED=False, BESIDE=True, TILE=tile),
    "backward": compiled(programs._dominant_backward, TILE=tile),
    "products": compiled(programs._row_products, **rows),
    "sums": compiled(programs._weighted_rows, **rows),
    "pairs": compiled(programs._plain_pairs, out="fp64", **pair),
}
print(json.dumps(made))
"""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("real", ["fp32", "fp64"])
def test_programs_compile_without_a_gpu(architecture: int, real: str) -> None:
    """For A100 and H100, in a process of its own: this one's Triton interprets."""
    pytest.importorskip("triton")
    command = [sys.executable, "-c", COMPILING, str(architecture), real]
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads(done.stdout)
    assert len(made) == 7
    for name, code in made.items():
        assert f".target sm_{architecture}" in code, name
        assert "atom." not in code, name
        assert "red.global" not in code, name
