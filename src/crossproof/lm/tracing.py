"""One forward pass of a few tokens, with what every module takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, eq=False)
class Passing:
    """A tensor that passes a site: `value` as it was then, `address` to know the tensor again."""

    value: Float[Tensor, "S T width"]
    address: int
    order: int

    def is_also(self, other: Passing) -> bool:
        """Whether both hold the same numbers; NaN counts as one only in one and the same tensor."""
        mine, theirs = self.value, other.value
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


def check_tokens(bare: PreTrainedModel) -> Int[Tensor, "S T"]:
    """Two sequences of four tokens that begin alike."""
    tokens = torch.tensor([[0, 1, 2, 3], [0, 4, 5, 6]], device=next(bare.parameters()).device)
    return tokens.remainder(next(bare.get_input_embeddings().parameters()).shape[0])


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


def adds_up(
    parts: list[Float[Tensor, "S T D"]], total: Float[Tensor, "S T D"], slack: float = 1e-2
) -> bool:
    """Whether the first of `parts` plus what the others add is `total`, at every token.

    The others must be right to `slack` of themselves, beyond the rounding of the sum. Numbers that
    are not finite count as zero: a broken model keeps its hookpoints, harvesting says where.
    """
    first, *others = (part.double().nan_to_num() for part in parts)
    whole = total.double().nan_to_num()
    gap = (sum(others, first) - whole).norm(dim=-1)
    rounding = 16 * torch.finfo(total.dtype).eps
    sizes = [part.norm(dim=-1) for part in (*others, first, whole)]
    allowed = slack * sum(sizes[:-2]) + rounding * sum(sizes)
    return bool((gap <= allowed).all())
