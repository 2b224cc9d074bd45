"""Two language models as one: their hookpoints side by side, for model diffing.

A crosscoder over both models' hookpoints explains them with one set of latents; a latent that one
model alone has decodes into that model alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.errors import CrossproofError, nearest
from crossproof.lm.attention import AttentionWeights
from crossproof.lm.hookpoints import BlockHookpoints, Hookpoints
from crossproof.lm.mixture import MixtureWeights
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.model import LanguageModel, Write

PREFIXES = ("base/", "diff/")
"""Of the first and the second model's hookpoints."""


class ModelPair(LanguageModel):
    """Two language models that read the same tokens.

    Hookpoints are "base/NAME" and "diff/NAME"; blocks are numbered through, those of the second
    model behind those of the first, and "blocks.N.…" with such a number is understood too. Losses
    are means over both models, so what is patched in one model changes half as much; fidelities
    and recovered losses, being ratios of such changes, are those of the patched model. `name` and
    `weights_hash` are both models', with a comma between.
    """

    def __init__(self, base: LanguageModel, diff: LanguageModel) -> None:
        _check_twins(base, diff)
        self.models = (base, diff)
        self.name = f"{base.name},{diff.name}"
        self.tokenizer = base.tokenizer
        self.n_blocks = base.n_blocks + diff.n_blocks
        self.d_model = base.d_model
        self.context = min(base.context, diff.context)
        self.vocab_size = base.vocab_size
        self.device, self.dtype = base.device, base.dtype
        self.special_ids = base.special_ids | diff.special_ids

    @property
    def weights_hash(self) -> str:
        """The hashes of both models, with a comma between."""
        return ",".join(model.weights_hash for model in self.models)

    def available_hookpoints(self) -> tuple[str, ...]:
        """Every hookpoint of the first model, then every one of the second."""
        return tuple(
            prefix + name
            for prefix, model in zip(PREFIXES, self.models, strict=True)
            for name in model.available_hookpoints()
        )

    def missing_hookpoints(self) -> dict[str, str]:
        """What either model lacks, and why."""
        return {
            prefix + name: why
            for prefix, model in zip(PREFIXES, self.models, strict=True)
            for name, why in model.missing_hookpoints().items()
        }

    def hookpoints(self, patterns: Sequence[str] | None = None) -> Hookpoints:
        """The hookpoints that names or globs select: in both models, or in the one they begin with.

        Raises CrossproofError for a pattern that selects nothing.
        """
        names: list[str] = []
        blocks: list[BlockHookpoints] = []
        for prefix, model in zip(PREFIXES, self.models, strict=True):
            mine = _patterns(patterns, prefix, self.available_hookpoints())
            if mine or not patterns:
                found = model.hookpoints(mine)
            else:
                found = Hookpoints.from_names((), model.n_blocks)
            blocks += [_shifted(block, len(names)) for block in found.blocks]
            names += [prefix + name for name in found.names]
        return Hookpoints(tuple(names), tuple(blocks))

    def owner(self, block: int) -> tuple[LanguageModel, int]:
        """The model that has a block, and its number there."""
        model, place = self._owner(block)
        return self.models[model], place

    def mlp(self, block: int) -> MLPWeights:
        """The MLP of a block, the second model's blocks behind the first's."""
        model, place = self._owner(block)
        return self.models[model].mlp(place)

    def is_mixture(self, block: int) -> bool:
        """Whether the MLP of a block is a mixture of experts."""
        model, place = self._owner(block)
        return self.models[model].is_mixture(place)

    def mixture(self, block: int) -> MixtureWeights:
        """The mixture of experts of a block, numbered likewise."""
        model, place = self._owner(block)
        return self.models[model].mixture(place)

    def attention(self, block: int) -> AttentionWeights:
        """The attention of a block, the second model's blocks behind the first's."""
        model, place = self._owner(block)
        return self.models[model].attention(place)

    def read(self, tokens: Int[Tensor, "S T"], names: Sequence[str], write: Write) -> None:
        """Hands each named hookpoint's value to `write`; each model runs once, if it must."""
        located = [self.locate(name) for name in names]
        for number, model in enumerate(self.models):
            places = [i for i, (owner, _) in enumerate(located) if owner == number]

            def hand(place: int, value: Tensor, places: list[int] = places) -> None:
                write(places[place], value)

            model.read(tokens, [located[i][1] for i in places], hand)

    def logits(
        self, tokens: Int[Tensor, "S T"], replace: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "S T V"]:
        """Raises CrossproofError: two models have no common logits; ask one of `models`."""
        raise CrossproofError(
            f"'{self.name}' are two models and have no common logits; use one of them for this."
        )

    def log_probabilities(
        self, tokens: Int[Tensor, "S T"], replace: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "M S T V"]:
        """Each model's log-probabilities of the next token."""
        parts = self.split(replace)
        pairs = zip(self.models, parts, strict=True)
        return torch.cat([model.log_probabilities(tokens, part) for model, part in pairs])

    def token_losses(
        self, tokens: Int[Tensor, "S T"], replace: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "S T-1"]:
        """Cross-entropy of each next token, in nats, mean over the two models."""
        parts = self.split(replace)
        pairs = zip(self.models, parts, strict=True)
        return torch.stack([model.token_losses(tokens, part) for model, part in pairs]).mean(0)

    def locate(self, name: str) -> tuple[int, str]:
        """The model, 0 or 1, that has a hookpoint, and its name there.

        Raises CrossproofError for a name that neither has.
        """
        for number, prefix in enumerate(PREFIXES):
            if name.startswith(prefix):
                return number, name.removeprefix(prefix)
        head, _, rest = name.removeprefix("blocks.").partition(".")
        if not name.startswith("blocks.") or not head.isdecimal() or not rest:
            known = self.available_hookpoints()
            raise CrossproofError(f"'{self.name}' has no hookpoint '{name}'.{nearest(name, known)}")
        model, place = self._owner(int(head))
        return model, f"blocks.{place}.{rest}"

    def _owner(self, block: int) -> tuple[int, int]:
        if not 0 <= block < self.n_blocks:
            raise CrossproofError(
                f"'{self.name}' has blocks 0 to {self.n_blocks - 1}; there is no block {block}."
            )
        first = self.models[0].n_blocks
        return (0, block) if block < first else (1, block - first)

    def split(self, replace: Mapping[str, Tensor] | None) -> tuple[dict[str, Tensor], ...]:
        parts: tuple[dict[str, Tensor], ...] = ({}, {})
        for name, value in (replace or {}).items():
            model, local = self.locate(name)
            parts[model][local] = value
        return parts


def _check_twins(base: LanguageModel, diff: LanguageModel) -> None:
    for what, mine, theirs in (
        ("width", base.d_model, diff.d_model),
        ("vocabulary size", base.vocab_size, diff.vocab_size),
        ("dtype", base.dtype, diff.dtype),
        ("device", base.device, diff.device),
    ):
        if mine != theirs:
            raise CrossproofError(
                f"'{base.name}' and '{diff.name}' cannot be compared: their {what} is {mine} and "
                f"{theirs}; choose two models that differ in their weights only."
            )
    vocabularies = [m.tokenizer.get_vocab() for m in (base, diff) if m.tokenizer is not None]
    if len(vocabularies) == 2 and vocabularies[0] != vocabularies[1]:
        raise CrossproofError(
            f"'{base.name}' and '{diff.name}' have different tokenizers and cannot read the same "
            f"tokens; choose two models with one tokenizer."
        )


def _patterns(
    patterns: Sequence[str] | None, prefix: str, available: Sequence[str]
) -> list[str] | None:
    """The patterns for one model: those that begin with its prefix, and those with neither."""
    if not patterns:
        return None if patterns is None else []
    other = [p for p in PREFIXES if p != prefix]
    mine = [p.removeprefix(prefix) for p in patterns if not p.startswith(tuple(other))]
    for pattern in patterns:
        whole = pattern if pattern.startswith(PREFIXES) else f"*/{pattern}"
        if not any(fnmatchcase(name, whole) for name in available):
            raise CrossproofError(
                f"'{pattern}' selects no hookpoint of either model.{nearest(pattern, available)}"
            )
    return mine


def _shifted(block: BlockHookpoints, by: int) -> BlockHookpoints:
    places = {field.name: getattr(block, field.name) for field in fields(BlockHookpoints)}
    return BlockHookpoints(**{k: None if v is None else v + by for k, v in places.items()})
