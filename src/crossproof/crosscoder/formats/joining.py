"""Several dictionaries as one crosscoder: the union of their latents, hookpoint by hookpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from crossproof.crosscoder.assembling import GroupWeights, assembled
from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.crosscoder.model import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.signed import SignedJumpReLU
from crossproof.crosscoder.sparsity import JumpReLU, Sparsity
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel


def joined(dictionaries: Sequence[ForeignDictionary], model: LanguageModel) -> Crosscoder:
    """The crosscoder whose latents are those of all dictionaries, in their order.

    Each latent has vectors at its own dictionary's hookpoints (already the model's) alone, so that
    memory grows with the dictionaries and not with their square. Raises CrossproofError if two
    write the same hookpoint, if their sparsity rules cannot stand together, or if the union
    outgrows the memory.
    """
    _check_writers(dictionaries)
    names = [str(name) for foreign in dictionaries for name in foreign.hooks]
    hookpoints = model.hookpoints(list(dict.fromkeys(names)))
    places = [tuple(hookpoints.index(str(name)) for name in f.hooks) for f in dictionaries]
    groups = [
        GroupWeights.of(foreign.W_enc, foreign.W_dec, where, where)
        for foreign, where in zip(dictionaries, places, strict=True)
    ]
    _check_memory(groups, model.d_model)
    config = _config(dictionaries, sum(foreign.n_latents for foreign in dictionaries))
    crosscoder = assembled(config, hookpoints, groups)
    start = 0
    with torch.no_grad():
        for foreign, where in zip(dictionaries, places, strict=True):
            rows = slice(start, start + foreign.n_latents)
            crosscoder.b_enc[rows] = foreign.b_enc
            crosscoder.b_dec[list(where)] += foreign.b_dec  # zero but for the one that writes there
            _set_threshold(crosscoder.sparsity, rows, foreign)
            for (read, written), weights in foreign.skips.items():
                crosscoder.add_skip(where[read], where[written], weights)
            if foreign.normalisation is not None:
                crosscoder.token_scale.normalise(foreign.normalisation)
            start = rows.stop
    crosscoder.hookpoints = hookpoints.playing_parts_at(crosscoder.written)
    return crosscoder.eval().to(model.device)


def _set_threshold(rule: Sparsity, rows: slice, foreign: ForeignDictionary) -> None:
    kept = torch.zeros(foreign.n_latents) if foreign.threshold is None else foreign.threshold
    if foreign.rule != "signed_jumprelu":
        kept = kept.clamp_min(0)  # at or below zero it is that of relu
    # The largest finite number stands for an infinite threshold or logarithm (exp takes that back).
    if isinstance(rule, JumpReLU):
        rule.log_threshold[rows] = kept.log().nan_to_num()
    elif isinstance(rule, SignedJumpReLU):
        rule.threshold[rows] = kept.nan_to_num()


def _check_writers(dictionaries: Sequence[ForeignDictionary]) -> None:
    normal = next((f for f in dictionaries if f.normalisation is not None), None)
    if normal is not None and len(dictionaries) > 1:
        raise CrossproofError(
            f"{normal.source} normalises each token by its own scale, so it cannot be joined with "
            f"others: import it apart."
        )
    writers: dict[str, str] = {}
    for foreign in dictionaries:
        for p, name in enumerate(map(str, foreign.hooks)):
            if not bool(torch.any(foreign.W_dec[:, p]) or torch.any(foreign.b_dec[p])):
                continue
            if name in writers:
                raise CrossproofError(
                    f"Both {writers[name]} and {foreign.source} reconstruct {name}: give one "
                    f"dictionary a hookpoint."
                )
            writers[name] = foreign.source


def _config(dictionaries: Sequence[ForeignDictionary], width: int) -> CrosscoderConfig:
    rules = {foreign.rule for foreign in dictionaries}
    if not any("topk" in rule for rule in rules):
        kept = (rule for rule in ("signed_jumprelu", "jumprelu") if rule in rules)
        return CrosscoderConfig(width, next(kept, "relu"))
    kinds = sorted({f"{f.rule} k={f.k} of {f.n_latents // f.groups}" for f in dictionaries})
    if len(kinds) > 1:
        raise CrossproofError(
            f"These dictionaries cannot be one crosscoder ({'; '.join(kinds)}): topk dictionaries "
            f"are joined with others of the same k and width; import the rest apart."
        )
    first, groups = dictionaries[0], sum(f.groups for f in dictionaries)
    return CrosscoderConfig(width, first.rule, first.k, groups)


def _check_memory(groups: Sequence[GroupWeights], d_model: int) -> None:
    width = sum(each.group.latents for each in groups)
    vectors = max(len(each.group.reads) for each in groups)
    vectors += max(len(each.group.writes) for each in groups)
    needed = 4 * width * vectors * d_model
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.8 * there:
        raise CrossproofError(
            f"The union of {len(groups)} dictionaries ({width} latents, {vectors} vectors of each) "
            f"takes {needed / 1e9:.0f} GB and this machine has {there / 1e9:.0f} GB: import fewer "
            f"dictionaries at once.",
            code="CP-MEMORY",
        )
