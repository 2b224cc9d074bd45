"""What each dictionary of a training needs: its plan, and the MLPs that its objective is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from crossproof.activations import Harvest
from crossproof.activations.store import StoredActivations
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.layout import Layout
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interactions.config import mlps_of
from crossproof.interactions.views import reading_mlps
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.model import LanguageModel
from crossproof.lm.norms import Norm
from crossproof.lm.stream import mlp_input, second_norm
from crossproof.training.config import RunConfig
from crossproof.training.kinds import DictionaryPlan, plans
from crossproof.training.objectives import about_mlps, about_text
from crossproof.training.passages import Passages, PassagesAt
from crossproof.training.step import StreamReading
from crossproof.training.trainer import Trainer


@dataclass(frozen=True)
class PenalisedMLPs:
    """The MLPs that objectives are about."""

    at_inputs: dict[int, MLPWeights] = field(default_factory=dict)
    """By the hookpoint at their input."""
    second_norms: dict[int, Norm] = field(default_factory=dict)
    """Those behind some of them, by the same hookpoints."""
    upstream: tuple[tuple[MLPWeights, StreamReading], ...] = ()
    """Those that read hookpoints of the stream before their norm."""
    streams: tuple[str, ...] = ()
    """What those norms read."""
    blocks: tuple[int, ...] = ()
    """Of all of them, those read at their inputs first."""


@dataclass(frozen=True)
class DictionarySpec:
    """One dictionary to train, and what its objective is about."""

    owner: str
    """The configuration's name."""
    place: str
    """What it writes, if the configuration has several; else empty."""
    config: RunConfig
    plan: DictionaryPlan
    about: PenalisedMLPs

    @property
    def name(self) -> str:
        """The dictionary's own."""
        return f"{self.owner}/{self.place}" if self.place else self.owner

    @property
    def kind(self) -> tuple[CrosscoderConfig, DictionaryPlan]:
        """What decides its first weights."""
        return self.config.crosscoder, self.plan

    def columns(self, names: Sequence[str]) -> tuple[int, ...] | None:
        """Where a batch of `names` has its hookpoints and what its objective needs besides."""
        wanted = [*self.plan.hookpoints.names, *self.about.streams]
        first = list(names[: len(wanted)])
        return None if wanted == first else tuple(map(list(names).index, wanted))

    def trainer(
        self,
        crosscoder: Crosscoder,
        names: Sequence[str],
        passages: PassagesAt | None = None,
        layout: Layout | None = None,
    ) -> Trainer:
        """Its trainer, on batches of `names`; `crosscoder` may be a part of one of `layout`."""
        config, about = self.config, self.about
        return Trainer(
            crosscoder,
            about.at_inputs,
            config.objective,
            config.optimisation,
            config.steps,
            config.seed,
            about.upstream,
            self.columns(names),
            about.second_norms,
            passages,
            layout,
        )

    def passage_tokens(self, batch_tokens: int) -> int:
        """Tokens of whole sequences beside a batch of so many: as many as terms about MLPs are
        computed on; 0 if no term is about the model's predictions."""
        if not about_text(self.config.objective) or not self.about.blocks:
            return 0
        return max(1, round(self.config.optimisation.penalty_fraction * batch_tokens))

    def passages(self, batches: Harvest | StoredActivations) -> PassagesAt | None:
        """Whole sequences of a harvest, for terms about the model's predictions if it has any.

        Raises CrossproofError where such terms find stored activations and no text.
        """
        tokens = self.passage_tokens(batches.batch_tokens)
        if not tokens:
            return None
        if isinstance(batches, StoredActivations):
            raise CrossproofError(
                "Terms about predictions (--keep-largest-kl, --all-latents-kl) need the text, and "
                "stored activations are not it: train with --text instead of --activations.",
                code="CP-OPTION",
            )
        return Passages(
            batches.model,
            batches.sequences,
            batches.names,
            self.about.blocks,
            tokens,
            self.config.seed,
            batches.positions,
        ).at


def about_mlps_of(model: LanguageModel, plan: DictionaryPlan, config: RunConfig) -> PenalisedMLPs:
    if not about_mlps(config.objective):
        return PenalisedMLPs()
    hookpoints = plan.hookpoints
    if plan.layout is not None:
        hookpoints = hookpoints.playing_parts_at(plan.written)
    reading = reading_mlps(model, hookpoints, plan.written, mlps_of(config.penalise))
    at_inputs: dict[int, MLPWeights] = {}
    second_norms: dict[int, Norm] = {}
    upstream: list[tuple[MLPWeights, StreamReading]] = []
    streams: list[str] = []
    behind_norms: list[int] = []
    for block, read in reading.items():
        at, mlp = hookpoints.blocks[block].mlp_in, model.mlp(block)
        behind = second_norm(model, block)
        second = None if behind is None else behind.norm
        if at is not None:
            at_inputs[at] = mlp
            if second is not None:
                second_norms[at] = second
            continue
        before = mlp_input(model, block)
        upstream.append((mlp, StreamReading(read, before.norm, len(streams), second)))
        streams.append(before.stream)
        behind_norms.append(block)
    blocks = (*(block for block in reading if block not in behind_norms), *behind_norms)
    return PenalisedMLPs(at_inputs, second_norms, tuple(upstream), tuple(streams), blocks)


def check_read(config: RunConfig, abouts: Sequence[PenalisedMLPs]) -> None:
    """Raises CrossproofError if terms are about MLPs and none reads any of the dictionaries."""
    if about_mlps(config.objective) and not any(a.at_inputs or a.upstream for a in abouts):
        raise CrossproofError(
            "No MLP reads the hookpoints, so there is nothing to penalise: add "
            "'blocks.*.mlp.hook_in' or places of the stream before an MLP to --hookpoints, or set "
            "the objective's strengths (--interaction, --keep-largest, --all-latents ...) to 0."
        )


def specified_all(model: LanguageModel, configs: Mapping[str, RunConfig]) -> list[DictionarySpec]:
    """The dictionaries of all configurations."""
    return [
        specified(model, name, place, config, plan)
        for name, config in configs.items()
        for place, plan in plans(model, config).items()
    ]


def specified(
    model: LanguageModel, owner: str, place: str, config: RunConfig, plan: DictionaryPlan
) -> DictionarySpec:
    """The dictionary of a plan, with the MLPs that its objective is about."""
    return DictionarySpec(owner, place, config, plan, about_mlps_of(model, plan, config))
