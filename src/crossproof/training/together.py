"""Several crosscoders trained on the same batches, in one pass over the activations."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.activations import Harvest
from crossproof.crosscoder.model import Crosscoder, CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.lm import Hookpoints, LanguageModel
from crossproof.lm.mlp import MLPWeights
from crossproof.training import distributed
from crossproof.training.config import RunConfig
from crossproof.training.trainer import Trainer

INITIAL_BATCHES = 4
"""Batches whose tokens estimate scale and mean and seed the latents' directions."""

OWN_SETTINGS = ("crosscoder", "objective", "optimisation", "baseline")
"""What may differ between crosscoders that train on the same batches."""

Say = Callable[[str], None]


def train_together(
    model: LanguageModel,
    sequences: Int[Tensor, "S T"],
    configs: Mapping[str, RunConfig],
    say: Say = lambda _: None,
    initial_batches: int = INITIAL_BATCHES,
) -> dict[str, Crosscoder]:
    """Trains a crosscoder for each configuration's objective; the finished ones by name.

    `sequences` [S, T] are the training split. Each crosscoder is what `crossproof train` makes of
    its configuration, whatever trains beside it. `say` gets a progress line now and then. Raises
    CrossproofError if configurations differ in more than crosscoder, objective and optimisation.
    """
    first = next(iter(configs.values()))
    for name, config in configs.items():
        own = {part: getattr(first, part) for part in OWN_SETTINGS}
        if replace(config, **own) != first:
            raise CrossproofError(
                f"'{name}' does not train on the same batches as '{next(iter(configs))}': only "
                f"crosscoder, objective and optimisation may differ."
            )
    hookpoints = model.hookpoints(list(first.hookpoints) or None)
    harvest = Harvest(
        model, sequences, hookpoints, first.batch_tokens, first.buffer_batches, first.seed
    )
    mlps = mlps_by_place(model, hookpoints)
    trainers = _trainers(model, hookpoints, mlps, first_batches(harvest, initial_batches), configs)
    began = time.perf_counter()
    for step, batch in zip(range(first.steps), harvest.iterate(), strict=False):
        for trainer in trainers.values():
            trainer.step(batch)
        if (step + 1) % 50 == 0 or step + 1 == first.steps:
            left = (time.perf_counter() - began) / (step + 1) * (first.steps - step - 1)
            say(
                f"seed {first.seed}, {len(configs)} crosscoders: step {step + 1} of "
                f"{first.steps}, {left:.0f} s left"
            )
    return {name: trainer.crosscoder.eval() for name, trainer in trainers.items()}


def make_trainer(
    model: LanguageModel,
    hookpoints: Hookpoints,
    mlps: dict[int, MLPWeights],
    sample: Float[Tensor, "M P D"],
    config: RunConfig,
) -> Trainer:
    """A trainer for the configuration's objective; its crosscoder starts from `sample`."""
    crosscoder = Crosscoder(config.crosscoder, hookpoints, model.d_model).to(model.device)
    crosscoder.initialise(sample, config.seed)
    crosscoder.fit_gain(sample)
    distributed.copy_from_first_(crosscoder.state_dict().values())
    return Trainer(
        crosscoder, mlps, config.objective, config.optimisation, config.steps, config.seed
    )


def _trainers(
    model: LanguageModel,
    hookpoints: Hookpoints,
    mlps: dict[int, MLPWeights],
    sample: Float[Tensor, "M P D"],
    configs: Mapping[str, RunConfig],
) -> dict[str, Trainer]:
    """One a configuration; equal dictionaries are initialised once."""
    made: dict[CrosscoderConfig, Crosscoder] = {}
    trainers = {}
    for name, config in configs.items():
        if config.crosscoder not in made:
            trainer = make_trainer(model, hookpoints, mlps, sample, config)
            made[config.crosscoder] = copy.deepcopy(trainer.crosscoder)
        else:
            crosscoder = copy.deepcopy(made[config.crosscoder])
            settings = config.objective, config.optimisation, config.steps, config.seed
            trainer = Trainer(crosscoder, mlps, *settings)
        trainers[name] = trainer
    return trainers


def first_batches(harvest: Harvest, count: int) -> Float[Tensor, "M P D"]:
    """The first `count` batches in one piece, or the whole corpus if it is shorter."""
    return torch.cat([harvest.batch(step) for step in range(min(count, len(harvest)))])


def mlps_by_place(model: LanguageModel, hookpoints: Hookpoints) -> dict[int, MLPWeights]:
    """The MLPs whose input is one of the hookpoints, by its index."""
    places = {block: hookpoints.blocks[block].mlp_in for block in hookpoints.mlp_blocks}
    return {place: model.mlp(b) for b, place in places.items() if place is not None}
