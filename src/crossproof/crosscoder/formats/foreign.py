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
    Raises CrossproofError if the tensors' shapes do not fit each other.
    """

    source: str
    """The folder or file, for messages."""
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
    """The block the dictionary belongs to, where its files say."""
    centred: bool = False
    """The model wrote a centred residual stream (TransformerLens's center_writing_weights)."""
    either: bool = False
    """An SAE or a transcoder: the same tensors, so the hookpoints that the user gives decide."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the files say, as plain values."""

    def __post_init__(self) -> None:
        width, places = len(self.b_enc), len(self.hooks)
        d_model = self.b_dec.shape[-1]
        wanted = {
            "W_enc": (self.W_enc, (width, places, d_model)),
            "W_dec": (self.W_dec, (width, places, d_model)),
            "b_enc": (self.b_enc, (width,)),
            "b_dec": (self.b_dec, (places, d_model)),
        }
        if self.threshold is not None:
            wanted["threshold"] = (self.threshold, (width,))
        for name, (tensor, shape) in wanted.items():
            if tuple(tensor.shape) != shape:
                raise CrossproofError(
                    f"The tensors in {self.source} do not fit each other: {name} has shape "
                    f"{list(tensor.shape)}, not {list(shape)} (latents, hookpoints, width)."
                )
        for name, (tensor, _) in wanted.items():
            if name != "threshold" and not bool(tensor.isfinite().all()):
                raise CrossproofError(f"{name} in {self.source} holds NaN or infinite values.")
        if self.rule == "topk" and not 1 <= self.k * self.groups <= width:
            raise CrossproofError(
                f"{self.source} keeps k = {self.k} latents in each of {self.groups} groups, but "
                f"has only {width}."
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
    return ForeignDictionary(
        source, (hook,), W_enc[:, None], W_dec[:, None], b_enc, b_dec[None], **more
    )


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
    return ForeignDictionary(
        source,
        hooks,
        torch.stack([W_enc, torch.zeros_like(W_enc)], 1),
        torch.stack([torch.zeros_like(W_dec), W_dec], 1),
        b_enc,
        torch.stack([torch.zeros_like(b_dec), b_dec]),
        **more,
    )


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
