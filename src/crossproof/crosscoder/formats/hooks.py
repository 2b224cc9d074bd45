"""Hooks in other libraries' spelling, and the layers that paths name, as the model has them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.formats.foreign import HEADS, INPUT_OF, ForeignDictionary
from crossproof.crosscoder.formats.paths import MODULE, path_layer
from crossproof.errors import CrossproofError, nearest
from crossproof.lm.model import LanguageModel
from crossproof.lm.spelling import canonical, module_hookpoint
from crossproof.lm.unembedding import input_norm

_NORM = re.compile(r"blocks\.(\d+)\.ln([12])\.(hook_normalized|hook_out)")
_EXPORTED = re.compile(r"layers\.([0-9]+)(|\.mlp|\.self_attn)")
_SYNONYMS = {"hook_mlp_in": "ln2.hook_in"}
"""TransformerLens's hook_mlp_in is the residual stream before the norm."""
_ONE_HEAD = " It holds one vector a head, which"
_INSIDE = {
    "hook_z": " It lies inside attention, whose output is not linear in it here.",
    "hook_attn_in": f"{_ONE_HEAD} attention reads apart.",
    "hook_q": f"{_ONE_HEAD} sets where attention looks and is added to nothing.",
    "hook_k": f"{_ONE_HEAD} sets where attention looks and is added to nothing.",
    "hook_v": f"{_ONE_HEAD} other tokens take up by a pattern that no dictionary of one token has.",
    "hook_result": f"{_ONE_HEAD} the model never holds: give a dictionary of attn.hook_z.",
}


@dataclass(frozen=True, eq=False)
class HookAlias:
    """A hookpoint of the model, where x = weight * x_theirs + shift (None: one and zero)."""

    hookpoint: str
    weight: Float[Tensor, " D"] | None = None
    shift: Float[Tensor, " D"] | None = None


def resolve_hook(model: LanguageModel, hook: str, folded_norms: bool = True) -> HookAlias:
    """Where a hook of TransformerLens, or a Hugging Face module, lies in the model.

    TransformerLens's `hook_normalized` carries the norm's output before its weight and bias (if
    these were not folded and the norm is a LayerNorm, behind them: so did its versions before 3);
    our mlp.hook_in and attn.hook_in carry what the MLP and the attention read, after them. Raises
    CrossproofError for a name that is nowhere in the model.
    """
    norm = _NORM.fullmatch(hook)
    if norm and int(norm[1]) < model.n_blocks:
        return _behind_norm(model, hook, norm, folded_norms)
    prefix, _, last = hook.rpartition(".")
    name = canonical(model, hook) or canonical(model, f"{prefix}.{_SYNONYMS.get(last, last)}")
    path = hook.removeprefix(INPUT_OF)
    name = name or module_hookpoint(model, path, at_input=path != hook)
    name = name or _exported(model, path, at_input=path != hook)
    if name is None:
        inside = _INSIDE.get(last, "")
        raise CrossproofError(
            f"The dictionary's hookpoint '{hook}' is none of '{model.name}' at the model's width."
            f"{inside}{nearest(hook, model.available_hookpoints())} Give --hookpoint if it has "
            f"another name here."
        )
    norm = _NORM.fullmatch(name)  # a module's path may lead to a norm, whose output the MLP reads
    return _behind_norm(model, hook, norm, folded_norms) if norm else HookAlias(name)


def _exported(model: LanguageModel, path: str, at_input: bool) -> str | None:
    """A module called as our exports to sparsify call it, where the model's own have other names:
    an export knows no model."""
    module = _EXPORTED.fullmatch(path)
    if module is None:
        return None
    part = {"": "hook_resid_post", ".mlp": "mlp.hook_out", ".self_attn": "attn.hook_out"}[module[2]]
    if at_input:
        part = part.replace("_out", "_in").replace("_post", "_pre")
    return canonical(model, f"blocks.{module[1]}.{part}")


def _behind_norm(
    model: LanguageModel, hook: str, match: re.Match[str], folded_norms: bool
) -> HookAlias:
    component: Literal["attn", "mlp"] = "attn" if match[2] == "1" else "mlp"
    name = f"blocks.{match[1]}.{component}.hook_in"
    try:
        norm = input_norm(model, int(match[1]), component)
    except CrossproofError as error:
        raise CrossproofError(
            f"The dictionary's hookpoint '{hook}' lies inside a norm, and '{model.name}' has no "
            f"LayerNorm or RMSNorm right before {name}: it cannot be converted."
        ) from error
    if match[3] == "hook_out" or (norm.centred and not folded_norms):
        return HookAlias(name)
    if not bool(norm.weight.all()):
        raise CrossproofError(
            f"The norm before {name} has weights that are zero, so what '{hook}' carries cannot "
            f"be told from it: the dictionary cannot be converted."
        )
    return HookAlias(name, norm.weight.cpu(), norm.bias.cpu())


def centring_changes(model: LanguageModel, hookpoint: str) -> bool | None:
    """Whether center_writing_weights changes what `hookpoint` carries: not behind a norm, and only
    in models with LayerNorm; None where the model has no norm that says so."""
    if hookpoint.endswith(("mlp.hook_in", "attn.hook_in")) or HEADS in hookpoint:
        return False
    try:
        return input_norm(model, 0, "mlp").centred
    except CrossproofError:
        return None


def layer_of(dictionary: ForeignDictionary) -> int | None:
    """The block that path, configuration and hooks name; None if they name none.

    Raises CrossproofError if they contradict each other.
    """
    hooks = [MODULE.fullmatch(hook or "") for hook in dictionary.hooks]
    layers = {int(match[1]) for match in hooks if match}
    named = {
        "path": path_layer(Path(dictionary.source)),
        "configuration": dictionary.layer,
        "hookpoint": layers.pop() if len(layers) == 1 else None,
    }
    named = {what: layer for what, layer in named.items() if layer is not None}
    if len(set(named.values())) > 1:
        clauses = " and ".join(f"its {what} names layer {layer}" for what, layer in named.items())
        raise CrossproofError(
            f"{dictionary.source} contradicts itself, for {clauses}: give whole names of "
            f"hookpoints (--hookpoint)."
        )
    return next(iter(named.values()), None)
