"""Hookpoints as places of the residual stream, and the norm through which an MLP reads it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel
from crossproof.lm.norms import Norm, Unnormed
from crossproof.lm.unembedding import norm_of, reads_the_stream

_PART = re.compile(r"blocks\.(\d+)\.(.+)")
_STEPS = {
    "hook_resid_pre": 0,
    "hook_in": 0,
    "hook_attn_out": 1,
    "attn.hook_out": 1,
    "hook_resid_mid": 2,
    "hook_mlp_out": 3,
    "mlp.hook_out": 3,
    "hook_resid_post": 4,
    "hook_out": 4,
}
_TAKEN = {
    "attn.hook_out": ("ln1_post", "hook_attn_out"),
    "mlp.hook_out": ("ln2_post", "hook_mlp_out"),
}
"""Outputs that the stream takes only through a second norm, where the block has one, and what it
takes; that is missing where the block scales it."""


def mlp_out(block: int) -> str:
    """The hookpoint of what a block's MLP puts out."""
    return f"blocks.{block}.mlp.hook_out"


@dataclass(frozen=True, order=True)
class StreamPlace:
    """A place along the stream, ordered as the model writes it."""

    block: int
    step: int
    """0: before the block. 1: what attention adds. 2: between. 3: what the MLP adds."""

    @property
    def whole(self) -> bool:
        """Whether it is the stream itself, with everything written before."""
        return self.step % 2 == 0


@dataclass(frozen=True, eq=False)
class MLPInput:
    """How one block's MLP reads the stream and writes to it."""

    stream: str
    """The hookpoint of what the norm reads."""
    norm: Norm
    """`Unnormed` where the MLP reads the stream as it is."""


@dataclass(frozen=True, eq=False)
class SecondNorm:
    """The norm that an MLP's output passes before it is added to the stream (Gemma 2, OLMo 2)."""

    output: str
    """The hookpoint of what it reads: the MLP's output."""
    norm: Norm


def stream_place(model: LanguageModel, name: str) -> StreamPlace | None:
    """Where the stream holds a hookpoint's value as a summand; None where it does not."""
    if name == "hook_embed" or (name == "embed.hook_out" and _takes_embeddings(model)):
        return StreamPlace(-1, 3)
    match = _PART.fullmatch(name)
    if match is None or match[2] not in _STEPS:
        return None
    block, step = int(match[1]), _STEPS[match[2]]
    if match[2] in _TAKEN:
        hookpoints, (norm, taken) = model.available_hookpoints(), _TAKEN[match[2]]
        at = f"blocks.{block}."
        if f"{at}{norm}.hook_in" in hookpoints or f"{at}{taken}" not in hookpoints:
            return None
    return StreamPlace(block + 1, 0) if step == 4 else StreamPlace(block, step)


def _takes_embeddings(model: LanguageModel) -> bool:
    """Whether the stream begins with the embeddings as they are, neither scaled nor normed."""
    hookpoints = model.available_hookpoints()
    return "hook_embed" in hookpoints and "embed_ln.hook_out" not in hookpoints


def mlp_place(model: LanguageModel, block: int) -> StreamPlace:
    """Where a block's MLP reads the stream: before the block where attention runs beside it."""
    between = f"blocks.{block}.hook_resid_mid" in model.available_hookpoints()
    return StreamPlace(block, 2 if between else 0)


def rewritten_between(model: LanguageModel, place: StreamPlace, reader: StreamPlace) -> bool:
    """Whether a block in between scales or norms the stream itself, so that what was written at
    `place` is no summand of the stream at `reader`."""
    found = []
    for block in range(model.n_blocks):
        owner, own = model.owner(block)
        found += [StreamPlace(block, 2)] if owner.rewrites(own, whole=False) else []
        found += [StreamPlace(block + 1, 0)] if owner.rewrites(own, whole=True) else []
    return any(place < where <= reader for where in found)


def mlp_input(model: LanguageModel, block: int) -> MLPInput:
    """How a block's MLP reads the stream.

    Raises CrossproofError where it reads neither the stream nor a norm of it that has a known form.
    """
    hookpoints, at = model.available_hookpoints(), f"blocks.{block}."
    before = next((n for n in ("ln2", "ln1") if f"{at}{n}.hook_in" in hookpoints), None)
    if before is None and reads_the_stream(model, block):
        return MLPInput(f"{at}mlp.hook_in", Unnormed.of_width(model.d_model))
    before = before or "ln2"
    return MLPInput(f"{at}{before}.hook_in", norm_of(model, at + before, f"{at}mlp.hook_in"))


def second_norm(model: LanguageModel, block: int) -> SecondNorm | None:
    """The norm behind a block's MLP, if there is one before the stream takes its output.

    Raises CrossproofError where its form is not known.
    """
    owner, own = model.owner(block)
    name = f"blocks.{own}.ln2_post"
    if f"{name}.hook_in" not in owner.available_hookpoints():
        return None
    return SecondNorm(f"blocks.{block}.mlp.hook_out", norm_of(owner, name))


def upstream(places: Mapping[int, StreamPlace], reader: StreamPlace) -> tuple[int, ...]:
    """Which of several places make up what the stream holds at `reader`, each part once.

    `places` by index. The last whole stream before the reader holds everything written before it,
    so only the parts added after it count besides. Raises CrossproofError where two are the same.
    """
    before = {i: p for i, p in places.items() if p < reader or (p.whole and p == reader)}
    if len(set(before.values())) < len(before):
        raise CrossproofError(
            "Two of the dictionary's hookpoints are the same place of the residual stream, which "
            "would be counted twice: leave one out."
        )
    last = max((p for p in before.values() if p.whole), default=None)
    return tuple(i for i, p in before.items() if last is None or p >= last)


def next_blocks(places: Collection[StreamPlace], readers: Sequence[StreamPlace]) -> tuple[int, ...]:
    """For each place the first block whose MLP reads the stream behind it; in order, each once."""
    chosen = set()
    for place in places:
        later = (b for b, r in enumerate(readers) if place < r or (place.whole and place == r))
        chosen.add(next(later, -1))
    return tuple(sorted(chosen - {-1}))
