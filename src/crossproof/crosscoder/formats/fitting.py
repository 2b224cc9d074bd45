"""A dictionary of another library at hookpoints of the model, for its raw activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crossproof.crosscoder.formats.foreign import ForeignDictionary, at_hooks
from crossproof.crosscoder.formats.hooks import layer_of, resolve_hook, stream_is_centred
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel


def fit(
    foreign: ForeignDictionary,
    model: LanguageModel,
    hookpoints: Sequence[str] | None,
    centred: bool | None = None,
) -> tuple[ForeignDictionary, list[str]]:
    """The dictionary of raw activations at hookpoints of the model, and what had to be assumed.

    `hookpoints` take the place of the file's own; `*` in them stands for the dictionary's layer;
    `centred` says what its files may not. Norms' weights and biases are folded in exactly. Raises
    CrossproofError if the widths differ, a hookpoint is unknown or not given, or their number is
    another.
    """
    d_model = foreign.b_dec.shape[1]
    if d_model != model.d_model:
        raise CrossproofError(
            f"{foreign.source} is a dictionary of vectors of width {d_model}, '{model.name}' has "
            f"width {model.d_model}: give the model it was trained on."
        )
    if centred is not None:
        foreign = replace(foreign, centred=centred, centring_known=True)
    foreign = _named(foreign, hookpoints)
    W_enc, W_dec = foreign.W_enc.double(), foreign.W_dec.double()
    b_enc, b_dec = foreign.b_enc.double(), foreign.b_dec.double()
    notices, names = [], []
    for p, hook in enumerate(map(str, foreign.hooks)):
        alias = resolve_hook(model, hook, foreign.folded_norms)
        names.append(alias.hookpoint)
        weight, shift = alias.weight, alias.shift
        notices += _notices(foreign, model, hook, alias.hookpoint)
        if foreign.centred and stream_is_centred(model, alias.hookpoint):
            W_enc[:, p] -= W_enc[:, p].mean(1, keepdim=True)
        if weight is None or shift is None:
            continue
        W_enc[:, p] /= weight
        b_enc = b_enc - W_enc[:, p] @ shift
        W_dec[:, p] *= weight
        if bool(W_dec[:, p].any() or b_dec[p].any()):  # not where a transcoder only reads
            b_dec[p] = b_dec[p] * weight + shift
    for name in names:
        if names.count(name) > 1:
            raise CrossproofError(f"{foreign.source} has the hookpoint {name} twice: name each.")
    dictionary = replace(
        foreign,
        hooks=tuple(names),
        W_enc=W_enc.float(),
        W_dec=W_dec.float(),
        b_enc=b_enc.float(),
        b_dec=b_dec.float(),
    )
    return dictionary, list(dict.fromkeys(notices))


def _notices(foreign: ForeignDictionary, model: LanguageModel, hook: str, name: str) -> list[str]:
    """What is assumed of a hook because the files do not say it, where it makes a difference."""
    notices = []
    if not foreign.centring_known and _centring_matters(model, name):
        assumed = "a centred" if foreign.centred else "the raw"
        notices.append(
            f"{foreign.source} does not say whether its residual stream was centred: taken as "
            f"trained on {assumed} stream, as was usual (--centred or --raw says it)."
        )
    unfolded = not foreign.folded_norms and hook.endswith("hook_normalized")
    if unfolded and resolve_hook(model, hook, folded_norms=False).weight is None:
        notices.append(
            f"{foreign.source} was trained with fold_ln false: {hook} is taken as the norm's "
            f"output behind weight and bias, as before TransformerLens 3 (--hookpoint {hook} "
            f"is before them)."
        )
    return notices


def _centring_matters(model: LanguageModel, name: str) -> bool:
    try:
        return stream_is_centred(model, name)
    except CrossproofError:  # no norm of a known kind: no TransformerLens centres such a model
        return False


def _named(foreign: ForeignDictionary, hookpoints: Sequence[str] | None) -> ForeignDictionary:
    if not hookpoints:
        if None in foreign.hooks:
            raise CrossproofError(
                f"{foreign.source} does not say where in the model it reads: give its "
                f"{_count(foreign)}, in order (--hookpoint; * stands for the layer, if its files "
                f"say which)."
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
        return replace(foreign, hooks=names, W_enc=W_enc, W_dec=W_dec, b_dec=b_dec)
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
