"""Attention scores of a text in parts, head by head, and one head between two positions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.contexts import token_strings
from crossproof.interactions.attention import (
    AttentionDictionary,
    ScoreParts,
    attention_dictionary,
    score_parts,
)
from crossproof.interactions.attention_pairs import pair_scores
from crossproof.lm.model import LanguageModel
from crossproof.result import ABSENT

LABELS = {
    "total": "score",
    "constant": "constant",
    "query": "query latents",
    "key": "key latents",
    "query_key": "query × key latents",
    "residual": "residual",
}
"""A score and its parts, in words."""
PARTS = tuple(part for part in LABELS if part != "constant")
"""Those that may differ from key to key of a query."""
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
            "This dictionary decodes no attention's input: scores are measured of one that does, "
            "at blocks.*.attn.hook_in."
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
    rows: list[dict[str, Tensor]] = []
    for batch in encode_batches(model, crosscoder, sequences, 1, every_position=True):
        blocks, counts = [], []
        for block, view in views.items():
            x = attention_input(batch, block)
            seen = view.attention.mask(torch.arange(len(x), device=x.device))
            heads = range(view.attention.n_heads)
            parts = (score_parts(view, head, batch.latents, x) for head in heads)
            blocks.append(torch.stack([_squares(part, seen) for part in parts]))
            counts.append(seen.sum().double())
        whole = torch.stack(blocks)
        rows.append({name: whole[..., at] for at, name in enumerate(PARTS)})
        rows[-1]["pairs"] = torch.stack(counts)[:, None]
    return {name: torch.stack([row[name] for row in rows]).cpu().numpy() for name in rows[0]}


def attention_input(batch: EncodedBatch, block: int) -> Float[Tensor, "T D"]:
    """The model's own values at one block's attention input, of a batch of one sequence."""
    return batch.model_activations[f"blocks.{block}.attn.hook_in"][0]


Rows = tuple[tuple[float | None, ...], ...]
"""[query, key]; None where the query does not see the key."""


@dataclass(frozen=True)
class HeadExample:
    """One head on one short text: its scores in parts, and its strongest query and key."""

    block: int
    head: int
    tokens: tuple[str, ...]
    parts: dict[str, Rows]
    """By `LABELS`."""
    query: int
    key: int
    query_latents: tuple[int, ...]
    key_latents: tuple[int, ...]
    pairs: Rows
    """What each latent of the query adds to the score with each latent of the key."""
    error: float
    """Largest difference between the parts' sum and the model's own scores, where keys are seen."""


@dataclass(frozen=True)
class AttentionScores:
    """What the scores of attention heads are made of, or the reason why that is not known."""

    blocks: tuple[int, ...] = ()
    sequences: int = 0
    rms: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """By `PARTS`, [block, head]: root mean square over (query, key), about the queries' means."""
    example: HeadExample | None = field(default=None, metadata=ABSENT)
    missing: str | None = field(default=None, metadata=ABSENT)


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
    batch = next(encode_batches(model, crosscoder, tokens[None], 1, every_position=True))
    x = attention_input(batch, block)
    parts = score_parts(view, head, batch.latents, x)
    seen = view.attention.mask(torch.arange(len(x), device=x.device))
    query, key = _strongest(model, crosscoder, tokens, parts, seen)
    scores = view.attention.scores(x.double())[head]
    pairs = pair_scores(view, batch.latents, query, key)
    return HeadExample(
        block,
        head,
        token_strings(model.tokenizer, tokens.tolist()),
        {name: _rows(getattr(parts, name), ~seen) for name in LABELS},
        query,
        key,
        tuple(pairs.query_latents.tolist()),
        tuple(pairs.key_latents.tolist()),
        _rows(pairs.values[head]),
        float((parts.total - scores)[seen].abs().max()),
    )


def _strongest(
    model: LanguageModel,
    crosscoder: Crosscoder,
    tokens: Int[Tensor, " T"],
    parts: ScoreParts,
    seen: Bool[Tensor, "T T"],
) -> tuple[int, int]:
    """The query and the earlier key, both scored positions, whose latents add most."""
    scored = next(encode_batches(model, crosscoder, tokens[None], 1)).scored[0]
    open_to = (seen & scored & scored[:, None]).tril(-1)
    if not open_to.any():
        raise CrossproofError("The text has no two ordinary tokens that see each other; give more.")
    strength = torch.where(open_to, _centred(parts.query_key, seen).abs(), -1)
    query, key = divmod(int(strength.argmax()), len(tokens))
    return query, key


def attention_scores(
    model: LanguageModel, crosscoder: Crosscoder, sequences: Int[Tensor, "S T"]
) -> AttentionScores:
    """What scores are made of, in the first sequences, and one head as an example.

    The head is the one whose scores differ most among keys: a fact of the model, so that
    crosscoders of one model show the same one. Errors as `attention_views`.
    """
    views = attention_views(model, crosscoder)
    sums = head_sums(model, crosscoder, views, sequences[:SEQUENCES])
    size = {name: np.sqrt(sums[name].sum(0) / sums["pairs"].sum(0)) for name in PARTS}
    at, head = divmod(int(size["total"].argmax()), size["total"].shape[1])
    tokens = sequences[0, :EXAMPLE_TOKENS]
    return AttentionScores(
        blocks=tuple(views),
        sequences=len(sequences[:SEQUENCES]),
        rms={name: tuple(map(tuple, values.tolist())) for name, values in size.items()},
        example=head_example(model, crosscoder, views, tokens, list(views)[at], head),
    )


def _rows(values: Tensor, hidden: Tensor | None = None) -> Rows:
    """Five significant digits, and None where hidden."""
    mask = torch.zeros_like(values, dtype=torch.bool) if hidden is None else hidden
    return tuple(
        tuple(
            None if gone else float(f"{value:.5g}") for value, gone in zip(row, gaps, strict=True)
        )
        for row, gaps in zip(values.tolist(), mask.tolist(), strict=True)
    )


def _squares(parts: ScoreParts, seen: Bool[Tensor, "T T"]) -> Float[Tensor, " parts"]:
    shown = torch.stack([getattr(parts, name) for name in PARTS])
    return _centred(shown, seen).pow(2).sum((1, 2))


def _centred(
    scores: Float[Tensor, "*any T T"], seen: Bool[Tensor, "T T"]
) -> Float[Tensor, "*any T T"]:
    """Less each query's mean over the keys it sees; 0 where it sees none."""
    means = (scores * seen).sum(-1, keepdim=True) / seen.sum(1)[:, None]
    return (scores - means) * seen
