"""Pairs of latents in attention scores: I^QK(i,j) = a_i a_j |d_i M d_jᵀ| · scale.

THEORY section 5; i is a latent of the query, j of the key. Constants and ε are not among the pairs.
All sums are exact, in float64; nothing of shape [B, B, K, K] is formed at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions.attention import AttentionDictionary, ScoreParts
from crossproof.kernels.torch_any import slots
from crossproof.lm.attention import token_positions

CHUNK = 2**21
"""Pairs held at once, 16 MB in float64."""


@dataclass(frozen=True, eq=False)
class PairScores:
    """What each pair of latents adds to the score between two positions, for every head."""

    values: Float[Tensor, "heads Kq Kk"]
    """Signed: a_i a_j d_i M d_jᵀ · scale; the interaction is its absolute value."""
    query_latents: Int[Tensor, " Kq"]
    key_latents: Int[Tensor, " Kk"]


def pair_scores(
    view: AttentionDictionary,
    latents: SparseLatents,
    query: int,
    key: int,
    positions: Int[Tensor, " given"] | None = None,
) -> PairScores:
    """The pairs between the tokens numbered `query` and `key` of a sequence.

    Raises CrossproofError for tokens that are not there, or a key that the query does not see.
    """
    positions = token_positions(latents.n_tokens, positions, latents.values.device)
    if not (0 <= query < len(positions) and 0 <= key < len(positions)):
        raise CrossproofError(
            f"There are tokens 0 to {len(positions) - 1}; there is no pair ({query}, {key})."
        )
    if not view.attention.mask(positions[[query, key]])[0, 1]:
        raise CrossproofError(
            f"The query at token {query} does not see token {key}; choose a key that is not after "
            f"it{_window_words(view)}."
        )
    at_query, at_key = latents.rows(query, query + 1), latents.rows(key, key + 1)
    values = [
        view.entry_queries(at_query, head, positions[[query]])
        @ view.entry_keys(at_key, head, positions[[key]]).T
        for head in range(view.attention.n_heads)
    ]
    return PairScores(torch.stack(values), at_query.indices, at_key.indices)


def attention_interactions(
    view: AttentionDictionary,
    head: int,
    latents: SparseLatents,
    positions: Int[Tensor, " given"] | None = None,
    weights: Float[Tensor, "rows columns"] | None = None,
) -> Float[Tensor, "H H"]:
    """Sum of I^QK(i,j) over all (query, key) pairs of a sequence: a coalesced sparse matrix.

    Rows are query latents, columns key latents; add the matrices of several sequences. `weights`
    [query, key], such as the attention probabilities, weigh the pairs. Memory is that of the
    sequence's own latents, squared. Raises CrossproofError for a head that is not there, or weights
    of another shape.
    """
    tokens = latents.n_tokens
    if weights is not None and weights.shape != (tokens, tokens):
        raise CrossproofError(
            f"The weights have shape {list(weights.shape)}, not [{tokens}, {tokens}]; give one for "
            f"each query and key."
        )
    positions = token_positions(tokens, positions, latents.values.device)
    seen = view.attention.mask(positions).double()
    weights = seen if weights is None else seen * weights.double()
    present, column = latents.indices.unique(return_inverse=True)
    if view.attention.rotary is None:
        compact = _factorised(view, head, latents, weights, present, column)
    else:
        compact = _by_query(view, head, latents, positions, weights, column, len(present))
    rows, columns = compact.nonzero(as_tuple=True)
    indices = torch.stack([present[rows], present[columns]])
    return torch.sparse_coo_tensor(
        indices,
        compact[rows, columns],
        (latents.n_latents, latents.n_latents),
        is_coalesced=True,
        check_invariants=False,
    )


def _factorised(
    view: AttentionDictionary,
    head: int,
    latents: SparseLatents,
    weights: Float[Tensor, "B B"],
    present: Int[Tensor, " U"],
    column: Int[Tensor, " nnz"],
) -> Float[Tensor, "U U"]:
    """One M for all offsets: |d_i M d_jᵀ| comes out of the sum over positions."""
    attention, group = view.attention, view.attention.group(head)
    active = weights.new_zeros(latents.n_tokens, len(present))
    active.index_put_((latents.token_index, column), latents.values.double().abs())
    virtual = attention.scale * (view.Q[head][present] @ view.K[group][present].T)
    return virtual.abs() * (active.T @ (weights @ active))


def _by_query(
    view: AttentionDictionary,
    head: int,
    latents: SparseLatents,
    positions: Int[Tensor, " B"],
    weights: Float[Tensor, "B B"],
    column: Int[Tensor, " nnz"],
    width: int,
) -> Float[Tensor, "U U"]:
    """M differs from offset to offset: every pair of entries, some queries at a time."""
    q, k = (side(latents, head, positions) for side in (view.entry_queries, view.entry_keys))
    out = weights.new_zeros(width, width)  # [key, query] until the end
    for entries in torch.arange(len(q), device=q.device).split(max(1, CHUNK // max(len(q), 1))):
        tokens = latents.token_index[entries]
        charged = (k @ q[entries].T).abs_().mul_(weights[tokens].T[latents.token_index])
        by_key = charged.new_zeros(width, len(entries)).index_add_(0, column, charged)
        out.index_add_(1, column[entries], by_key)
    return out.T


@dataclass(frozen=True, eq=False)
class KeptPairs:
    """The query×key part of one head's scores, split into kept and omitted pairs; [query, key]."""

    value: Float[Tensor, "B B"]
    """Signed sum over kept pairs."""
    kept: Float[Tensor, "B B"]
    """Sum of I^QK over kept pairs."""
    omitted: Float[Tensor, "B B"]
    """Sum of I^QK over the others: bounds what omitting them changes."""

    def scores(self, parts: ScoreParts) -> Float[Tensor, "B B"]:
        """S^P: constants, latents against constants, and the kept pairs."""
        return parts.constant + parts.query + parts.key + self.value

    def bound(self, parts: ScoreParts) -> Float[Tensor, "B B"]:
        """τ of THEORY section 5: |S - S^P| is at most this."""
        return self.omitted + parts.residual_bound


def keep_pairs(
    view: AttentionDictionary,
    head: int,
    latents: SparseLatents,
    positions: Int[Tensor, " given"] | None = None,
    *,
    largest: int = 1,
    threshold: float = float("inf"),
    chosen: Bool[Tensor, "H H"] | None = None,
) -> KeptPairs:
    """Keeps the `largest` pairs of each query and key, all of at least `threshold`, all `chosen`.

    `chosen` [query latent, key latent] names pairs whatever their activations. Raises
    CrossproofError for a head that is not there or a negative number of pairs.
    """
    if largest < 0:
        raise CrossproofError(f"{largest} pairs cannot be kept; give 0 or more.")
    positions = token_positions(latents.n_tokens, positions, latents.values.device)
    total = latents.n_tokens
    q = _padded(latents, view.entry_queries(latents, head, positions))
    k = _padded(latents, view.entry_keys(latents, head, positions))
    ids = _padded(latents, latents.indices[:, None])[..., 0]
    out = q.new_zeros(3, total, total)
    for rows in _chunks(total, total * q.shape[1] ** 2):
        pairs = torch.einsum("aie,bje->abij", q[rows], k).flatten(2)
        size = pairs.abs()
        keep = size >= threshold
        if largest:
            best = size.topk(min(largest, size.shape[2]), dim=2).indices
            keep.scatter_(2, best, torch.ones_like(best, dtype=torch.bool))
        if chosen is not None:
            keep |= chosen[ids[rows, None, :, None], ids[None, :, None, :]].flatten(2)
        parts = (pairs * keep, size * keep, size * ~keep)
        out[:, rows] = torch.stack([part.sum(2) for part in parts])
    return KeptPairs(*out)


def _padded(latents: SparseLatents, entries: Tensor) -> Tensor:
    """[nnz, E] to [B, K, E], K the most entries of a token; zeros where a token has fewer."""
    counts = latents.offsets.diff()
    present, entry = slots(latents.offsets, int(counts.max()) if len(counts) else 0)
    return entries[entry] * present[..., None]


def _chunks(rows: int, each: int) -> Iterator[slice]:
    step = max(1, CHUNK // max(each, 1))
    yield from (slice(start, start + step) for start in range(0, rows, step))


def _window_words(view: AttentionDictionary) -> str:
    window = view.attention.window
    return "" if window is None else f" and less than {window} positions before"
