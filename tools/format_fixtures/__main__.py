"""Dictionaries saved by the libraries themselves, for tests of the importers.

Needs what the package does not: SAELens, sparsify, dictionary_learning, circuit-tracer and
Llamascopium, each imported only when its turn comes. In the environment of `tools/peers.py`:

    /somewhere/peers/bin/python -m tools.format_fixtures tests/data/formats

Every fixture is a folder: `dictionary/` as the library wrote it, and `expected.safetensors` with a
batch `x`, its `code` and its `reconstruction` as the library computed them. Weights, biases and
thresholds are random, from a seed; nothing is tied, zero or normalised.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tools.format_fixtures.layers import circuit_tracer, gemma_scope, llamascopium
from tools.format_fixtures.learners import dictionary_learning, sparsify
from tools.format_fixtures.saelens import saelens

MAKERS: tuple[Callable[[Path], None], ...] = (
    saelens,
    sparsify,
    dictionary_learning,
    circuit_tracer,
    gemma_scope,
    llamascopium,
)


def main() -> None:
    root = Path(sys.argv[1])
    chosen = sys.argv[2:]
    for maker in MAKERS:
        if not chosen or maker.__name__ in chosen:
            maker(root)
            print(f"{maker.__name__}: done")


if __name__ == "__main__":
    main()
