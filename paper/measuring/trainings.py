"""Crosscoders by configuration, trained once: variants of a seed share their batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from crossproof.activations import read_sequences
from crossproof.crosscoder import Crosscoder, Provenance, save_crosscoder
from crossproof.lm import LanguageModel
from crossproof.training import RunConfig, train_together
from paper.measuring.cache import ResultCache, canonical, digest

VARIED = ("crosscoder", "objective", "optimisation", "baseline")
"""What may differ between crosscoders that train on the same batches."""

TOGETHER = 16
"""Crosscoders trained in one pass over the activations: each holds its weights five times."""

ELSEWHERE = (
    *("model", "text", "baseline", "threads", "device", "checkpoint_every", "log_every"),
    *("evaluation_sequences", "evaluation_skip"),
)
"""FigureSettings that a finished crosscoder does not depend on, or that its key has as a hash."""


@dataclass(frozen=True, eq=False)
class Trainings:
    """Trains configurations on one model, unless the cache has them."""

    model: LanguageModel
    cache: ResultCache
    say: Callable[[str], None]
    text_hashes: dict[tuple[str, int], str] = field(default_factory=dict)

    def made_from(self, config: RunConfig) -> dict[str, Any]:
        """All that the finished crosscoder depends on, texts and weights by their hashes."""
        values = asdict(config)
        for name in ELSEWHERE:
            del values[name]
        # A later setting: what was trained before there were groups still counts.
        if config.crosscoder.groups == 1:
            del values["crosscoder"]["groups"]
        return {
            "model": self.model.weights_hash,
            "text": self._text_hash(config),
            "hookpoints": list(self.model.hookpoints(list(config.hookpoints) or None).names),
            **{name: value for name, value in values.items() if name != "hookpoints"},
        }

    def folder(self, config: RunConfig) -> Path:
        """Where the finished crosscoder is, or will be."""
        return self.cache.path("crosscoder", self.made_from(config)) / "crosscoder"

    def load(self, config: RunConfig) -> Crosscoder:
        """A crosscoder that `finish` has trained."""
        return Crosscoder.from_pretrained(self.folder(config))

    def finish(self, configs: Iterable[RunConfig]) -> None:
        """Trains what the cache lacks, as many as possible on the same batches."""
        waiting: dict[str, list[RunConfig]] = defaultdict(list)
        for config in dict.fromkeys(configs):
            if self.cache.find("crosscoder", self.made_from(config)) is None:
                waiting[self._batches(config)].append(config)
        for group in waiting.values():
            for start in range(0, len(group), TOGETHER):
                self._train(group[start : start + TOGETHER])

    def _batches(self, config: RunConfig) -> str:
        """What configurations must share to train on the same batches."""
        made_from = self.made_from(config)
        return canonical({k: v for k, v in made_from.items() if k not in VARIED})

    def _train(self, configs: list[RunConfig]) -> None:
        first = configs[0]
        rows = read_sequences(first.text, self.model, self._context(first), "train")
        named = {str(place): config for place, config in enumerate(configs)}
        for name, crosscoder in train_together(self.model, rows, named, self.say).items():
            config = named[name]
            origin = Provenance(
                self.model.name, self.model.weights_hash, config.seed, asdict(config)
            )
            write = partial(_save, crosscoder, origin)
            self.cache.put("crosscoder", self.made_from(config), write)

    def _text_hash(self, config: RunConfig) -> str:
        key = config.text, self._context(config)
        if key not in self.text_hashes:
            rows = read_sequences(config.text, self.model, self._context(config), "train")
            self.text_hashes[key] = digest(rows.numpy().tobytes())
        return self.text_hashes[key]

    def _context(self, config: RunConfig) -> int:
        return min(config.context, self.model.context)


def _save(crosscoder: Crosscoder, origin: Provenance, folder: Path) -> None:
    save_crosscoder(crosscoder, folder / "crosscoder", origin)
