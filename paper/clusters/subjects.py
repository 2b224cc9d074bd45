"""The crosscoders of figures 3, 11 and 12, with their interactions and their texts.

Three texts that share nothing: clusters are made from training text, a similarity is chosen on
validation text, and what is reported is judged on held-out text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from crossproof.activations import Split, read_sequences
from crossproof.clusters import (
    LatentChoice,
    MeasuredCrosscoder,
    PreparedCrosscoder,
    deal,
    prepare,
)
from crossproof.crosscoder import Crosscoder
from crossproof.evaluation import tally_interactions
from crossproof.interactions import Interactions
from crossproof.training import RunConfig
from paper.clusters.comparison import HalvedSubject, study
from paper.drawing.words import QUICK as QUICK_WORDS
from paper.measuring.cache import digest
from paper.measuring.experiment import Experiment
from paper.measuring.objectives import RECIPE

SUMS = "interactions"


@dataclass(frozen=True)
class Extent:
    """Sequences that are measured, and that either text for judging has."""

    measured: int
    judged: int


PUBLISHED, QUICK = Extent(200, 240), Extent(40, 60)


def variants(experiment: Experiment) -> dict[str, RunConfig]:
    """Without a penalty, and the demo's recipe."""
    return {"λ = 0": experiment.config(), "recipe": experiment.config(**RECIPE)}


def subjects(experiment: Experiment, config: RunConfig) -> list[PreparedCrosscoder]:
    """A subject a training seed, with all latents that qualify, read on held-out text."""
    experiment.trainings.finish(replace(config, seed=seed) for seed in experiment.settings.seeds)
    return [_subject(experiment, replace(config, seed=seed)) for seed in experiment.settings.seeds]


def studies(experiment: Experiment, config: RunConfig) -> list[HalvedSubject]:
    """The same in two halves, of which one is judged on validation text."""
    text = _rows(experiment, "validation")[: extent(experiment).judged]
    return [
        study(subject, deal(experiment.model, subject.crosscoder, text))
        for subject in subjects(experiment, config)
    ]


def extent(experiment: Experiment) -> Extent:
    """How much text there is at the settings' size."""
    return QUICK if experiment.settings.quick else PUBLISHED


def setup_words(experiment: Experiment) -> str:
    """One sentence about how the numbers were made."""
    size, own = experiment.settings.size, extent(experiment)
    seeds = ", ".join(map(str, experiment.settings.seeds))
    quick = QUICK_WORDS if experiment.settings.quick else ""
    return (
        f"Model {experiment.settings.model}; {size.n_latents:,} latents, k = {size.k}, "
        f"{size.steps} steps of {size.batch_tokens:,} tokens, training seeds {seeds}{quick}; "
        f"clusters from {own.measured} sequences of training text, chosen on {own.judged} of "
        f"validation text, judged on {own.judged} of held-out text. In brackets: 95% intervals."
    )


def _subject(experiment: Experiment, config: RunConfig) -> PreparedCrosscoder:
    crosscoder = experiment.trainings.load(config)
    measured = _rows(experiment, "train")[: extent(experiment).measured]
    rows, skip = _rows(experiment, "held_out"), experiment.setup()["skip"]
    subject = prepare(
        experiment.model,
        f"seed {config.seed}",
        MeasuredCrosscoder(
            crosscoder,
            _interactions(experiment, config, crosscoder, measured),
            measured,
            rows[skip : skip + extent(experiment).judged],
        ),
        LatentChoice(latents=crosscoder.n_latents),
        stability=False,
    )
    experiment.settings.say(f"read: seed {config.seed}, {len(subject.latents)} latents")
    return subject


def _interactions(
    experiment: Experiment, config: RunConfig, crosscoder: Crosscoder, measured: Int[Tensor, "S T"]
) -> Interactions:
    made_from = {
        "crosscoder": experiment.trainings.made_from(config),
        "tokens": digest(measured.numpy().tobytes()),
    }
    write = partial(_measure, experiment, crosscoder, measured)
    return Interactions.load(experiment.cache.get(SUMS, made_from, write) / SUMS)


def _measure(
    experiment: Experiment, crosscoder: Crosscoder, measured: Int[Tensor, "S T"], folder: Path
) -> None:
    tally_interactions(experiment.model, crosscoder, measured).interactions.save(folder / SUMS)


def _rows(experiment: Experiment, split: Split) -> Int[Tensor, "S T"]:
    return read_sequences(
        experiment.settings.text, experiment.model, experiment.text("train").shape[1], split
    )
