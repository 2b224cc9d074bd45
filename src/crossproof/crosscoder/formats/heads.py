"""SAEs of what attention's heads put out (hook_z), all heads or one, as they write the stream.

The model adds z W_O + b_O. So a dictionary of z is one that reads z and writes attention's output:
decoder vectors d_h W_O, bias b W_O + b_O. Of one head's dictionary, what the other heads write is
a linear function of z beside it: a skip.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.crosscoder.formats.hooks import layer_of
from crossproof.errors import CrossproofError
from crossproof.lm.heads import HeadOutputs, head_outputs, value_bias
from crossproof.lm.model import LanguageModel


def behind_heads(foreign: ForeignDictionary, model: LanguageModel) -> ForeignDictionary:
    """The same SAE at the model's z and its attention's output, whose width is the model's.

    Raises CrossproofError if the widths differ, the model has no such block or head, or the save
    normalises or skips.
    """
    block = layer_of(foreign)
    if block is None or not 0 <= block < model.n_blocks:
        raise CrossproofError(f"'{model.name}' has no {foreign.hooks[0]}: check --hookpoint.")
    if foreign.normalisation is not None or foreign.skips:
        raise CrossproofError(
            f"{foreign.source} normalises the tokens of {foreign.hooks[0]} or skips some of it: "
            f"what attention's output is then is no function that crossproof keeps."
        )
    heads = head_outputs(model, block)
    W_enc, W_dec, b_dec = (
        _of_all_heads(foreign, rows, heads, model)
        for rows in (foreign.W_enc[:, 0], foreign.W_dec[:, 0], foreign.b_dec)
    )
    b_enc, shift = foreign.b_enc, torch.zeros_like(b_dec)
    if foreign.values_folded:  # the library saw z less the values' bias
        shift = value_bias(model, block).cpu().float()[None]
        b_enc = b_enc - W_enc @ shift[0]
    W_O, b_O = heads.W_O.cpu().float(), heads.b_O.cpu().float()
    pieces = len(heads.hookpoints)
    kept = torch.ones(len(W_O)) if foreign.head is None else _columns(foreign, heads, model)
    bias = b_dec + kept * shift
    skips = {}
    if foreign.head is not None:
        others = heads.placed(((1 - kept)[:, None] * W_O).T).permute(1, 2, 0)
        skips = {(p, pieces): weights for p, weights in enumerate(others) if bool(weights.any())}
    nothing = torch.zeros(foreign.n_latents, 1, len(b_O))
    return replace(
        foreign,
        hooks=(*heads.hookpoints, heads.written),
        W_enc=torch.cat([heads.placed(W_enc), nothing], 1),
        W_dec=torch.cat([nothing.expand(-1, pieces, -1), (W_dec @ W_O)[:, None]], 1),
        b_enc=b_enc,
        b_dec=torch.cat([nothing[0].expand(pieces, -1), bias @ W_O + b_O]),
        skips=skips,
        centring_known=True,
    )


def _of_all_heads(
    foreign: ForeignDictionary, rows: Tensor, heads: HeadOutputs, model: LanguageModel
) -> Tensor:
    """Rows over z as the dictionary has it, as rows over all of z."""
    whole = len(heads.W_O)
    if foreign.head is not None:
        out = rows.new_zeros(len(rows), whole)
        out[:, _columns(foreign, heads, model).bool()] = rows
        return out
    if rows.shape[1] != whole:
        raise CrossproofError(
            f"{foreign.source} is a dictionary of {rows.shape[1]} numbers of {foreign.hooks[0]}, "
            f"and the heads of '{model.name}' put out {whole}: give the model it was trained on."
        )
    return rows


def _columns(foreign: ForeignDictionary, heads: HeadOutputs, model: LanguageModel) -> Tensor:
    """[Z], one where the dictionary's head puts out, else zero."""
    head, width, whole = foreign.head or 0, foreign.b_dec.shape[1], len(heads.W_O)
    named = getattr(model._bare.config.get_text_config(), "num_attention_heads", whole // width)
    if width * named != whole or not 0 <= head < named:
        raise CrossproofError(
            f"{foreign.source} reads {width} numbers of head {head}, and '{model.name}' has "
            f"{named} heads that put out {whole} in all: give the model it was trained on."
        )
    out = torch.zeros(whole)
    out[head * width : (head + 1) * width] = 1
    return out
