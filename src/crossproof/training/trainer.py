"""One crosscoder's training: a step is a function of a batch; a run is a loop over an iterator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossproof.crosscoder.autograd import index_on
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.layout import Layout
from crossproof.crosscoder.model import Crosscoder, Encoding
from crossproof.errors import CrossproofError
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.norms import Norm
from crossproof.training import distributed
from crossproof.training.config import Optimisation as Optimisation
from crossproof.training.diagnosis import diagnosis
from crossproof.training.objective import Objective
from crossproof.training.objectives import about_mlps, check_sharded, penalties, reconstruction
from crossproof.training.passages import PassagesAt, TextStep
from crossproof.training.products import rounded_products
from crossproof.training.revival import patience, revival
from crossproof.training.schedules import Schedule
from crossproof.training.selection import selection
from crossproof.training.shards import latent_shard
from crossproof.training.step import Step, StreamReading, TargetMLP


@dataclass(frozen=True)
class StepReport:
    """What one step did; tensors, so that reading them is the caller's choice."""

    terms: dict[str, Tensor]
    """Unweighted mean of each term: `reconstruction` and the objective's."""
    loss: Tensor
    l0: Tensor
    """Active latents a token."""
    dead: Tensor
    """Number of dead latents."""
    mean_activation: Tensor
    """Mean over active entries."""


class Trainer:
    """Trains one crosscoder on batches of raw activations [B, P + E, D].

    `mlps` maps each hookpoint index that is an MLP's input to the weights of that MLP; `streams`
    are MLPs that read what the crosscoder writes in the stream before their norm, which reads one
    of the E hookpoints that a batch holds beyond the crosscoder's P. Both may be empty when the
    objective has no term about MLPs. Nothing here knows of language models.

    `columns` picks these P + E out of batches that hold more, for other dictionaries.
    `second_norms`, by hookpoint as `mlps`, are those that the outputs of some of these pass before
    the stream takes them. `passages` gives the sequences that terms about predictions are taken on.

    Where several processes train together (`training.distributed`), each trainer gets its own
    share of every batch and all take the same step: that of one process with the whole batch. Where
    they share out the latents, too, `crosscoder` is this process's part of a dictionary with
    `layout`.
    """

    def __init__(
        self,
        crosscoder: Crosscoder,
        mlps: dict[int, MLPWeights],
        objective: Objective,
        optimisation: Optimisation,
        steps: int,
        seed: int = 0,
        streams: Sequence[tuple[MLPWeights, StreamReading]] = (),
        columns: Sequence[int] | None = None,
        second_norms: Mapping[int, Norm] | None = None,
        passages: PassagesAt | None = None,
        layout: Layout | None = None,
    ) -> None:
        self.passages = passages
        self.layout = layout or crosscoder.layout
        self.shard = latent_shard()
        self.select = selection(crosscoder.sparsity, self.shard)
        check_sharded(objective, self.shard)
        self.columns = None if columns is None else tuple(columns)
        self.crosscoder, self.objective, self.optimisation = crosscoder, objective, optimisation
        self.targets: list[TargetMLP] = []
        if about_mlps(objective):
            dtype = crosscoder.b_enc.dtype  # the model's may be wider
            second = second_norms or {}
            at_inputs = [(p, mlp, None, second.get(p)) for p, mlp in mlps.items()]
            before = [(read.hookpoints[0], mlp, read, None) for mlp, read in streams]
            self.targets = [
                TargetMLP.build(p, mlp.to(dtype=dtype), seed, reading, norm).of(self.shard)
                for p, mlp, reading, norm in (*at_inputs, *before)
            ]
        whole = crosscoder.config.n_latents * self.shard.count
        width = replace(crosscoder.config, n_latents=whole)
        self.dead_after = optimisation.dead_after or patience(width)
        self.steps, self.step_index = steps, 0
        self.rate = Schedule(steps, optimisation.warmup, optimisation.decay)
        self.penalty = Schedule(
            steps, optimisation.penalty_warmup, decay=0.0, delay=optimisation.penalty_delay
        )
        self.tokens_since_fired = torch.zeros(crosscoder.n_latents, dtype=torch.int64)
        self.tokens_since_fired = self.tokens_since_fired.to(crosscoder.b_enc.device)
        self.failed = torch.full_like(self.tokens_since_fired[0], -1)
        """The first step whose loss was not finite; -1: none. Read by `check`."""
        betas = (optimisation.beta1, optimisation.beta2)
        self.adam = torch.optim.Adam(
            crosscoder.parameters(),
            lr=optimisation.lr,
            betas=betas,
            fused=not crosscoder.b_enc.is_meta,  # there no step is taken
        )

    def step(self, batch: Float[Tensor, "B places D"]) -> StepReport:
        """One update; none if the loss or its gradient is not finite.

        Raises CrossproofError then, on a CPU at once. The host does not wait for another device to
        say so: there `check` raises it.
        """
        # the forward pass moves these
        counters = [*self.crosscoder.buffers(), self.tokens_since_fired]
        batch = self.shard.gather_rows(self.read(batch))
        before = [counter.clone() for counter in counters]
        with rounded_products(self.optimisation.bf16 and self.crosscoder.b_enc.is_cuda):
            report = self.loss(batch)
            self.adam.zero_grad(set_to_none=True)
            report.loss.backward(inputs=list(self.crosscoder.parameters()))
        self._average_gradients()
        distributed.average_(self.crosscoder.buffers())  # BatchTopK's threshold
        for group in self.adam.param_groups:
            group["lr"] = self.optimisation.lr * self.rate(self.step_index)
        finite = self._update(report.loss)
        for counter, value in zip(counters, before, strict=True):
            counter.copy_(torch.where(finite, counter, value))
        self.failed.copy_(torch.where((self.failed < 0) & ~finite, self.step_index, self.failed))
        if batch.device.type == "cpu":
            self.check(batch)
        self._raise_biases(report, finite)
        self.step_index += 1
        return report

    def check(self, batch: Float[Tensor, "B places D"] | None = None) -> None:
        """Raises CrossproofError if a step met a loss or gradient that is not finite.

        The weights are those of before that step, or of steps after it that were finite.
        """
        failed = int(self.failed)
        if failed >= 0:
            self.failed.fill_(-1)
            names = self.crosscoder.hookpoints.names
            raise CrossproofError(diagnosis(failed, names, batch))

    def read(self, batch: Float[Tensor, "B places D"]) -> Float[Tensor, "B own D"]:
        """The columns of a batch that this dictionary is about."""
        if self.columns is None:
            return batch
        return batch[:, index_on(batch.device, self.columns)]

    def loss(self, batch: Float[Tensor, "B places D"]) -> StepReport:
        """The forward pass of a step; counters of dead latents and running thresholds move.

        `batch` as `read` gives it.
        """
        crosscoder, batch = self.crosscoder, batch.to(self.crosscoder.b_enc)
        width = len(crosscoder.hookpoints)
        x = batch[:, :width] * crosscoder.scale[:, None]
        encoding = self._encoded(x)
        fraction, sharing = self.optimisation.penalty_fraction, (self.shard, self.layout.written)
        parts = self.targets, fraction, batch[:, width:], *sharing
        step = Step.build(crosscoder, encoding, x, *parts)
        terms = {"reconstruction": reconstruction(step)}
        loss = terms["reconstruction"]
        ramp = self.penalty(self.step_index)
        for name, strength, value in penalties(self.objective, step, self._texts()) if ramp else ():
            terms[name] = value
            loss = loss + ramp * strength * value
        dead = self._count_fired(encoding.latents)
        if self.optimisation.revive_weight:
            asked = revival(step, dead, self.optimisation.revive_k)
            loss = loss if asked is None else loss + self.optimisation.revive_weight * asked
        detached = {name: value.detach() for name, value in terms.items()}
        latents = encoding.latents
        activity = torch.stack([latents.values.detach().sum(), x.new_full((), len(latents.values))])
        distributed.sum_(activity)
        mean_activation = activity[0] / activity[1].clamp_min(1)
        loss = loss / step.error[0].numel()
        active, dead = self.shard.sum(latents.mean_active()), self.shard.sum(dead.sum())
        return StepReport(detached, loss, active, dead, mean_activation)

    def _encoded(self, x: Float[Tensor, "B P D"]) -> Encoding:
        half = self.optimisation.bf16 and not x.is_meta
        with torch.autocast(x.device.type, torch.bfloat16) if half else nullcontext():
            return self.crosscoder.encode_training(x, self.select)

    def _texts(self) -> list[TextStep]:
        """The step's whole sequences, all of whose tokens are encoded as one batch."""
        begun = self.step_index >= self.optimisation.text_delay * self.steps
        passages = self.passages(self.step_index) if self.passages and begun else []
        if not passages:
            return []
        crosscoder, width = self.crosscoder, len(self.crosscoder.hookpoints)
        batch = self.read(torch.cat([each.activations for each in passages]))
        batch = batch.to(crosscoder.b_enc)
        x = batch[:, :width] * crosscoder.scale[:, None]
        encoding, texts, first = self._encoded(x), [], 0
        for each in passages:
            rows = slice(first, first := first + len(each.activations))
            part = replace(encoding, latents=encoding.latents.rows(rows.start, rows.stop))
            target = [self.targets[each.target]]
            step = Step.build(crosscoder, part, x[rows], target, streams=batch[rows, width:])
            texts.append(TextStep(step.blocks[0], each.divergence))
        return texts

    @torch.no_grad()
    def _count_fired(self, latents: SparseLatents) -> Tensor:
        fired = torch.zeros_like(self.tokens_since_fired)
        fired.index_add_(0, latents.indices, (latents.values != 0).to(torch.int64))
        distributed.sum_over_rows_(fired)
        self.tokens_since_fired.add_(latents.n_tokens * distributed.rows()).mul_(fired == 0)
        return self.tokens_since_fired > self.dead_after

    @torch.no_grad()
    def _raise_biases(self, report: StepReport, finite: Bool[Tensor, ""]) -> None:
        dead = self.tokens_since_fired > self.dead_after
        rate = self.optimisation.revive_bias_rate * report.mean_activation
        self.crosscoder.b_enc.add_(dead * torch.where(finite, rate, 0))

    def _gradients(self, own: bool | None = None) -> list[Tensor]:
        """All gradients, or those of the latents (own) or of what all processes have."""
        everywhere = "b_dec", "W_skip"
        return [
            parameter.grad
            for name, parameter in self.crosscoder.named_parameters()
            if parameter.grad is not None and own in (None, name not in everywhere)
        ]

    def _average_gradients(self) -> None:
        distributed.average_over_rows_(self._gradients(own=True))
        distributed.average_(self._gradients(own=False))  # equal in a row

    def _norm(self) -> Tensor:
        """Of all gradients, those of other processes' latents with them."""
        if self.shard.count == 1:
            norm: Tensor = torch.nn.utils.get_total_norm(self._gradients())
            return norm
        own, everywhere = (
            torch.nn.utils.get_total_norm(self._gradients(own)) for own in (True, False)
        )
        return (self.shard.sum(own.square()) + everywhere.square()).sqrt()

    def _update(self, loss: Tensor) -> Bool[Tensor, ""]:
        """Adam's step with the gradient shortened to `clip`, if loss and gradient are finite.

        Returns whether they are. Adam itself leaves everything as it is where they are not, and
        takes a factor of all gradients, so that the host need not know either.
        """
        gradients = self._gradients()
        norm = self._norm()
        finite, clip = torch.isfinite(loss + norm), self.optimisation.clip
        if loss.device.type == "cpu":
            if norm > clip:  # rare: do not rewrite all gradients every step
                torch._foreach_mul_(gradients, clip / norm)
        else:
            # by which it divides gradients
            setattr(self.adam, "grad_scale", (norm / clip).clamp_min(1))  # noqa: B010
        setattr(self.adam, "found_inf", (~finite).to(torch.float32))  # noqa: B010
        self.adam.step()
        return finite

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs besides its configuration, as tensors."""
        tensors = {f"crosscoder.{k}": v for k, v in self.crosscoder.state_dict().items()}
        for index, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v for k, v in state.items()}
        tensors["tokens_since_fired"] = self.tokens_since_fired
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
        older = tensors.get("silent_for")  # as older checkpoints spell it
        self.tokens_since_fired.copy_(tensors["tokens_since_fired"] if older is None else older)
        self.step_index = int(tensors["step"])
