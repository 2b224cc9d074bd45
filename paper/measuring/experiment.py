"""Where figures get crosscoders and measurements from: made once, then found in the cache.

experiment = Experiment.open(settings)
variants = {"λ = 0": experiment.config(), "λ = 100": experiment.config(interaction=100.0)}
experiment.crosscoders(variants)["λ = 100"][0]  # of the first seed
experiment.measure(variants)["λ = 100"].figure("phi/keep-largest/exact_mid").estimate()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof import CrossproofError
from crossproof.activations import Split, read_sequences
from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.evaluation import EvaluationOptions, tally_sequences
from crossproof.lm import LanguageModel, load_model
from crossproof.training import DEMO, Objective, RunConfig, keep_freed_memory, thread_setting
from paper.measuring.cache import ResultCache, digest
from paper.measuring.measurements import Measured, SeedMeasurements
from paper.measuring.settings import FigureSettings
from paper.measuring.trainings import Trainings

Variants = Mapping[str, RunConfig]
"""Configurations by name; each stands for one training a seed of the settings."""

SHORT = EvaluationOptions(
    patch_hookpoints=False, schemes=("none", "keep-largest"), mids=("exact_mid",)
)
"""Reconstruction, interactions, and the two schemes that headlines are about."""
ZEROED = ("ce-zero", "kl-zero")


@dataclass(frozen=True, eq=False)
class Experiment:
    """A language model, its text, and a cache of what was made from them."""

    settings: FigureSettings
    model: LanguageModel
    cache: ResultCache
    zeroed: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    """Losses with hookpoints zeroed, by text: the same for all crosscoders."""

    @classmethod
    def open(cls, settings: FigureSettings) -> Experiment:
        """Loads the model. Raises CrossproofError without seeds, or with one given twice."""
        if not settings.seeds or len(set(settings.seeds)) != len(settings.seeds):
            raise CrossproofError("Give at least one seed, and none twice: --seeds 0 1 2.")
        thread_setting(settings.threads)
        keep_freed_memory()
        return cls(settings, load_model(settings.model), ResultCache(settings.cache))

    def config(self, **terms: Any) -> RunConfig:
        """The settings' size with these terms beside the reconstruction error."""
        size = self.settings.size
        return RunConfig(
            model=self.settings.model,
            text=self.settings.text,
            context=self._context,
            crosscoder=CrosscoderConfig(n_latents=size.n_latents, k=size.k),
            objective=Objective(**terms),
            optimisation=DEMO.optimisation,
            baseline=False,
            steps=size.steps,
            batch_tokens=size.batch_tokens,
        )

    def text(self, split: Split) -> Int[Tensor, "S T"]:
        """Sequences of a split: all of `train`, as many of the others as the size says."""
        rows = read_sequences(self.settings.text, self.model, self._context, split)
        if split == "train":
            return rows
        skip = self._skip if split == "held_out" else 0
        return rows[skip : skip + self.settings.size.sequences]

    def crosscoders(self, variants: Variants) -> dict[str, list[Crosscoder]]:
        """The finished crosscoders by name, one a seed; those not in the cache are trained."""
        self._train(variants)
        return {
            name: [self.trainings.load(replace(config, seed=s)) for s in self.settings.seeds]
            for name, config in variants.items()
        }

    def measure(
        self,
        variants: Variants,
        split: Split = "held_out",
        options: EvaluationOptions = EvaluationOptions(),  # noqa: B008  (frozen)
    ) -> dict[str, SeedMeasurements]:
        """Per-sequence sums of every variant and seed on a split's sequences, by name."""
        self._train(variants)
        tokens, runs = self.text(split), {}
        for place, (name, config) in enumerate(variants.items()):
            seeds = (replace(config, seed=seed) for seed in self.settings.seeds)
            found = tuple(self._measured(own, tokens, options) for own in seeds)
            runs[name] = SeedMeasurements(found, self.mlp_in)
            self.settings.say(f"measured {place + 1} of {len(variants)} on {split}: {name}")
        return runs

    def setup(self) -> dict[str, Any]:
        """What every figure's numbers say of how they were made."""
        settings = self.settings
        return {
            "model": settings.model,
            "model_hash": self.model.weights_hash,
            "text": settings.text,
            "seeds": list(settings.seeds),
            "quick": settings.quick,
            **asdict(settings.size),
            "context": self._context,
            "sequences": len(self.text("held_out")),
            "skip": self._skip,
        }

    @cached_property
    def trainings(self) -> Trainings:
        """The cached trainings on the model."""
        return Trainings(self.model, self.cache, self.settings.say)

    @cached_property
    def mlp_in(self) -> tuple[int, ...]:
        """Which of the crosscoders' hookpoints are inputs of MLPs."""
        hookpoints = self.model.hookpoints()
        places = (hookpoints.blocks[block].mlp_in for block in hookpoints.mlp_blocks)
        return tuple(place for place in places if place is not None)

    @property
    def _context(self) -> int:
        return min(self.settings.size.context, self.model.context)

    @property
    def _skip(self) -> int:
        return self.settings.size.skip if self.settings.text == "bundled" else 0

    def _train(self, variants: Variants) -> None:
        seeds = self.settings.seeds
        self.trainings.finish(replace(c, seed=s) for s in seeds for c in variants.values())

    def _measured(
        self, config: RunConfig, tokens: Int[Tensor, "S T"], options: EvaluationOptions
    ) -> Measured:
        text = digest(tokens.numpy().tobytes())
        made_from = {
            "crosscoder": self.trainings.made_from(config),
            "tokens": text,
            "options": asdict(replace(options, resamples=0)),
        }
        write = partial(self._tally, config, tokens, options, text)
        return Measured.load(self.cache.get("evaluation", made_from, write))

    def _tally(
        self,
        config: RunConfig,
        tokens: Int[Tensor, "S T"],
        options: EvaluationOptions,
        text: str,
        folder: Path,
    ) -> None:
        known = self.zeroed.get(text)
        crosscoder = self.trainings.load(config)
        tally = tally_sequences(self.model, crosscoder, tokens, options, known=known)
        measured = Measured.of(tally)
        if options.patch_hookpoints:
            self.zeroed[text] = {name: measured.sums[name] for name in ZEROED}
        measured.save(folder)
