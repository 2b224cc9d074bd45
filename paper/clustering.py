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
from crossproof.crosscoder.model import Crosscoder
from crossproof.evaluation import tally_interactions
from crossproof.interactions.matrix import Interactions
from crossproof.training.config import RunConfig
from paper.cache import digest
from paper.cluster_comparison import Study, study
from paper.fidelity import RECIPE
from paper.lab import Lab

SUMS = "interactions"


@dataclass(frozen=True)
class Extent:
    """Sequences that are measured, and that either text for judging has."""

    measured: int
    judged: int


PUBLISHED, QUICK = Extent(200, 240), Extent(40, 60)


def variants(lab: Lab) -> dict[str, RunConfig]:
    """Without a penalty, and the demo's recipe."""
    return {"λ = 0": lab.config(), "recipe": lab.config(**RECIPE)}


def subjects(lab: Lab, config: RunConfig) -> list[PreparedCrosscoder]:
    """A subject a training seed, with all latents that qualify, read on held-out text."""
    lab.trainings.finish(replace(config, seed=seed) for seed in lab.settings.seeds)
    return [_subject(lab, replace(config, seed=seed)) for seed in lab.settings.seeds]


def studies(lab: Lab, config: RunConfig) -> list[Study]:
    """The same in two halves, of which one is judged on validation text."""
    text = _rows(lab, "validation")[: extent(lab).judged]
    return [
        study(subject, deal(lab.model, subject.crosscoder, text))
        for subject in subjects(lab, config)
    ]


def extent(lab: Lab) -> Extent:
    """How much text there is at the settings' size."""
    return QUICK if lab.settings.quick else PUBLISHED


def setup_words(lab: Lab) -> str:
    """One sentence about how the numbers were made."""
    size, own = lab.settings.size, extent(lab)
    seeds = ", ".join(map(str, lab.settings.seeds))
    quick = " (--quick: too small for conclusions)" if lab.settings.quick else ""
    return (
        f"Model {lab.settings.model}; {size.n_latents:,} latents, k = {size.k}, {size.steps} steps "
        f"of {size.batch_tokens:,} tokens, training seeds {seeds}{quick}; clusters from "
        f"{own.measured} sequences of training text, chosen on {own.judged} of validation text, "
        f"judged on {own.judged} of held-out text. In brackets: 95% intervals."
    )


def _subject(lab: Lab, config: RunConfig) -> PreparedCrosscoder:
    crosscoder = lab.trainings.load(config)
    measured = _rows(lab, "train")[: extent(lab).measured]
    rows, skip = _rows(lab, "held_out"), lab.setup()["skip"]
    subject = prepare(
        lab.model,
        f"seed {config.seed}",
        MeasuredCrosscoder(
            crosscoder,
            _interactions(lab, config, crosscoder, measured),
            measured,
            rows[skip : skip + extent(lab).judged],
        ),
        LatentChoice(latents=crosscoder.n_latents),
        stability=False,
    )
    lab.settings.say(f"read: seed {config.seed}, {len(subject.latents)} latents")
    return subject


def _interactions(
    lab: Lab, config: RunConfig, crosscoder: Crosscoder, measured: Int[Tensor, "S T"]
) -> Interactions:
    made_from = {
        "crosscoder": lab.trainings.made_from(config),
        "tokens": digest(measured.numpy().tobytes()),
    }
    write = partial(_measure, lab, crosscoder, measured)
    return Interactions.load(lab.cache.get(SUMS, made_from, write) / SUMS)


def _measure(lab: Lab, crosscoder: Crosscoder, measured: Int[Tensor, "S T"], folder: Path) -> None:
    tally_interactions(lab.model, crosscoder, measured).interactions.save(folder / SUMS)


def _rows(lab: Lab, split: Split) -> Int[Tensor, "S T"]:
    return read_sequences(lab.settings.text, lab.model, lab.text("train").shape[1], split)
