"""Where latents are most active: top contexts, and a rule for which latents to look at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel
from crossproof.lm.vocabulary import named_ids

INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class Context:
    """A piece of text around the token where a latent is most active in its sequence."""

    tokens: tuple[str, ...]
    """The text of each token, leading space included."""
    activations: tuple[float, ...]
    """The latent's activation at each token; 0 where the position is not scored."""
    peak: int
    """Which of the tokens has the largest activation in the whole sequence."""


@dataclass(frozen=True)
class LatentExample:
    """One latent, how often and how strongly it is active, and its strongest contexts."""

    latent: int
    frequency: float
    """Fraction of scored tokens at which the latent is active."""
    mean_activation: float
    """Mean activation over the tokens at which it is active; 0 if there are none."""
    contexts: tuple[Context, ...]
    """Strongest first, at most one a sequence."""


@dataclass(frozen=True, order=True)
class Peak:
    """Where something is strongest in a sequence; sorts strongest first, then as in the text."""

    negative: float
    sequence: int
    position: int


@dataclass
class StrongestContexts:
    """The strongest contexts seen so far, at most `count` and at most one a sequence."""

    count: int
    window: int
    entries: list[tuple[Peak, Context]] = field(default_factory=list)

    def add(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        batch: EncodedBatch,
        values: Float[Tensor, "S T"],
    ) -> None:
        """Takes what is strongest in the batch, by the values at its positions; ties by text."""
        highest, positions = values.abs().max(
            dim=1
        )  # of other libraries' latents some are negative
        rows = zip(highest.tolist(), positions.tolist(), strict=True)
        peaks = [
            Peak(-value, batch.first + s, at) for s, (value, at) in enumerate(rows) if value > 0
        ]
        for peak in sorted(peaks)[: self.count]:
            if len(self.entries) < self.count or peak < self.entries[-1][0]:
                context = _context(tokenizer, batch, values, peak, self.window)
                self.entries.append((peak, context))
                self.entries.sort(key=lambda entry: entry[0])
                del self.entries[self.count :]

    @property
    def contexts(self) -> tuple[Context, ...]:
        """Strongest first."""
        return tuple(context for _, context in self.entries)


def top_contexts(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    latents: Sequence[int],
    contexts: int = 5,
    window: int = 12,
    batch_sequences: int = 8,
) -> list[LatentExample]:
    """The strongest `contexts` of each latent, in the order of `latents`.

    A context is the peak of one sequence with up to `window` tokens on either side of it; a
    sequence gives at most one. The ranking is exact over all of `sequences` [S, T], which are
    read `batch_sequences` at a time; equal activations rank in the order of the text. Raises
    CrossproofError for a latent that the crosscoder does not have.
    """
    check_latents(latents, crosscoder.n_latents)
    if not latents:  # a crosscoder may have no latent that is worth showing
        return []
    batches = encode_batches(model, crosscoder, sequences, batch_sequences)
    return contexts_in(model.tokenizer, batches, latents, contexts, window)


def contexts_in(
    tokenizer: PreTrainedTokenizerBase | None,
    batches: Iterable[EncodedBatch],
    latents: Sequence[int],
    contexts: int = 5,
    window: int = 12,
) -> list[LatentExample]:
    """`top_contexts` of text that is encoded already."""
    if not latents:
        return []
    counts = torch.zeros(len(latents), dtype=torch.int64)
    totals = torch.zeros(len(latents), dtype=torch.float64)
    best = [StrongestContexts(contexts, window) for _ in latents]
    scored = 0
    for batch in batches:
        values = torch.stack([batch.activations_of(latent) for latent in latents])
        scored += batch.latents.n_tokens
        counts += (values != 0).sum((1, 2)).cpu()
        totals += values.double().sum((1, 2)).cpu()
        for row, strongest in enumerate(best):
            strongest.add(tokenizer, batch, values[row])
    return [
        LatentExample(
            latent,
            int(counts[row]) / max(scored, 1),
            float(totals[row]) / max(int(counts[row]), 1),
            best[row].contexts,
        )
        for row, latent in enumerate(latents)
    ]


def pick_latents(
    batches: Iterable[EncodedBatch], n_latents: int, count: int = 6, min_tokens: int = 20
) -> tuple[int, ...]:
    """A few latents chosen by rule and not by hand: spread evenly over how often they are active.

    Latents active on at least `min_tokens` encoded tokens are ordered by frequency, most frequent
    first and ties by index, and the middles of `count` equal parts of that list are taken; all of
    them, where there are no more than `count`.
    """
    fired = torch.zeros(n_latents, dtype=torch.int64)
    for batch in batches:
        fired += torch.bincount(batch.latents.indices, minlength=n_latents).cpu()
    ranked = torch.argsort(fired, descending=True, stable=True)
    ranked = ranked[fired[ranked] >= max(min_tokens, 1)]
    if len(ranked) <= count:
        return tuple(ranked.tolist())
    return tuple(int(ranked[(2 * part + 1) * len(ranked) // (2 * count)]) for part in range(count))


def check_latents(latents: Iterable[int], n_latents: int) -> None:
    """Raises CrossproofError for a latent that a dictionary of this size does not have."""
    for latent in latents:
        if not 0 <= latent < n_latents:
            raise CrossproofError(
                f"There is no latent {latent}: this crosscoder has latents 0 to {n_latents - 1}."
            )


def _context(
    tokenizer: PreTrainedTokenizerBase | None,
    batch: EncodedBatch,
    values: Float[Tensor, "S T"],
    peak: Peak,
    window: int,
) -> Context:
    """The text around a peak, with the values given."""
    row, start = peak.sequence - batch.first, max(peak.position - window, 0)
    ids = batch.tokens[row, start : peak.position + window + 1].tolist()
    piece = slice(start, start + end_of_text(ids, named_ids(tokenizer)))
    strings = token_strings(tokenizer, ids[: piece.stop - start])
    return Context(strings, tuple(values[row, piece].tolist()), peak.position - start)


def end_of_text(ids: Sequence[int], special: Collection[int]) -> int:
    """How many tokens to show: of a special token that a short document is padded with, one."""
    end = len(ids)
    while end > 1 and ids[end - 1] == ids[end - 2] and ids[end - 1] in special:
        end -= 1
    return end


def token_strings(tokenizer: PreTrainedTokenizerBase | None, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token as it reads in its place; `#id` without a tokenizer.

    A character spread over several tokens belongs to the last of them, and the others are empty.
    """
    if tokenizer is None:
        return tuple(f"#{i}" for i in ids)
    strings: list[str] = []
    before = ""
    for end in range(1, len(ids) + 1):
        text = _decode(tokenizer, ids[:end])
        whole = text.rstrip(INCOMPLETE) if end < len(ids) else text
        in_place = whole.startswith(before)
        strings.append(whole[len(before) :] if in_place else _decode(tokenizer, ids[end - 1 : end]))
        before = whole
    return tuple(strings)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)
    return text
