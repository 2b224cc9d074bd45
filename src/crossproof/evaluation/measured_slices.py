"""A long text's interactions measured slice by slice, and merged in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.crosscoder.encode import encode_batches, for_figures
from crossproof.crosscoder.model import Crosscoder
from crossproof.evaluation.pair_sums import InteractionTally, tally_interactions
from crossproof.evaluation.slices import Tell, cut, shared_out, subject_of, telling
from crossproof.files import read_tensors, write_tensors
from crossproof.interactions.config import MLPs
from crossproof.interactions.matrix import Accumulator, Interactions
from crossproof.interactions.views import described, mlp_views, n_neurons, needs_of
from crossproof.lm.model import LanguageModel
from crossproof.training import distributed

SLICE_TOKENS = 1 << 17
"""Texts up to this long are one slice, longer ones are cut into as many as make each so long."""
SUMS, TOTALS = "sums", "totals.safetensors"
SECONDS = "seconds."


def tally_slices(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    folder: Path | None,
    batch_sequences: int = 16,
    progress: Tell | None = None,
    kept_sequences: int = 0,
    mlps: MLPs = "next",
    slice_tokens: int | None = None,
) -> Callable[[], InteractionTally]:
    """`tally_interactions`, a slice at a time, each kept in `folder`; and what merges them, which
    takes the memory of the whole. Under torchrun processes take slices in turn.

    Raises CrossproofError as `tally_interactions`, and if the folder cannot be written.
    """
    slices = cut(sequences, batch_sequences, slice_tokens or SLICE_TOKENS)
    if folder is None or (len(slices) == 1 and distributed.world() == 1):
        options = batch_sequences, progress, kept_sequences, mlps
        whole = tally_interactions(model, crosscoder, sequences, *options)
        return lambda: whole

    def read(first: int, part: Tensor, place: Path) -> None:
        tell = telling(progress, first, len(sequences))
        _write(place, tally_interactions(model, crosscoder, part, batch_sequences, tell, mlps=mlps))

    subject = subject_of(model, crosscoder, mlps, batch_sequences)
    places = shared_out(folder, slices, subject, read)
    kept = sequences[:kept_sequences]
    return partial(_merged, model, crosscoder, places, kept, batch_sequences, mlps)


def _write(place: Path, tally: InteractionTally) -> None:
    tally.interactions.save(place / SUMS)
    totals = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in tally.totals.items()}
    seconds = {SECONDS + name: torch.tensor(value) for name, value in tally.seconds.items()}
    write_tensors(place / TOTALS, totals | seconds)


def _merged(
    model: LanguageModel,
    crosscoder: Crosscoder,
    places: Sequence[Path],
    kept: Int[Tensor, "S T"],
    batch_sequences: int,
    mlps: MLPs,
) -> InteractionTally:
    sums, rows = Accumulator(), []
    for place in places:
        sums.add(Interactions.load(place / SUMS))
        rows.append({name: each.numpy() for name, each in read_tensors(place / TOTALS).items()})
    whole = sums.result()
    names = ("dominated", "tokens", *whole.forms, "norm")  # as they are measured
    seconds = [name for name in rows[0] if name.startswith(SECONDS)]
    views = mlp_views(model, crosscoder := for_figures(crosscoder), mlps, mixtures=True)
    needs = needs_of(views)
    batches = encode_batches(model, crosscoder, kept, batch_sequences, needs)
    return InteractionTally(
        whole,
        {n: np.concatenate([row[n] for row in rows]) for n in names if n in rows[0]},
        tuple(map(n_neurons, views.values())),
        {n.removeprefix(SECONDS): sum(float(row[n]) for row in rows) for n in seconds},
        tuple(batch.latents_only(needs) for batch in batches),
        {str(block): described(view, crosscoder) for block, view in views.items()},
    )
