"""From a batch's code to its `Interactions`: a pure function of latents, decoder and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof import kernels
from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.interactions.gated_pairs import gated_pairs
from crossproof.interactions.matrix import Interactions, unpack
from crossproof.interactions.pairs import coactive_entries
from crossproof.proof.constants import oscillation


@dataclass(frozen=True, eq=False)
class BlockSums:
    """One block's sums over neurons for every pair of active latents of every token."""

    dominance: Dominance
    forward: dict[str, Float[Tensor, " entries"]]
    backward: dict[str, Float[Tensor, " entries"]]
    own: Float[Tensor, " nnz"]
    """AND of each active latent with itself (gated MLPs; else zero)."""


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """Every pair of latents active at the same token, with its sums in each measured block.

    Token b's pairs stand at `starts[b]:starts[b+1]`; `first` and `second` are entries of the
    latents.
    """

    latents: SparseLatents
    starts: Int[Tensor, " bounds"]
    first: Int[Tensor, " entries"]
    second: Int[Tensor, " entries"]
    blocks: dict[int, BlockSums]
    gated: bool

    def token_totals(self, form: str) -> Float[Tensor, "B L"]:
        """The form summed over pairs of each token, at each block; I and AND sum to I(x)."""
        tokens = self.latents.n_tokens
        columns = []
        for sums in self.blocks.values():
            both = sums.forward[form]
            if form in sums.backward:
                both = both + sums.backward[form]
            total = _by(self.latents.token_index[self.first], both, tokens)
            if form == "AND":
                total = total + _by(self.latents.token_index, sums.own, tokens)
            columns.append(total)
        return torch.stack(columns, 1)

    def collected(self) -> Interactions:
        """The sums over all tokens, pair by pair."""
        latents, wide = self.latents, self.latents.n_latents
        h, k = latents.indices[self.first], latents.indices[self.second]
        keys, place = torch.unique(h * wide + k, return_inverse=True)
        blocks = list(self.blocks.values())

        def gather(name: str, form: str) -> Tensor:
            parts = [_by(place, getattr(sums, name)[form], len(keys)) for sums in blocks]
            return torch.stack(parts)

        return Interactions(
            n_latents=wide,
            blocks=tuple(self.blocks),
            gated=self.gated,
            tokens=latents.n_tokens,
            pairs=unpack(keys, wide),
            coactive=torch.bincount(place, minlength=len(keys)),
            active=torch.bincount(latents.indices, minlength=wide),
            owned=torch.stack([_owned(latents, sums.dominance.owner) for sums in blocks]),
            forward={form: gather("forward", form) for form in blocks[0].forward},
            backward={form: gather("backward", form) for form in blocks[0].backward},
            own=torch.stack([_by(latents.indices, sums.own, wide) for sums in blocks]),
        )


def measure_interactions(
    latents: SparseLatents, views: Mapping[int, MLPDictionary]
) -> Interactions:
    """The interactions of a batch of tokens in every block of `views`; see `token_pairs`."""
    return token_pairs(latents, views).collected()


def token_pairs(latents: SparseLatents, views: Mapping[int, MLPDictionary]) -> TokenPairs:
    """Exact pair sums of every token, in every block (I and J: THEORY T1, T2.2; gated: T3).

    Raises CrossproofError if there is no block, if plain and gated MLPs are mixed, if dictionary
    and code differ in width, or if anything is NaN or infinite.
    """
    _check(latents, views)
    nonzero = latents.keep(latents.values != 0)
    counts = nonzero.offsets.diff()
    starts = torch.nn.functional.pad((counts * (counts - 1) // 2).cumsum(0), (1, 0))
    gated = next(iter(views.values())).mlp.gated
    measure = gated_sums if gated else plain_sums
    with torch.no_grad():
        blocks = {block: measure(nonzero, starts, view) for block, view in views.items()}
    return TokenPairs(nonzero, starts, *coactive_entries(nonzero), blocks, gated)


def plain_sums(
    latents: SparseLatents, starts: Int[Tensor, " bounds"], view: MLPDictionary
) -> BlockSums:
    """I, J and Q of a plain MLP's block."""
    mlp = view.mlp.plain("The plain form of the interaction")
    dominance = view.dominance(latents)
    swings = oscillation(mlp.activation, *view.hull(latents))
    code = latents.offsets, starts, latents.indices, latents.values
    sums = kernels.plain_pairs(*code, view.G, dominance.owner, view.output_norms, swings)
    i_forward, i_backward, j_forward, j_backward, q = sums.unbind(1)
    none = torch.zeros(len(latents.indices), dtype=torch.float64, device=sums.device)
    forward = {"I": i_forward, "J": j_forward, "Q": q}
    return BlockSums(dominance, forward, {"I": i_backward, "J": j_backward}, none)


def gated_sums(
    latents: SparseLatents, starts: Int[Tensor, " bounds"], view: MLPDictionary
) -> BlockSums:
    """I, AND and Q of a gated MLP's block."""
    dominance = view.dominance(latents)
    sums, own = gated_pairs(latents, starts, view, dominance)
    i_forward, i_backward, and_forward, and_backward, q = sums.unbind(1)
    forward = {"I": i_forward, "AND": and_forward, "Q": q}
    return BlockSums(dominance, forward, {"I": i_backward, "AND": and_backward}, own)


def _owned(latents: SparseLatents, owner: Int[Tensor, "B N"]) -> Int[Tensor, " H"]:
    held = latents.indices[owner[owner >= 0].to(torch.int64)]
    return torch.bincount(held, minlength=latents.n_latents)


def _by(
    place: Int[Tensor, " entries"], values: Float[Tensor, " entries"], size: int
) -> Float[Tensor, " size"]:
    out = torch.zeros(size, dtype=torch.float64, device=values.device)
    return out.index_add_(0, place, values)


def _check(latents: SparseLatents, views: Mapping[int, MLPDictionary]) -> None:
    if not views:
        raise CrossproofError(
            "The dictionary has no decoder at an MLP's input, so no interactions can be measured: "
            "use one that reads mlp.hook_in of at least one block."
        )
    if len({view.mlp.gated for view in views.values()}) > 1:
        raise CrossproofError("Plain and gated MLPs are mixed: measure them apart.")
    for block, view in views.items():
        if len(view.G) != latents.n_latents:
            raise CrossproofError(
                f"The code has {latents.n_latents} latents, but the dictionary at block {block} "
                f"has {len(view.G)}: they belong to different dictionaries."
            )
        if not torch.isfinite(view.G).all():
            raise CrossproofError(
                f"The dictionary at block {block} holds NaN or infinity: check its decoder."
            )
    if not torch.isfinite(latents.values).all():
        raise CrossproofError("Latents' activations hold NaN or infinity: check the encoder.")
