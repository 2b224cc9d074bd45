"""Each token's own mean and scale, and which dictionaries have one bias for all tokens.

They take a token's mean and scale away before they encode it and give both back to what they
decode. That is affine in the latents at a given token, so latents act in neurons as those of any
dictionary do, and what is given back enters baselines. `crossproof import` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.errors import CrossproofError

NORMALISATIONS = {"layer_norm": 1e-5, "unit_norm": 0.0}
"""By name: what SAELens adds to a token's scale before it divides by it."""


class TokenScale(nn.Module):
    """Tokens' own scales, of dictionaries of one hookpoint; most dictionaries have none.

    `layer_norm` subtracts a token's mean μ and divides by its standard deviation (that of a sample,
    D - 1), `unit_norm` divides by ‖x‖ / √D. The kind in use is a buffer of its name.
    """

    @property
    def kind(self) -> str | None:
        """The normalisation's name, if tokens are normalised."""
        return next((name for name in NORMALISATIONS if name in self._buffers), None)

    def normalise(self, name: str) -> None:
        """Normalises tokens by the way of that name."""
        self.register_buffer(name, torch.tensor(NORMALISATIONS[name]))

    def restore(self, names: Iterable[str], points: int) -> None:
        """Makes room for a saved buffer among tensors of these names."""
        for name in names:
            kind = name.removeprefix("token_scale.")
            if kind != name and kind in NORMALISATIONS and points == 1:
                self.normalise(kind)

    def normalised(
        self, x: Float[Tensor, "B P D"]
    ) -> tuple[Float[Tensor, "B P D"], Float[Tensor, " B"] | None]:
        """What is encoded of `x`, and what activations are multiplied by to be of raw units."""
        if self.kind is None:
            return x, None
        mean, scale = self._moments(x)
        divisor = scale + float(self.get_buffer(self.kind))
        divisor = divisor.clamp_min(torch.finfo(x.dtype).tiny)  # of a token of zeros
        return (x - mean) / divisor, scale.flatten()

    def added(
        self, x: Float[Tensor, "B P D"], bias: Float[Tensor, "P D"]
    ) -> Float[Tensor, "B P D"]:
        """What stands in the reconstruction of `x` (raw, as the result) besides latents and bias.

        `bias` is counted already, so a token's scale adds s - 1 of it.
        """
        if self.kind is None:
            return torch.zeros_like(x)
        mean, size = self._moments(x)
        return (size - 1) * bias + mean

    def _moments(
        self, x: Float[Tensor, "B 1 D"]
    ) -> tuple[Float[Tensor, "B 1 1"], Float[Tensor, "B 1 1"]]:
        """Each token's mean (zero where it stays) and scale."""
        if self.kind == "unit_norm":
            scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
            return torch.zeros_like(scale), scale
        return x.mean(-1, keepdim=True), x.std(-1, keepdim=True)


def check_constant(
    skips: Sequence[tuple[int, int]], token_scale: TokenScale, hookpoint: str
) -> None:
    """Raises CrossproofError unless what stands beside the latents at a hookpoint is its bias."""
    if skips or token_scale.kind is not None:
        what = "a linear skip" if skips else f"each token's own scale ({token_scale.kind})"
        raise CrossproofError(
            f"This dictionary has {what} beside its latents, so it has no one bias at {hookpoint}: "
            f"it can be measured, evaluated, clustered and audited, but bounds and attributions "
            f"need a dictionary of latents and a bias alone."
        )
