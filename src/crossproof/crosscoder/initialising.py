"""Weights to start training from: directions of the data, and the gain that fits them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from crossproof.activations.config import MASSIVE
from crossproof.activations.positions import median_norms, within_limits
from crossproof.crosscoder.autograd import at_places, decode_with_vectors, project, rows_of
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.layout import Layout
from crossproof.crosscoder.sparsity import Sparsity


class SeededByData(nn.Module):
    """A dictionary that can be initialised; its attributes are those of `Crosscoder`."""

    layout: Layout
    d_model: int
    scale: Tensor
    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_enc: nn.Parameter
    b_dec: nn.Parameter
    sparsity: Sparsity

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "M P D"], seed: int) -> None:
        """Sets scale and biases from `sample` (a few thousand tokens), and the weights.

        The scale is √D over the median norm, and biases are means over tokens that are not
        massive (`typical_tokens`): a few outliers would else decide both (decision 67).

        Every latent starts as a unit vector along the centred activations of a token, with its
        encoder equal to its decoder; where it reads other hookpoints than it writes, each side is
        along the token's activations there. Tokens are drawn one after another, each with
        probability proportional to how much of what is read the latents so far leave unexplained
        (the D² rule of k-means++): drawn evenly, most latents would be copies for the same frequent
        tokens, and half of them would die. Affine skips start at zero.
        """
        generator = torch.Generator().manual_seed(seed)
        norms = median_norms(sample.norm(dim=-1))
        norms = torch.where(norms > 0, norms, 1)  # a silent hookpoint has no scale
        self.scale.copy_(self.d_model**0.5 / norms)
        scaled = sample * self.scale[:, None]
        mean = scaled[typical_tokens(sample)].mean(0).to(self.b_dec)
        written = list(self.layout.written)
        self.b_dec[written] = mean[written]
        centred, start = scaled - mean, 0
        for group in self.layout.groups:
            rows = slice(start, start + group.latents)
            start = rows.stop
            read = normalize(centred[:, list(group.reads)].flatten(1))
            tokens = _spread(read, group.latents, generator)
            encoder = decoder = _near(read[tokens], generator)
            if group.reads != group.writes:
                written_there = normalize(centred[:, list(group.writes)].flatten(1))
                decoder = _near(written_there[tokens], generator)
            shape = -1, self.d_model
            self.W_enc[rows, : len(group.reads)] = encoder.unflatten(1, shape).to(self.W_enc)
            self.W_dec[rows, : len(group.writes)] = decoder.unflatten(1, shape).to(self.W_dec)
        for span in self.layout.reading:
            at_mean = rows_of(self.W_enc, span) @ at_places(mean[None], span)[0]
            self.b_enc[span.rows] = -at_mean

    @torch.no_grad()
    def fit_gain(
        self,
        sample: Float[Tensor, "M P D"],
        select: Callable[[Tensor], SparseLatents] | None = None,
        total: Callable[[Tensor], Tensor] = lambda part: part,
    ) -> float:
        """After `initialise`: scales the encoder so that `sample` is reconstructed best.

        `select` chooses entries in place of the sparsity rule, and `total` adds up what parts of a
        dictionary decode, where several processes hold one.

        Returns the factor, <x̂ - b, x - b> / ‖x̂ - b‖² over the sample's typical tokens with the
        encoder as it was.
        Directions of the data point alike, and each latent's activation is all that its direction
        explains: k of them together overshoot a token many times over (FVU of 10 to 300 at the
        start), and training spends its first hundreds of steps on taking that back.
        """
        typical = sample[typical_tokens(sample)].to(self.scale.dtype)
        scaled = typical * self.scale[:, None]
        centre = scaled.mean(0)
        written = list(self.layout.written)
        centre[written] = self.b_dec[written]
        centred = scaled - centre
        pre = project(centred, self.W_enc, self.layout.reading)
        sparsity = copy.deepcopy(self.sparsity)  # BatchTopK remembers what it has seen
        chosen = select(pre) if select else sparsity.select(pre, training=True)
        latents = sparsity.activate(chosen)
        target = centred[:, written].flatten(1)
        spans = self.layout.writing
        decoded = total(decode_with_vectors(latents, self.W_dec, spans, len(self.b_dec))[0])
        decoded = decoded[:, written].flatten(1)
        power = float(decoded.pow(2).sum())
        gain = float((decoded * target).sum()) / power if power > 0 else 1.0
        self.scale_encoder(gain)
        return gain

    @torch.no_grad()
    def scale_encoder(self, gain: float) -> None:
        """Multiplies every pre-activation."""
        self.W_enc.mul_(gain)
        self.b_enc.mul_(gain)


def typical_tokens(sample: Float[Tensor, "M P D"]) -> Bool[Tensor, " M"]:
    """Tokens that are massive at no hookpoint: within `MASSIVE` times the sample's median norms."""
    medians = median_norms(sample.norm(dim=-1))
    typical = within_limits(sample, (MASSIVE * medians).tolist())
    return typical if typical.any() else torch.ones_like(typical)


def _near(directions: Float[Tensor, "H F"], generator: torch.Generator) -> Float[Tensor, "H F"]:
    """Unit vectors near the directions: latents of one token must not stay equal."""
    noise = torch.randn(directions.shape, generator=generator).to(directions)
    return normalize(directions + 0.3 * (noise / directions.shape[1] ** 0.5))


def _spread(
    directions: Float[Tensor, "M F"], count: int, generator: torch.Generator
) -> Int[Tensor, " count"]:
    """Rows drawn by the D² rule: each in proportion to its squared distance from those drawn.

    Distance between unit vectors counts their cosine only where it is positive: latents do not
    take negative values. Where every row is drawn already, the draw starts afresh.
    """
    similarity = (directions @ directions.T).clamp(0, 1).square_().cpu()
    unexplained = torch.ones(len(directions))
    chosen = torch.empty(count, dtype=torch.int64)
    for i in range(count):
        if unexplained.sum() < 1e-6 * len(directions):
            unexplained = torch.ones(len(directions))
        pick = torch.multinomial(unexplained, 1, generator=generator)
        chosen[i] = pick
        unexplained = torch.minimum(unexplained, 1 - similarity[pick[0]])
        unexplained[pick] = 0
    return chosen.to(directions.device)
