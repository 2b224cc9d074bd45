"""A dictionary of another library at hookpoints of the model, for its raw activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from crossproof.crosscoder.formats.foreign import ForeignDictionary, at_hooks
from crossproof.crosscoder.formats.heads import behind_heads
from crossproof.crosscoder.formats.hooks import HookAlias, centring_changes, layer_of, resolve_hook
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel


def fit(
    foreign: ForeignDictionary,
    model: LanguageModel,
    hookpoints: Sequence[str] | None,
    centred: bool | None = None,
    scale: float | None = None,
) -> tuple[ForeignDictionary, list[str]]:
    """The dictionary of raw activations at hookpoints of the model, and what had to be assumed.

    `hookpoints` take the place of the file's own; `*` in them stands for the dictionary's layer;
    `centred` says what its files may not, and `scale` what activations are multiplied by first.
    Norms' weights and biases are folded in exactly. Raises CrossproofError if the widths differ, a
    hookpoint is unknown or not given, or their number is another.
    """
    if centred is not None:
        foreign = replace(foreign, centred=centred, centring_known=True)
    foreign = _of_activations(_named(foreign, hookpoints), scale)
    if foreign.of_heads:
        foreign = behind_heads(foreign, model)
    d_model = foreign.b_dec.shape[1]
    if d_model != model.d_model:
        raise CrossproofError(
            f"{foreign.source} is a dictionary of vectors of width {d_model}, '{model.name}' has "
            f"width {model.d_model}: give the model it was trained on."
        )
    aliases = [resolve_hook(model, str(hook), foreign.folded_norms) for hook in foreign.hooks]
    W_enc, W_dec = foreign.W_enc.double(), foreign.W_dec.double()
    b_enc, b_dec = foreign.b_enc.double(), foreign.b_dec.double()
    for p, alias in enumerate(aliases):
        weight, shift = alias.weight, alias.shift
        if _centred(foreign, model, alias.hookpoint):
            W_enc[:, p] -= W_enc[:, p].mean(1, keepdim=True)
        if weight is None or shift is None:
            continue
        _refuse_normalised(foreign, str(foreign.hooks[p]))
        W_enc[:, p] /= weight
        b_enc = b_enc - W_enc[:, p] @ shift
        W_dec[:, p] *= weight
        if bool(W_dec[:, p].any() or b_dec[p].any()):  # not where a transcoder only reads
            b_dec[p] = b_dec[p] * weight + shift
    skips = _skips(foreign, model, aliases)
    for (read, written), weights in skips.items():
        shift = aliases[read].shift
        if shift is not None:
            b_dec[written] -= shift @ weights
    names = tuple(alias.hookpoint for alias in aliases)
    for name in names:
        if names.count(name) > 1:
            raise CrossproofError(f"{foreign.source} has the hookpoint {name} twice: name each.")
    dictionary = replace(
        foreign,
        hooks=names,
        W_enc=W_enc.float(),
        W_dec=W_dec.float(),
        b_enc=b_enc.float(),
        b_dec=b_dec.float(),
        skips={places: weights.float() for places, weights in skips.items()},
    )
    return dictionary, _notices(foreign, model, aliases)


def _skips(
    foreign: ForeignDictionary, model: LanguageModel, aliases: Sequence[HookAlias]
) -> dict[tuple[int, int], Tensor]:
    """Skips between hookpoints of the model, float64; norms' biases go into the decoder's."""
    skips = {}
    for (read, written), given in foreign.skips.items():
        weights = given.double()
        if _centred(foreign, model, aliases[read].hookpoint):
            weights = weights - weights.mean(0)
        before, behind = aliases[read].weight, aliases[written].weight
        weights = weights if before is None else weights / before[:, None]
        skips[read, written] = weights if behind is None else weights * behind
    return skips


def _of_activations(foreign: ForeignDictionary, scale: float | None) -> ForeignDictionary:
    if scale is not None:
        return replace(foreign.scaled([scale] * len(foreign.hooks)), scale_missing=False)
    if foreign.scale_missing:
        raise CrossproofError(
            f"{foreign.source} was trained on scaled activations, and its files do not say by how "
            f"much: put the training's activation_scaler.json beside its weights, fold the scale "
            f"with its library, or say what activations are to be multiplied by (--scale)."
        )
    return foreign


def _refuse_normalised(foreign: ForeignDictionary, hook: str) -> None:
    if foreign.normalisation is not None:
        raise CrossproofError(
            f"{foreign.source} normalises each token of {hook}, which lies inside a norm, before "
            f"its weight and bias: its statistics are not those of a hookpoint of the model."
        )


def _centred(foreign: ForeignDictionary, model: LanguageModel, hookpoint: str) -> bool:
    """Whether the encoder must centre what `hookpoint` carries."""
    changes = centring_changes(model, hookpoint)
    if foreign.centred and changes and foreign.normalisation == "unit_norm":
        raise CrossproofError(
            f"{foreign.source} divides each token of a centred residual stream by its norm, which "
            f"is another norm than that of the stream as it is: it cannot be converted."
        )
    if foreign.centred and changes is None:
        raise CrossproofError(
            f"{foreign.source} was trained on a centred residual stream ({hookpoint}), and "
            f"'{model.name}' has no LayerNorm that says whether that changes it: it cannot be "
            f"converted (--raw if the stream was not centred)."
        )
    return foreign.centred and bool(changes)


def _notices(
    foreign: ForeignDictionary, model: LanguageModel, aliases: Sequence[HookAlias]
) -> list[str]:
    """What is assumed because the files do not say it, where it makes a difference."""
    notices = []
    if not foreign.centring_known and any(centring_changes(model, a.hookpoint) for a in aliases):
        notices.append(
            f"{foreign.source} does not say whether its residual stream was centred: taken as "
            f"trained on {'a centred' if foreign.centred else 'the raw'} stream, as was usual "
            f"(--centred or --raw says it)."
        )
    for hook, alias in zip(map(str, foreign.hooks), aliases, strict=True):
        if hook.endswith("hook_normalized") and alias.weight is None:
            notices.append(
                f"{foreign.source} was trained with fold_ln false: {hook} is taken as the norm's "
                f"output behind weight and bias, as before TransformerLens 3 (--hookpoint {hook} "
                f"is before them)."
            )
    return notices


def _named(foreign: ForeignDictionary, hookpoints: Sequence[str] | None) -> ForeignDictionary:
    if not hookpoints:
        if None in foreign.hooks:
            order = ", in order" if foreign.either or len(foreign.hooks) > 1 else ""
            raise CrossproofError(
                f"{foreign.source} does not say where in the model it reads: give its "
                f"{_count(foreign)}{order} (--hookpoint; * stands for the layer, if its files say "
                f"which)."
            )
        layer_of(foreign)  # raises where path and configuration contradict each other
        return foreign
    names = tuple(hookpoints)
    if any("*" in name for name in names):
        layer = layer_of(foreign)
        if layer is None:
            raise CrossproofError(
                f"{foreign.source} does not say its layer, which '*' stands for in "
                f"{', '.join(names)}: give whole names."
            )
        names = tuple(name.replace("*", str(layer)) for name in names)
    foreign = replace(foreign, folded_norms=True)  # the names given are meant as documented
    if foreign.either and len(names) == 2:
        parts = foreign.W_enc[:, 0], foreign.W_dec[:, 0], foreign.b_dec[0]
        W_enc, W_dec, b_dec = at_hooks(foreign.source, 2, *parts)
        skips = {(0, 1): foreign.skips[0, 0]} if foreign.skips else {}
        return replace(foreign, hooks=names, W_enc=W_enc, W_dec=W_dec, b_dec=b_dec, skips=skips)
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
