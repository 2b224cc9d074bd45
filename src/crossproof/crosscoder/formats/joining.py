"""Several dictionaries as one crosscoder: the union of their latents, hookpoint by hookpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from crossproof.crosscoder.formats.foreign import ForeignDictionary, Rule
from crossproof.crosscoder.formats.places import shared_hookpoint
from crossproof.crosscoder.model import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.sparsity import JumpReLU
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel


def joined(dictionaries: Sequence[ForeignDictionary], model: LanguageModel) -> Crosscoder:
    """The crosscoder whose latents are those of all dictionaries, in their order.

    Each dictionary keeps its own hookpoints (already the model's), its weights zero at the
    others', so that it computes what it computed alone. Raises CrossproofError if two write the
    same hookpoint, if their sparsity rules cannot stand together, or if the union outgrows the
    memory.
    """
    shared = shared_hookpoint(dictionaries)
    if shared is not None:
        raise CrossproofError(
            f"Both {shared[1]} and {shared[2]} reconstruct {shared[0]}: give one dictionary a "
            f"hookpoint."
        )
    wanted = [str(name) for foreign in dictionaries for name in foreign.hooks]
    hookpoints = model.hookpoints(list(dict.fromkeys(wanted)))
    width = sum(foreign.n_latents for foreign in dictionaries)
    _check_memory(width, len(hookpoints), model.d_model, len(dictionaries))
    rule, k, groups = _rule(dictionaries)
    config = CrosscoderConfig(width, rule, k or CrosscoderConfig.k, groups)
    crosscoder = Crosscoder(config, hookpoints, model.d_model)
    start = 0
    with torch.no_grad():
        for foreign in dictionaries:
            rows = slice(start, start + foreign.n_latents)
            places = torch.tensor([hookpoints.index(str(name)) for name in foreign.hooks])
            crosscoder.W_enc[rows, places] = foreign.W_enc
            crosscoder.W_dec[rows, places] = foreign.W_dec
            crosscoder.b_enc[rows] = foreign.b_enc
            crosscoder.b_dec[places] += foreign.b_dec  # zero for all but the one that writes there
            start = rows.stop
        if isinstance(crosscoder.sparsity, JumpReLU):
            thresholds = [_threshold(foreign) for foreign in dictionaries]
            # At or below zero the threshold is that of relu: log 0 = -inf, and exp takes it back.
            crosscoder.sparsity.log_threshold.copy_(torch.cat(thresholds).clamp_min(0).log())
    crosscoder.hookpoints = hookpoints.playing_parts_at(crosscoder.written)
    return crosscoder.eval().to(model.device)


def _rule(dictionaries: Sequence[ForeignDictionary]) -> tuple[Rule, int, int]:
    rules = {foreign.rule for foreign in dictionaries}
    if "topk" not in rules:
        return ("jumprelu" if "jumprelu" in rules else "relu"), 0, 1
    sizes = {(f.k, f.n_latents // f.groups) for f in dictionaries}
    if len(rules) > 1 or len(sizes) > 1:
        found = sorted({f"{f.rule} k={f.k} of {f.n_latents}" for f in dictionaries})
        raise CrossproofError(
            f"These dictionaries cannot be one crosscoder ({'; '.join(found)}): topk dictionaries "
            f"are joined with others of the same k and width; import the rest apart."
        )
    return "topk", dictionaries[0].k, sum(f.groups for f in dictionaries)


def _threshold(foreign: ForeignDictionary) -> Tensor:
    return torch.zeros(foreign.n_latents) if foreign.threshold is None else foreign.threshold


def _check_memory(width: int, places: int, d_model: int, count: int) -> None:
    needed = 2 * 4 * width * places * d_model
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.8 * there:
        raise CrossproofError(
            f"The union of {count} dictionaries ({width} latents, {places} hookpoints) takes "
            f"{needed / 1e9:.0f} GB and this machine has {there / 1e9:.0f} GB: import fewer "
            f"dictionaries at once."
        )
