"""The crosscoder: a sparse dictionary that reads and writes several hookpoints at once."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crossproof.activations.config import MASSIVE, PositionRule
from crossproof.activations.positions import median_norms, within_limits
from crossproof.crosscoder.autograd import decode_with_vectors, encode_entries, sparse_product
from crossproof.crosscoder.beside import Beside, check_constant
from crossproof.crosscoder.config import CrosscoderConfig as CrosscoderConfig
from crossproof.crosscoder.deprecated import FormerNames
from crossproof.crosscoder.hub import SavedOnHub
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.provenance import Provenance
from crossproof.crosscoder.sparsity import make_sparsity
from crossproof.crosscoder.store import read_crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm.hookpoints import Hookpoints


@dataclass(frozen=True)
class Encoding:
    """What one training step knows of its batch's code."""

    entries: SparseLatents
    """The selected entries with their pre-activations, differentiable in the encoder."""
    latents: SparseLatents
    """The same entries with their activations."""
    pre: Float[Tensor, "B H"]
    """All pre-activations, without gradient."""


class Crosscoder(SavedOnHub, FormerNames):
    """W_enc and W_dec [H, P, D], b_enc [H], b_dec [P, D], and a scale per hookpoint.

    The weights live in scaled space: activations are multiplied by `scale` [P] (median norm √D at
    each hookpoint) before they are encoded, and reconstructions divided by it. `encode`, `decode`,
    `decoder_vectors`, `decoder_bias` and the call `crosscoder(x)`, which reconstructs, speak of raw
    activations; `fold` absorbs the scale into the weights.
    Nothing is subtracted from the input: the initial b_enc makes the encoder see x - b_dec.
    `positions` says which positions of a text the crosscoder was trained on and is measured at;
    `beside`, what some imported dictionaries reconstruct besides: linear skips, tokens' own scales.
    """

    scale: Tensor
    positions: PositionRule

    def __init__(self, config: CrosscoderConfig, hookpoints: Hookpoints, d_model: int) -> None:
        super().__init__()
        self.config, self.hookpoints, self.d_model = config, hookpoints, d_model
        shape = (config.n_latents, len(hookpoints), d_model)
        self.W_enc = nn.Parameter(torch.zeros(shape))
        self.W_dec = nn.Parameter(torch.zeros(shape))
        self.b_enc = nn.Parameter(torch.zeros(config.n_latents))
        self.b_dec = nn.Parameter(torch.zeros(shape[1:]))
        self.register_buffer("scale", torch.ones(len(hookpoints)))
        self.sparsity = make_sparsity(config)
        self.beside = Beside()
        self.positions = PositionRule()

    @property
    def n_latents(self) -> int:
        """H."""
        return self.config.n_latents

    @property
    def written(self) -> tuple[int, ...]:
        """The hookpoints with a decoder: all but those that a transcoder only reads."""
        used = self.W_dec.any(dim=2).any(dim=0) | self.b_dec.any(dim=1)
        return tuple(used.nonzero()[:, 0].tolist())

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "M P D"], seed: int) -> None:
        """Sets scale and biases from `sample` (a few thousand tokens), and the weights.

        The scale is √D over the median norm, and biases are means over tokens that are not
        massive (`typical_tokens`): a few outliers would else decide both (decision 67).

        Every latent starts as a unit vector along the centred activations of a token, with its
        encoder equal to its decoder. Tokens are drawn one after another, each with probability
        proportional to how much of it the latents so far leave unexplained (the D² rule of
        k-means++): drawn evenly, most latents would be copies for the same frequent tokens, and
        half of them would die.
        """
        generator = torch.Generator().manual_seed(seed)
        norms = median_norms(sample.norm(dim=-1))
        norms = torch.where(norms > 0, norms, 1)  # a silent hookpoint has no scale
        self.scale.copy_(self.d_model**0.5 / norms)
        scaled = sample * self.scale[:, None]
        self.b_dec.copy_(scaled[typical_tokens(sample)].mean(0))
        directions = nn.functional.normalize((scaled - self.b_dec).flatten(1))
        decoder = directions[_spread(directions, self.n_latents, generator)]
        noise = (
            torch.randn(decoder.shape, generator=generator).to(decoder) / decoder.shape[1] ** 0.5
        )
        decoder = nn.functional.normalize(decoder + 0.3 * noise)
        self.W_dec.copy_(decoder.view_as(self.W_dec))
        self.W_enc.copy_(self.W_dec)
        self.b_enc.copy_(-(self.W_enc.flatten(1) @ self.b_dec.flatten()))

    @torch.no_grad()
    def fit_gain(self, sample: Float[Tensor, "M P D"]) -> float:
        """After `initialise`: scales the encoder so that `sample` is reconstructed best.

        Returns the factor, <x̂ - b, x - b> / ‖x̂ - b‖² over the sample's typical tokens with the
        encoder as it was.
        Directions of the data point alike, and each latent's activation is all that its direction
        explains: k of them together overshoot a token many times over (FVU of 10 to 300 at the
        start), and training spends its first hundreds of steps on taking that back.
        """
        typical = sample[typical_tokens(sample)].to(self.scale.dtype)
        target = (typical * self.scale[:, None] - self.b_dec).flatten(1)
        pre = target @ self.W_enc.flatten(1).T
        sparsity = copy.deepcopy(self.sparsity)  # BatchTopK remembers what it has seen
        latents = sparsity.activate(sparsity.select(pre, training=True))
        decoded = self.decode_scaled(latents) - self.b_dec.flatten()
        power = float(decoded.pow(2).sum())
        gain = float((decoded * target).sum()) / power if power > 0 else 1.0
        self.W_enc.mul_(gain)
        self.b_enc.mul_(gain)
        return gain

    def encode(self, x: Float[Tensor, "B P D"]) -> SparseLatents:
        """The active latents of raw activations; each token's code depends on that token alone.

        Raises CrossproofError if `x` has another number of hookpoints or another width.
        """
        if x.shape[1:] != self.b_dec.shape:
            raise CrossproofError(
                f"Activations have shape [tokens, {x.shape[1]}, {x.shape[2]}], but this crosscoder "
                f"reads {len(self.hookpoints)} hookpoints of width {self.d_model}: harvest "
                f"{', '.join(self.hookpoints.names[:2])}, ... of the model it was trained on."
            )
        with torch.no_grad():
            seen, factor = self.beside.normalised(x.to(self.scale.dtype))
            flat = (seen * self.scale[:, None]).flatten(1)
            latents = self.sparsity.activate(self.sparsity.select(self._pre(flat)))
            if factor is not None:
                latents = latents.with_values(latents.values * factor[latents.token_index])
            return latents.keep(latents.values != 0)

    def encode_dense(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B H"]:
        """`encode` as a matrix of activations, zero where a latent is not active."""
        return self.encode(x).dense()

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """The reconstruction of raw activations; errors as `encode`."""
        return self.decode(self.encode(x), x)

    def encode_training(self, x: Float[Tensor, "B F"]) -> Encoding:
        """The code of scaled, flattened activations [B, P·D], differentiable in the encoder."""
        with torch.no_grad():
            pre = self._pre(x)
            selected = self.sparsity.select(pre, training=True)
        entries = encode_entries(selected, x, self.W_enc.flatten(1), self.b_enc)
        return Encoding(entries, self.sparsity.activate(entries), pre)

    def _pre(self, flat: Float[Tensor, "B F"]) -> Float[Tensor, "B H"]:
        pre: Tensor = torch.addmm(self.b_enc, flat, self.W_enc.flatten(1).T)
        return pre.to(flat.dtype)  # autocast may have lowered it

    def decode_scaled(self, latents: SparseLatents) -> Float[Tensor, "B F"]:
        """The reconstruction in scaled space, flattened, differentiable."""
        return sparse_product(latents, self.W_dec.flatten(1)) + self.b_dec.flatten()

    def decode_with_vectors(
        self, latents: SparseLatents, where: Int[Tensor, " M"]
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "H M D"]]:
        """`decode_scaled` and the scaled decoder vectors at some hookpoints, at one gradient."""
        decoded, decoder = decode_with_vectors(latents, self.W_dec, where)
        return decoded + self.b_dec.flatten(), decoder

    def decode(
        self, latents: SparseLatents, x: Float[Tensor, "B P D"] | None = None
    ) -> Float[Tensor, "B P D"]:
        """The reconstruction of raw activations.

        `x`, what was encoded, is needed where `beside` is not empty; CrossproofError without it.
        """
        decoded = self.decode_scaled(latents).view(-1, *self.b_dec.shape) / self.scale[:, None]
        if self.beside.empty:
            return decoded
        if x is None:
            raise CrossproofError(
                "This dictionary's reconstruction is not of its latents alone (linear skips, or "
                "tokens' own scales): give decode the activations too, decode(latents, x)."
            )
        return decoded + self.beside_latents(x)

    def beside_latents(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """What the reconstruction of raw activations holds besides latents and bias."""
        x = x.to(self.scale.dtype)
        return self.beside.added(x, self.b_dec / self.scale[:, None], self.scale)

    def decoder_vectors(self, hookpoint: int) -> Float[Tensor, "H D"]:
        """Decoder vectors d_h at one hookpoint, for raw activations."""
        return self.W_dec[:, hookpoint] / self.scale[hookpoint]

    def decoder_bias(self, hookpoint: int) -> Float[Tensor, " D"]:
        """Decoder bias b at one hookpoint, for raw activations.

        Raises CrossproofError where `beside` makes what is added there each token's own.
        """
        check_constant(self.beside, self.hookpoints.names[hookpoint])
        return self.b_dec[hookpoint] / self.scale[hookpoint]

    @torch.no_grad()
    def fold(self) -> None:
        """Absorbs the scale into the weights: the same function of raw activations, scale one."""
        self.W_enc.mul_(self.scale[:, None])
        self.W_dec.div_(self.scale[:, None])
        self.b_dec.div_(self.scale[:, None])
        self.beside.fold(self.scale)
        self.scale.fill_(1)


def load_crosscoder(folder: Path) -> tuple[Crosscoder, Provenance]:
    """A saved crosscoder and where it comes from.

    Raises CrossproofError if the folder is missing, incomplete, truncated, or of another format.
    """
    return read_crosscoder(Crosscoder, folder)


def typical_tokens(sample: Float[Tensor, "M P D"]) -> Bool[Tensor, " M"]:
    """Tokens that are massive at no hookpoint: within `MASSIVE` times the sample's median norms."""
    medians = median_norms(sample.norm(dim=-1))
    typical = within_limits(sample, (MASSIVE * medians).tolist())
    return typical if typical.any() else torch.ones_like(typical)


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
