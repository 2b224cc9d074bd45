"""Ordered hookpoint names, and the part each plays in its block."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase

from crossproof.errors import CrossproofError, nearest


@dataclass(frozen=True)
class BlockHookpoints:
    """Where one block's hookpoints stand in the list of names; None where absent."""

    resid_pre: int | None = None
    attn_in: int | None = None
    resid_mid: int | None = None
    mlp_in: int | None = None
    resid_post: int | None = None


@dataclass(frozen=True)
class Hookpoints:
    """The P hookpoints a crosscoder reads and writes, in forward order.

    names: TransformerLens spelling. blocks: one entry per block of the model.
    """

    names: tuple[str, ...]
    blocks: tuple[BlockHookpoints, ...]

    @classmethod
    def from_names(cls, names: Sequence[str], n_blocks: int) -> Hookpoints:
        """Hookpoints of a model with `n_blocks` blocks; raises CrossproofError on duplicates."""
        for name in names:
            if names.count(name) > 1:
                raise CrossproofError(f"The hookpoint '{name}' is listed twice; list it once.")
        return cls(tuple(names), tuple(_block(names, i) for i in range(n_blocks)))

    def index(self, name: str) -> int:
        """The position of `name` in the list; raises CrossproofError naming the nearest ones."""
        if name not in self.names:
            raise CrossproofError(
                f"The hookpoint '{name}' is not among these {len(self.names)} hookpoints."
                f"{nearest(name, self.names)}"
            )
        return self.names.index(name)

    def playing_parts_at(self, places: Collection[int]) -> Hookpoints:
        """The same names, with parts only at `places`: a transcoder has no decoder where it reads.

        Whatever looks for a block's mlp_in among the parts then finds those with a decoder alone.
        """

        def kept(place: int | None) -> int | None:
            return place if place in places else None

        blocks = tuple(
            BlockHookpoints(**{part: kept(place) for part, place in vars(block).items()})
            for block in self.blocks
        )
        return replace(self, blocks=blocks)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def mlp_blocks(self) -> tuple[int, ...]:
        """The blocks whose MLP input is among the hookpoints."""
        return tuple(i for i, block in enumerate(self.blocks) if block.mlp_in is not None)


def standard_names(n_blocks: int) -> tuple[str, ...]:
    """Every name of the standard set, in forward order, whether or not a model has it.

    Per block: residual stream before, attention input, residual stream in the middle, MLP
    input; then the residual stream after the last block.
    """
    per_block = ("hook_resid_pre", "attn.hook_in", "hook_resid_mid", "mlp.hook_in")
    names = [f"blocks.{i}.{role}" for i in range(n_blocks) for role in per_block]
    return (*names, f"blocks.{n_blocks - 1}.hook_resid_post")


def resolve_hookpoints(
    patterns: Sequence[str] | None,
    available: Sequence[str],
    n_blocks: int,
    absent: Mapping[str, str] | None = None,
    unreadable: Mapping[str, str] | None = None,
) -> Hookpoints:
    """The available names that `patterns` (names or globs) select, in the order of `available`.

    None selects the standard set, less the names the architecture lacks (there is no resid_mid
    where attention and MLP run in parallel). `absent` and `unreadable` say of other names why they
    are not available. Raises CrossproofError for a pattern that selects nothing, or one that is
    unreadable: nothing is left out without a word.
    """
    if patterns is None:
        wanted = standard_names(n_blocks)
        chosen: Collection[str] = frozenset(wanted)
        _refuse("The standard set", wanted, unreadable or {})
    elif not patterns:
        raise CrossproofError("No hookpoints were given; name at least one, or none for all.")
    else:
        chosen = {
            name
            for pattern in patterns
            for name in _matches(pattern, available, absent or {}, unreadable or {})
        }
    return Hookpoints.from_names([name for name in available if name in chosen], n_blocks)


def _selected(pattern: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name == pattern or fnmatchcase(name, pattern)]


def _refuse(what: str, wanted: Collection[str], unreadable: Mapping[str, str]) -> None:
    lost = [name for name in unreadable if name in wanted]
    if lost:
        more = f" ({len(lost)} such)" if len(lost) > 1 else ""
        raise CrossproofError(
            f"{what} asks for the hookpoint '{lost[0]}'{more}, which cannot be read: "
            f"{unreadable[lost[0]]}. Name hookpoints, or give patterns, without it."
        )


def _matches(
    pattern: str,
    available: Sequence[str],
    absent: Mapping[str, str],
    unreadable: Mapping[str, str],
) -> list[str]:
    _refuse(f"'{pattern}'", _selected(pattern, unreadable), unreadable)
    selected = _selected(pattern, available)
    if not selected:
        kind = "pattern selects no" if set(pattern) & set("*?[") else "model has no such"
        lacking = next(iter(_selected(pattern, absent)), None)
        hint = nearest(pattern, available) if lacking is None else f" {lacking}: {absent[lacking]}."
        raise CrossproofError(f"'{pattern}': this {kind} hookpoint.{hint}")
    return selected


def _block(names: Sequence[str], block: int) -> BlockHookpoints:
    # The stream leaving a block is the stream entering the next: either name serves both roles.
    spellings = {
        "resid_pre": (f"blocks.{block}.hook_resid_pre", f"blocks.{block - 1}.hook_resid_post"),
        "attn_in": (f"blocks.{block}.attn.hook_in",),
        "resid_mid": (f"blocks.{block}.hook_resid_mid",),
        "mlp_in": (f"blocks.{block}.mlp.hook_in",),
        "resid_post": (f"blocks.{block}.hook_resid_post", f"blocks.{block + 1}.hook_resid_pre"),
    }
    found = {
        role: next((names.index(name) for name in spellings[role] if name in names), None)
        for role in (field.name for field in fields(BlockHookpoints))
    }
    return BlockHookpoints(**found)
