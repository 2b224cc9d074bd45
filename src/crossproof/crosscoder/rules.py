"""The registered sparsity rules by name. Imports nothing that takes time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.registry import Registry

SPARSITY: Registry[Callable[[CrosscoderConfig], Any]] = Registry(
    "sparsity rule", "crossproof.sparsity"
)
"""From the crosscoder's configuration to a `sparsity.Sparsity`. An entry point of the group names
such a function or class."""


def register_sparsity(name: str, build: Callable[[CrosscoderConfig], Any] | str) -> None:
    """Adds a sparsity rule: `CrosscoderConfig(sparsity=NAME)`, `crossproof train --sparsity NAME`.

    `build` makes a `Sparsity` module from the crosscoder's configuration, or is
    "package.module:function"; docs/extending/sparsity.md has the contract and an example. Raises
    CrossproofError if another rule has the name.
    """
    SPARSITY.register(name, build)


for _name in ("topk", "batch_topk", "relu", "jumprelu"):
    register_sparsity(_name, f"crossproof.crosscoder.sparsity:{_name}")
for _name in ("signed_topk", "abs_topk", "signed_jumprelu"):
    register_sparsity(_name, f"crossproof.crosscoder.signed:{_name}")
