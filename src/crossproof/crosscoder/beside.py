"""What a reconstruction holds beside its latents and its bias, as a function of what is read.

Skip transcoders add a linear function of their input. Dictionaries of normalised tokens take a
token's mean and scale away before they encode it and give both back to what they decode. Both are
affine in the latents at a given token, so latents act in neurons as those of any dictionary do,
and what stands here enters baselines. `crossproof import` makes them; nothing here is trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.errors import CrossproofError

NORMALISATIONS = {"layer_norm": 1e-5, "unit_norm": 0.0}
"""By name: what SAELens adds to a token's scale before it divides by it."""
_SKIP = re.compile(r"beside\.W_skip\.(\d+)_(\d+)")


class Beside(nn.Module):
    """Skips x̂_q += x_p W_skip, and tokens' own scales. Empty of most dictionaries.

    W_skip [D, D] stands under "p_q", the places of the hookpoints read and written, in the
    crosscoder's scaled space. A normalisation, of dictionaries of one hookpoint alone, is a buffer
    of its name: `layer_norm` subtracts a token's mean μ and divides by its standard deviation
    (that of a sample, D - 1), `unit_norm` divides by ‖x‖ / √D.
    """

    def __init__(self) -> None:
        super().__init__()
        self.W_skip = nn.ParameterDict()

    @property
    def empty(self) -> bool:
        """Whether a reconstruction is a function of the latents alone."""
        return not self.W_skip and self.normalisation is None

    @property
    def normalisation(self) -> str | None:
        """Its name, if tokens are normalised."""
        return next((name for name in NORMALISATIONS if name in self._buffers), None)

    def add_skip(self, read: int, written: int, weights: Float[Tensor, "D D"]) -> None:
        """Adds x_read @ weights to what is reconstructed at `written`."""
        key = f"{read}_{written}"
        if key in self.W_skip:
            weights = weights + self.W_skip[key].detach()
        self.W_skip[key] = nn.Parameter(weights, requires_grad=False)

    def normalise(self, name: str) -> None:
        """Normalises tokens by the way of that name."""
        self.register_buffer(name, torch.tensor(NORMALISATIONS[name]))

    def restore(self, names: Iterable[str], points: int, d_model: int) -> None:
        """Makes room for saved tensors of these names; TypeError for a hookpoint that is none."""
        for name in names:
            if skip := _SKIP.fullmatch(name):
                read, written = int(skip[1]), int(skip[2])
                if max(read, written) >= points:
                    raise TypeError(f"{name} is of hookpoints that there are not")
                self.add_skip(read, written, torch.zeros(d_model, d_model))
            elif name.removeprefix("beside.") in NORMALISATIONS and points == 1:
                self.normalise(name.removeprefix("beside."))

    def fold(self, scale: Float[Tensor, " P"]) -> None:
        """The same of raw activations, which the crosscoder no longer multiplies by `scale`."""
        for key, weights in self.W_skip.items():
            read, written = map(int, key.split("_"))
            weights.mul_(scale[read] / scale[written])

    def normalised(
        self, x: Float[Tensor, "B P D"]
    ) -> tuple[Float[Tensor, "B P D"], Float[Tensor, " B"] | None]:
        """What is encoded of `x`, and what activations are multiplied by to be of raw units."""
        if self.normalisation is None:
            return x, None
        mean, scale = self._moments(x)
        eps = float(self.get_buffer(self.normalisation))
        divisor = (scale + eps).clamp_min(torch.finfo(x.dtype).tiny)  # of a token of zeros
        return (x - mean) / divisor, scale.flatten()

    def added(
        self, x: Float[Tensor, "B P D"], bias: Float[Tensor, "P D"], scale: Float[Tensor, " P"]
    ) -> Float[Tensor, "B P D"]:
        """What stands in the reconstruction of `x` (raw, as the result) besides latents and bias.

        `scale` is the crosscoder's; `bias` is counted already, so a token's scale adds s - 1 of it.
        """
        out = torch.zeros_like(x)
        for key, weights in self.W_skip.items():
            read, written = map(int, key.split("_"))
            out[:, written] += x[:, read] @ (weights * (scale[read] / scale[written]))
        if self.normalisation is not None:
            mean, size = self._moments(x)
            out += (size - 1) * bias + mean
        return out

    def _moments(
        self, x: Float[Tensor, "B 1 D"]
    ) -> tuple[Float[Tensor, "B 1 1"], Float[Tensor, "B 1 1"]]:
        """Each token's mean (zero where it stays) and scale."""
        if self.normalisation == "unit_norm":
            scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
            return torch.zeros_like(scale), scale
        return x.mean(-1, keepdim=True), x.std(-1, keepdim=True)


def check_constant(beside: Beside, hookpoint: str) -> None:
    """Raises CrossproofError unless what stands beside the latents at a hookpoint is its bias."""
    if not beside.empty:
        what = (
            "a linear skip" if beside.W_skip else f"each token's own scale ({beside.normalisation})"
        )
        raise CrossproofError(
            f"This dictionary has {what} beside its latents, so it has no one bias at {hookpoint}: "
            f"it can be measured, evaluated, clustered and audited, but bounds and attributions "
            f"need a dictionary of latents and a bias alone."
        )
