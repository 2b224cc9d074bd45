"""A sentence of one's own: what is active at its tokens, and what happens without some latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.explorer.curves import stacked
from crossproof.explorer.detail_tally import NeuronNumbers, parts
from crossproof.explorer.strings import TokenStrings
from crossproof.interactions.exact import in_float64
from crossproof.interactions.measuring import TokenPairs, token_pairs
from crossproof.interactions.stream import TokenMixture, TokenView
from crossproof.interactions.views import MLPView, needs_of, read_by
from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import ModelPair

MOST_TOKENS = 512
NEXT = 12
"""Next tokens that are listed."""
NEURONS = 3
"""Of each block, at a token."""


@dataclass(frozen=True, eq=False)
class Reader:
    """One dictionary and the model that it explains, ready to read sentences."""

    model: LanguageModel
    crosscoder: Crosscoder
    views: Mapping[int, MLPView]

    def read(self, text: str) -> ReadSentence:
        """The sentence, encoded.

        Raises CrossproofError for a model without a tokenizer, for no text and for too much.
        """
        tokens = self._tokens(text)
        batch = next(
            iter(encode_batches(self.model, self.crosscoder, tokens, 1, needs_of(self.views)))
        )
        return ReadSentence(self, batch)

    def _tokens(self, text: str) -> Int[Tensor, "1 T"]:
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            raise CrossproofError(f"'{self.model.name}' has no tokenizer to read sentences with.")
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        starts = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        start = next((each for each in starts if each is not None), None)
        ids = ids if start is None else [start, *ids]
        most = min(MOST_TOKENS, self.model.context)
        if not 2 <= len(ids) <= most:
            raise CrossproofError(f"A sentence of {len(ids)} tokens: give 2 to {most}.")
        return torch.tensor([ids])


@dataclass(frozen=True, eq=False)
class ReadSentence:
    """A sentence of T tokens, B of them encoded."""

    reader: Reader
    batch: EncodedBatch

    @cached_property
    def _seen(self) -> dict[int, TokenView | TokenMixture]:
        return read_by(self.reader.views, self.batch)

    @cached_property
    def _pairs(self) -> TokenPairs | None:
        return token_pairs(self.batch.latents, self._seen) if self.reader.views else None

    def page(self) -> dict[str, Any]:
        """Every token: its text, loss, I, keep-largest error and active latents."""
        batch, strings = self.batch, TokenStrings(self.reader.model.tokenizer)
        place = {int(at): row for row, at in enumerate(batch.position)}
        interaction, error = self._interaction(), self._errors()
        losses = [None, *self.reader.model.token_losses(batch.tokens)[0].tolist()]
        tokens = []
        for at, text in enumerate(strings(batch.tokens[0].tolist())):
            row = place.get(at)
            tokens.append(
                {
                    "text": text,
                    "scored": row is not None,
                    "loss": losses[at],
                    "interaction": 0.0 if row is None else interaction[row],
                    "error": 0.0 if row is None else error[row],
                    "latents": [] if row is None else self._latents(row),
                }
            )
        return {"tokens": tokens, "blocks": list(self.reader.views)}

    def _latents(self, row: int) -> list[list[Any]]:
        one = self.batch.latents.rows(row, row + 1)
        pairs = zip(one.indices.tolist(), one.values.tolist(), strict=True)
        return [list(pair) for pair in sorted(pairs, key=lambda pair: -abs(pair[1]))]

    def _interaction(self) -> list[float]:
        """I of each encoded token, all blocks together."""
        if self._pairs is None:
            return [0.0] * self.batch.latents.n_tokens
        totals: list[float] = self._pairs.token_totals()["I"].sum(1).tolist()
        return totals

    def _errors(self) -> list[float]:
        """How far each MLP's output moves if every neuron keeps its largest latent, summed.

        ‖output of the largest alone − output of all latents‖ of each encoded token.
        """
        total = self.batch.x.new_zeros(self.batch.latents.n_tokens)
        for part in parts(self._seen, NeuronNumbers.of(self.reader.views)):
            view = part.view
            latents = view.latents.keep(view.latents.values != 0)
            who = view.dictionary.dominance(latents)
            every = view.output(*view.dictionary.sums(latents))
            gap = (view.output(who.value, who.gate) - every).norm(dim=1)
            rows: slice | Tensor = slice(None)
            if part.tokens is not None:
                rows = torch.from_numpy(part.tokens)
            total[rows] += gap
        listed: list[float] = total.tolist()
        return listed

    def token(self, at: int) -> dict[str, Any]:
        """The neurons of one token with the largest contributions, block by block."""
        row = self._row(at)
        numbers, found = NeuronNumbers.of(self.reader.views), []
        for part in parts(self._seen, numbers):
            rows = part.tokens
            if rows is not None and row not in rows.tolist():
                continue
            place = row if rows is None else rows.tolist().index(row)
            view, exact = part.view, in_float64(part.view.dictionary)
            one = view.latents.rows(place, place + 1)
            tables = [G for G in (exact.G, exact.G_gate) if G is not None]
            sizes = [(one.values[:, None] * G[one.indices]).abs().sum(0) for G in tables]
            size = torch.stack(sizes).sum(0) * exact.output_norms
            for neuron in size.topk(min(NEURONS, len(size))).indices.tolist():
                block, number = numbers.named(part.first_neuron + neuron)
                name = {"block": block, "neuron": number, "number": part.first_neuron + neuron}
                found.append({**name, **stacked(view, exact, place, neuron)})
        return {"neurons": found}

    def without(self, at: int, off: Sequence[int]) -> dict[str, Any]:
        """The next token's distribution before and after latents are switched off at a token.

        Everything that they write is taken out of the model's own activations, at every hookpoint
        that the dictionary writes; KL is of the clean distribution from the other.
        """
        row = self._row(at)
        before = self._next(at, {})
        after = self._next(at, self._patch(row, at, off)) if off else before
        divergence = float((before.exp() * (before - after)).sum())
        top = torch.cat([before.topk(NEXT).indices, after.topk(NEXT // 2).indices]).tolist()
        strings = TokenStrings(self.reader.model.tokenizer)
        listed = [
            [strings.one(token), float(before[token].exp()), float(after[token].exp())]
            for token in dict.fromkeys(top)
        ]
        return {"next": listed[: NEXT + NEXT // 2], "divergence": max(divergence, 0.0)}

    def _next(self, at: int, patch: Mapping[str, Tensor]) -> Float[Tensor, " V"]:
        tokens = self.batch.tokens[:, : at + 1]
        cut = {name: value[:, : at + 1] for name, value in patch.items()}
        logs = self.reader.model.log_probabilities(tokens, cut)[-1, 0, -1].double()
        return logs

    @torch.no_grad()
    def _patch(self, row: int, at: int, off: Sequence[int]) -> dict[str, Tensor]:
        crosscoder = self.reader.crosscoder
        active = {int(latent): value for latent, value in self._latents(row)}
        patch = {}
        for place in crosscoder.written:
            name = crosscoder.hookpoints.names[place]
            value = self.batch.model_activations[name].clone()
            decoder = crosscoder.decoder_vectors(place)
            for latent in set(off) & active.keys():
                value[0, at] -= active[latent] * decoder[latent].to(value)
            patch[name] = value
        return patch

    def _row(self, at: int) -> int:
        places = self.batch.position.tolist()
        if at not in places:
            raise CrossproofError(f"Position {at} of this sentence is not encoded.")
        row: int = places.index(at)
        return row


def check_alone(model: LanguageModel) -> None:
    """Raises CrossproofError for two models as one, whose next tokens are two distributions."""
    if isinstance(model, ModelPair):
        raise CrossproofError("Sentences are read by one model, and this run explains two.")
