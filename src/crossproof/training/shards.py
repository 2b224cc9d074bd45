"""A process's share of a dictionary's latents, and what it exchanges with those of the others.

A row of processes computes one loss together. Encoder, decoder and Adam's states stay with the
process that holds their latents. Reconstructions are sums over processes. Terms about an MLP share
out its neurons instead: every process sees all active latents and all decoder vectors at the MLP's
input, and its own neurons, so that a neuron's dominant latent needs no search over processes. Each
value is therefore one of three:

* whole: equal in all processes (batches, reconstructions, the loss), and so is its gradient;
* partial: the whole is the sum of the processes' values (`sum` makes it whole);
* gathered, or whole and handed to a partial computation (`gather_rows`, `hand_out`): gradients
  there are partial and are summed on their way back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossproof.crosscoder.latents import SparseLatents
from crossproof.lm.mlp import MLPWeights
from crossproof.training import distributed

# as PyTorch calls them now, and called them before
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: Any) -> Tensor:
        whole = partial.contiguous().clone()
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _HandOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return whole.view_as(whole)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Any, count: int) -> Tensor:
        ctx.group, ctx.length = group, len(own)
        out = own.new_empty(count * len(own), *own.shape[1:])
        _all_gather(out, own.contiguous(), group=group)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        own = grad.new_empty(ctx.length, *grad.shape[1:])
        _reduce_scatter(own, grad.contiguous(), group=ctx.group)
        return own, None, None


@dataclass(frozen=True, eq=False)
class LatentShard:
    """Which of `count` equal parts of the latents are this process's, and how to reach the others.

    `count` is 1 where one process holds them all: then nothing is exchanged and all values stay
    what they are, to the last bit.
    """

    count: int = 1
    number: int = 0
    group: Any = None
    """torch.distributed's process group."""

    def rows(self, whole: int) -> slice:
        """This process's of `whole` latents, neurons, ...; the parts differ by one at most."""
        return slice(whole * self.number // self.count, whole * (self.number + 1) // self.count)

    def sum(self, partial: Tensor) -> Tensor:
        """The sum over processes; the gradient of it is each one's."""
        if self.count == 1 or partial.is_meta:
            return partial
        out: Tensor = _Sum.apply(partial, self.group)
        return out

    def hand_out(self, whole: Tensor) -> Tensor:
        """A value that each process goes on to use in its own way: gradients are summed."""
        if self.count == 1 or whole.is_meta:
            return whole
        out: Tensor = _HandOut.apply(whole, self.group)
        return out

    def gather_rows(self, own: Float[Tensor, "own *rest"]) -> Float[Tensor, "all *rest"]:
        """Equally many rows of every process, one process after another; gradients are summed."""
        if self.count == 1:
            return own
        if own.is_meta:
            return own.repeat(self.count, *[1] * (own.dim() - 1))
        out: Tensor = _Gather.apply(own, self.group, self.count)
        return out

    def gather_latents(self, own: SparseLatents) -> SparseLatents:
        """The active latents of every process, at each token in the order of the whole
        dictionary; differentiable in the values."""
        if self.count == 1:
            return own
        counts = self.gather_rows(own.offsets.diff()[None])  # [processes, B]
        sizes = counts.sum(1)
        longest = len(own.indices) if sizes.is_meta else int(sizes.max())
        there = torch.arange(longest, device=sizes.device) < sizes[:, None]
        padded = torch.nn.functional.pad(own.indices, (0, longest - len(own.indices)))
        first = torch.arange(self.count, device=sizes.device)[:, None] * own.n_latents
        indices = (self.gather_rows(padded[None]) + first)[there]
        padded = torch.nn.functional.pad(own.values, (0, longest - len(own.values)))
        values = self.gather_rows(padded[None])[there]
        tokens = torch.arange(own.n_tokens, device=sizes.device).repeat(self.count)
        order = torch.repeat_interleave(tokens, counts.flatten()).argsort(stable=True)
        offsets = torch.nn.functional.pad(counts.sum(0).cumsum(0), (1, 0))
        whole = self.count * own.n_latents
        return SparseLatents(offsets, indices[order], values[order], whole)

    def neurons_of(self, mlp: MLPWeights) -> MLPWeights:
        """This process's neurons; outputs of the processes add up to the MLP's."""
        if self.count == 1:
            return mlp
        part = self.rows(mlp.n_neurons)
        return replace(
            mlp,
            W_in=mlp.W_in[:, part],
            b_in=mlp.b_in[part],
            W_out=mlp.W_out[part],
            b_out=mlp.b_out if self.number == 0 else torch.zeros_like(mlp.b_out),
            W_gate=None if mlp.W_gate is None else mlp.W_gate[:, part],
            b_gate=None if mlp.b_gate is None else mlp.b_gate[part],
        )


WHOLE = LatentShard()
"""All latents, in one process."""


def latent_shard() -> LatentShard:
    """This process's, as the process group was joined."""
    mesh = distributed.mesh()
    if mesh is None or mesh.size(1) == 1:
        return WHOLE
    group = mesh.get_group("latent")
    return LatentShard(mesh.size(1), dist.get_rank(group), group)
