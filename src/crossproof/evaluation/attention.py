"""Attention scores of a text in parts, head by head, and one head between two positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.activations.positions import scored_positions
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.contexts import token_strings
from crossproof.interactions.attention import (
    AttentionDictionary,
    ScoreParts,
    attention_dictionary,
    score_parts,
)
from crossproof.interactions.attention_pairs import PairScores, pair_scores
from crossproof.lm.model import LanguageModel

PARTS = ("total", "query", "key", "query_key", "residual")
"""A score, and its parts that may differ from key to key of a query."""
SHOWN = ("total", "constant", "query", "key", "query_key", "residual")
EXAMPLE_TOKENS = 24
SEQUENCES = 16
"""How many of the measured sequences the parts of scores are measured on."""


def attention_views(model: LanguageModel, crosscoder: Crosscoder) -> dict[int, AttentionDictionary]:
    """The crosscoder as each attention sees whose input it decodes.

    Raises CrossproofError if there is none, or the model's attention is not bilinear.
    """
    blocks = [b for b, at in enumerate(crosscoder.hookpoints.blocks) if at.attn_in is not None]
    if not blocks:
        raise CrossproofError(
            "This crosscoder decodes no attention's input; train one whose hookpoints include "
            "blocks.*.attn.hook_in."
        )
    return {block: attention_dictionary(model, crosscoder, block) for block in blocks}


def head_sums(
    model: LanguageModel,
    crosscoder: Crosscoder,
    views: dict[int, AttentionDictionary],
    sequences: Int[Tensor, "S T"],
) -> dict[str, NDArray[np.float64]]:
    """Per sequence [S, L, heads]: squares of each part of the scores that a softmax can see.

    A softmax ignores what all keys of a query have in common, so each part is taken about its mean
    over the query's visible keys. `pairs` is the number of (query, key) pairs [S, L, 1].
    """
    found: list[dict[str, Tensor]] = []
    for tokens in sequences:
        latents, values = encoded(model, crosscoder, tokens)
        blocks, counts = [], []
        for block, view in views.items():
            x = values[:, crosscoder.hookpoints.index(f"blocks.{block}.attn.hook_in")]
            seen = view.attention.mask(torch.arange(len(x), device=x.device))
            parts = (score_parts(view, h, latents, x) for h in range(view.attention.n_heads))
            blocks.append(torch.stack([_squares(part, seen) for part in parts]))
            counts.append(seen.sum().double())
        whole = torch.stack(blocks)
        found.append({name: whole[..., at] for at, name in enumerate(PARTS)})
        found[-1]["pairs"] = torch.stack(counts)[:, None]
    return {name: torch.stack([row[name] for row in found]).cpu().numpy() for name in found[0]}


@dataclass(frozen=True, eq=False)
class HeadExample:
    """One head on one short text: its scores in parts, and its strongest query and key."""

    block: int
    head: int
    tokens: tuple[str, ...]
    mask: Bool[Tensor, "T T"]
    parts: ScoreParts
    query: int
    key: int
    pairs: PairScores
    error: float
    """Largest difference between the parts' sum and the model's own scores, where keys are seen."""


def head_example(
    model: LanguageModel,
    crosscoder: Crosscoder,
    views: dict[int, AttentionDictionary],
    tokens: Int[Tensor, " T"],
    block: int,
    head: int,
) -> HeadExample:
    """The head's scores on a text, and the query and key whose latents add most, by size.

    What they add is taken about its mean over the query's keys, as a softmax sees it. The key
    comes before the query; both are scored positions. Raises CrossproofError for a head or block
    out of range, and a text without two scored positions that see each other.
    """
    if block not in views:
        known = ", ".join(map(str, views))
        raise CrossproofError(
            f"The crosscoder does not read the attention of block {block}; choose from {known}."
        )
    view = views[block]
    latents, values = encoded(model, crosscoder, tokens)
    x = values[:, crosscoder.hookpoints.index(f"blocks.{block}.attn.hook_in")]
    parts = score_parts(view, head, latents, x)
    seen = view.attention.mask(torch.arange(len(x), device=x.device))
    scored = scored_positions(tokens[None], model.special_ids)[0].to(seen.device)
    open_to = (seen & scored & scored[:, None]).tril(-1)
    if not open_to.any():
        raise CrossproofError("The text has no two ordinary tokens that see each other; give more.")
    strength = torch.where(open_to, _centred(parts.query_key, seen).abs(), -1)
    query, key = divmod(int(strength.argmax()), len(x))
    own = view.attention.scores(x.double())[head]
    return HeadExample(
        block,
        head,
        token_strings(model.tokenizer, tokens.tolist()),
        seen,
        parts,
        query,
        key,
        pair_scores(view, latents, query, key),
        float((parts.total - own)[seen].abs().max()),
    )


def attention_figures(
    model: LanguageModel, crosscoder: Crosscoder, sequences: Int[Tensor, "S T"]
) -> dict[str, Any]:
    """Plain values for measure.json: what scores are made of, and one head as an example.

    The head is the one whose scores differ most among keys: a fact of the model, so that
    crosscoders of one model show the same one. Errors as `attention_views`.
    """
    views = attention_views(model, crosscoder)
    sums = head_sums(model, crosscoder, views, sequences[:SEQUENCES])
    size = {name: np.sqrt(sums[name].sum(0) / sums["pairs"].sum(0)) for name in PARTS}
    place, head = divmod(int(size["total"].argmax()), size["total"].shape[1])
    tokens = sequences[0, :EXAMPLE_TOKENS]
    example = head_example(model, crosscoder, views, tokens, list(views)[place], head)
    return {
        "blocks": list(views),
        "sequences": len(sequences[:SEQUENCES]),
        "rms": {name: values.tolist() for name, values in size.items()},
        "example": example_values(example),
    }


def example_values(example: HeadExample) -> dict[str, Any]:
    """A head's example as plain values; keys that a query does not see are null."""
    hidden = ~example.mask
    parts = {name: _rows(getattr(example.parts, name), hidden) for name in SHOWN}
    return {
        "block": example.block,
        "head": example.head,
        "tokens": list(example.tokens),
        "parts": parts,
        "query": example.query,
        "key": example.key,
        "query_latents": example.pairs.query_latents.tolist(),
        "key_latents": example.pairs.key_latents.tolist(),
        "pairs": _rows(example.pairs.values[example.head]),
        "error": example.error,
    }


def _rows(values: Tensor, hidden: Tensor | None = None) -> list[list[float | None]]:
    rows = [[float(f"{value:.5g}") for value in row] for row in values.tolist()]
    if hidden is None:
        return [list(row) for row in rows]
    return [
        [None if gone else value for value, gone in zip(row, mask, strict=True)]
        for row, mask in zip(rows, hidden.tolist(), strict=True)
    ]


def encoded(
    model: LanguageModel, crosscoder: Crosscoder, tokens: Int[Tensor, " T"]
) -> tuple[SparseLatents, Float[Tensor, "T P D"]]:
    """The code of one sequence's tokens, and their activations at the crosscoder's hookpoints."""
    with torch.no_grad():
        rows = tokens[None].to(model.device)
        values = model.activations(rows, crosscoder.hookpoints.names)[0]
        return crosscoder.encode(values.to(crosscoder.b_dec.dtype)), values


def _squares(parts: ScoreParts, seen: Bool[Tensor, "T T"]) -> Float[Tensor, " parts"]:
    shown = torch.stack([getattr(parts, name) for name in PARTS])
    return _centred(shown, seen).pow(2).sum((1, 2))


def _centred(
    scores: Float[Tensor, "*any T T"], seen: Bool[Tensor, "T T"]
) -> Float[Tensor, "*any T T"]:
    """Less each query's mean over the keys it sees; 0 where it sees none."""
    means = (scores * seen).sum(-1, keepdim=True) / seen.sum(1)[:, None]
    return (scores - means) * seen
