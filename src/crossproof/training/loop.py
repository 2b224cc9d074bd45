"""The one training loop: crosscoders that take their steps on the same batches of activations."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.activations import MassiveActivation
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel
from crossproof.training import distributed
from crossproof.training.bounds import check_settings
from crossproof.training.config import RunConfig
from crossproof.training.kinds import DictionaryPlan
from crossproof.training.memory import INITIAL_BATCHES, check_memory
from crossproof.training.parts import part_of, whole_of
from crossproof.training.reading import Activations, Rows, TrainingActivations, activations_for
from crossproof.training.selection import selection
from crossproof.training.shards import latent_shard
from crossproof.training.specs import DictionarySpec, check_read, specified_all
from crossproof.training.starting import read_sources, start_from
from crossproof.training.trainer import StepReport, Trainer

OWN_SETTINGS = (
    *("crosscoder", "objective", "optimisation", "baseline", "penalise"),
    *("hookpoints", "read", "write", "layout", "skip", "start"),
)
"""What may differ between crosscoders that train on the same batches."""


@dataclass(frozen=True)
class Progress:
    """What has just been done, and how long the rest will take."""

    step: int
    steps: int
    reports: dict[str, StepReport]
    """Of each crosscoder."""
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True, eq=False)
class Training:
    """A language model's activations and one trainer a crosscoder."""

    model: LanguageModel
    config: RunConfig
    """What all crosscoders have in common."""
    read: TrainingActivations
    trainers: dict[str, Trainer]

    @classmethod
    def build(
        cls,
        model: LanguageModel,
        sequences: Rows | None,
        configs: Mapping[str, RunConfig],
        initial_batches: int = INITIAL_BATCHES,
    ) -> Training:
        """The dictionaries of each configuration, initialised on the first batches.

        One pass of the model serves all of them. A configuration whose `layout` is "each" has
        several, called NAME/PLACE. Where several processes train, each takes its share of
        `sequences` and of every batch. There are no sequences where activations are stored.
        Raises CrossproofError if configurations differ in more than OWN_SETTINGS, hold a number
        that nothing can be trained with, or penalise MLPs that read none of the hookpoints.
        """
        first = _common(configs)
        for config in configs.values():
            check_settings(config)
        specs = specified_all(model, configs)
        for config in configs.values():
            check_read(config, [spec.about for spec in specs if spec.config is config])
        check_memory(model, specs)
        read = activations_for(model, sequences, first, specs)
        sample = first_batches(read.batches, initial_batches)
        shard = latent_shard()
        trainers = {
            spec.name: spec.trainer(
                part_of(whole, shard).to(model.device),
                read.batches.names,
                spec.passages(read.batches),
                whole.layout,
            )
            for spec, whole in _first_crosscoders(read.batches, sample, specs)
        }
        return cls(model, first, read, trainers)

    @property
    def massive(self) -> tuple[MassiveActivation, ...]:
        """Massive activations in the first sequences of the text."""
        return self.read.massive

    @property
    def text_hash(self) -> str:
        """16 hexadecimal digits that say which text it is, or which stored activations."""
        return self.read.digest

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return next(iter(self.trainers.values())).step_index

    @property
    def crosscoders(self) -> dict[str, Crosscoder]:
        """The crosscoders as they are now.

        Where processes share out their latents all of them must ask: the first gets them whole, on
        the CPU.
        """
        return {
            name: whole_of(trainer.crosscoder, trainer.layout, trainer.shard)
            for name, trainer in self.trainers.items()
        }

    def steps(self) -> Iterator[Progress]:
        """Takes the steps that are left, one an iteration; the caller may stop between any two."""
        first, steps, began = self.step, self.config.steps, time.perf_counter()
        for step, batch in zip(range(first, steps), self.read.batches.iterate(first), strict=False):
            reports = {name: trainer.step(batch) for name, trainer in self.trainers.items()}
            if self._waits_after(step + 1):
                for trainer in self.trainers.values():
                    trainer.check()
            spent = (time.perf_counter() - began) / (step + 1 - first)
            left = spent * (steps - step - 1)
            yield Progress(step + 1, steps, reports, self.config.batch_tokens / spent, left)

    def _waits_after(self, step: int) -> bool:
        """Whether the host waits for the device after so many steps anyway."""
        often = self.config.log_every, self.config.checkpoint_every
        return step == self.config.steps or any(step % each == 0 for each in often)


def _common(configs: Mapping[str, RunConfig]) -> RunConfig:
    name, first = next(iter(configs.items()))
    for other, config in configs.items():
        if replace(config, **{part: getattr(first, part) for part in OWN_SETTINGS}) != first:
            raise CrossproofError(
                f"'{other}' does not train on the same batches as '{name}': only crosscoder, "
                f"objective and optimisation may differ."
            )
    return first


def _first_crosscoders(
    harvest: Activations, sample: Float[Tensor, "M P D"], specs: Sequence[DictionarySpec]
) -> list[tuple[DictionarySpec, Crosscoder]]:
    """Each dictionary at its start, whole; equal ones are made once."""
    made: dict[tuple[CrosscoderConfig, DictionaryPlan], Crosscoder] = {}
    for spec in specs:
        if spec.kind not in made:
            made[spec.kind] = initialised(harvest, sample, spec.config, spec.plan)
    crosscoders = [copy.deepcopy(made[spec.kind]) for spec in specs]
    for owner, config in {spec.owner: spec.config for spec in specs}.items():
        own = [c for spec, c in zip(specs, crosscoders, strict=True) if spec.owner == owner]
        start_from(own, read_sources(harvest.model, config.start))
    return list(zip(specs, crosscoders, strict=True))


def initialised(
    harvest: Activations, sample: Float[Tensor, "M P D"], config: RunConfig, plan: DictionaryPlan
) -> Crosscoder:
    """The plan's dictionary at the start of its training, the same in all processes.

    Where these share out its latents, no device need hold them all: it is on the CPU, and the gain
    of the first process's sample is found part by part.
    """
    model, names = harvest.model, plan.hookpoints.names
    crosscoder = Crosscoder(config.crosscoder, plan.hookpoints, model.d_model, plan.layout)
    shard = latent_shard()
    crosscoder.to(model.device if shard.count == 1 else "cpu")
    rule, at = harvest.positions, [harvest.names.index(name) for name in names]
    limits = tuple(rule.norm_limits[column] for column in at) if rule.norm_limits else ()
    crosscoder.positions = replace(rule, norm_limits=limits)
    sample = sample[:, at].contiguous()
    if shard.count == 1:
        crosscoder.initialise(sample, config.seed)
        crosscoder.fit_gain(sample)
        distributed.copy_from_first_(crosscoder.state_dict().values())
        return crosscoder
    distributed.copy_from_first_([sample])
    crosscoder.initialise(sample.cpu(), config.seed)
    distributed.copy_from_first_(crosscoder.state_dict().values())
    part = part_of(crosscoder, shard).to(model.device)
    select = selection(copy.deepcopy(part.sparsity), shard)
    crosscoder.scale_encoder(part.fit_gain(sample, select, shard.sum))
    return crosscoder


def first_batches(harvest: Activations, count: int) -> Float[Tensor, "M P D"]:
    """The first `count` batches in one piece, or the whole corpus if it is shorter."""
    return torch.cat([harvest.batch(step) for step in range(min(count, len(harvest)))])
