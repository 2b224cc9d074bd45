"""A batch's clean pass, and passes with hookpoints replaced that start from what it kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import PREFIXES, ModelPair
from crossproof.lm.resuming import cut
from crossproof.lm.sites import Site, Visit
from crossproof.lm.visits import replacement

LARGEST = 2**25
"""Numbers in the largest tensor of logits, 128 MiB: those of large vocabularies come in parts."""

Patch = Mapping[str, Float[Tensor, "S T D"]]
"""By hookpoint, what takes the place of its value."""


class _ReadError(Exception):
    """Ends a forward pass at the stream that leaves the last block."""


class CleanPass:
    """A forward pass of S sequences, with what it gave at some hookpoints.

    Of T positions all but the last have a next token. Passes with hookpoints replaced equal the
    clean one up to the first of these, and start there. Their numbers are those of whole passes
    (`LanguageModel.token_losses`, `log_probabilities`).
    """

    def __init__(
        self, model: LanguageModel, tokens: Int[Tensor, "S T"], values: Mapping[str, Tensor]
    ) -> None:
        self.model = model
        self.tokens = model._checked(tokens)
        self._values = {model._site(name): value for name, value in values.items()}

    @cached_property
    def losses(self) -> Float[Tensor, "S next"]:
        """Cross-entropy of each next token with nothing replaced, in nats."""
        return self.token_losses({})

    def token_losses(self, patch: Patch) -> Float[Tensor, "S next"]:
        """Cross-entropy of each next token, in nats."""
        losses = []
        for part, passes in self._logits([patch]):
            logits = next(passes).transpose(1, 2)
            losses.append(functional.cross_entropy(logits, self._targets(part), reduction="none"))
        return torch.cat(losses, 1)

    def value(self, name: str) -> Float[Tensor, "S T D"]:
        """What the clean pass gave at a hookpoint that it kept."""
        return self._values[self.model._site(name)]

    def divergences(
        self, patches: Iterable[Patch], gradients: bool = False
    ) -> list[tuple[Float[Tensor, "S next"], Float[Tensor, "S next"]]]:
        """Of each patch the cross-entropy of each next token, and the clean pass's KL from it.

        With `gradients` both are differentiable in what the patches put in.
        """
        patches = list(patches)
        found: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in patches]
        for part, passes in self._logits([{}, *filter(None, patches)], gradients):
            targets = self._targets(part)[..., None]
            clean = next(passes).log_softmax(-1)
            chances = clean.exp()
            for (entropies, distances), patch in zip(found, patches, strict=True):
                other = next(passes).log_softmax(-1) if patch else clean
                entropies.append(-other.gather(2, targets)[..., 0])
                distances.append((clean - other).mul_(chances).sum(-1))
        return [(torch.cat(ce, 1), torch.cat(kl, 1)) for ce, kl in found]

    def _targets(self, part: slice) -> Int[Tensor, "S t"]:
        return self.tokens[:, part.start + 1 : part.stop + 1].long()

    def _logits(
        self, patches: Sequence[Patch], gradients: bool = False
    ) -> Iterator[tuple[slice, Iterator[Tensor]]]:
        """Positions (all but the last) part by part, and of each part all passes' logits."""
        sequences, length = self.tokens.shape
        dtype = self.model.activation_dtype
        width = max(1, LARGEST // max(1, sequences * self.model.vocab_size))
        whole = slice(0, length - 1)
        if width >= length or not self._may_part(patches):
            yield whole, (self._run(patch, gradients)[:, whole].to(dtype) for patch in patches)
            return
        streams = [self._stream(patch, gradients) for patch in patches]
        for first in range(0, whole.stop, width):
            part = slice(first, min(first + width, whole.stop))
            yield part, (self._unembedded(stream, part, gradients).to(dtype) for stream in streams)

    def _may_part(self, patches: Sequence[Patch]) -> bool:
        resuming, order = self.model._resuming, list(self.model.available_hookpoints())
        last = f"blocks.{self.model.n_blocks - 1}.hook_resid_post"
        behind = set(order[order.index(last) + 1 :])
        return resuming.head is not None and not any(behind & set(patch) for patch in patches)

    def _run(self, patch: Patch, gradients: bool) -> Float[Tensor, "S T V"]:
        return self._resumed(patch, {}, gradients)

    def _stream(self, patch: Patch, gradients: bool) -> Float[Tensor, "S T D"]:
        """What leaves the last block."""
        last, read = self.model._resuming.last, list[Tensor]()
        given = {self.model._site(name): value for name, value in patch.items()}
        if last in given:
            return given[last]
        if not patch and last in self._values:
            return self._values[last]
        with suppress(_ReadError):
            self._resumed(patch, {last: partial(_read, read)}, gradients)
        return read[0]

    def _unembedded(
        self, stream: Float[Tensor, "S T D"], part: slice, gradients: bool
    ) -> Float[Tensor, "S t V"]:
        """The logits at some positions."""
        resuming = self.model._resuming
        assert resuming.head is not None
        visits: dict[Site, Visit] = {resuming.head: partial(cut, part)}
        given = {resuming.last: stream}
        return resuming.run(self.tokens, resuming.start(()), visits, given, gradients)

    def _resumed(
        self, patch: Patch, visits: Mapping[Site, Visit], gradients: bool
    ) -> Float[Tensor, "S T V"]:
        model = self.model
        new, changes = dict[Site, Tensor](), dict[Site, Visit]()
        for name, value in patch.items():
            site = model._site(name)
            new[site] = value.to(model.device, model.dtype)
            changes[site] = replacement(name, new[site])
        self._keep(model._resuming.needs(new))
        start, values = model._resuming.start(new), {**self._values, **new}
        visits = {**changes, **visits}
        return model._resuming.run(self.tokens, start, visits, values, gradients)

    def _keep(self, sites: Iterable[Site]) -> None:
        """Reads what the clean pass has not kept."""
        lacking = [site for site in sites if site not in self._values]
        names = [next(n for n, s in self.model._sites.items() if s == site) for site in lacking]
        if names:
            values = self.model.activations(self.tokens, names).unbind(2)
            self._values |= dict(zip(lacking, values, strict=True))


class PairPass:
    """The clean passes of a pair's models; losses and divergences are means over both."""

    def __init__(
        self, pair: ModelPair, tokens: Int[Tensor, "S T"], values: Mapping[str, Tensor]
    ) -> None:
        self.pair = pair
        parts = pair.split(values)
        self.passes = [CleanPass(m, tokens, v) for m, v in zip(pair.models, parts, strict=True)]

    @property
    def losses(self) -> Float[Tensor, "S next"]:
        """As `CleanPass.losses`."""
        return self.token_losses({})

    def token_losses(self, patch: Patch) -> Float[Tensor, "S next"]:
        """As `CleanPass.token_losses`; a model in which nothing is replaced is not run again."""
        parts = zip(self.passes, self.pair.split(patch), strict=True)
        losses = [clean.token_losses(part) if part else clean.losses for clean, part in parts]
        return torch.stack(losses).mean(0)

    def divergences(
        self, patches: Iterable[Patch]
    ) -> list[tuple[Float[Tensor, "S next"], Float[Tensor, "S next"]]]:
        """As `CleanPass.divergences`."""
        parts = zip(*map(self.pair.split, patches), strict=True)
        both = zip(self.passes, parts, strict=True)
        found = zip(*(clean.divergences(part) for clean, part in both), strict=True)
        return [
            (torch.stack([a[0], b[0]]).mean(0), torch.stack([a[1], b[1]]).mean(0)) for a, b in found
        ]


def clean_pass(
    model: LanguageModel, tokens: Int[Tensor, "S T"], values: Mapping[str, Tensor]
) -> CleanPass | PairPass:
    """The clean pass of a model or a pair; `values` are those of the hookpoints it kept."""
    if isinstance(model, ModelPair):
        return PairPass(model, tokens, values)
    return CleanPass(model, tokens, values)


def starts_of(model: LanguageModel, names: Iterable[str]) -> tuple[str, ...]:
    """What a clean pass should keep for passes with each of these hookpoints replaced.

    The stream behind the last block among it. What is not kept is read when it is needed.
    """
    if isinstance(model, ModelPair):
        located = [model.locate(name) for name in names]
        return tuple(
            prefix + start
            for number, (prefix, one) in enumerate(zip(PREFIXES, model.models, strict=True))
            for start in starts_of(one, [name for owner, name in located if owner == number])
        )
    replaced = [(), *((model._site(name),) for name in names)]
    needed = {site for sites in replaced for site in model._resuming.needs(sites)}
    named = {site: name for name, site in model._sites.items()}
    return tuple(named[site] for site in needed)


def _read(read: list[Tensor], value: Tensor) -> None:
    read.append(value.clone())
    raise _ReadError
