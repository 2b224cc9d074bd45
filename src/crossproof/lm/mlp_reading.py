"""Reading `MLPWeights` from the modules of an MLP, and checking the result.

The linear layers' shapes and the activation's values say everything; no architecture is known by
name. What they leave open (which of two layers is the gate) the check settles: the view must give
the MLP's own output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from crossproof.errors import CrossproofError
from crossproof.lm.activation import Activation
from crossproof.lm.blocks import is_linear, layer_weights
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.sites import Site

_CONFIG_NAMES = ("hidden_act", "hidden_activation", "activation_function", "activation", "afn")
_ATTRIBUTE = ("act", "gelu", "nonlin")
"""Parts of the names of modules and functions that are activations."""
_MODULES = ("torch.nn.modules.activation", "transformers.activations")


def read_mlp(
    bare: PreTrainedModel,
    sites: tuple[Site, Site],
    values: tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch D"]],
    where: str,
) -> MLPWeights:
    """The weights of the MLP between two sites of `bare`; `where` names it in errors.

    `values` are what the sites carry in one forward pass; the weights get their dtype. Raises
    CrossproofError when the MLP is not dense, plain or gated, or its activation is not known.
    """
    read, written = values
    ends = [site.module for site in sites]
    views = list(dense_views(ends, read.shape[-1]))
    if not views:
        raise CrossproofError(f"{where} has no dense MLP; choose blocks that have one.")
    exact = bare.dtype in (torch.float32, torch.float64)
    activations = activations_of(bare, ends, where, exact)
    whole = [MLPWeights(**v, activation=a) for v, a in product(views, activations)]
    candidates = [weights.to(dtype=read.dtype) for weights in whole]
    gaps = [float((view(read) - written).abs().max()) for view in candidates]
    least = min(range(len(gaps)), key=gaps.__getitem__)
    if gaps[least] <= (1e-4 if exact else 5e-2) * written.abs().max():
        return candidates[least]
    raise CrossproofError(
        f"{where} has an MLP that is neither plain nor gated in the usual form; choose blocks "
        f"whose MLP is dense."
    )


def dense_views(ends: list[nn.Module], width: int) -> Iterator[dict[str, Tensor]]:
    """Every reading of the linear layers: one in and one out, with or without a gate beside it."""
    inside = dict.fromkeys(module for end in ends for module in (end, *end.children()))
    layers = [layer_weights(module) for module in inside if is_linear(module)]
    if not 2 <= len(layers) <= 3:
        return
    for *into, out in permutations(layers):
        neurons = len(out[0])
        shapes = [tuple(weights.shape) for weights, _ in into]
        if out[0].shape[1] != width:
            continue
        if shapes == [(width, 2 * neurons)]:
            parts = zip(*(part.chunk(2, dim=-1) for part in into[0]), strict=True)
            into = list(parts)  # gate and linear path side by side, in either order
            yield _named(into[1], out, into[0])
            yield _named(into[0], out, into[1])
        elif set(shapes) == {(width, neurons)}:
            yield _named(into[0], out, *into[1:])


_Layer = tuple[Tensor, Tensor]


def _named(into: _Layer, out: _Layer, gate: _Layer | None = None) -> dict[str, Tensor]:
    weights = {"W_in": into[0], "b_in": into[1], "W_out": out[0], "b_out": out[1]}
    return weights if gate is None else {**weights, "W_gate": gate[0], "b_gate": gate[1]}


def activations_of(
    bare: PreTrainedModel, ends: list[nn.Module], where: str, exact: bool
) -> Sequence[Activation]:
    """The activation of an MLP: its own, by its values, or the one that the configuration names.

    Where neither says (a function in the code), all that there are: the check settles it, if the
    model is `exact` enough to tell them apart.
    """
    parents = [m for m in bare.modules() if any(child is ends[0] for child in m.children())]
    for holder in (*ends, *parents):
        for name, function in {**vars(holder), **dict(holder.named_children())}.items():
            if callable(function) and _is_activation(name, function):
                return [_by_values(function, where)]
    config = bare.config.get_text_config()
    for name in _CONFIG_NAMES:
        if isinstance(value := getattr(config, name, None), str):
            return [Activation.from_name(value)]
    if not exact:
        raise CrossproofError(
            f"{where} has an MLP that does not say its activation, and in {bare.dtype} activations "
            f"cannot be told apart; load the model in float32."
        )
    return list(Activation)


def _is_activation(name: str, function: Any) -> bool:
    return type(function).__module__ in _MODULES or any(part in name for part in _ATTRIBUTE)


def _by_values(function: Callable[[Tensor], Tensor], where: str) -> Activation:
    found = Activation.of_function(function)
    if found is None:
        known = ", ".join(activation.value for activation in Activation)
        raise CrossproofError(
            f"{where} has an MLP with {type(function).__name__}, an activation that is not "
            f"supported; supported are {known}."
        )
    return found
