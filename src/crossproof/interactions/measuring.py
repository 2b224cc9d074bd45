"""From a batch's code to its `Interactions`: a pure function of latents, decoder and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof import kernels
from crossproof.crosscoder.latents import SparseLatents, ranges
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.interactions.gated_pairs import gated_pairs
from crossproof.interactions.matrix import GATED, PLAIN, WITH_DIAGONAL, Form, Interactions
from crossproof.interactions.stream import AnyViews, TokenMixture, TokenView
from crossproof.kernels.torch_any import entry_pairs
from crossproof.lm.constants import oscillation

COLUMNS: dict[Form, tuple[int, ...]] = {"I": (0, 1), "J": (2, 3), "AND": (2, 3), "Q": (4,)}
"""Where a pair's sums stand: h to k, and k to h if the form is directed."""


@dataclass(frozen=True, eq=False)
class SeenDominance:
    """Who owns which neuron of an MLP, or of one expert at its tokens."""

    view: TokenView
    """Its latents are those that are active."""
    who: Dominance
    tokens: Int[Tensor, " T"] | None = None
    """None: all."""
    expert: int = 0
    """Which one, of a mixture."""


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """Every pair of latents active at the same token, with its sums in each measured block.

    Token b's pairs stand at `starts[b]:starts[b+1]`, in the order (0,1), (0,2), ... (1,2), ... of
    its entries in `latents`.
    """

    latents: SparseLatents
    starts: Int[Tensor, " bounds"]
    blocks: tuple[int, ...]
    gated: bool
    sums: Float[Tensor, "pairs L 5"]
    """Sums over neurons in float64; `COLUMNS` says which column is which form's."""
    diagonal: Float[Tensor, "L nnz"]
    """AND of each active latent with itself (gated MLPs; else zero)."""
    dominance: tuple[tuple[SeenDominance, ...], ...]
    """Who owns which neuron, by block: at one MLP or, of a mixture, at each expert."""

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms that are measured on this kind of MLP."""
        return GATED if self.gated else PLAIN

    @cached_property
    def entries(self) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
        """The two entries of each pair, as places in `latents`."""
        return entry_pairs(self.latents.offsets)

    def token_totals(self) -> dict[Form, Float[Tensor, "B L"]]:
        """Each form summed over pairs of each token, at each block; that of I is I(x)."""
        counts = self.starts.diff()
        if len(self.sums) == 0:  # `segment_reduce` refuses nothing at all
            whole = self.sums.new_zeros(len(counts), 5 * len(self.blocks))
        else:
            whole = torch.segment_reduce(self.sums.flatten(1), "sum", lengths=counts, axis=0)
        by_column = whole.unflatten(1, self.sums.shape[1:])
        totals = {form: by_column[..., COLUMNS[form]].sum(2) for form in self.forms}
        if self.gated:
            diagonal = self.diagonal.new_zeros(self.latents.n_tokens, len(self.blocks))
            diagonal.index_add_(0, self.latents.token_index, self.diagonal.T)
            totals |= {form: totals[form] + diagonal for form in WITH_DIAGONAL}
        return totals

    def owned(self) -> Int[Tensor, "L H"]:
        """(Token, neuron) pairs at which each latent is the dominant one."""
        return torch.stack([_owned(self.latents.n_latents, parts) for parts in self.dominance])

    def collected(self) -> Interactions:
        """The sums over all tokens, pair by pair."""
        latents, wide = self.latents, self.latents.n_latents
        code = latents.offsets, self.starts, latents.indices
        pairs, together, table = kernels.pair_table(*code, self.sums.flatten(1), wide)
        columns = table.unflatten(1, self.sums.shape[1:]).permute(2, 1, 0).contiguous()
        diagonal = self.diagonal.new_zeros(len(self.blocks), wide)
        return Interactions(
            n_latents=wide,
            blocks=self.blocks,
            gated=self.gated,
            tokens=latents.n_tokens,
            pairs=pairs,
            coactive=together,
            active=torch.bincount(latents.indices, minlength=wide),
            owned=self.owned(),
            forward={form: columns[COLUMNS[form][0]] for form in self.forms},
            backward={f: columns[COLUMNS[f][1]] for f in self.forms if len(COLUMNS[f]) > 1},
            diagonal=diagonal.index_add_(1, latents.indices, self.diagonal),
        )


def measure_interactions(latents: SparseLatents, views: AnyViews) -> Interactions:
    """The interactions of a batch of tokens in every block of `views`; see `token_pairs`."""
    return token_pairs(latents, views).collected()


def token_pairs(latents: SparseLatents, views: AnyViews, finite: bool = False) -> TokenPairs:
    """Exact pair sums of every token, in every block (I and J: THEORY T1, T2.2; gated: T3).

    A `TokenView` of `latents` brings the tokens' own baselines and activations. `finite` says that
    `check_finite` has been called of the dictionaries. Raises CrossproofError if there is no block,
    if plain and gated MLPs are mixed, if dictionary and code differ in width, or if anything is NaN
    or infinite.
    """
    whole = {
        block: TokenView(view, latents) if isinstance(view, MLPDictionary) else view
        for block, view in views.items()
    }
    gated = _check(latents, whole, finite)
    nonzero = latents.keep(latents.values != 0)
    counts = nonzero.offsets.diff()
    starts = torch.nn.functional.pad((counts * (counts - 1) // 2).cumsum(0), (1, 0))
    device = nonzero.values.device
    sums = torch.empty(int(starts[-1]), len(views), 5, dtype=torch.float64, device=device)
    diagonal = torch.zeros(len(views), len(nonzero.indices), dtype=torch.float64, device=device)
    dominance = []
    with torch.no_grad():
        for at, view in enumerate(whole.values()):
            if isinstance(view, TokenMixture):
                into = sums[:, at], diagonal[at]
                dominance.append(_expert_pairs(view, nonzero, starts, into))
                continue
            sums[:, at], diagonal[at], who = _view_pairs(view, starts)
            dominance.append((who,))
    return TokenPairs(nonzero, starts, tuple(views), gated, sums, diagonal, tuple(dominance))


def _view_pairs(
    view: TokenView, starts: Int[Tensor, " bounds"]
) -> tuple[Float[Tensor, "pairs 5"], Float[Tensor, " nnz"], SeenDominance]:
    """The sums of one MLP's tokens, its active latents with themselves, and who owns what."""
    dictionary = view.dictionary
    entries = view.latents.keep(view.latents.values != 0).to(dictionary.G.dtype)
    who = dictionary.dominance(entries)
    shape, device = (int(starts[-1]), 5), entries.values.device
    sums = torch.empty(shape, dtype=torch.float64, device=device)
    diagonal = torch.zeros(len(entries.indices), dtype=torch.float64, device=device)
    if dictionary.mlp.gated:
        sums, diagonal = gated_pairs(entries, starts, dictionary, who)
    else:
        plain_sums(entries, starts, dictionary, who, sums)
    if view.weight is not None:
        sums = sums * view.weight.repeat_interleave(starts.diff())[:, None]
        diagonal = diagonal * view.weight[entries.token_index]
    return sums, diagonal, SeenDominance(replace(view, latents=entries), who)


def _expert_pairs(
    mixture: TokenMixture,
    nonzero: SparseLatents,
    starts: Int[Tensor, " bounds"],
    into: tuple[Float[Tensor, "pairs 5"], Float[Tensor, " nnz"]],
) -> tuple[SeenDominance, ...]:
    """Adds up what each expert makes of the pairs of its tokens."""
    sums, diagonal = into
    sums.zero_()
    dominance = []
    for expert in mixture.experts:
        tokens = expert.tokens
        pairs = starts.diff()[tokens]
        own = torch.nn.functional.pad(pairs.cumsum(0), (1, 0))
        part, alone, who = _view_pairs(expert.view, own)
        sums.index_add_(0, ranges(starts[tokens], pairs), part)
        entries = ranges(nonzero.offsets[tokens], nonzero.offsets.diff()[tokens])
        diagonal.index_add_(0, entries, alone)
        dominance.append(replace(who, tokens=tokens, expert=expert.expert))
    return tuple(dominance)


def plain_sums(
    latents: SparseLatents,
    starts: Int[Tensor, " bounds"],
    view: MLPDictionary,
    dominance: Dominance,
    out: Float[Tensor, "pairs 5"],
) -> None:
    """Writes the sums of a plain MLP's block into `out`: I, J and Q."""
    mlp = view.mlp.plain("The plain form of the interaction")
    swings = oscillation(mlp.activation, *view.hull(latents))
    code = latents.offsets, starts, latents.indices, latents.values
    kernels.plain_pairs(*code, view.G, dominance.owner, view.output_norms, swings, out)


def _owned(n_latents: int, parts: Sequence[SeenDominance]) -> Int[Tensor, " H"]:
    out = torch.zeros(n_latents, dtype=torch.int64, device=parts[0].who.owner.device)
    for part in parts:
        indices, owner = part.view.latents.indices, part.who.owner
        by_entry = torch.bincount(owner.flatten() + 1, minlength=len(indices) + 1)[1:]
        out.index_add_(0, indices, by_entry)
    return out


def _check(
    latents: SparseLatents, views: Mapping[int, TokenView | TokenMixture], finite: bool
) -> bool:
    """Whether the MLPs are gated; raises as `token_pairs`."""
    if not views:
        raise CrossproofError(
            "No MLP reads the dictionary, so no interactions can be measured: use one that decodes "
            "at an MLP's input or in the stream before one.",
            code="CP-NO-MLP",
        )
    dictionaries = [
        (block, each.dictionary)
        for block, view in views.items()
        for each in ([e.view for e in view.experts] if isinstance(view, TokenMixture) else [view])
    ]
    kinds = {dictionary.mlp.gated for _, dictionary in dictionaries}
    if len(kinds) > 1:
        raise CrossproofError("Plain and gated MLPs are mixed: measure them apart.")
    for block, view in dictionaries:
        if len(view.G) != latents.n_latents:
            raise CrossproofError(
                f"The code has {latents.n_latents} latents, but the dictionary at block {block} "
                f"has {len(view.G)}: they belong to different dictionaries."
            )
        if not finite:
            check_finite(block, view)
    if not torch.isfinite(latents.values).all():
        raise CrossproofError(
            "Latents' activations hold NaN or infinity: check the encoder.", code="CP-NOT-FINITE"
        )
    return True in kinds


def check_finite(block: int, dictionary: MLPDictionary) -> None:
    """Raises CrossproofError if virtual weights, baselines or norms are NaN or infinite."""
    decoder = (dictionary.G, dictionary.baseline, dictionary.G_gate, dictionary.baseline_gate)
    if not all(part.isfinite().all() for part in decoder if part is not None):
        raise CrossproofError(
            f"The dictionary at block {block} holds NaN or infinity: check its decoder.",
            code="CP-NOT-FINITE",
        )
    if not dictionary.output_norms.isfinite().all():
        raise CrossproofError(
            f"The MLP's output weights at block {block} hold NaN or infinity: check the model.",
            code="CP-NOT-FINITE",
        )
