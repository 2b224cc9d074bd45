"""One forward pass of a few tokens, with what every module takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from crossproof.errors import CrossproofError, first_line
from crossproof.lm.sites import Site, Visit, attached

FORWARD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a model's own code may raise."""
UNLIMITED_CONTEXT = 2048
"""Tokens of models that set no limit (BLOOM, Mamba)."""
_CONTEXT_NAMES = (
    "n_positions",
    "max_position_embeddings",
    "max_context_length",
    "seq_length",
    "max_seq_len",
    "max_sequence_length",
)


@dataclass(frozen=True, eq=False)
class Passing:
    """A tensor that passes a site: `value` as it was then, `address` to know the tensor again."""

    value: Float[Tensor, "S T width"]
    address: int
    order: int

    def is_also(self, other: Passing) -> bool:
        """Whether both hold the same numbers; NaN counts as one only in one and the same tensor."""
        low = min(self.value.dtype, other.value.dtype, key=lambda dtype: dtype.itemsize)
        mine, theirs = self.value.to(low), other.value.to(low)  # some streams are float32 always
        if self.address == other.address:
            mine, theirs = mine.nan_to_num(), theirs.nan_to_num()
        return torch.equal(mine, theirs)


Trace = dict[Site, Passing]


class _Recorder:
    """Keeps what passes with one vector a token."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.seen: Trace = {}
        self.again: set[Site] = set()
        self.kept: list[Tensor] = []  # an address means one tensor as long as all of them live

    def record(self, site: Site, value: Tensor) -> None:
        if value.dim() != 3 or value.shape[:2] != self.shape or not value.is_floating_point():
            return
        if site in self.seen:
            self.again.add(site)
        self.kept.append(value)
        self.seen[site] = Passing(value.clone(), value.data_ptr(), len(self.kept))


def context_of(bare: PreTrainedModel) -> int:
    """The longest sequence that its configuration allows."""
    config = bare.config.get_text_config()
    sizes = (getattr(config, name, None) for name in _CONTEXT_NAMES)
    return next((size for size in sizes if isinstance(size, int)), UNLIMITED_CONTEXT)


def check_tokens(bare: PreTrainedModel) -> Int[Tensor, "S T"]:
    """Two sequences of four tokens (or as many as the model takes) that begin alike."""
    tokens = torch.tensor([[0, 1, 2, 3], [0, 4, 5, 6]], device=next(bare.parameters()).device)
    vocabulary = next(bare.get_input_embeddings().parameters()).shape[0]
    return tokens.remainder(vocabulary)[:, : context_of(bare)]


def trace(
    bare: PreTrainedModel, name: str, replace: Mapping[Site, Visit] | None = None
) -> tuple[Trace, frozenset[Site]]:
    """What passes every site with one vector a token, and the sites passed more than once.

    Sites in `replace` are visited, not recorded. Raises CrossproofError when the model cannot run.
    """
    tokens = check_tokens(bare)
    recorder, replace = _Recorder(tuple(tokens.shape)), replace or {}
    sites = [Site(module, at_input) for module in bare.modules() for at_input in (True, False)]
    visits: dict[Site, Visit] = {site: partial(recorder.record, site) for site in sites}
    with attached(visits | dict(replace), recorder.shape), torch.no_grad():
        try:
            bare(input_ids=tokens, use_cache=False)
        except FORWARD_ERRORS as error:
            raise CrossproofError(
                f"'{name}', a {type(bare).__name__}, cannot run on tokens alone "
                f"({first_line(error)})."
            ) from error
    return recorder.seen, frozenset(recorder.again)


def adds_up(parts: Sequence[Float[Tensor, "S T D"]], total: Float[Tensor, "S T D"]) -> bool:
    """Whether the first of `parts` plus just what the others add is `total`, at every token.

    The others may be wrong by a hundredth of themselves, beyond the rounding of the sums.
    """
    first, *others = (_finite(part) for part in parts)
    gap = (sum(others, first) - _finite(total)).norm(dim=-1)
    added = sum((part.norm(dim=-1) for part in others), torch.zeros_like(gap))
    rounding = torch.finfo(total.dtype).eps * (first.norm(dim=-1) + added)
    return bool((gap <= 0.01 * added + 2 * rounding).all())


def carries(
    start: Float[Tensor, "S T D"],
    parts: Sequence[Float[Tensor, "S T D"]],
    end: Float[Tensor, "S T D"],
) -> bool:
    """Whether `end` is `start` plus multiples of the parts, each by one number."""
    added = torch.stack([_finite(part).flatten() for part in parts], 1)
    target = (_finite(end) - _finite(start)).flatten()[:, None]
    sizes = torch.linalg.lstsq(added.cpu(), target.cpu(), driver="gelsd").solution.to(added)
    multiples = [part * size for part, size in zip(parts, sizes[:, 0], strict=True)]
    return adds_up([start, *multiples], end)


def is_added(part: Float[Tensor, "S T D"], total: Float[Tensor, "S T D"]) -> bool:
    """Whether what `total` holds besides `part` is of the position alone, whatever the token."""
    part, size = _finite(part), torch.finfo(part.dtype).eps
    rest, total = _finite(total) - part, _finite(total)
    rounding = 8 * size * (part.norm(dim=-1) + total.norm(dim=-1)).amax(0)
    return bool(((rest - rest[:1]).norm(dim=-1) <= rounding).all())


def is_close(ours: Float[Tensor, "S T D"], own: Float[Tensor, "S T D"]) -> bool:
    """Whether two passes gave the same at every token, up to the rounding of whole models."""
    slack = 1e-3 if own.dtype in (torch.float32, torch.float64) else 0.1
    ours, own = _finite(ours), _finite(own)
    return bool(((ours - own).norm(dim=-1) <= slack * own.norm(dim=-1)).all())


def _finite(value: Float[Tensor, "S T D"]) -> Float[Tensor, "S T D"]:
    """In float64, and zero where not finite: a broken model keeps its hookpoints, harvesting says
    where the NaN is."""
    return value.double().nan_to_num(posinf=0.0, neginf=0.0)
