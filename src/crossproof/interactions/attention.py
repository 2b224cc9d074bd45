"""Latents as one attention sees them: the parts of its scores, and what its values write.

With x = sum_h a_h d_h + b + ε at both positions, a score is bilinear in the latents (THEORY
section 5): S_qk = scale · x'_q M x'_kᵀ, x' = (x, 1), M one matrix per offset q - k under rotary
positions. Biases and b belong to the constant coordinate. Everything is computed in float64, from
queries and keys: no M is ever formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.autograd import sparse_product
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm.attention import AttentionWeights, token_positions
from crossproof.lm.model import LanguageModel


@dataclass(frozen=True, eq=False)
class AttentionDictionary:
    """A dictionary as one attention sees it, in float64: queries and keys of decoder vectors.

    Q[h] = d_h W_Q and K[h] = d_h W_K before any rotation; the constants are those of the decoder
    bias, b W_Q + b_Q and b W_K + b_K. `latents` in this module are those of one sequence, at
    `positions` (0, 1, ... unless given).
    """

    attention: AttentionWeights
    decoder: Float[Tensor, "H D"]
    bias: Float[Tensor, " D"]
    Q: Float[Tensor, "heads H E"]
    K: Float[Tensor, "groups H E"]
    Q0: Float[Tensor, "heads E"]
    K0: Float[Tensor, "groups E"]

    @classmethod
    def build(
        cls, attention: AttentionWeights, decoder: Float[Tensor, "H D"], bias: Float[Tensor, " D"]
    ) -> AttentionDictionary:
        """From decoder vectors and bias at the attention's input, in the units it reads.

        Raises CrossproofError when they are not as wide as that input.
        """
        if decoder.shape[1] != attention.d_model:
            raise CrossproofError(
                f"The decoder vectors have width {decoder.shape[1]}, but this attention reads "
                f"width {attention.d_model}; give those of its own input."
            )
        exact, decoder, bias = attention.to(dtype=torch.float64), decoder.double(), bias.double()
        Q, K = decoder @ exact.W_Q, decoder @ exact.W_K
        return cls(
            exact, decoder, bias, Q, K, bias @ exact.W_Q + exact.b_Q, bias @ exact.W_K + exact.b_K
        )

    def entry_queries(
        self, latents: SparseLatents, head: int, positions: Int[Tensor, " B"]
    ) -> Float[Tensor, "nnz E"]:
        """scale · a_h Q[h] of every entry, turned to its position: with a key, a score.

        Raises CrossproofError for a head that is not there, or latents of another dictionary.
        """
        self.attention.group(head)
        self.check(latents)
        rows = (
            self.attention.scale * latents.values.double()[:, None] * self.Q[head][latents.indices]
        )
        return self.attention.turn(rows, positions[latents.token_index])

    def entry_keys(
        self, latents: SparseLatents, head: int, positions: Int[Tensor, " B"]
    ) -> Float[Tensor, "nnz E"]:
        """a_h K[h] of every entry, turned to its position; errors as in `entry_queries`."""
        keys = self.K[self.attention.group(head)]
        self.check(latents)
        rows = latents.values.double()[:, None] * keys[latents.indices]
        return self.attention.turn(rows, positions[latents.token_index])

    def check(self, latents: SparseLatents) -> None:
        """Raises CrossproofError when the latents are not those of a dictionary of this size."""
        if latents.n_latents != len(self.decoder):
            raise CrossproofError(
                f"The latents are of a dictionary of {latents.n_latents} latents, and this one has "
                f"{len(self.decoder)}; encode with the same crosscoder."
            )


def attention_dictionary(
    model: LanguageModel, crosscoder: Crosscoder, block: int
) -> AttentionDictionary:
    """The crosscoder as the attention of one block of the model sees it.

    Raises CrossproofError for a block the model does not have, and when the crosscoder has no
    decoder at that block's attention input.
    """
    attention = model.attention(block)
    name = f"blocks.{block}.attn.hook_in"
    if name not in crosscoder.hookpoints.names:
        raise CrossproofError(
            f"This crosscoder does not decode the attention input '{name}'; train one whose "
            f"hookpoints include it."
        )
    at = crosscoder.hookpoints.index(name)
    decoder, bias = (
        crosscoder.decoder_vectors(at).detach(),
        crosscoder.decoder_bias(at).detach(),
    )
    return AttentionDictionary.build(attention, decoder, bias)


@dataclass(frozen=True, eq=False)
class ScoreParts:
    """One head's scores before the softmax, split into parts that sum to them; [query, key].

    Keys that a query does not see have entries too: see `AttentionWeights.mask`.
    """

    constant: Float[Tensor, "B B"]
    """Biases and decoder biases alone."""
    query: Float[Tensor, "B B"]
    """The query's latents with the key's constant."""
    key: Float[Tensor, "B B"]
    """The query's constant with the key's latents."""
    query_key: Float[Tensor, "B B"]
    """Latents with latents: the sum of a_i a_j d_i M d_jᵀ · scale over all pairs."""
    residual_query: Float[Tensor, "B B"]
    """ε of the query with the key's reconstruction."""
    residual_key: Float[Tensor, "B B"]
    """The query's reconstruction with ε of the key."""
    residual_both: Float[Tensor, "B B"]
    """ε with ε."""

    @property
    def reconstructed(self) -> Float[Tensor, "B B"]:
        """The scores of x̂."""
        return self.constant + self.query + self.key + self.query_key

    @property
    def residual(self) -> Float[Tensor, "B B"]:
        """What ε adds to the scores of x̂."""
        return self.residual_query + self.residual_key + self.residual_both

    @property
    def residual_bound(self) -> Float[Tensor, "B B"]:
        """The residual's parts in absolute value, summed: the ε part of τ (THEORY section 5)."""
        linear = self.residual_query.abs() + self.residual_key.abs()
        return linear + self.residual_both.abs()

    @property
    def total(self) -> Float[Tensor, "B B"]:
        """The model's own scores."""
        return self.reconstructed + self.residual


def score_parts(
    view: AttentionDictionary,
    head: int,
    latents: SparseLatents,
    x: Float[Tensor, "tokens D"],
    positions: Int[Tensor, " given"] | None = None,
) -> ScoreParts:
    """The parts of one head's scores for the tokens of a sequence, x being the attention's input.

    Raises CrossproofError for a head that is not there, latents of another dictionary, or tokens
    and positions that do not match.
    """
    if latents.n_tokens != len(x):
        raise CrossproofError(
            f"The latents are of {latents.n_tokens} tokens and the activations of {len(x)}; give "
            f"both for the same tokens."
        )
    view.check(latents)
    positions = token_positions(latents.n_tokens, positions, x.device)
    attention, group = view.attention, view.attention.group(head)
    x_hat = sparse_product(latents.with_values(latents.values.double()), view.decoder) + view.bias
    error = x.double() - x_hat
    zeros = error.new_zeros(latents.n_tokens, attention.d_head)

    def summed(entries: Tensor) -> Tensor:
        return zeros.index_add(0, latents.token_index, entries)

    q0 = attention.turn(zeros + attention.scale * view.Q0[head], positions)
    k0 = attention.turn(zeros + view.K0[group], positions)
    q = summed(view.entry_queries(latents, head, positions))
    k = summed(view.entry_keys(latents, head, positions))
    q_error = attention.turn(attention.scale * error @ attention.W_Q[head], positions)
    k_error = attention.turn(error @ attention.W_K[group], positions)
    return ScoreParts(
        constant=q0 @ k0.T,
        query=q @ k0.T,
        key=q0 @ k.T,
        query_key=q @ k.T,
        residual_query=q_error @ (k0 + k).T,
        residual_key=(q0 + q) @ k_error.T,
        residual_both=q_error @ k_error.T,
    )


def ov_contributions(
    view: AttentionDictionary, head: int, latents: SparseLatents
) -> Float[Tensor, "nnz D"]:
    """a_h d_h W_V W_O of every entry: what it adds to a query's output per unit of attention.

    Given the pattern, the output is linear in the latents: there is no interaction. Raises
    CrossproofError for a head that is not there, or latents of another dictionary.
    """
    view.check(latents)
    written = view.decoder @ view.attention.ov(head)
    return latents.values.double()[:, None] * written[latents.indices]


def ov_constant(view: AttentionDictionary, head: int) -> Float[Tensor, " D"]:
    """(b W_V + b_V) W_O: what any token adds per unit of attention, whatever its latents."""
    attention, group = view.attention, view.attention.group(head)
    return view.bias @ attention.ov(head) + attention.b_V[group] @ attention.W_O[head]
