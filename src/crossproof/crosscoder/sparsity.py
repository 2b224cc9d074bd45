"""Which latents are active: TopK, BatchTopK, ReLU, JumpReLU (`crosscoder.rules` registers them).

A sparsity rule takes dense pre-activations [B, H] and selects the entries to encode, whose values
`activate` then turns into activations.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof import kernels
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.rules import SPARSITY
from crossproof.errors import CrossproofError


@runtime_checkable
class Sparsity(Protocol):
    """Which latents are active at a token, and how strongly. A `torch.nn.Module`.

    Its parameters are trained with the crosscoder's and its buffers are saved; both are in the
    units of pre-activations. `crossproof.testing.check_sparsity` checks the contract.
    """

    def select(self, pre: Float[Tensor, "B H"], training: bool = False) -> SparseLatents:
        """The entries of `pre` to encode, with their pre-activations as values; no gradient.

        Latents ascend within a token. In inference an entry depends on its token alone; while
        training the choice may look at the whole batch, update buffers, and keep entries whose
        activation will be zero for the sake of their gradient. The same `pre` and state give the
        same entries.
        """
        ...

    def activate(self, entries: SparseLatents) -> SparseLatents:
        """The same entries with activations as values, differentiable in the entries' values and
        the rule's parameters; at least zero, unless the rule has a true attribute `signed`."""
        ...


@runtime_checkable
class CountsLatents(Protocol):
    """A rule whose number of active latents can be trained (the objective `l0`)."""

    def l0(self, entries: SparseLatents) -> Tensor:
        """Mean number of active latents a token, differentiable in the rule's parameters."""
        ...


class TopK(nn.Module):
    """The k largest positive pre-activations of each token, in each of equally large groups.

    One group is the usual rule; several are dictionaries joined into one, each with its own k, or
    (k = 1) the largest of each group.
    """

    def __init__(self, k: int, groups: int = 1) -> None:
        super().__init__()
        self.k, self.groups = k, groups

    def select(self, pre: Float[Tensor, "B H"], training: bool = False) -> SparseLatents:
        """K entries a token and group, positive or not; in training as in inference."""
        grouped = pre.unflatten(1, (self.groups, -1))
        indices = self._rank(grouped).topk(self.k, dim=2, sorted=False).indices
        values = grouped.gather(2, indices)
        starts = torch.arange(self.groups, device=pre.device) * grouped.shape[2]
        indices = (indices + starts[:, None]).flatten(1)
        return SparseLatents.from_rows(indices, values.flatten(1), pre.shape[1])

    def activate(self, entries: SparseLatents) -> SparseLatents:
        """ReLU: what is not positive is not active."""
        return entries.with_values(entries.values.relu())

    def _rank(self, pre: Tensor) -> Tensor:
        return pre


class BatchTopK(nn.Module):
    """The k·B largest positive pre-activations of a training batch (Bussmann et al. 2024).

    A running mean of the batch's smallest chosen value is the threshold of inference.
    """

    threshold: Tensor

    def __init__(self, k: int, momentum: float = 0.95) -> None:
        super().__init__()
        self.k, self.momentum = k, momentum
        self.register_buffer("threshold", torch.tensor(-1.0))
        self._last_cut = 0.0  # where to look first; the result does not depend on it

    def select(self, pre: Float[Tensor, "B H"], training: bool = False) -> SparseLatents:
        """Entries above the batch's own cut in training, above the threshold in inference."""
        if not training:
            return entries_above(pre, self.threshold.clamp_min(0))
        if pre.device.type != "cpu":
            return self._largest(pre)
        cut = self._cut(pre)
        self._track(cut)
        return entries_above(pre, cut)

    def activate(self, entries: SparseLatents) -> SparseLatents:
        """ReLU: what is not positive is not active."""
        return entries.with_values(entries.values.relu())

    def _cut(self, pre: Float[Tensor, "B H"]) -> Tensor:
        """A value that exactly the k·B largest pre-activations exceed (at least zero).

        The search runs over what lies above or not far below the last batch's cut, about one entry
        in a hundred, and widens to all of them if those are too few.
        """
        wanted, candidates = self.k * len(pre), pre.flatten()
        if self._last_cut > 0:
            likely = entries_above(pre, pre.new_tensor(0.8 * self._last_cut)).values
            candidates = likely if len(likely) > wanted else candidates
        if len(candidates) <= wanted:
            return torch.zeros_like(self.threshold)
        cut = candidates.kthvalue(len(candidates) - wanted).values.clamp_min(0)
        self._last_cut = cut.item()
        return cut

    def _largest(self, pre: Float[Tensor, "B H"]) -> SparseLatents:
        """The same entries in a fixed number, k·B, so that the host need not wait for it.

        Where fewer exceed the cut, others with the value zero fill it up.
        """
        tokens, width = pre.shape
        wanted, flat = min(self.k * tokens, pre.numel()), pre.flatten()
        largest = flat.topk(min(wanted + 1, len(flat)), sorted=True)
        cut = largest.values[wanted].relu() if wanted < len(flat) else pre.new_zeros(())
        self._track(cut)
        chosen = largest.indices[:wanted].sort().values
        token = chosen.div(width, rounding_mode="floor")
        offsets = torch.searchsorted(token, torch.arange(tokens + 1, device=pre.device))
        values = flat[chosen]
        values = torch.where(values > cut, values, 0)
        return SparseLatents(offsets, chosen - token * width, values, width)

    @torch.no_grad()
    def _track(self, cut: Tensor) -> None:
        moved = self.threshold.lerp(cut, 1 - self.momentum)
        self.threshold.copy_(torch.where(self.threshold < 0, cut, moved))


class ReLU(nn.Module):
    """Every positive pre-activation; sparse through an L1 objective."""

    def select(self, pre: Float[Tensor, "B H"], training: bool = False) -> SparseLatents:
        """Every positive entry; in training as in inference."""
        return entries_above(pre, pre.new_zeros(()))

    def activate(self, entries: SparseLatents) -> SparseLatents:
        """The pre-activations themselves, which are positive."""
        return entries.with_values(entries.values.relu())


class JumpReLU(nn.Module):
    """pre where pre > θ_h, with a learned threshold per latent (Rajamanoharan et al. 2024).

    Gradients reach θ by the straight-through estimator with a rectangular kernel of width
    `bandwidth`; in training, entries within half a bandwidth below θ are kept with value zero so
    that they receive it.
    """

    def __init__(self, n_latents: int, threshold: float = 0.1, bandwidth: float = 0.1) -> None:
        super().__init__()
        self.bandwidth = bandwidth
        self.log_threshold = nn.Parameter(torch.full((n_latents,), threshold).log())

    @property
    def threshold(self) -> Tensor:
        """θ [H], in the units of pre-activations."""
        return self.log_threshold.exp()

    def select(self, pre: Float[Tensor, "B H"], training: bool = False) -> SparseLatents:
        """Entries above θ_h; in training those within half a bandwidth below too."""
        reach = self.bandwidth / 2 if training else 0.0
        floor = (self.threshold.detach() - reach).clamp_min(0)
        return entries_above(pre, floor)

    def activate(self, entries: SparseLatents) -> SparseLatents:
        """pre where pre > θ_h, else 0; the gradient reaches θ (straight-through)."""
        threshold = self.threshold[entries.indices]
        values: Tensor = _Jump.apply(entries.values, threshold, self.bandwidth)
        return entries.with_values(values)

    def l0(self, entries: SparseLatents) -> Tensor:
        """Mean number of active latents a token, differentiable in θ; `entries` from `select`."""
        threshold = self.threshold[entries.indices]
        steps: Tensor = _Step.apply(entries.values.detach(), threshold, self.bandwidth)
        return steps.sum() / entries.n_tokens


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return grad * (pre > threshold), -grad * near * threshold / ctx.bandwidth, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return None, -grad * near / ctx.bandwidth, None


def make_sparsity(config: CrosscoderConfig) -> Sparsity:
    """The rule that the configuration names; CrossproofError if there is none, or it cannot be."""
    made: Sparsity = SPARSITY.get(config.sparsity)(config)
    return made


def topk(config: CrosscoderConfig) -> TopK:
    """Raises CrossproofError unless 1 <= k <= H, in each of equally large groups."""
    return TopK(*k_and_groups(config))


def k_and_groups(config: CrosscoderConfig) -> tuple[int, int]:
    """k and the number of groups; raises CrossproofError as `topk`."""
    _check_k(config)
    n_latents, groups, k = config.n_latents, config.groups, config.k
    if groups < 1 or n_latents % groups or k > n_latents // groups:
        raise CrossproofError(
            f"{n_latents} latents do not divide into {groups} groups of at least k = {k}: choose a "
            f"number of groups that divides them.",
            code="CP-OPTION",
        )
    return k, groups


def batch_topk(config: CrosscoderConfig) -> BatchTopK:
    """Raises CrossproofError unless 1 <= k <= H."""
    _check_k(config)
    return BatchTopK(config.k)


def relu(config: CrosscoderConfig) -> ReLU:
    """Needs no setting."""
    return ReLU()


def jumprelu(config: CrosscoderConfig) -> JumpReLU:
    """With a threshold a latent."""
    return JumpReLU(config.n_latents)


def _check_k(config: CrosscoderConfig) -> None:
    if not 1 <= config.k <= config.n_latents:
        raise CrossproofError(
            f"k = {config.k} active latents a token need 1 <= k <= {config.n_latents} latents: "
            f"lower k or widen the crosscoder.",
            code="CP-OPTION",
        )


def entries_above(pre: Float[Tensor, "B H"], threshold: Tensor) -> SparseLatents:
    """The entries of `pre` above a threshold, one or one a latent."""
    offsets, indices, values = kernels.entries_above(pre, threshold.to(pre).expand(pre.shape[1]))
    return SparseLatents(offsets, indices, values, pre.shape[1])
