"""Token scores: how much a dictionary's latents interact at each token, all MLPs together.

I: sum over blocks and neurons of ‖o_n‖ (Σ_h |p_nh| - max_h |p_nh|), the paper's score (its Figure
4); of a gated MLP the explicit bound of THEORY T3. J: the same weighted by the oscillation of the
activation's slope, so that latents which a neuron adds up do not count (plain MLPs). second: the
true second differences of all pairs among the token's other latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from crossproof.auditing.readings import TextReading
from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions.penalty import additive_interaction, interaction
from crossproof.interactions.second_differences import second_difference_scores
from crossproof.interactions.stream import Views, seen_by_mlps

FORMS = ("I", "J", "second")
Array = NDArray[np.float64]


def token_scores(latents: SparseLatents, views: Views, form: str = "I") -> Float[Tensor, " B"]:
    """The score of each token, summed over blocks.

    Raises CrossproofError for an unknown form, and for J of a gated MLP.
    """
    total = torch.zeros(latents.n_tokens, dtype=torch.float64, device=latents.values.device)
    for seen in seen_by_mlps(latents, views).values():
        view, here = seen.dictionary, seen.latents
        if form == "I":
            score = interaction(view, here, view.dominance(here))
        elif form == "J":
            score = additive_interaction(view, here, view.dominance(here))
        elif form == "second":
            score = second_difference_scores(view, here, "others")
        else:
            raise CrossproofError(
                f"There is no token score '{form}'; choose one of {', '.join(FORMS)}."
            )
        total += seen.weighed(score.detach().double())
    return total


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Every scored token of many texts, with its scores and the quantities that may explain them.

    `columns`: the forms asked for, and error, norm, loss and active (latents).
    """

    text: NDArray[np.int64]
    position: NDArray[np.int64]
    ids: NDArray[np.int64]
    columns: dict[str, Array]

    def __len__(self) -> int:
        return len(self.text)


def token_table(readings: Iterable[TextReading], forms: Sequence[str] = ("I",)) -> TokenTable:
    """One row a scored token, in the order of the texts. Raises CrossproofError for no texts."""
    parts = [_rows(reading, forms) for reading in readings]
    if not parts:
        raise CrossproofError("There are no texts to score; give at least one.")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    text, position, ids = (joined.pop(name).astype(np.int64) for name in ("text", "position", "id"))
    return TokenTable(text, position, ids, joined)


def _rows(reading: TextReading, forms: Sequence[str]) -> dict[str, Array]:
    columns = {form: token_scores(reading.latents, reading.views, form) for form in forms}
    columns |= {"error": reading.errors, "norm": reading.norms, "loss": reading.losses}
    columns |= {"active": reading.latents.offsets.diff(), "position": reading.position}
    columns |= {"text": reading.sequence + reading.first, "id": reading.token_ids}
    return {name: values.detach().double().cpu().numpy() for name, values in columns.items()}
