"""How one MLP reads a crosscoder: at its input, in the stream before, or expert by expert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeGuard

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.autograd import sparse_product
from crossproof.crosscoder.encode import EncodedBatch
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.stream import ExpertView, StreamView, TokenMixture, TokenView
from crossproof.lm.mixture import MixtureWeights
from crossproof.lm.stream import SecondNorm

Besides = Callable[[Tensor], Tensor]
"""From activations [B, D] at a hookpoint to what is added [B, D] at an MLP's input."""


@dataclass(frozen=True, eq=False)
class InputView:
    """A crosscoder that decodes at the MLP's input."""

    block: int
    dictionary: MLPDictionary
    hookpoint: int
    besides: tuple[tuple[str, Besides], ...] = ()
    """What is reconstructed there besides latents and bias: the hookpoints that it reads, and what
    it makes of their activations."""
    second: SecondNorm | None = None
    """The norm that the MLP's output passes before the stream takes it."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Hookpoints whose activations a batch must hold."""
        return (*(name for name, _ in self.besides), *_outputs(self.second))

    def at(self, batch: EncodedBatch) -> TokenView:
        """The view of a batch's tokens."""
        dictionary, weight = self.dictionary, _weight(self.second, batch)
        if self.besides:
            added = [
                made(batch.model_activations[name][batch.scored]) for name, made in self.besides
            ]
            dictionary = dictionary.shifted(torch.stack(added).sum(0))
        return TokenView(dictionary, batch.latents, weight)

    def inputs(
        self, batch: EncodedBatch, x_hat: Float[Tensor, "B P D"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """What the MLP of `dictionary` reads, and the reconstruction in its place."""
        return batch.x[:, self.hookpoint], x_hat[:, self.hookpoint]


@dataclass(frozen=True, eq=False)
class UpstreamView:
    """A crosscoder that decodes in the residual stream before the MLP's norm."""

    block: int
    view: StreamView
    hookpoints: tuple[int, ...]
    """The crosscoder's hookpoints whose decoder vectors add up in the stream."""
    stream: str
    second: SecondNorm | None = None
    """The norm that the MLP's output passes before the stream takes it."""
    rest: Float[Tensor, " D"] | None = None
    """The mean rest; None: each token's own."""

    @property
    def dictionary(self) -> MLPDictionary:
        """The MLP behind its norm's linear part; baselines are those of biases alone."""
        return self.view.frozen

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Hookpoints whose activations a batch must hold."""
        return (self.stream, *_outputs(self.second))

    def at(self, batch: EncodedBatch) -> TokenView:
        """The view of a batch's tokens, at the model's own denominators."""
        seen = self.view.at(batch.latents, _read(batch, self.stream), self.rest)
        return replace(seen, weight=_weight(self.second, batch))

    def inputs(
        self, batch: EncodedBatch, x_hat: Float[Tensor, "B P D"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """The stream over its denominator, and the same less the reconstruction's error."""
        stream = _read(batch, self.stream)
        at = list(self.hookpoints)
        error = (batch.x[:, at] - x_hat[:, at]).sum(1)
        s = self.view.denominators(stream)[:, None]
        return stream / s, (stream - error) / s

    def with_rest(self, rest: Float[Tensor, " D"]) -> UpstreamView:
        """With one rest for all tokens."""
        return replace(self, rest=rest)

    def rest_of(self, batch: EncodedBatch) -> Float[Tensor, "B D"]:
        """What the stream holds beside the dictionary at each token, over its denominator."""
        return self.view.rest_of(batch.latents, _read(batch, self.stream))

    def norm_interaction(
        self, batch: EncodedBatch, singles: bool = True
    ) -> Float[Tensor, "B figures"]:
        """T7 with everything the latents wrote taken out and, if `singles`, the mean over single
        latents."""
        stream, latents = _read(batch, self.stream), batch.latents
        written = sparse_product(latents, self.view.decoder)
        figures = [self.view.norm_interaction(stream, written)]
        if singles:
            each = self.view.single_norm_interactions(latents, stream)
            mean = torch.zeros_like(stream[:, 0]).index_add_(0, latents.token_index, each)
            figures.append(mean / latents.offsets.diff().clamp_min(1))
        weight = _weight(self.second, batch)
        stacked = torch.stack(figures, 1)
        return stacked if weight is None else stacked * weight[:, None]


def _outputs(second: SecondNorm | None) -> tuple[str, ...]:
    return () if second is None else (second.output,)


def _weight(second: SecondNorm | None, batch: EncodedBatch) -> Float[Tensor, " B"] | None:
    """1 / s of the norm on the MLP's output, by the model's own run; None where there is none."""
    if second is None:
        return None
    output = _read(batch, second.output)
    return 1 / second.norm.to(output).denominator(output)


def _read(batch: EncodedBatch, name: str) -> Float[Tensor, "B D"]:
    return batch.model_activations[name][batch.scored].to(batch.x.dtype)


@dataclass(frozen=True, eq=False)
class MixtureView:
    """A mixture of experts that reads a crosscoder, at the model's own routing.

    Each expert is a gated MLP with its own view of the tokens that are routed to it; its output
    vectors, and with them ‖o_n‖, are multiplied by the router's weight.
    """

    block: int
    mixture: MixtureWeights
    experts: tuple[InputView | UpstreamView, ...]

    @property
    def first(self) -> InputView | UpstreamView:
        """Of the first expert, which reads what all do."""
        return self.experts[0]

    @property
    def input(self) -> str:
        """The hookpoint that router and experts read."""
        return f"blocks.{self.block}.mlp.hook_in"

    @property
    def needs(self) -> tuple[str, ...]:
        """Hookpoints whose activations a batch must hold."""
        return (*self.first.needs, self.input)

    def parts(
        self, batch: EncodedBatch
    ) -> Iterator[tuple[int, Int[Tensor, " T"], EncodedBatch, Tensor]]:
        """Each expert that has tokens: its number, these, a batch of them, the router's weights."""
        weights = self.mixture.route(batch.model_activations[self.input][batch.scored])
        for at in range(len(self.experts)):
            tokens = weights[:, at].nonzero()[:, 0]
            if len(tokens) or at == 0:  # one at least, where there are no tokens
                yield at, tokens, batch.take(tokens), weights[tokens, at].to(batch.x.dtype)

    def at(self, batch: EncodedBatch) -> TokenMixture:
        """The view of a batch's tokens."""
        experts = []
        for at, tokens, own, routed in self.parts(batch):
            seen = self.experts[at].at(own)
            seen = replace(seen, weight=seen.weighed(routed), routed=routed)
            experts.append(ExpertView(at, tokens, seen))
        widths = tuple(expert.n_neurons for expert in self.mixture.experts)
        n_tokens, n_neurons = batch.latents.n_tokens, self.mixture.n_neurons
        return TokenMixture(tuple(experts), n_tokens, n_neurons, widths)

    def norm_interaction(
        self, batch: EncodedBatch, singles: bool = True
    ) -> Float[Tensor, "B figures"]:
        """T7 of all experts, weighed by the router."""
        out = batch.x.new_zeros(batch.latents.n_tokens, 1 + singles)
        for at, tokens, own, routed in self.parts(batch):
            view = self.experts[at]
            assert isinstance(view, UpstreamView)
            out.index_add_(0, tokens, view.norm_interaction(own, singles) * routed[:, None])
        return out

    def rest_of(self, batch: EncodedBatch) -> Float[Tensor, "B D"]:
        """That of the stream, which all experts read."""
        assert isinstance(self.first, UpstreamView)
        return self.first.rest_of(batch)

    def with_rest(self, rest: Float[Tensor, " D"]) -> MixtureView:
        """With one rest for all tokens."""
        upstream = [view for view in self.experts if isinstance(view, UpstreamView)]
        return replace(self, experts=tuple(view.with_rest(rest) for view in upstream))


MLPView = InputView | UpstreamView | MixtureView


def is_upstream(view: MLPView) -> TypeGuard[UpstreamView | MixtureView]:
    """Whether it reads the stream before the norm, with everything else that is there."""
    return isinstance(view.first if isinstance(view, MixtureView) else view, UpstreamView)


def n_neurons(view: MLPView) -> int:
    """How many neurons a token meets."""
    if isinstance(view, MixtureView):
        return view.mixture.n_neurons
    return view.dictionary.mlp.n_neurons
