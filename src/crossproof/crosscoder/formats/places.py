"""Hookpoints in other libraries' spelling as hookpoints of the model, and what lies between."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.formats.foreign import ForeignDictionary, transcoder
from crossproof.crosscoder.formats.sparsify import INPUT_OF
from crossproof.errors import CrossproofError, nearest
from crossproof.lm.model import LanguageModel
from crossproof.lm.spelling import canonical, module_hookpoint
from crossproof.lm.unembedding import input_norm

_NORM = re.compile(r"blocks\.(\d+)\.ln([12])\.(hook_normalized|hook_out)")
_SYNONYMS = {"hook_mlp_in": "ln2.hook_in"}
"""TransformerLens's hook_mlp_in is the residual stream before the norm."""


@dataclass(frozen=True, eq=False)
class Place:
    """A hookpoint of ours, where x_ours = weight * x_theirs + shift (None: one and zero)."""

    name: str
    weight: Float[Tensor, " D"] | None = None
    shift: Float[Tensor, " D"] | None = None


def find_place(model: LanguageModel, hook: str) -> Place:
    """Where a hook of TransformerLens, or a Hugging Face module, lies in the model.

    TransformerLens's `hook_normalized` carries the norm's output before its weight and bias; our
    mlp.hook_in and attn.hook_in carry what the MLP and the attention read, after them. Raises
    CrossproofError for a name that is nowhere in the model.
    """
    norm = _NORM.fullmatch(hook)
    if norm and int(norm[1]) < model.n_blocks:
        return _behind_norm(model, hook, int(norm[1]), norm[2], norm[3] == "hook_normalized")
    prefix, _, last = hook.rpartition(".")
    name = canonical(model, hook) or canonical(model, f"{prefix}.{_SYNONYMS.get(last, last)}")
    path = hook.removeprefix(INPUT_OF)
    name = name or module_hookpoint(model, path, at_input=path != hook)
    if name is None:
        inside = " It lies inside attention." if last in ("hook_z", "hook_attn_in") else ""
        raise CrossproofError(
            f"The dictionary's hookpoint '{hook}' is none of '{model.name}' at the model's width."
            f"{inside}{nearest(hook, model.available_hookpoints())} Give --hookpoint if it has "
            f"another name here."
        )
    return Place(name)


def _behind_norm(
    model: LanguageModel, hook: str, block: int, kind: str, before_affine: bool
) -> Place:
    component: Literal["attn", "mlp"] = "attn" if kind == "1" else "mlp"
    name = f"blocks.{block}.{component}.hook_in"
    try:
        norm = input_norm(model, block, component)
    except CrossproofError as error:
        raise CrossproofError(
            f"The dictionary's hookpoint '{hook}' lies inside a norm, and '{model.name}' has no "
            f"LayerNorm or RMSNorm right before {name}: it cannot be converted."
        ) from error
    return Place(name, norm.weight, norm.bias) if before_affine else Place(name)


def placed(
    foreign: ForeignDictionary, model: LanguageModel, hookpoints: Sequence[str] | None
) -> ForeignDictionary:
    """The dictionary of raw activations at hookpoints of the model, by their names.

    `hookpoints` take the place of the file's own; `*` in them stands for the dictionary's layer.
    Norms' weights and biases are folded in exactly. Raises CrossproofError if the widths differ,
    a hookpoint is unknown or not given, or their number is another.
    """
    d_model = foreign.b_dec.shape[1]
    if d_model != model.d_model:
        raise CrossproofError(
            f"{foreign.source} is a dictionary of vectors of width {d_model}, '{model.name}' has "
            f"width {model.d_model}: give the model it was trained on."
        )
    foreign = _named(foreign, hookpoints)
    W_enc, W_dec = foreign.W_enc.double(), foreign.W_dec.double()
    b_enc, b_dec = foreign.b_enc.double(), foreign.b_dec.double()
    names = []
    for p, hook in enumerate(foreign.hooks):
        assert hook is not None  # `_named` looked
        place = find_place(model, hook)
        names.append(place.name)
        if foreign.centred and _stream_is_centred(model, hook):
            W_enc[:, p] -= W_enc[:, p].mean(1, keepdim=True)
        if place.weight is None or place.shift is None:
            continue
        if not bool(place.weight.all()):
            raise CrossproofError(
                f"The norm before {place.name} has weights that are zero, so what {hook} carries "
                f"cannot be told from it: {foreign.source} cannot be converted."
            )
        weight, shift = place.weight.cpu(), place.shift.cpu()
        W_enc[:, p] /= weight
        b_enc = b_enc - W_enc[:, p] @ shift
        W_dec[:, p] *= weight
        if bool(W_dec[:, p].any() or b_dec[p].any()):  # not where a transcoder only reads
            b_dec[p] = b_dec[p] * weight + shift
    for name in names:
        if names.count(name) > 1:
            raise CrossproofError(f"{foreign.source} has the hookpoint {name} twice: name each.")
    return replace(
        foreign,
        hooks=tuple(names),
        W_enc=W_enc.float(),
        W_dec=W_dec.float(),
        b_enc=b_enc.float(),
        b_dec=b_dec.float(),
    )


def _named(foreign: ForeignDictionary, hookpoints: Sequence[str] | None) -> ForeignDictionary:
    if not hookpoints:
        if None in foreign.hooks:
            raise CrossproofError(
                f"{foreign.source} does not say where in the model it reads: give its "
                f"{_count(foreign)}, in order (--hookpoint; * stands for the layer, if its files "
                f"say which)."
            )
        return foreign
    if any("*" in name for name in hookpoints) and foreign.layer is None:
        raise CrossproofError(
            f"{foreign.source} does not say its layer, which '*' stands for in "
            f"{', '.join(hookpoints)}: give whole names."
        )
    names = tuple(name.replace("*", str(foreign.layer)) for name in hookpoints)
    if foreign.either and len(names) == 2:
        parts = foreign.W_enc[:, 0], foreign.b_enc, foreign.W_dec[:, 0], foreign.b_dec[0]
        return transcoder(
            foreign.source,
            (names[0], names[1]),
            *parts,
            rule=foreign.rule,
            threshold=foreign.threshold,
            about=foreign.about,
        )
    if len(names) != len(foreign.hooks):
        raise CrossproofError(
            f"{foreign.source} needs {_count(foreign)}, but {len(names)} are given: "
            f"{', '.join(names)}."
        )
    return replace(foreign, hooks=names)


def _count(foreign: ForeignDictionary) -> str:
    if foreign.either:
        return "hookpoint (an SAE), or its input and output (a transcoder)"
    count = len(foreign.hooks)
    return "1 hookpoint" if count == 1 else f"{count} hookpoints"


def _stream_is_centred(model: LanguageModel, hook: str) -> bool:
    """Whether center_writing_weights centres what `hook` carries: not behind a norm, and only in
    models with LayerNorm."""
    if _NORM.fullmatch(hook):
        return False
    try:
        return input_norm(model, 0, "mlp").centred
    except CrossproofError as error:
        raise CrossproofError(
            f"The dictionary was trained on a centred residual stream ({hook}), and '{model.name}' "
            f"has no LayerNorm that says whether that changes it: it cannot be converted."
        ) from error


def shared_hookpoint(dictionaries: Sequence[ForeignDictionary]) -> tuple[str, str, str] | None:
    """A hookpoint that two dictionaries write, and those two; None if there is none."""
    writers: dict[str, str] = {}
    for foreign in dictionaries:
        for p, name in enumerate(foreign.hooks):
            if not bool(torch.any(foreign.W_dec[:, p]) or torch.any(foreign.b_dec[p])):
                continue
            if str(name) in writers:
                return str(name), writers[str(name)], foreign.source
            writers[str(name)] = foreign.source
    return None
