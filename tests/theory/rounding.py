"""What float64 arithmetic may be off by in a whole MLP (THEORY section 8)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from crossproof.lm.constants import activation_slack
from crossproof.lm.mlp import MLPWeights
from crossproof.rounding import gamma, product_slack, upward


def preactivation_slack(
    x: Float[Tensor, "*batch D"], W: Float[Tensor, "D N"], b: Float[Tensor, " N"]
) -> Float[Tensor, "*batch N"]:
    """|fl(xW + b) - (xW + b)| at each neuron."""
    return product_slack(x, W, b)


def mlp_slack(mlp: MLPWeights, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
    """|fl(MLP(x)) - MLP(x)|, coordinate by coordinate: two products and the neurons between."""
    linear = x @ mlp.W_in + mlp.b_in
    error = preactivation_slack(x, mlp.W_in, mlp.b_in)
    if mlp.W_gate is None or mlp.b_gate is None:
        error = activation_slack(mlp.activation, linear, error)
    else:
        gate = x @ mlp.W_gate + mlp.b_gate
        gate_error = preactivation_slack(x, mlp.W_gate, mlp.b_gate)
        opening = mlp.activation(gate).abs()
        gate_error = activation_slack(mlp.activation, gate, gate_error)
        product = gamma(2, x.dtype) * opening * linear.abs()
        error = upward(linear.abs() * gate_error + opening * error + gate_error * error + product)
    neurons = mlp.neurons(x)
    return upward(
        error @ mlp.W_out.abs() * (1 + gamma(mlp.n_neurons + 2, x.dtype))
        + product_slack(neurons, mlp.W_out, mlp.b_out)
    )
