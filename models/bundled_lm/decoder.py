"""Token-by-token decoding of a GPT-Neo for many rows at once, with a preallocated cache."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPTNeoForCausalLM


class Decoder:
    """Keys and values of [rows, context] tokens; `step` adds one token to every row.

    The same function of the same weights as the library's forward pass (a test compares the
    logits), without its per-call overhead and without growing the cache by copying.
    """

    def __init__(self, model: GPTNeoForCausalLM, rows: int, context: int) -> None:
        config = model.config
        self.rows = rows
        self.context = context
        self.heads: int = config.num_heads
        self.eps: float = config.layer_norm_epsilon
        trunk: Any = model.transformer
        self.trunk = trunk
        self.wte: Tensor = trunk.wte.weight.detach().float()
        self.wpe: Tensor = trunk.wpe.weight.detach().float()
        self.qkv: list[Tensor] = []
        for block in trunk.h:
            inner = block.attn.attention
            projections = (inner.q_proj, inner.k_proj, inner.v_proj)
            self.qkv.append(torch.cat([p.weight.detach().float() for p in projections]))
        shape = (len(self.qkv), rows, self.heads, context, config.hidden_size // self.heads)
        self.keys = torch.zeros(shape)
        self.values = torch.zeros(shape)
        self.length = 0

    def restart(self) -> None:
        """Forgets all tokens; the cache's memory is used again."""
        self.length = 0

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Logits [rows, V] of the token that follows `tokens` [rows]."""
        hidden = self.wte[tokens] + self.wpe[self.length]
        for i, block in enumerate(self.trunk.h):
            hidden = hidden + self._attend(i, block.ln_1(hidden))
            inner = F.gelu(block.mlp.c_fc(block.ln_2(hidden)), approximate="tanh")
            hidden = hidden + block.mlp.c_proj(inner)
        self.length += 1
        return F.linear(self.trunk.ln_f(hidden), self.wte)

    def _attend(self, i: int, normed: Tensor) -> Tensor:
        rows, width = normed.shape
        q, k, v = F.linear(normed, self.qkv[i]).view(rows, 3, self.heads, -1).unbind(1)
        self.keys[i, :, :, self.length] = k
        self.values[i, :, :, self.length] = v
        seen = slice(0, self.length + 1)
        mixed = F.scaled_dot_product_attention(
            q.unsqueeze(2), self.keys[i, :, :, seen], self.values[i, :, :, seen], scale=1.0
        )
        out: Tensor = self.trunk.h[i].attn.attention.out_proj(mixed.reshape(rows, width))
        return out
