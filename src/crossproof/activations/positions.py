"""The one rule for which positions count, in training and in evaluation alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.errors import CrossproofError


def scored_positions(
    tokens: Int[Tensor, "S T"], special_ids: Collection[int], skip_first: int = 1
) -> Bool[Tensor, "S T"]:
    """True behind the first `skip_first` positions, where the token is not BOS, EOS or PAD.

    Language models keep an attention sink at the first position of a row, whatever its token:
    activations a hundred times as large as elsewhere (docs/massive-activations.md).
    """
    special = torch.tensor(sorted(special_ids), dtype=tokens.dtype, device=tokens.device)
    scored = ~torch.isin(tokens, special)
    scored[:, :skip_first] = False
    return scored


def median_norms(norms: Float[Tensor, "M P"]) -> Float[Tensor, " P"]:
    """The median at each hookpoint of the norms that are not zero; zero where all are.

    A median, because a few massive positions cannot move it; zeros apart, because a hookpoint may
    be silent most of the time.
    """
    zeros = (norms == 0).sum(0)
    middle = zeros + (len(norms) - 1 - zeros).clamp_min(0) // 2
    return norms.sort(dim=0).values.gather(0, middle.clamp_max(len(norms) - 1)[None])[0]


def within_limits(x: Float[Tensor, "B P D"], limits: Sequence[float]) -> Bool[Tensor, " B"]:
    """Which tokens have a norm of at most `limits` [P] at every hookpoint.

    No limits: all; a limit of zero is none.
    """
    if not limits:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    highest = torch.tensor(limits, device=x.device)
    inside: Tensor = ((x.float().norm(dim=2) <= highest) | (highest == 0)).all(dim=1)
    return inside


def check_sequences(tokens: object) -> None:
    """Raises CrossproofError unless these are sequences of tokens [S, T]."""
    whole = isinstance(tokens, Tensor) and not (tokens.is_floating_point() or tokens.is_complex())
    if isinstance(tokens, Tensor) and whole and tokens.dim() == 2:
        return
    given = f"{list(tokens.shape)} of {tokens.dtype}" if isinstance(tokens, Tensor) else ""
    raise CrossproofError(
        f"Texts are tokens in a tensor of whole numbers [sequences, tokens], as "
        f"`crossproof.read_sequences` gives them; this is {given or type(tokens).__name__}.",
        code="CP-TOKENS",
    )
