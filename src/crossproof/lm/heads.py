"""Attention's heads as what they write: z, their outputs side by side, and W_O behind them."""

# ruff: noqa: N815  (b_O: the field's name)

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.lm.blocks import is_linear, layer_weights
from crossproof.lm.model import LanguageModel
from crossproof.lm.spelling import canonical


@dataclass(frozen=True, eq=False)
class HeadOutputs:
    """What attention adds is z W_O + b_O; z [Z] is read at one hookpoint or, if wider, at several.

    Z is the number of heads times a head's width, which need not be the model's width D.
    """

    hookpoints: tuple[str, ...]
    """Where z is read, D numbers each, in order."""
    written: str
    """The hookpoint of attention's output."""
    W_O: Float[Tensor, "Z D"]
    b_O: Float[Tensor, " D"]

    def placed(self, rows: Float[Tensor, "H Z"]) -> Float[Tensor, "H pieces D"]:
        """Rows over z as rows over its hookpoints, zero where there is nothing of it."""
        width = len(self.hookpoints) * self.W_O.shape[1]
        padded = torch.nn.functional.pad(rows, (0, width - rows.shape[1]))
        return padded.view(len(rows), len(self.hookpoints), -1)


def head_outputs(model: LanguageModel, block: int) -> HeadOutputs:
    """The heads' outputs of a block and the weights behind them, tried on a few tokens.

    Raises CrossproofError if the block has no attention whose output is linear in them.
    """
    at, sites = f"blocks.{block}.", model._sites
    names = tuple(name for name in sites if name.startswith(f"{at}attn.hook_z"))
    written = canonical(model, f"{at}attn.hook_out")
    where = f"The attention of block {block} of '{model.name}'"
    if not names or written is None or not is_linear(sites[names[0]].module):
        raise CrossproofError(
            f"{where} has no linear layer behind its heads that can be read: dictionaries of "
            f"hook_z cannot be read there."
        )
    weights, bias = layer_weights(sites[names[0]].module)
    dtype = model.activation_dtype
    outputs = HeadOutputs(names, written, weights.to(dtype), bias.to(dtype))
    tokens = torch.arange(min(8, model.vocab_size, model.context))[None]
    *z, own = model.activations(tokens, [*names, written])[0].unbind(1)
    heads = torch.cat(z, 1)[:, : len(weights)]
    gap = (heads @ outputs.W_O + outputs.b_O - own).abs().max()
    slack = 1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2
    if not gap <= slack * own.abs().max():
        raise CrossproofError(
            f"{where} changes its heads' outputs by more than a linear layer before they are its "
            f"output: dictionaries of hook_z cannot be read there."
        )
    return outputs


def value_bias(model: LanguageModel, block: int) -> Float[Tensor, " Z"]:
    """The bias of values as z has it: attention's weights add up to one, so z holds it whole.

    Raises CrossproofError if the attention has biases and is of a form that has no view.
    """
    site = model._site(f"blocks.{block}.attn.hook_in")
    out = model._site(next(n for n in model._sites if n.startswith(f"blocks.{block}.attn.hook_z")))
    layers = [m for m in site.module.modules() if is_linear(m) and m is not out.module]
    if not any(bool(layer_weights(layer)[1].any()) for layer in layers):
        return torch.zeros(len(layer_weights(out.module)[0]), dtype=model.activation_dtype)
    attention = model.attention(block)
    shared = attention.n_heads // len(attention.b_V)
    return attention.b_V.repeat_interleave(shared, 0).flatten()
