"""A training step as the terms of the objective see it: data, latents, decoder vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.autograd import index_on, sparse_product
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder, Encoding
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.interactions.stream import behind
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.norms import Norm
from crossproof.training import distributed
from crossproof.training.shards import WHOLE, LatentShard


@dataclass(frozen=True, eq=False)
class StreamReading:
    """How an MLP reads what a crosscoder writes in the stream before its norm (THEORY T6)."""

    hookpoints: tuple[int, ...]
    """The crosscoder's hookpoints whose decoder vectors add up there."""
    norm: Norm
    stream: int
    """Where a batch holds what the norm reads, among its hookpoints beyond the crosscoder's."""
    second: Norm | None = None
    """The norm that the MLP's output passes before the stream takes it (Gemma 2, OLMo 2)."""


@dataclass(frozen=True, eq=False)
class TargetMLP:
    """One MLP that terms are about, and where the crosscoder decodes: at its input, or before."""

    hookpoint: int
    """At its input; upstream of it, the first of those that add up."""
    mlp: MLPWeights
    rotation: Float[Tensor, "D D"]
    """Orthogonal; the control turns the neurons' input weights by it."""
    upstream: StreamReading | None = None
    """Where the crosscoder decodes before the norm; `mlp` is then behind the norm's linear part."""
    second: Norm | None = None
    """The norm that the MLP's output passes before the stream takes it (Gemma 2, OLMo 2)."""

    @classmethod
    def build(
        cls,
        hookpoint: int,
        mlp: MLPWeights,
        seed: int,
        upstream: StreamReading | None = None,
        second: Norm | None = None,
    ) -> TargetMLP:
        """With a random rotation, from `seed` and the hookpoint; `mlp` is the model's own.

        `second` is the norm behind an MLP that is read at its input; else `upstream` has it.
        """
        behind_it = second if upstream is None else upstream.second
        second = None if behind_it is None else behind_it.to(mlp.W_in)
        generator = torch.Generator().manual_seed(seed * 1000 + hookpoint)
        noise = torch.randn(mlp.d_model, mlp.d_model, generator=generator)
        rotation = torch.linalg.qr(noise)[0].to(mlp.W_in)
        if upstream is None:
            return cls(hookpoint, mlp, rotation, second=second)
        upstream = replace(upstream, norm=upstream.norm.to(mlp.W_in))
        return cls(hookpoint, behind(upstream.norm, mlp), rotation, upstream, second)

    @property
    def hookpoints(self) -> tuple[int, ...]:
        """The crosscoder's hookpoints whose decoder vectors the MLP reads."""
        return (self.hookpoint,) if self.upstream is None else self.upstream.hookpoints

    def of(self, shard: LatentShard) -> TargetMLP:
        """The same MLP's neurons of one process."""
        return replace(self, mlp=shard.neurons_of(self.mlp))

    def reading(self, scale: Float[Tensor, ""]) -> TargetMLP:
        """The same MLP for inputs that have been multiplied by `scale`."""
        gate = None if self.mlp.W_gate is None else self.mlp.W_gate / scale
        return replace(self, mlp=replace(self.mlp, W_in=self.mlp.W_in / scale, W_gate=gate))

    def rotated(self) -> TargetMLP:
        """The same form with the wrong neurons: input weights turned by one random rotation."""
        gate = None if self.mlp.W_gate is None else self.rotation @ self.mlp.W_gate
        turned = replace(self.mlp, W_in=self.rotation @ self.mlp.W_in, W_gate=gate)
        return replace(self, mlp=turned)


def spread(values: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Mean squared distance of data from its mean, over the tokens of all processes."""
    centre = distributed.mean_over_rows(values.mean(0))
    return distributed.mean_over_rows((values - centre).pow(2).sum(1).mean())


@dataclass(frozen=True, eq=False)
class BlockStep:
    """One MLP's part of a training step: what a term `per="mlp"` is a function of.

    Contributions a_h ⟨w_n, d_h⟩ are those of raw activations, in the model's own units. Where the
    crosscoder decodes at the MLP's input, all is in scaled space and `target.mlp` reads scaled
    inputs. Where it decodes in the stream before (THEORY T6), all is divided by the norm's
    denominator of the token: x is the stream, and the bias each token's own rest, with which all
    latents give the model's own pre-activations. What follows from the fields is computed when a
    term first asks for it, once for all terms.

    Where several processes hold the latents, each sees all of them and its own neurons of
    `target`: what is summed over neurons goes through `over_neurons`, what is not through `once`.
    """

    target: TargetMLP
    latents: SparseLatents
    """Of the B tokens; values and, through them, the encoder are differentiable."""
    x: Float[Tensor, "B D"]
    """The MLP's inputs: data, without gradient."""
    x_hat: Float[Tensor, "B D"]
    """Their reconstruction."""
    decoder: Float[Tensor, "H D"]
    """Decoder vectors at the MLP's input."""
    bias: Float[Tensor, "*tokens D"]
    shard: LatentShard = WHOLE
    """Which neurons the target has."""

    @classmethod
    def in_stream(
        cls,
        target: TargetMLP,
        latents: SparseLatents,
        decoder: Float[Tensor, "H D"],
        stream: Float[Tensor, "B D"],
        error: Float[Tensor, "B D"] | None = None,
        shard: LatentShard = WHOLE,
    ) -> BlockStep:
        """Of a dictionary in the stream before the norm of `target`, in raw units.

        `error` is what the dictionary leaves out of the stream (x - x̂); None: nothing.
        """
        assert target.upstream is not None
        s = target.upstream.norm.denominator(stream)[:, None]
        frozen = latents.with_values(latents.values / s[latents.token_index, 0])
        x = stream / s
        x_hat = x if error is None else x - error / s
        bias = x - sparse_product(frozen, decoder)
        return cls(target, frozen, x, x_hat, decoder, bias, shard)

    @cached_property
    def n_neurons(self) -> int:
        """N, those of all processes."""
        return int(self.shard.sum(torch.tensor(self.target.mlp.n_neurons)))

    def over_neurons(self, values: Tensor) -> Tensor:
        """Sums over this process's neurons as sums over all; itself where it has them all."""
        return self.shard.sum(values)

    def once(self, value: Tensor) -> Tensor:
        """A value that every process has computed whole from `x_hat`, `bias`, latents or decoder:
        its gradient counts once."""
        return self.shard.sum(value / self.shard.count) if self.shard.count > 1 else value

    @cached_property
    def view(self) -> MLPDictionary:
        """Virtual weights ⟨w_n, d_h⟩ and what else the interaction measures need."""
        view = MLPDictionary.build(self.target.mlp, self.decoder, self.bias)
        return view.with_second_norm(self.target.second)

    @cached_property
    def dominance(self) -> Dominance:
        """The latent of largest contribution at every token and neuron."""
        return self.view.dominance(self.latents)

    @cached_property
    def output(self) -> Float[Tensor, "B D"]:
        """MLP(x), the model's own output."""
        with torch.no_grad():
            return self.over_neurons(self.target.mlp(self.x))

    @cached_property
    def weight(self) -> Float[Tensor, " B"] | None:
        """1 / s of the second norm at the model's own output, by which ‖o_n‖ counts at each token;
        None where there is none."""
        second = self.target.second
        return None if second is None else 1 / second.denominator(self.output)

    def weighed(self, values: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Sums over neurons by ‖o_n‖ at each token, as the stream takes them."""
        return values if self.weight is None else values * self.weight

    def taken(self, output: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """What the stream takes of an MLP output, but for a second norm's bias: itself, or behind
        that norm at the denominator of the model's own."""
        if self.target.second is None or self.weight is None:
            return output
        return self.target.second.linear(output) * self.weight[:, None]

    @cached_property
    def variance(self) -> Tensor:
        """Mean squared distance of what the stream takes of the MLP's output from its mean, over
        the batch."""
        return spread(self.taken(self.output))

    def relative_error(self, output: Float[Tensor, "B D"]) -> Tensor:
        """Mean squared error of an MLP output, as the stream takes it, over the variance."""
        return self.taken(output - self.output).pow(2).sum(1).mean() / self.variance


@dataclass(frozen=True, eq=False)
class Step:
    """A training step: what a term `per="step"` is a function of. All is in scaled space."""

    crosscoder: Crosscoder
    encoding: Encoding
    x: Float[Tensor, "B P D"]
    x_hat: Float[Tensor, "B P D"]
    targets: Sequence[TargetMLP]
    """The MLPs that terms are about."""
    decoder: Float[Tensor, "H M D"]
    """Scaled decoder vectors at the hookpoints of the targets, one target after another."""
    streams: Float[Tensor, "B E D"] | None = None
    """What the norms before targets read, raw."""
    fraction: float = 1.0
    """Of the tokens, the first of a shuffled batch, that terms about MLPs are computed on."""
    shard: LatentShard = WHOLE
    """Whose latents `crosscoder` and `encoding` have; reconstructions are of all."""
    written: tuple[int, ...] = ()
    """The hookpoints that any process's latents write."""

    @classmethod
    def build(
        cls,
        crosscoder: Crosscoder,
        encoding: Encoding,
        x: Float[Tensor, "B P D"],
        targets: Sequence[TargetMLP],
        fraction: float = 1.0,
        streams: Float[Tensor, "B E D"] | None = None,
        shard: LatentShard = WHOLE,
        written: Sequence[int] | None = None,
    ) -> Step:
        """Decodes; `targets` are the MLPs that the objective has terms about.

        `written`: hookpoints whose reconstruction counts, by default those of the crosscoder.
        """
        counted = crosscoder.layout.written if written is None else tuple(written)
        where = [hookpoint for target in targets for hookpoint in target.hookpoints]
        decoded, decoder = crosscoder.latents_with_vectors(encoding.latents, where)
        x_hat = crosscoder.with_constant(shard.sum(decoded), x)
        return cls(
            crosscoder, encoding, x, x_hat, targets, decoder, streams, fraction, shard, counted
        )

    @cached_property
    def error(self) -> Float[Tensor, "B W D"]:
        """x - x̂ at the hookpoints that are written."""
        difference = self.x - self.x_hat
        if len(self.written) == difference.shape[1]:
            return difference
        return difference[:, index_on(difference.device, self.written)]

    @cached_property
    def blocks(self) -> list[BlockStep]:
        """The step of each target MLP, on `fraction` of the tokens."""
        tokens = max(1, round(self.fraction * len(self.x)))
        latents = self.encoding.latents
        latents = latents if tokens == len(self.x) else latents.rows(0, tokens)
        latents, decoder = self.shard.gather_latents(latents), self.shard.gather_rows(self.decoder)
        blocks, at = [], 0
        for target in self.targets:
            vectors = decoder[:, at : at + len(target.hookpoints)]
            at += len(target.hookpoints)
            make = self._at_input if target.upstream is None else self._in_stream
            blocks.append(make(target, latents, vectors))
        return blocks

    def _at_input(
        self, target: TargetMLP, latents: SparseLatents, vectors: Float[Tensor, "H 1 D"]
    ) -> BlockStep:
        at, tokens = target.hookpoint, latents.n_tokens
        read, bias = target.reading(self.crosscoder.scale[at]), self.crosscoder.b_dec[at]
        x, x_hat = self.x[:tokens, at], self.shard.hand_out(self.x_hat[:tokens, at])
        if self.crosscoder.layout.skips:
            bias = bias + self.crosscoder.affine_scaled(self.x[:tokens])[:, at]
        bias = self.shard.hand_out(bias)
        return BlockStep(read, latents, x, x_hat, vectors[:, 0], bias, self.shard)

    def _in_stream(
        self, target: TargetMLP, latents: SparseLatents, vectors: Float[Tensor, "H M D"]
    ) -> BlockStep:
        assert target.upstream is not None
        assert self.streams is not None
        where, tokens = index_on(self.x.device, target.upstream.hookpoints), latents.n_tokens
        stream = self.streams[:tokens, target.upstream.stream]
        scale = self.crosscoder.scale[where][:, None]
        error = self.shard.hand_out(((self.x - self.x_hat)[:tokens, where] / scale).sum(1))
        vectors = (vectors / scale).sum(1)
        return BlockStep.in_stream(target, latents, vectors, stream, error, self.shard)
