"""Mixture-of-experts MLPs: each routed expert is a gated MLP, weighed by the router.

transformers keeps a block's experts as tensors with a leading axis, in a module that is given the
tokens, the experts chosen for each and their weights. Routing is taken from there, as the model
computes it, so no router is known by name; experts that every token passes (shared ones) stand
beside. What was read must give the block's own output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from crossproof.errors import CrossproofError
from crossproof.lm.activation import Activation
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.mlp_reading import activations_of, dense_views
from crossproof.lm.sites import Site

_STACKED = "gate_up_proj", "down_proj"
Gate = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class MixtureWeights:
    """out = Σ_e g_e(x) expert_e(x), g_e zero but for the experts that the router chose."""

    experts: tuple[MLPWeights, ...]
    """Routed ones and, last, the shared one if there is one."""
    module: nn.Module
    """The block's own, whose router decides."""
    chosen: int
    """Experts that a token passes, the shared one not counted."""
    shared: Gate | None = None
    """From tokens [B, D] to the weight [B] of the shared expert."""

    @torch.no_grad()
    def route(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """Each expert's weight at each token, by the model's own router."""
        weights = _routed(self.module, x)
        assert weights is not None  # it was there when the mixture was read
        if self.shared is not None:
            weights = torch.cat([weights, self.shared(x)[:, None].to(weights)], 1)
        return weights

    def __call__(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The output of the whole."""
        weights, out = self.route(x), torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            rows = weights[:, at].nonzero()[:, 0]
            out.index_add_(0, rows, weights[rows, at, None] * expert(x[rows]))
        return out

    @property
    def n_neurons(self) -> int:
        """How many neurons a token meets."""
        shared = self.experts[-1].n_neurons if self.shared is not None else 0
        return self.chosen * self.experts[0].n_neurons + shared

    @property
    def n_parameters(self) -> int:
        """How many numbers all experts are."""
        return sum(expert.n_parameters for expert in self.experts)


def experts_of(module: nn.Module) -> Any:
    """The module inside that holds the stacked weights of experts; None for a dense MLP."""
    for each in module.modules():
        stacked = [getattr(each, name, None) for name in _STACKED]
        if all(isinstance(w, Tensor) and w.dim() == 3 for w in stacked):
            return each
    return None


def read_mixture(
    bare: PreTrainedModel,
    site: Site,
    values: tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]],
    where: str,
) -> MixtureWeights:
    """The experts and the router of the MLP that reads at `site`; `where` names it in errors.

    `values` are what it takes and gives in one forward pass. Raises CrossproofError for another
    form: experts that are not gated MLPs, or outputs that are more than their weighed sum.
    """
    x, written = values
    module, experts = site.module, experts_of(site.module)
    refused = CrossproofError(
        f"{where} is a mixture of experts ({type(module).__name__}) whose output is not the "
        f"weighed sum of gated MLPs: it cannot be read; choose blocks whose MLP is dense."
    )
    weights = _routed(module, x)
    if weights is None:
        raise refused
    chosen = int((weights != 0).sum(1).max())
    exact = bare.dtype in (torch.float32, torch.float64)
    tolerance = (1e-4 if exact else 5e-2) * float(written.abs().max())
    for activation in activations_of(bare, [experts, module], where, exact):
        for routed in _orders(experts, x.shape[1], activation, x.dtype):
            for shared, gate in _shared(module, experts, x.shape[1], activation, x.dtype):
                more = () if shared is None else (shared,)
                made = MixtureWeights((*routed, *more), module, chosen, gate)
                if float((made(x) - written).abs().max()) <= tolerance:
                    return made
    raise refused


def _routed(module: nn.Module, x: Float[Tensor, "B D"]) -> Float[Tensor, "B E"] | None:
    """The weights that the module's own forward pass hands to its experts; None for no such."""
    experts = experts_of(module)
    seen: list[Tensor] = []

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.extend(each for each in (*args, *kwargs.values()) if isinstance(each, Tensor))

    handle = experts.register_forward_pre_hook(note, with_kwargs=True)
    dtype = next(module.parameters()).dtype
    try:
        module(x.to(dtype)[None])
    finally:
        handle.remove()
    chosen = next((each for each in seen if not each.is_floating_point()), None)
    if chosen is None:
        return None
    alike = (each for each in seen if each.is_floating_point() and each.shape == chosen.shape)
    given, count = next(alike, None), experts.down_proj.shape[0]
    if given is None or len(chosen) != len(x) or int(chosen.max()) >= count:
        return None
    weights = x.new_zeros(len(x), count)
    return weights.scatter_add_(1, chosen.long(), given.to(x.dtype))


def _orders(
    experts: Any, width: int, activation: Activation, dtype: torch.dtype
) -> Iterator[tuple[MLPWeights, ...]]:
    """The experts with either half as the gate, in either layout of linear layers."""
    into: Tensor = experts.gate_up_proj.detach().to(dtype)
    out: Tensor = experts.down_proj.detach().to(dtype)
    biased = any("bias" in name for name, _ in experts.named_parameters(recurse=False))
    if biased:
        return
    for transposed in (True, False):
        if into.shape[2 if transposed else 1] != width:
            continue
        first = into.mT if transposed else into
        second = out.mT if transposed else out
        if second.shape[2] != width or first.shape[2] != 2 * second.shape[1]:
            continue
        halves = first.chunk(2, dim=2)
        for gate, linear in (halves, halves[::-1]):
            none, nothing = first.new_zeros(second.shape[1]), first.new_zeros(width)
            yield tuple(
                MLPWeights(w, none, o, nothing, activation, g, none)
                for g, w, o in zip(gate, linear, second, strict=True)
            )


def _shared(
    module: nn.Module, experts: Any, width: int, activation: Activation, dtype: torch.dtype
) -> Iterator[tuple[MLPWeights | None, Gate | None]]:
    """A dense MLP beside the experts, weighed by a sigmoid, by one, or not there."""
    yield None, None
    gates = [m for m in module.children() if isinstance(m, nn.Linear) and m.out_features == 1]
    for child in module.children():
        if child is experts:
            continue
        for view in dense_views([child], width):
            weights = MLPWeights(**view, activation=activation).to(dtype=dtype)
            yield weights, _always
            for gate in gates:
                yield weights, partial(_sigmoid, gate)


def _always(x: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
    return x.new_ones(len(x))


def _sigmoid(gate: Any, x: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
    value: Tensor = torch.sigmoid(gate(x.to(gate.weight.dtype)))[:, 0]
    return value
