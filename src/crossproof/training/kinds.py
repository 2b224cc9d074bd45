"""From a configuration to the dictionaries that it asks for: their hookpoints and layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossproof.crosscoder.layout import LatentGroup, Layout
from crossproof.errors import CrossproofError
from crossproof.lm.hookpoints import Hookpoints
from crossproof.lm.model import LanguageModel
from crossproof.training.config import RunConfig


@dataclass(frozen=True)
class DictionaryPlan:
    """One dictionary to train."""

    hookpoints: Hookpoints
    """Those that it reads or writes, in forward order."""
    layout: Layout | None = None
    """None: a crosscoder, every latent reads and writes all."""

    @property
    def written(self) -> tuple[int, ...]:
        """Indices of the hookpoints that it writes."""
        return tuple(range(len(self.hookpoints))) if self.layout is None else self.layout.written


def plans(model: LanguageModel, config: RunConfig) -> dict[str, DictionaryPlan]:
    """The dictionaries of a configuration: one, called "", or with `layout` "each" several.

    Those are called after the hookpoint that they write. Raises CrossproofError for places that
    the model lacks, and for places that do not make such dictionaries.
    """
    if not config.read and not config.write and config.layout == "joint":
        if config.skip:
            raise _no_skip()
        return {"": DictionaryPlan(model.hookpoints(list(config.hookpoints) or None))}
    read = _resolved(model, (*config.hookpoints, *config.read), config)
    written = _resolved(model, (*config.hookpoints, *config.write), config)
    if not read or not written:
        side, option = ("read", "--read") if not read else ("written", "--write")
        raise CrossproofError(
            f"Nothing is {side}: give {option} beside the other, or --hookpoints for both."
        )
    if config.layout == "each":
        return _each(model, config, read, written)
    return {"": _plan(model, config, read, written)}


def _resolved(model: LanguageModel, patterns: Sequence[str], config: RunConfig) -> list[str]:
    if not patterns and (config.read or config.write):
        return []
    return list(model.hookpoints(list(patterns) or None).names)


def _each(
    model: LanguageModel, config: RunConfig, read: Sequence[str], written: Sequence[str]
) -> dict[str, DictionaryPlan]:
    if len(read) != len(written):
        raise CrossproofError(
            f"A dictionary for each place reads one and writes one, but {len(read)} are read and "
            f"{len(written)} written: give as many of both."
        )
    pairs = zip(read, written, strict=True)
    return {place: _plan(model, config, [source], [place]) for source, place in pairs}


def _plan(
    model: LanguageModel, config: RunConfig, read: Sequence[str], written: Sequence[str]
) -> DictionaryPlan:
    hookpoints = model.hookpoints(list(dict.fromkeys([*read, *written])))
    reads = sorted(map(hookpoints.index, read))
    writes = sorted(map(hookpoints.index, written))
    causal = config.layout != "joint"
    behind = [(at, tuple(w for w in writes if w >= at or not causal)) for at in reads]
    for at, own in behind:
        if not own:
            raise CrossproofError(
                f"Nothing is written at or behind {hookpoints.names[at]}: a latent that reads "
                f"there has nothing to write."
            )
    if unwritten := set(writes) - {w for _, own in behind for w in own}:
        raise CrossproofError(
            f"{hookpoints.names[min(unwritten)]} lies before everything that is read: nothing can "
            f"write it."
        )
    latents = config.crosscoder.n_latents
    if config.layout == "causal":
        groups = _divided(latents, behind)
        skips = [(at, next((w for w in own if w != at), None)) for at, own in behind]
    else:
        groups = (LatentGroup(latents, tuple(reads), tuple(writes)),)
        skips = [(r, w) for r in reads for w in writes if r != w]
    beside = tuple((r, w) for r, w in skips if w is not None) if config.skip else ()
    if config.skip and (not beside or set(reads) & set(writes)):
        raise _no_skip()
    return DictionaryPlan(hookpoints, Layout(groups, beside))


def _divided(
    latents: int, behind: Sequence[tuple[int, tuple[int, ...]]]
) -> tuple[LatentGroup, ...]:
    """As many latents for each place that is read, the first ones taking what is left over."""
    if latents < len(behind):
        raise CrossproofError(
            f"{latents} latents cannot be divided among {len(behind)} places: widen the dictionary."
        )
    share, more = divmod(latents, len(behind))
    return tuple(
        LatentGroup(share + (number < more), (at,), own) for number, (at, own) in enumerate(behind)
    )


def _no_skip() -> CrossproofError:
    return CrossproofError(
        "An affine skip (--skip) leads from what is read to something else that is written: give "
        "--read and --write with different places."
    )
