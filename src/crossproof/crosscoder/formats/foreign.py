"""A dictionary as another library defines it, brought to one form: what every reader returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.errors import CrossproofError

Rule = Literal["relu", "jumprelu", "topk"]


@dataclass(frozen=True, eq=False)
class ForeignDictionary:
    """pre = Σ_p x_p · W_enc[h,p] + b_enc[h], a = rule(pre), x̂_p = Σ_h a_h W_dec[h,p] + b_dec[p].

    x are activations at `hooks`, in the library's spelling; None where its files do not say.
    Raises CrossproofError if the tensors' shapes do not fit each other, or a number in them is not
    finite (an infinite threshold is one that nothing exceeds).
    """

    source: str
    """The folder or file, for messages and for the layer that its path names."""
    hooks: tuple[str | None, ...]
    W_enc: Tensor  # [H, P, D]: checked below, with a message for people
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    rule: Rule = "relu"
    threshold: Tensor | None = None
    """[H], of jumprelu: active above it and above zero."""
    k: int = 0
    """Of topk, for each group."""
    groups: int = 1
    """Of topk: latents in so many equal groups, each with its own k."""
    layer: int | None = None
    """The block the dictionary belongs to, where its configuration says."""
    centred: bool = False
    """The model wrote a centred residual stream (TransformerLens's center_writing_weights)."""
    centring_known: bool = True
    """Whether the files say so, or `centred` is what was usual."""
    folded_norms: bool = True
    """TransformerLens had folded the weights of norms into what reads them (fold_ln)."""
    either: bool = False
    """An SAE or a transcoder: the same tensors, so the hookpoints that the user gives decide."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the files say, as plain values."""

    def __post_init__(self) -> None:
        for hook in self.hooks:
            if hook is not None and not hook.isprintable():
                raise CrossproofError(f"{self.source} has the hookpoint {hook!r}: no such name.")
        width, d_model = self.b_enc.numel(), self.b_dec.shape[-1:].numel()
        points = len(self.hooks), d_model
        shapes = {"W_enc": (width, *points), "W_dec": (width, *points), "b_enc": (width,)}
        for name, shape in (shapes | {"b_dec": points, "threshold": (width,)}).items():
            tensor = getattr(self, name)
            if tensor is not None:
                self._check(name, tensor, shape)
        if (self.rule == "topk" and not 1 <= self.k * self.groups <= width) or not width:
            raise CrossproofError(
                f"{self.source} keeps k = {self.k} latents in each of {self.groups} groups, but "
                f"has only {width}."
            )

    def _check(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != shape:
            raise CrossproofError(
                f"The tensors in {self.source} do not fit each other: {name} has shape "
                f"{list(tensor.shape)}, not {list(shape)} (latents, hookpoints, width)."
            )
        wrong = tensor.isnan() if name == "threshold" else ~tensor.isfinite()
        if bool(wrong.any()):
            raise CrossproofError(
                f"{name} in {self.source} holds NaN or infinite values, or gets them in float32: "
                f"save it from a training that did not diverge."
            )

    @property
    def n_latents(self) -> int:
        """H."""
        return len(self.b_enc)


def autoencoder(
    source: str,
    hook: str | None,
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    **more: Any,
) -> ForeignDictionary:
    """An SAE, W_enc and W_dec [H, D]: it reads and writes one hookpoint.

    `more` are fields of `ForeignDictionary`, which checks the shapes.
    """
    parts = W_enc.unsqueeze(-2), W_dec.unsqueeze(-2), b_enc, b_dec[None]
    return ForeignDictionary(source, (hook,), *parts, **more)


def transcoder(
    source: str,
    hooks: tuple[str | None, str | None],
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    **more: Any,
) -> ForeignDictionary:
    """A transcoder, W_enc and W_dec [H, D]: it reads the first hookpoint and writes the second.

    Encoder and decoder are zero at the other one. Raises CrossproofError if the two have different
    widths.
    """
    if W_enc.shape[-1] != W_dec.shape[-1]:
        raise CrossproofError(
            f"{source} reads vectors of width {W_enc.shape[-1]} and writes vectors of width "
            f"{W_dec.shape[-1]}: a crosscoder's hookpoints all have the model's width."
        )
    encoder = torch.stack([W_enc, torch.zeros_like(W_enc)], -2)
    decoder = torch.stack([torch.zeros_like(W_dec), W_dec], -2)
    written = torch.stack([torch.zeros_like(b_dec), b_dec])
    return ForeignDictionary(source, hooks, encoder, decoder, b_enc, written, **more)


def less_decoder_bias(foreign: ForeignDictionary) -> ForeignDictionary:
    """The dictionary that encodes x - b_dec: the subtraction moves into b_enc."""
    shift = torch.einsum("hpd,pd->h", foreign.W_enc, foreign.b_dec)
    return replace(foreign, b_enc=foreign.b_enc - shift)


def ungated(
    gate: Float[Tensor, " H"], magnitude: Float[Tensor, " H"], log_scale: Float[Tensor, " H"]
) -> tuple[Float[Tensor, " H"], Float[Tensor, " H"], Float[Tensor, " H"]]:
    """A gated encoder with tied weights as JumpReLU: encoder scale, b_enc and threshold, [H] each.

    With u = x · w: active where u + gate > 0, value relu(e^r u + magnitude). In terms of
    pre = e^r u + magnitude the first is pre > magnitude - e^r gate (Rajamanoharan et al. 2024,
    arXiv 2404.16014, section 3).
    """
    scale = log_scale.exp()
    return scale, magnitude, magnitude - scale * gate


def refuse_skip(source: str, weights: Tensor | None) -> None:
    """Raises CrossproofError for a linear skip connection that does anything."""
    if weights is not None and bool(weights.any()):
        raise CrossproofError(
            f"{source} adds a linear skip connection of its input to its output: a crosscoder's "
            f"output is a function of its latents alone, so import one without W_skip."
        )


def refuse_scale(source: str, factor: Tensor | None) -> None:
    """Raises CrossproofError for a factor that is saved with the weights and is not one."""
    if factor is not None and not torch.allclose(factor.float(), torch.ones(())):
        raise CrossproofError(
            f"{source} holds a scaling_factor that is not one, and its configuration does not say "
            f"what it scales: fold it into the weights, or correct the configuration."
        )
