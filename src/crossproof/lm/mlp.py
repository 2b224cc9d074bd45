"""A view of one block's MLP weights, in the space of its input hookpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.lm.activation import Activation


@dataclass(frozen=True, eq=False)
class MLPWeights:
    """An MLP as out = σ(x W_in + b_in) W_out + b_out, x being the input after the norm.

    Gated, when W_gate is there: out = (σ(x W_gate + b_gate) * (x W_in + b_in)) W_out + b_out.
    Raises CrossproofError when only one of W_gate and b_gate is given.
    """

    W_in: Float[Tensor, "D N"]
    b_in: Float[Tensor, " N"]
    W_out: Float[Tensor, "N D"]
    b_out: Float[Tensor, " D"]
    activation: Activation
    W_gate: Float[Tensor, "D N"] | None = None
    b_gate: Float[Tensor, " N"] | None = None

    def __post_init__(self) -> None:
        if (self.W_gate is None) != (self.b_gate is None):
            raise CrossproofError(
                "A gated MLP needs both W_gate and b_gate (zeros if it has none)."
            )

    @property
    def gated(self) -> bool:
        """Whether the activation multiplies a second, linear path."""
        return self.W_gate is not None

    @property
    def inputs(self) -> tuple[Float[Tensor, "D N"], ...]:
        """The input weights of its paths: the linear one's and, if gated, the gate's."""
        return (self.W_in,) if self.W_gate is None else (self.W_in, self.W_gate)

    @property
    def n_neurons(self) -> int:
        """N, the number of neurons."""
        return self.W_in.shape[1]

    @property
    def d_model(self) -> int:
        """D, the width of the input and of the output."""
        return self.W_in.shape[0]

    @property
    def n_parameters(self) -> int:
        """How many numbers it is; biases of zeros, as an MLP without any has, do not count."""
        weights = [w for w in (self.W_in, self.W_out, self.W_gate) if w is not None]
        biases = [
            b for b in (self.b_in, self.b_out, self.b_gate) if b is not None and bool(b.any())
        ]
        return sum(tensor.numel() for tensor in (*weights, *biases))

    def neurons(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch N"]:
        """The neurons' values after the activation (and, if gated, the product)."""
        linear = x @ self.W_in + self.b_in
        if self.W_gate is None or self.b_gate is None:
            return self.activation(linear)
        return self.activation(x @ self.W_gate + self.b_gate) * linear

    def __call__(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """The MLP's output, bias included."""
        return self.neurons(x) @ self.W_out + self.b_out

    def output_norms(self) -> Float[Tensor, " N"]:
        """‖o_n‖, the length of what one unit of each neuron writes to the residual stream."""
        norms: Tensor = self.W_out.norm(dim=1)
        return norms

    def input_scaled(self, scale: float) -> MLPWeights:
        """The same MLP read in x' = scale · x; raises CrossproofError unless scale is above 0."""
        if not scale > 0:
            raise CrossproofError(
                f"An MLP's input cannot be scaled by {scale}; use a scale above 0."
            )
        gate = None if self.W_gate is None else self.W_gate / scale
        return replace(self, W_in=self.W_in / scale, W_gate=gate)

    def plain(self, purpose: str) -> MLPWeights:
        """Itself if not gated; else raises CrossproofError: `purpose` needs a plain MLP."""
        if self.gated:
            raise CrossproofError(
                f"{purpose} needs a plain MLP, and this one is gated; use the gated form instead."
            )
        return self

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MLPWeights:
        """The same weights on another device or in another dtype."""
        return self._map(lambda tensor: tensor.to(device=device, dtype=dtype))

    def _map(self, change: Callable[[Tensor], Tensor]) -> MLPWeights:
        return replace(
            self,
            W_in=change(self.W_in),
            b_in=change(self.b_in),
            W_out=change(self.W_out),
            b_out=change(self.b_out),
            W_gate=None if self.W_gate is None else change(self.W_gate),
            b_gate=None if self.b_gate is None else change(self.b_gate),
        )
