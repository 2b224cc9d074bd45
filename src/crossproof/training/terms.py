"""The registered terms of the loss, and how to register another.

Imports nothing that takes time: the functions behind the terms are imported when a trainer first
asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from crossproof.errors import CrossproofError
from crossproof.registry import Registry, imported

TermKind = Literal["mlp", "step", "text"]


@dataclass(frozen=True)
class TermOption:
    """A further setting of a term: one of a few words."""

    values: tuple[str, ...]
    """Those it can have, the default first."""
    description: str
    """One sentence, for `--help`."""


@dataclass(frozen=True)
class ObjectiveTerm:
    """One registered term of the loss beside the reconstruction error."""

    name: str
    description: str
    """One sentence, for `--help`."""
    compute: Callable[..., Any] | str
    """A scalar function of a step (docs/extending/objectives.md), or where to import it from."""
    per: TermKind = "mlp"
    """Whether `compute` takes one MLP's part of a step (`BlockStep`), the whole (`Step`), or one
    MLP's part of a step on whole sequences of text (`TextStep`)."""
    options: Mapping[str, TermOption] = field(default_factory=dict)
    """Further keyword arguments of `compute`; an objective spells them NAME_OPTION."""
    sharded: bool = False
    """Whether `compute` can be taken by processes that each have some of the neurons and latents:
    it sums over them through the step's `over_neurons`, `once` and `shard` alone."""

    def function(self) -> Callable[..., Any]:
        """`compute`, imported if need be."""
        return imported(self.compute) if isinstance(self.compute, str) else self.compute

    def spelled(self) -> dict[str, TermOption]:
        """The options by the names they have in an `Objective`."""
        return {f"{self.name}_{name}": option for name, option in self.options.items()}


OBJECTIVES: Registry[ObjectiveTerm] = Registry("objective", "crossproof.objectives")
"""All terms by name. An entry point of the group names an `ObjectiveTerm`."""


def register_objective(
    name: str,
    compute: Callable[..., Any] | str,
    description: str,
    per: TermKind = "mlp",
    options: Mapping[str, TermOption] | None = None,
    sharded: bool = False,
) -> None:
    """Adds a term to the loss: `Objective(NAME=strength)`, `crossproof train --NAME STRENGTH`.

    `compute` is a pure function of a `BlockStep` (per="mlp"; the term is its mean over MLPs), of a
    `Step` (per="step") or of a `TextStep` (per="text"; the term is its mean over the MLPs that are
    replaced at a step), or "package.module:function". It returns a scalar, a mean over tokens, that
    is differentiable in the crosscoder's parameters; docs/extending/objectives.md has the
    contract and an example, `crossproof.testing.check_objective` checks it. `sharded` says that it
    can be shared out among processes (--latent-processes). Raises CrossproofError if another term
    has the name.
    """
    if not name.isidentifier():
        raise CrossproofError(
            f"An objective cannot be called '{name}': use letters, digits and underscores."
        )
    term = ObjectiveTerm(name, description, compute, per, options or {}, sharded)
    OBJECTIVES.register(name, term)


_TERMS = "crossproof.training.objectives"
_register = partial(register_objective, sharded=True)
"""For terms that processes can share out; those on whole sequences cannot yet be."""
# In the order in which the loss adds them up.

_register(
    "interaction",
    f"{_TERMS}:interaction",
    "The paper's penalty: mean over block, token and neuron of Σ|p| - max|p| (its λ).",
    options={
        "weights": TermOption(
            ("uniform", "output_norm"),
            "Weight neurons equally, as the paper trains, or by ‖o_n‖, as its measure is defined.",
        )
    },
)
_register(
    "keep_largest",
    f"{_TERMS}:keep_largest",
    "The exact error of keeping one latent per neuron, ‖MLP(x) - MLP_dom‖², over the variance of "
    "the MLP's output: the left-hand side of the theorem whose bound `interaction` shrinks.",
)
_register(
    "all_latents",
    f"{_TERMS}:all_latents",
    "‖MLP(x) - MLP(x̂)‖² over the same variance: keeps the full reconstruction intact.",
)
register_objective(
    "keep_largest_kl",
    f"{_TERMS}:keep_largest_kl",
    "What keeping one latent per neuron does to the model's predictions: KL from the model's own, "
    "over that of removing the MLP.",
    per="text",
)
register_objective(
    "all_latents_kl",
    f"{_TERMS}:all_latents_kl",
    "The same of keeping all latents: keeps the full reconstruction's predictions.",
    per="text",
)
_register(
    "certified",
    f"{_TERMS}:certified",
    "R + L·I (theorem T1), the bound itself: shrinking the reconstruction does not lower it.",
)
_register("dominant_share", f"{_TERMS}:dominant_share", "1 - dominant share: scale-free.")
_register(
    "l1",
    f"{_TERMS}:l1",
    "Control, and the sparsity of `relu`: sum of a_h ‖d_h‖.",
    per="step",
)
_register("l0", f"{_TERMS}:l0", "Sparsity of `jumprelu`: active latents a token.", per="step")
_register(
    "mlp_in",
    f"{_TERMS}:mlp_in",
    "Control: extra reconstruction error at the MLPs' inputs.",
)
_register(
    "rotated",
    f"{_TERMS}:rotated",
    "Control: the `interaction` penalty on neurons whose input weights are randomly rotated.",
)
