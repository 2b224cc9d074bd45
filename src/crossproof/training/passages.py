"""Whole sequences in which one MLP each is replaced: what terms about predictions are taken on.

Batches are shuffled tokens, which no language model can read on. Beside each batch stand a few
sequences of the same text; in each of them one MLP, all MLPs in turn, puts out what a term makes of
the latents, and the model reads on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.activations.config import PositionRule
from crossproof.activations.positions import scored_positions, within_limits
from crossproof.activations.token_rows import TokenRows
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import ModelPair
from crossproof.lm.passes import CleanPass, starts_of
from crossproof.lm.stream import mlp_out
from crossproof.training import distributed
from crossproof.training.step import BlockStep

REFERENCE = 8
"""The divergence of the model without an MLP is taken on so many sequences, the text's first."""


@dataclass(frozen=True, eq=False)
class TextStep:
    """One MLP's part of a step on whole sequences: what a term `per="text"` is a function of."""

    block: BlockStep
    """Of the scored positions of the sequences in which this MLP is replaced."""
    divergence: Callable[[Float[Tensor, "B D"]], Float[Tensor, ""]]
    """Of an output of the MLP in place of its own: the mean over the sequences' predictions of
    KL(model's own ‖ model's with it), in units of the same without the MLP (output zero)."""


@dataclass(frozen=True, eq=False)
class Passage:
    """The sequences of a step in which one MLP is replaced."""

    target: int
    """Which of the MLPs that the objective is about."""
    activations: Float[Tensor, "B places D"]
    """Of the scored positions, as a batch holds them."""
    divergence: Callable[[Float[Tensor, "B D"]], Float[Tensor, ""]]


PassagesAt = Callable[[int], Sequence[Passage]]
"""The passages of a step, by its number."""


class Passages:
    """The passages of each step, a pure function of the step.

    Every epoch permutes the sequences [S, T] and each step takes the next `tokens` // T of them, at
    least one; the MLPs of `blocks` take turns from sequence to sequence. `names` are the hookpoints
    that batches hold; positions count by `rule`, its norm limits those of the first P names.
    Raises CrossproofError for a pair of models.
    """

    def __init__(
        self,
        model: LanguageModel,
        sequences: Int[Tensor, "S T"] | TokenRows,
        names: Sequence[str],
        blocks: Sequence[int],
        tokens: int,
        seed: int,
        rule: PositionRule,
    ) -> None:
        if isinstance(model, ModelPair):
            raise CrossproofError(
                "Terms about predictions (--keep-largest-kl, --all-latents-kl) need one language "
                "model, not a pair: leave them out, or train on either model alone."
            )
        self.model, self.sequences, self.rule, self.seed = model, sequences, rule, seed
        self.names, self.blocks = tuple(names), tuple(blocks)
        self._orders: dict[int, Tensor] = {}
        self.count = max(1, tokens // sequences.shape[1])
        self._outputs = [mlp_out(block) for block in self.blocks]
        also = dict.fromkeys([*self._outputs, *starts_of(model, self._outputs)])
        self._read = [*self.names, *(name for name in also if name not in names)]

    def at(self, step: int) -> list[Passage]:
        """The passages of a step; with several processes each has its own."""
        first = (step * distributed.world() + distributed.rank()) * self.count
        numbers = range(first, first + self.count)
        own = range(step * self.count, (step + 1) * self.count)
        rows = {number: self._row(at) for number, at in zip(numbers, own, strict=True)}
        turns: dict[int, list[int]] = {}
        for number in numbers:
            turns.setdefault(number % len(self.blocks), []).append(rows[number])
        return [
            self._passage(target, self.sequences[torch.tensor(taken)])
            for target, taken in turns.items()
        ]

    @cached_property
    def without(self) -> tuple[float, ...]:
        """KL(model's own ‖ model's without the MLP), of each block's; mean over predictions."""
        found = []
        for block in range(len(self.blocks)):
            with torch.no_grad():
                clean, scored, _ = self._clean(self.sequences[:REFERENCE])
                nothing = torch.zeros(int(scored.sum()), self.model.d_model)
                found.append(float(self._replaced(block, clean, scored, nothing)))
        return tuple(found)

    def _row(self, number: int) -> int:
        epoch, within = divmod(number, len(self.sequences))
        return int(self._order(epoch)[within])

    def _order(self, epoch: int) -> Int[Tensor, " S"]:
        if epoch not in self._orders:
            generator = np.random.default_rng((self.seed, epoch, 1))  # batches have (seed, epoch)
            self._orders = {epoch: torch.from_numpy(generator.permutation(len(self.sequences)))}
        return self._orders[epoch]

    def _passage(self, target: int, tokens: Int[Tensor, "S T"]) -> Passage:
        clean, scored, activations = self._clean(tokens)
        unit = max(self.without[target], torch.finfo(torch.float32).tiny)

        def divergence(output: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
            return self._replaced(target, clean, scored, output) / unit

        return Passage(target, activations, divergence)

    def _clean(
        self, tokens: Int[Tensor, "S T"]
    ) -> tuple[CleanPass, Bool[Tensor, "S T"], Float[Tensor, "B places D"]]:
        """The model's own pass, which positions are scored, and their activations."""
        model, width = self.model, len(self.names)
        tokens = tokens.to(model.device)
        scored = scored_positions(tokens, model.special_ids, self.rule.skip_first)
        with torch.no_grad():
            values = model.activations(tokens, self._read)
        if self.rule.norm_limits:
            limited = values.flatten(0, 1)[:, : len(self.rule.norm_limits)]
            scored &= within_limits(limited, self.rule.norm_limits).view_as(scored)
        kept = dict(zip(self._read, values.unbind(2), strict=True))
        return CleanPass(model, tokens, kept), scored, values[scored][:, :width]

    def _replaced(
        self,
        target: int,
        clean: CleanPass,
        scored: Bool[Tensor, "S T"],
        output: Float[Tensor, "B D"],
    ) -> Float[Tensor, ""]:
        """The mean divergence over scored positions that have a next token."""
        name = self._outputs[target]
        whole = clean.value(name).clone()
        whole[scored] = output.to(whole)
        ((_, distances),) = clean.divergences([{name: whole}], gradients=True)
        counted = scored[:, :-1]
        return (distances * counted).sum() / counted.sum().clamp_min(1)
