"""A dictionary as another library defines it, brought to one form: what every reader returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.errors import CrossproofError

Rule = Literal["relu", "jumprelu", "topk", "signed_topk", "abs_topk", "signed_jumprelu"]
"""Sparsity rules that latents of other libraries obey, as crossproof's are called."""
INPUT_OF = "input of "
"""Before a module's path: the module's input, where a transcoder reads."""
HEADS = "attn.hook_z"
"""The hook that carries the outputs of attention's heads side by side."""


@dataclass(frozen=True, eq=False)
class ForeignDictionary:
    """pre = Σ_p x_p · W_enc[h,p] + b_enc[h], a = rule(pre), x̂_p = Σ_h a_h W_dec[h,p] + b_dec[p].

    To x̂_q comes x_p · skips[p, q] where there is such a skip. x are activations at `hooks`, in the
    library's spelling; None where its files do not say.
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
    """[H], of jumprelu: active above it and above zero; of signed_jumprelu: above it."""
    skips: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)
    """[D, D] by the places of the hookpoint read and of the one written."""
    normalisation: str | None = None
    """Of tokens before they are encoded (`TokenScale`): `layer_norm` or `unit_norm`; SAEs alone."""
    head: int | None = None
    """The one head that is read, of a dictionary of `HEADS`."""
    values_folded: bool = False
    """z was read less the bias of values (TransformerLens's fold_value_biases)."""
    scale_missing: bool = False
    """It is of scaled activations, and its files do not say by how much."""
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
        for (read, written), weights in self.skips.items():
            self._check(f"the skip from hookpoint {read} to {written}", weights, (d_model, d_model))
        if not width:
            raise CrossproofError(
                f"{self.source} has no latents: give the weights of a dictionary."
            )
        if "topk" in self.rule and not 1 <= self.k * self.groups <= width:
            each = f" in each of {self.groups} groups" if self.groups > 1 else ""
            raise CrossproofError(
                f"{self.source} has {width} latents and k = {self.k}{each}: at least one latent "
                f"can be active, and at most all of them."
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

    def scaled(self, factors: Sequence[float]) -> ForeignDictionary:
        """The dictionary of x, where this one is of x times its hookpoint's factor."""
        scale = torch.tensor(factors)[:, None]
        skips = {(p, q): w * (factors[p] / factors[q]) for (p, q), w in self.skips.items()}
        W_dec, b_dec = self.W_dec / scale, self.b_dec / scale
        return replace(self, W_enc=self.W_enc * scale, W_dec=W_dec, b_dec=b_dec, skips=skips)

    @property
    def of_heads(self) -> bool:
        """Whether it is an SAE of what attention's heads put out: of another width, maybe."""
        return len(self.hooks) == 1 and str(self.hooks[0]).endswith(HEADS)

    @property
    def n_latents(self) -> int:
        """H."""
        return len(self.b_enc)


def at_hooks(
    source: str, count: int, W_enc: Tensor, W_dec: Tensor, b_dec: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """W_enc, W_dec [H, P, D] and b_dec [P, D] of weights [H, D] and [D].

    At one hookpoint they are an SAE; at two a transcoder, which reads the first and writes the
    second. Raises CrossproofError if a transcoder's two have different widths.
    """
    if count == 1:
        return W_enc[:, None], W_dec[:, None], b_dec[None]
    if W_enc.shape != W_dec.shape:
        raise CrossproofError(
            f"{source} reads vectors of width {W_enc.shape[1]} and writes vectors of width "
            f"{W_dec.shape[1]}: a crosscoder's hookpoints all have the model's width."
        )
    none, silent = torch.zeros_like(W_enc), torch.zeros_like(b_dec)
    return (
        torch.stack([W_enc, none], 1),
        torch.stack([none, W_dec], 1),
        torch.stack([silent, b_dec]),
    )


def cross_layer(
    parts: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_enc [H, 2L, D], b_enc [H], W_dec [H, 2L, D] and b_dec [2L, D] of L layers' transcoders.

    Of layer i: W_enc [F, D], b_enc [F], W_dec [F, L - i, D] (what its latents write there and
    later), b_dec [D]. The first L hookpoints are read, the last L written.
    """
    count, (width, d_model) = len(parts), parts[0][0].shape
    W_enc = torch.zeros(count * width, 2 * count, d_model)
    W_dec, b_dec = torch.zeros_like(W_enc), torch.zeros(2 * count, d_model)
    for i, (encoder, _, decoder, bias) in enumerate(parts):
        rows = slice(i * width, (i + 1) * width)
        W_enc[rows, i], W_dec[rows, count + i :], b_dec[count + i] = encoder, decoder, bias
    return W_enc, torch.cat([bias for _, bias, _, _ in parts]), W_dec, b_dec


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
