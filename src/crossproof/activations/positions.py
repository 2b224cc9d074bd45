"""The one rule for which positions count, in training and in evaluation alike."""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def scored_positions(
    tokens: Int[Tensor, "S T"], special_ids: Collection[int]
) -> Bool[Tensor, "S T"]:
    """True at every position whose token is not special (BOS, EOS or PAD)."""
    special = torch.tensor(sorted(special_ids), dtype=tokens.dtype, device=tokens.device)
    return ~torch.isin(tokens, special)
