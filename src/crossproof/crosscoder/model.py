"""The crosscoder: a sparse dictionary that reads and writes several hookpoints at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.activations.config import PositionRule
from crossproof.crosscoder.autograd import (
    decode_with_vectors,
    encode_entries,
    index_on,
    pre_activations,
)
from crossproof.crosscoder.config import CrosscoderConfig as CrosscoderConfig
from crossproof.crosscoder.deprecated import FormerNames
from crossproof.crosscoder.hub import SavedOnHub
from crossproof.crosscoder.initialising import SeededByData
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.layout import Layout, widest
from crossproof.crosscoder.provenance import Provenance
from crossproof.crosscoder.sparsity import make_sparsity
from crossproof.crosscoder.store import read_crosscoder
from crossproof.crosscoder.token_scale import TokenScale, check_constant
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


class Crosscoder(SavedOnHub, FormerNames, SeededByData):
    """A dictionary of every kind: its layout says which hookpoints latents read, and which write.

    W_enc [H, R, D] holds a vector for each of the (at most R) hookpoints that a latent reads, W_dec
    [H, W, D] one for each that it writes; of a crosscoder both are all P. Besides b_enc [H], b_dec
    [P, D], a scale per hookpoint and, where the layout has affine skips, W_skip [K, D, D]: the k-th
    adds x_read W_skip[k] to what is written.

    The weights live in scaled space: activations are multiplied by `scale` [P] (median norm √D at
    each hookpoint) before they are encoded, and reconstructions divided by it. `encode`, `decode`,
    `decoder_vectors`, `decoder_bias`, `affine` and the call `crosscoder(x)`, which reconstructs,
    speak of raw activations; `fold` absorbs the scale into the weights.
    Nothing is subtracted from the input: the initial b_enc makes the encoder see x - b_dec.
    `positions` says which positions of a text the crosscoder was trained on and is measured at;
    `token_scale`, how some imported dictionaries normalise each token. `members`: of several
    dictionaries side by side, where the latents of each begin.
    """

    scale: Tensor
    positions: PositionRule

    def __init__(
        self,
        config: CrosscoderConfig,
        hookpoints: Hookpoints,
        d_model: int,
        layout: Layout | None = None,
    ) -> None:
        """Without a layout it is a crosscoder: every latent reads and writes every hookpoint.

        Raises CrossproofError if layout, configuration and hookpoints do not fit each other.
        """
        super().__init__()
        self.config, self.hookpoints, self.d_model = config, hookpoints, d_model
        self.layout = layout or Layout.joint(config.n_latents, len(hookpoints))
        self.layout.check(config.n_latents, len(hookpoints))
        if layout is not None:
            self.hookpoints = hookpoints.playing_parts_at(layout.written)
        latents = config.n_latents
        self.W_enc = nn.Parameter(torch.zeros(latents, widest(self.layout.reading), d_model))
        self.W_dec = nn.Parameter(torch.zeros(latents, widest(self.layout.writing), d_model))
        self.b_enc = nn.Parameter(torch.zeros(latents))
        self.b_dec = nn.Parameter(torch.zeros(len(hookpoints), d_model))
        if self.layout.skips:
            skips = torch.zeros(len(self.layout.skips), d_model, d_model)
            self.W_skip = nn.Parameter(skips)
        self.register_buffer("scale", torch.ones(len(hookpoints)))
        self.sparsity = make_sparsity(config)
        self.token_scale = TokenScale()
        self.positions = PositionRule()
        self.members: dict[str, int] = {}

    @property
    def n_latents(self) -> int:
        """H."""
        return self.config.n_latents

    @property
    def written(self) -> tuple[int, ...]:
        """The hookpoints with a decoder: all but those that a transcoder only reads."""
        used = self.b_dec.any(dim=1)
        for span in self.layout.writing:
            vectors = self.W_dec[span.rows, : len(span.places)]
            used[list(span.places)] |= vectors.any(dim=2).any(dim=0)
        for _, written in self.layout.skips:
            used[written] = True
        return tuple(used.nonzero()[:, 0].tolist())

    @property
    def _writes_all(self) -> bool:
        every = tuple(range(len(self.hookpoints)))
        return [span.places for span in self.layout.writing] == [every]

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
            seen, factor = self.token_scale.normalised(x.to(self.scale.dtype))
            latents = self.sparsity.activate(
                self.sparsity.select(self._pre(seen * self.scale[:, None]))
            )
            if factor is not None:
                latents = latents.with_values(latents.values * factor[latents.token_index])
            return latents.keep(latents.values != 0)

    def encode_dense(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B H"]:
        """`encode` as a matrix of activations, zero where a latent is not active."""
        return self.encode(x).dense()

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """The reconstruction of raw activations; errors as `encode`."""
        return self.decode(self.encode(x), x)

    def encode_training(
        self, x: Float[Tensor, "B P D"], select: Callable[[Tensor], SparseLatents] | None = None
    ) -> Encoding:
        """The code of scaled activations, differentiable in the encoder.

        `select` chooses the entries in place of the sparsity rule.
        """
        with torch.no_grad():
            pre = self._pre(x)
            selected = select(pre) if select else self.sparsity.select(pre, training=True)
        entries = self.differentiable(selected, x)
        return Encoding(entries, self.sparsity.activate(entries), pre)

    def differentiable(self, entries: SparseLatents, x: Float[Tensor, "B P D"]) -> SparseLatents:
        """Entries with pre-activations of scaled `x` as values, differentiable in the encoder."""
        return encode_entries(entries, x, self.W_enc, self.b_enc, self.layout.reading)

    def _pre(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B H"]:
        pre = pre_activations(x, self.W_enc, self.b_enc, self.layout.reading)
        return pre.to(x.dtype)  # autocast may have lowered it

    def decode_scaled(
        self, latents: SparseLatents, x: Float[Tensor, "B P D"] | None = None
    ) -> Float[Tensor, "B P D"]:
        """The reconstruction in scaled space, differentiable; `x`, scaled, for affine skips."""
        return self.decode_with_vectors(latents, (), x)[0]

    def decode_with_vectors(
        self,
        latents: SparseLatents,
        where: Sequence[int],
        x: Float[Tensor, "B P D"] | None = None,
    ) -> tuple[Float[Tensor, "B P D"], Float[Tensor, "H M D"]]:
        """`decode_scaled` and the scaled decoder vectors at some hookpoints, at one gradient."""
        decoded, decoder = self.latents_with_vectors(latents, where)
        return self.with_constant(decoded, x), decoder

    def latents_with_vectors(
        self, latents: SparseLatents, where: Sequence[int]
    ) -> tuple[Float[Tensor, "B P D"], Float[Tensor, "H M D"]]:
        """The same, of what the latents write alone: without bias and skips."""
        written, n_places = self.layout.writing, len(self.hookpoints)
        return decode_with_vectors(latents, self.W_dec, written, n_places, where)

    def with_constant(
        self, decoded: Float[Tensor, "B P D"], x: Float[Tensor, "B P D"] | None = None
    ) -> Float[Tensor, "B P D"]:
        """What the latents write with the bias and, of scaled `x`, what affine skips add."""
        decoded = decoded + self.b_dec
        return decoded if x is None or not self.layout.skips else decoded + self.affine_scaled(x)

    def decode(
        self, latents: SparseLatents, x: Float[Tensor, "B P D"] | None = None
    ) -> Float[Tensor, "B P D"]:
        """The reconstruction of raw activations; zero at hookpoints that are only read.

        `x`, what was encoded, is needed where `is_affine`: CrossproofError without it.
        """
        decoded = self.decode_scaled(latents) / self.scale[:, None]
        if not self.is_affine:
            return decoded
        if x is None:
            raise CrossproofError(
                "This dictionary's reconstruction is not of its latents alone (linear skips, or "
                "tokens' own scales): give decode the activations too, decode(latents, x)."
            )
        return decoded + self.affine(x)

    @property
    def is_affine(self) -> bool:
        """Whether a reconstruction holds more than latents and bias: skips, tokens' own scales."""
        return bool(self.layout.skips) or self.token_scale.kind is not None

    def affine(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """What a reconstruction of raw activations holds besides latents and bias."""
        x = x.to(self.scale.dtype)
        skips = self.affine_scaled(x * self.scale[:, None]) / self.scale[:, None]
        return skips + self.token_scale.added(x, self.b_dec / self.scale[:, None])

    def affine_scaled(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """What the affine skips add, in scaled space, differentiable in W_skip."""
        if not self.layout.skips:
            return torch.zeros_like(x)
        read, written = (index_on(x.device, side) for side in zip(*self.layout.skips, strict=True))
        added = torch.einsum("bkd,kde->bke", x[:, read], self.W_skip)
        return torch.zeros_like(x).index_add(1, written, added)

    @torch.no_grad()
    def add_skip(self, read: int, written: int, weights: Float[Tensor, "D D"]) -> None:
        """Adds x_read @ weights (in scaled space) to what is reconstructed at `written`."""
        if (read, written) in self.layout.skips:
            self.W_skip[self.layout.skips.index((read, written))] += weights
            return
        earlier = [*self.W_skip] if self.layout.skips else []
        self.layout = replace(self.layout, skips=(*self.layout.skips, (read, written)))
        self.W_skip = nn.Parameter(torch.stack([*earlier, weights.to(self.b_dec)]))

    def decoder_vectors(self, hookpoint: int) -> Float[Tensor, "H D"]:
        """Decoder vectors d_h at one hookpoint, for raw activations; zero where none is written."""
        if self._writes_all:
            return self.W_dec[:, hookpoint] / self.scale[hookpoint]
        parts = []
        for span in self.layout.writing:
            slot = span.places.index(hookpoint) if hookpoint in span.places else None
            own = self.W_dec[span.rows, 0 if slot is None else slot]
            parts.append(torch.zeros_like(own) if slot is None else own)
        return torch.cat(parts) / self.scale[hookpoint]

    def whole_decoder(self) -> Float[Tensor, "H P D"]:
        """W_dec with a vector for every hookpoint, zero where a latent writes none; scaled."""
        if self._writes_all:
            return self.W_dec
        places = range(len(self.hookpoints))
        return torch.stack([self.decoder_vectors(at) for at in places], 1) * self.scale[:, None]

    def decoder_bias(self, hookpoint: int) -> Float[Tensor, " D"]:
        """Decoder bias b at one hookpoint, for raw activations.

        Raises CrossproofError where `is_affine`: what is added there is each token's own.
        """
        skips = [skip for skip in self.layout.skips if skip[1] == hookpoint]
        check_constant(skips, self.token_scale, self.hookpoints.names[hookpoint])
        return self.b_dec[hookpoint] / self.scale[hookpoint]

    @torch.no_grad()
    def fold(self) -> None:
        """Absorbs the scale into the weights: the same function of raw activations, scale one."""
        for span in self.layout.reading:
            self.W_enc[span.rows, : len(span.places)] *= self.scale[list(span.places), None]
        for span in self.layout.writing:
            self.W_dec[span.rows, : len(span.places)] /= self.scale[list(span.places), None]
        for at, (read, written) in enumerate(self.layout.skips):
            self.W_skip[at] *= self.scale[read] / self.scale[written]
        self.b_dec.div_(self.scale[:, None])
        self.scale.fill_(1)


def load_crosscoder(folder: Path) -> tuple[Crosscoder, Provenance]:
    """A saved crosscoder and where it comes from.

    Raises CrossproofError if the folder is missing, incomplete, truncated, or of another format.
    """
    return read_crosscoder(Crosscoder, folder)
