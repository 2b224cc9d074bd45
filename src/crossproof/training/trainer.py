"""One crosscoder's training: a step is a function of a batch; a run is a loop over an iterator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.autograd import encode_entries
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder, Encoding
from crossproof.errors import CrossproofError
from crossproof.lm.mlp import MLPWeights
from crossproof.training import distributed
from crossproof.training.objectives import (
    BLOCK_TERMS,
    Objective,
    Site,
    Step,
    penalties,
    reconstruction,
)
from crossproof.training.schedules import Schedule

REVIVAL_PART = 4
"""One in so many of a batch's tokens asks dead latents for help: enough for rows that nothing else
moves, at a fraction of the cost."""


@dataclass(frozen=True)
class Optimisation:
    """How a crosscoder is optimised."""

    lr: float = 1e-3
    """Adam's learning rate."""
    beta1: float = 0.9
    """Adam's memory of the gradient."""
    beta2: float = 0.99
    """Adam's memory of its square."""
    clip: float = 1.0
    """Largest gradient norm (of the loss divided by the number of scaled dimensions P·D)."""
    warmup: float = 0.05
    """Fraction of the steps over which the learning rate rises."""
    decay: float = 0.3
    """Fraction of the steps, at the end, over which it falls to zero."""
    penalty_warmup: float = 0.2
    """Fraction of the steps over which penalties rise to their strength."""
    penalty_delay: float = 0.0
    """Fraction of the steps before that, without penalties: a warm start from the unpenalised
    crosscoder."""
    penalty_share: float = 1.0
    """Fraction of each batch's tokens on which terms about MLPs are computed: an unbiased
    estimate at that fraction of their cost."""
    dead_after: int = 20_000
    """Tokens without activation after which a latent counts as dead."""
    revive_k: int = 16
    """Dead latents a token that are asked to explain the residual."""
    revive_weight: float = 1 / 32
    """Weight of that request."""
    revive_lift: float = 0.05
    """How much the bias of a dead latent rises every step, as a fraction of the mean activation:
    its pre-activation grows until it is active somewhere and can learn from the loss itself."""
    bf16: bool = False
    """Encode in bfloat16 (not faster on CPUs without native support)."""


@dataclass(frozen=True)
class StepReport:
    """What one step did; tensors, so that reading them is the caller's choice."""

    terms: dict[str, Tensor]
    """Unweighted mean of each term: `reconstruction` and the objective's."""
    loss: Tensor
    l0: float
    dead: Tensor
    """Number of dead latents."""
    mean_activation: Tensor
    """Mean over active entries."""


class Trainer:
    """Trains one crosscoder on batches of raw activations [B, P, D].

    `mlps` maps each hookpoint index that is an MLP's input to the weights of that MLP; it may be
    empty when the objective has no term about MLPs. Nothing here knows of language models.

    Where several processes train together (`training.distributed`), each trainer gets its own
    share of every batch and all take the same step: from the mean of their gradients. BatchTopK
    chooses within each share, and terms over a variance take that of the share.
    """

    def __init__(
        self,
        crosscoder: Crosscoder,
        mlps: dict[int, MLPWeights],
        objective: Objective,
        optimisation: Optimisation,
        steps: int,
        seed: int = 0,
    ) -> None:
        self.crosscoder, self.objective, self.optimisation = crosscoder, objective, optimisation
        wanted = mlps if objective.strengths().keys() & BLOCK_TERMS.keys() else {}
        self.sites = [Site.build(p, mlp, seed) for p, mlp in wanted.items()]
        self.steps, self.step_index = steps, 0
        self.rate = Schedule(steps, optimisation.warmup, optimisation.decay)
        self.penalty = Schedule(
            steps, optimisation.penalty_warmup, decay=0.0, delay=optimisation.penalty_delay
        )
        self.silent_for = torch.zeros(crosscoder.n_latents, dtype=torch.int64)
        self.silent_for = self.silent_for.to(crosscoder.b_enc.device)
        betas = (optimisation.beta1, optimisation.beta2)
        self.adam = torch.optim.Adam(
            crosscoder.parameters(), lr=optimisation.lr, betas=betas, fused=True
        )

    def step(self, batch: Float[Tensor, "B P D"]) -> StepReport:
        """One update.

        Raises CrossproofError if the loss or its gradient is not finite; nothing has changed then.
        """
        counters = [*self.crosscoder.buffers(), self.silent_for]  # the forward pass moves these
        before = [counter.clone() for counter in counters]
        report = self._loss(batch.to(self.crosscoder.b_enc.device))
        self.adam.zero_grad(set_to_none=True)
        report.loss.backward()
        distributed.average_(self._gradients())
        distributed.average_(self.crosscoder.buffers())  # BatchTopK's threshold
        norm = self._clip()
        if not torch.isfinite(report.loss + norm):
            for counter, value in zip(counters, before, strict=True):
                counter.copy_(value)
            raise CrossproofError(self._diagnose(batch))
        for group in self.adam.param_groups:
            group["lr"] = self.optimisation.lr * self.rate(self.step_index)
        self.adam.step()
        self._lift(report)
        self.step_index += 1
        return report

    def _loss(self, batch: Float[Tensor, "B P D"]) -> StepReport:
        crosscoder = self.crosscoder
        x = batch * crosscoder.scale[:, None]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.optimisation.bf16):
            encoding = crosscoder.encode_training(x.flatten(1))
        step = Step.build(crosscoder, encoding, x, self.sites, self.optimisation.penalty_share)
        terms = {"reconstruction": reconstruction(step)}
        loss = terms["reconstruction"]
        ramp = self.penalty(self.step_index)
        for name, strength, value in penalties(self.objective, step) if ramp else ():
            terms[name] = value
            loss = loss + ramp * strength * value
        dead = self._count_silence(encoding.latents)
        revival = self._revival(encoding, x.flatten(1), step.x_hat.flatten(1), dead)
        if revival is not None:
            loss = loss + self.optimisation.revive_weight * revival
        detached = {name: value.detach() for name, value in terms.items()}
        latents = encoding.latents
        mean_activation = latents.values.detach().sum() / max(len(latents.values), 1)
        distributed.average_([mean_activation])
        loss = loss / x[0].numel()
        return StepReport(detached, loss, latents.l0(), dead.sum(), mean_activation)

    @torch.no_grad()
    def _count_silence(self, latents: SparseLatents) -> Tensor:
        fired = torch.zeros_like(self.silent_for)
        fired.index_add_(0, latents.indices, (latents.values > 0).to(torch.int64))
        distributed.sum_(fired)
        self.silent_for.add_(latents.n_tokens * distributed.world()).mul_(fired == 0)
        return self.silent_for > self.optimisation.dead_after

    def _revival(
        self,
        encoding: Encoding,
        x: Float[Tensor, "B F"],
        x_hat: Float[Tensor, "B F"],
        dead: Tensor,
    ) -> Tensor | None:
        """Asks dead latents to explain the residual, from their pre-activations (Gao et al. 2024).

        Pre-activations, not activations: those of dead latents are zero by definition.
        """
        where = dead.nonzero()[:, 0]
        if len(where) == 0 or self.optimisation.revive_weight == 0:
            return None
        some = slice(0, max(1, len(x) // REVIVAL_PART))
        k = min(self.optimisation.revive_k, len(where))
        values, chosen = encoding.pre[some, where].topk(k)
        entries = SparseLatents.from_rows(where[chosen], values, self.crosscoder.n_latents)
        weights = self.crosscoder.W_enc.flatten(1), self.crosscoder.b_enc
        asked = encode_entries(entries, x[some], *weights)
        target = (x - x_hat)[some].detach()
        guess = self.crosscoder.decode_scaled(asked.with_values(asked.values.relu()))
        error = target - (guess - self.crosscoder.b_dec.flatten())
        return error.pow(2).sum(1).mean()

    @torch.no_grad()
    def _lift(self, report: StepReport) -> None:
        dead = self.silent_for > self.optimisation.dead_after
        self.crosscoder.b_enc.add_(dead * (self.optimisation.revive_lift * report.mean_activation))

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.crosscoder.parameters() if p.grad is not None]

    def _clip(self) -> Tensor:
        """Shortens the gradient to `clip`; returns its norm before."""
        gradients = self._gradients()
        norm: Tensor = torch.nn.utils.get_total_norm(gradients)
        if norm > self.optimisation.clip:  # rare: do not rewrite all gradients every step
            torch._foreach_mul_(gradients, self.optimisation.clip / norm)
        return norm

    def _diagnose(self, batch: Float[Tensor, "B P D"]) -> str:
        broken = ~torch.isfinite(batch).all(dim=(0, 2))
        names = [n for n, bad in zip(self.crosscoder.hookpoints.names, broken, strict=True) if bad]
        if names:
            return (
                f"NaN or infinite activations at {', '.join(names[:3])} in training step "
                f"{self.step_index}: run the language model in float32 or drop that hookpoint."
            )
        return (
            f"The loss is not finite at training step {self.step_index}: lower the learning rate "
            f"or the penalties' strength; the last checkpoint is intact."
        )

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs besides its configuration, as tensors."""
        tensors = {f"crosscoder.{k}": v for k, v in self.crosscoder.state_dict().items()}
        for index, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v for k, v in state.items()}
        tensors["silent_for"] = self.silent_for
        tensors["step"] = torch.tensor(self.step_index)
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restores `state()`: training goes on with the same bytes as if it had not stopped."""
        prefix = "crosscoder."
        weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        self.crosscoder.load_state_dict(weights)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = tensor.clone()  # Adam keeps it
        self.adam.load_state_dict({**self.adam.state_dict(), "state": moments})
        self.silent_for.copy_(tensors["silent_for"])
        self.step_index = int(tensors["step"])
