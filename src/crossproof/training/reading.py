"""What a training reads: activations harvested as it goes, or stored before."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.activations import (
    Harvest,
    MassiveActivation,
    NormSurvey,
    PositionRule,
    survey_norms,
)
from crossproof.activations.config import MASSIVE
from crossproof.activations.massive import SAMPLE_ROWS
from crossproof.activations.store import StoredActivations
from crossproof.activations.token_rows import TokenRows
from crossproof.errors import CrossproofError, CrossproofWarning
from crossproof.lm.hookpoints import Hookpoints
from crossproof.lm.model import LanguageModel
from crossproof.training import distributed
from crossproof.training.config import RunConfig
from crossproof.training.specs import DictionarySpec

Rows = Int[Tensor, "S T"] | TokenRows
"""Rows of tokens, in memory or on the disk."""
Activations = Harvest | StoredActivations
"""Batches by step."""


@dataclass(frozen=True, eq=False)
class TrainingActivations:
    """This process's batches, and what they are of."""

    batches: Activations
    massive: tuple[MassiveActivation, ...]
    """Massive activations in the first sequences of the text."""
    sequences: Rows | None
    """The whole text, of all processes; none where activations are stored."""

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 over the tokens and the shape of their rows, or over
        what is stored of either."""
        if isinstance(self.batches, StoredActivations):
            return self.batches.digest
        if isinstance(self.sequences, TokenRows):
            return hashlib.sha256(self.sequences.digest.encode()).hexdigest()[:16]
        assert self.sequences is not None
        digest = hashlib.sha256(str(tuple(self.sequences.shape)).encode())
        for rows in self.sequences.cpu().split(1 << 16):
            digest.update(rows.to(torch.int32).contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def activations_for(
    model: LanguageModel, sequences: Rows | None, config: RunConfig, specs: Sequence[DictionarySpec]
) -> TrainingActivations:
    """What the dictionaries read, this process's share of every batch."""
    tokens = distributed.share_of(config.batch_tokens)  # even, or refused
    if sequences is None:
        stored = _stored(model, config, specs)
        return TrainingActivations(stored, stored.massive, None)
    harvest, massive = harvest_for(model, sequences, config, specs, tokens)
    return TrainingActivations(harvest, massive, sequences)


def harvest_for(
    model: LanguageModel,
    sequences: Rows,
    config: RunConfig,
    specs: Sequence[DictionarySpec],
    batch_tokens: int,
) -> tuple[Harvest, tuple[MassiveActivation, ...]]:
    """What the dictionaries read of the model on this process's share of the sequences, and what is
    massive in the first ones."""
    hookpoints, streams = _read_by(model, specs)
    positions, survey = _position_rule(model, sequences[:SAMPLE_ROWS], hookpoints, config)
    harvest = Harvest(
        model,
        _share(sequences),
        hookpoints,
        batch_tokens,
        config.shuffled_batches,
        config.seed,
        positions=positions,
        also=streams,
    )
    return harvest, survey.massive


def _stored(
    model: LanguageModel, config: RunConfig, specs: Sequence[DictionarySpec]
) -> StoredActivations:
    """The stored activations that the dictionaries read."""
    hookpoints, streams = _read_by(model, specs)
    share = slice(distributed.rank(), None, distributed.world())
    names = (*hookpoints.names, *streams)
    stored = StoredActivations(Path(config.activations), model, names, config.batch_tokens, share)
    if config.steps > stored.batches:
        sentence = (
            f"{config.activations} holds {stored.batches:,} batches of {config.batch_tokens:,} "
            f"tokens: {config.steps:,} steps read them again from the beginning."
        )
        warnings.warn(sentence, CrossproofWarning, stacklevel=2)
    return stored


def _read_by(
    model: LanguageModel, specs: Sequence[DictionarySpec]
) -> tuple[Hookpoints, tuple[str, ...]]:
    """The dictionaries' hookpoints, and what their objectives need besides."""
    names = [name for spec in specs for name in spec.plan.hookpoints.names]
    hookpoints = model.hookpoints(list(dict.fromkeys(names)))
    streams = dict.fromkeys(stream for spec in specs for stream in spec.about.streams)
    return hookpoints, tuple(name for name in streams if name not in hookpoints.names)


def _share(sequences: Rows) -> Int[Tensor, "R T"] | TokenRows:
    """This process's sequences."""
    rank, world = distributed.rank(), distributed.world()
    if isinstance(sequences, TokenRows):
        return sequences.dealt(rank, world)
    return sequences[rank::world]


def _position_rule(
    model: LanguageModel, sample: Int[Tensor, "R T"], hookpoints: Hookpoints, config: RunConfig
) -> tuple[PositionRule, NormSurvey]:
    """Which positions count, and what is massive in a sample; the same in all processes."""
    rule, multiple = PositionRule(config.skip_first), config.drop_outliers
    survey = survey_norms(model, sample, hookpoints.names, rule)
    if multiple == 0:
        return rule, survey
    if not multiple > 1:
        raise CrossproofError(
            f"drop_outliers is {multiple:g}; give a multiple of the median norm above 1, such as "
            f"{MASSIVE:g}, or 0 to leave nothing out."
        )
    rule = replace(rule, norm_limits=survey.limits(multiple))
    return rule, survey_norms(model, sample, hookpoints.names, rule)
