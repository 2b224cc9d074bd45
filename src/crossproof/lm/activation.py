"""The activation functions of the MLPs that crossproof reads."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from crossproof.errors import CrossproofError


class Activation(Enum):
    """An elementwise activation; call it on a tensor of any shape."""

    RELU = "relu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    SILU = "silu"
    QUICK_GELU = "quick_gelu"
    IDENTITY = "identity"

    def __call__(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The activation of every entry of `x`; differentiable."""
        if self is Activation.RELU:
            return functional.relu(x)
        if self is Activation.GELU:
            return functional.gelu(x)
        if self is Activation.GELU_TANH:
            return functional.gelu(x, approximate="tanh")
        if self is Activation.SILU:
            return functional.silu(x)
        if self is Activation.QUICK_GELU:
            return x * torch.sigmoid(1.702 * x)
        return x

    @classmethod
    def from_name(cls, name: str) -> Activation:
        """The activation that a Hugging Face configuration calls `name`.

        Raises CrossproofError for an activation that crossproof does not know.
        """
        try:
            return _HUGGING_FACE_NAMES[name.lower()]
        except KeyError:
            known = ", ".join(sorted(_HUGGING_FACE_NAMES))
            raise CrossproofError(
                f"The activation function '{name}' is not supported; supported are {known}."
            ) from None

    @classmethod
    def of_function(cls, function: Callable[[Tensor], Tensor]) -> Activation | None:
        """The activation that gives what `function` gives, or None; it may have no parameters."""
        if isinstance(function, nn.Module) and any(True for _ in function.parameters()):
            return None
        x = torch.linspace(-20, 20, 401, dtype=torch.float64)
        with torch.no_grad():
            values = function(x)
        same = (a for a in cls if torch.allclose(a(x), values.to(x), rtol=1e-6, atol=1e-6))
        return next(same, None)


_HUGGING_FACE_NAMES = {
    "relu": Activation.RELU,
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_tanh": Activation.GELU_TANH,
    "gelu_python_tanh": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "quick_gelu": Activation.QUICK_GELU,
    "linear": Activation.IDENTITY,
    "identity": Activation.IDENTITY,
}
