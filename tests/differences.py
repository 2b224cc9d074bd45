"""Second differences by their definition: what the fast code must equal."""

from __future__ import annotations

import torch
from dictionaries import Case
from reference import DenseMLP, act
from torch import Tensor


def dense_delta(case: Case, token: int, h: int, k: int, context: str) -> Tensor:
    """δ²_n of latents h and k at one token [N]; context: "alone" or with the "others"."""
    mlp, x_hat = DenseMLP(case.mlp), case.bias.clone()
    if context == "others":
        for other in range(len(case.decoder)):
            if other not in (h, k):
                x_hat += case.activations[token, other] * case.decoder[other]
    step_h = case.activations[token, h] * case.decoder[h]
    step_k = case.activations[token, k] * case.decoder[k]

    def neurons(x: Tensor) -> Tensor:
        linear = x @ mlp.W_in + mlp.b_in
        if mlp.W_gate is None:
            return act(mlp.name, linear)
        return act(mlp.name, x @ mlp.W_gate + mlp.b_gate) * linear

    both = neurons(x_hat + step_h + step_k)
    return both - neurons(x_hat + step_h) - neurons(x_hat + step_k) + neurons(x_hat)


def dense_sums(case: Case, pairs: Tensor, context: str) -> tuple[Tensor, Tensor, Tensor]:
    """Of pairs [M, 2]: co-active tokens, their sum_n ‖o_n‖ |δ²_n| and their ‖sum_n o_n δ²_n‖."""
    counts = torch.zeros(len(pairs), dtype=torch.int64)
    neurons, output = torch.zeros(2, len(pairs), dtype=torch.float64)
    for m, (h, k) in enumerate(pairs.tolist()):
        for token in range(len(case.activations)):
            if case.activations[token, h] == 0 or case.activations[token, k] == 0:
                continue
            delta = dense_delta(case, token, h, k, context)
            counts[m] += 1
            neurons[m] += (delta.abs() * case.mlp.W_out.norm(dim=1)).sum()
            output[m] += (delta @ case.mlp.W_out).norm()
    return counts, neurons, output
