"""What explainers, judges and scorers are given of each latent, part of the text by part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from transformers import PreTrainedTokenizerBase

from crossproof.clusters.config import Material as Material
from crossproof.clusters.explain import DataExplainer, Explanation
from crossproof.clusters.judges import Item, Question
from crossproof.clusters.llm import LLM
from crossproof.clusters.prompts import Prompt, explain_prompt, read_explanation
from crossproof.clusters.reading import Reading
from crossproof.clusters.trials import Trial
from crossproof.clusters.windows import Windows, marked
from crossproof.evaluation.contexts import Context

Side = Literal["shown", "options"]
SIDES: tuple[Side, Side] = ("shown", "options")


@dataclass(eq=False)
class Texts:
    """Explanations and contexts of latents, made when they are first needed.

    Each side of the task has its own explanation, from its own part of the text, and its own
    contexts from yet another.
    """

    readings: dict[str, Reading]
    tokenizer: PreTrainedTokenizerBase | None
    contexts: int = 5
    llm: LLM | None = None
    """Writes the explanations; without one they are made from counts."""
    _explained: dict[tuple[Side, int], Explanation] = field(default_factory=dict)
    _contexts: dict[tuple[str, int], list[Context]] = field(default_factory=dict)

    @cached_property
    def _explainers(self) -> dict[Side, DataExplainer]:
        return {s: DataExplainer(self.readings[f"explain {s}"], self.tokenizer) for s in SIDES}

    def windows(self, part: str) -> Windows:
        """One part of the text as windows."""
        return Windows(self.readings[part], self.tokenizer)

    def strongest(self, part: str, latent: int) -> list[Context]:
        """The latent's strongest contexts in one part."""
        key = part, latent
        if key not in self._contexts:
            self._contexts[key] = self.windows(part).strongest(latent, self.contexts)
        return self._contexts[key]

    def from_data(self, side: Side, latent: int) -> Explanation:
        """The explanation from counts, whoever writes the others."""
        return self._explainers[side].explain(latent)

    def prompt(self, side: Side, latent: int) -> Prompt:
        """What the language model is asked about one latent."""
        return explain_prompt([marked(c) for c in self.strongest(f"explain {side}", latent)])

    def explain(
        self,
        wanted: Iterable[tuple[Side, int]],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Makes explanations, those by a language model all in one go."""
        new = [key for key in dict.fromkeys(wanted) if key not in self._explained]
        if self.llm is None:
            for done, (side, latent) in enumerate(new, 1):
                self._explained[side, latent] = self.from_data(side, latent)
                if progress is not None:
                    progress(done, len(new))
            return
        prompts = [self.prompt(side, latent) for side, latent in new]
        answers = self.llm.ask(prompts, read_explanation, progress)
        for (side, latent), answer in zip(new, answers, strict=True):
            text = answer or "no readable explanation"
            self._explained[side, latent] = Explanation(latent, text, self.llm.endpoint.model)

    def explanation(self, side: Side, latent: int) -> Explanation:
        """One explanation, made now if it was not made before."""
        if (side, latent) not in self._explained:
            self.explain([(side, latent)])
        return self._explained[side, latent]

    def item(self, material: Material, side: Side, latent: int) -> Item:
        """What stands for a latent on one side of the task."""
        if material == "explanations":
            return (self.explanation(side, latent).text,)
        return tuple(marked(context) for context in self.strongest(f"judge {side}", latent))


def questions(
    trials: Sequence[Trial], latents: Sequence[int], item: Callable[[Side, int], Item]
) -> list[Question]:
    """Trials as texts; `latents` are the chosen ones, to which trials refer by position."""
    return [
        Question(
            tuple(item("shown", latents[i]) for i in trial.shown),
            tuple(item("options", latents[i]) for i in trial.options),
        )
        for trial in trials
    ]


def needed(trials: Sequence[Trial], latents: Sequence[int]) -> list[tuple[Side, int]]:
    """Every side and latent of the trials, once."""
    found: dict[tuple[Side, int], None] = {}
    for trial in trials:
        found |= {("shown", latents[i]): None for i in trial.shown}
        found |= {("options", latents[i]): None for i in trial.options}
    return list(found)
