"""The objectives that several figures compare, beside reconstruction."""

from __future__ import annotations

KEEP_LARGEST = "keep_largest"
"""The exact error of keeping each neuron's largest contribution, as `Objective` spells it."""
RECIPE = {KEEP_LARGEST: 200.0, "all_latents": 50.0, "interaction": 5.0}
"""The demo's objective (paper/pages/search.md)."""
EXACT = "keep_largest + all_latents/4"
"""The label of the exact error with a quarter as much of the error of all latents."""
MIXED = "the same + interaction/40"
"""The label of that with a little of the paper's penalty."""


def exact(strength: float) -> dict[str, float]:
    """The terms of `EXACT`."""
    return {KEEP_LARGEST: strength, "all_latents": strength / 4}


def mixed(strength: float) -> dict[str, float]:
    """The terms of `MIXED`, the recipe's, which stand as 40 : 10 : 1."""
    return exact(strength) | {"interaction": strength / 40}
