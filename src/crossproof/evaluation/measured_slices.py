"""A long text measured slice by slice: by several processes, and again from where one stopped.

Sums over tokens add up, so slices can be measured by anybody in any order. Each is written when it
is done, with what it is of, and is read instead of measured when a command is run again. They are
merged in order, whoever measured them: the sums do not depend on the number of processes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.crosscoder.encode import encode_batches, for_figures
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.pair_sums import InteractionTally, tally_interactions
from crossproof.files import read_json, read_tensors, write_json, write_tensors
from crossproof.interactions.config import MLPs
from crossproof.interactions.matrix import Accumulator, Interactions
from crossproof.interactions.views import mlp_views, needs_of
from crossproof.lm.model import LanguageModel
from crossproof.training import distributed

SLICE_TOKENS = 1 << 17
"""Texts up to this long are one slice, longer ones are cut into as many as make each so long."""
SUMS, TOTALS, ABOUT = "sums", "totals.safetensors", "slice.json"

Tell = Callable[[int, int], None]


def tally_slices(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    folder: Path,
    batch_sequences: int = 16,
    progress: Tell | None = None,
    kept_sequences: int = 0,
    mlps: MLPs = "next",
) -> InteractionTally | None:
    """`tally_interactions`, a slice at a time, each kept in `folder` until all are there.

    Under torchrun processes take slices in turn, and the first gets the whole; the others None.
    Raises CrossproofError as `tally_interactions`, and if the folder cannot be written.
    """
    slices = cut(sequences, batch_sequences)
    if len(slices) == 1 and distributed.world() == 1:
        options = batch_sequences, progress, kept_sequences, mlps
        return tally_interactions(model, crosscoder, sequences, *options)
    subject = _digest(model, crosscoder, mlps, batch_sequences)
    done = 0
    last: InteractionTally | None = None
    for number, part in enumerate(slices):
        place = folder / f"slice-{number:05d}"
        about = {"of": hashlib.sha256(subject + part.numpy().tobytes()).hexdigest()}
        mine = number % distributed.world() == distributed.rank()
        if mine and not _is_there(place, about):
            tell = _telling(progress, done, len(sequences))
            last = tally_interactions(model, crosscoder, part, batch_sequences, tell, mlps=mlps)
            _write(place, last, about)
        done += len(part)
    distributed.wait_for_all()
    if distributed.rank() > 0:
        return None
    last = last or tally_interactions(model, crosscoder, slices[0][:1], 1, mlps=mlps)
    whole = _merged(folder, len(slices), last)
    batches = encode_batches(
        model,
        for_figures(crosscoder),
        sequences[:kept_sequences],
        batch_sequences,
        needs := needs_of(mlp_views(model, crosscoder, mlps, mixtures=True)),
    )
    kept = tuple(batch.latents_only(needs) for batch in batches)
    shutil.rmtree(folder, ignore_errors=True)
    return replace(whole, encoded=kept)


def cut(sequences: Int[Tensor, "S T"], batch_sequences: int) -> list[Int[Tensor, "R T"]]:
    """The slices: whole batches, a function of the text alone."""
    tokens = max(1, sequences.shape[1]) * batch_sequences
    return list(sequences.cpu().split(batch_sequences * max(1, SLICE_TOKENS // tokens)))


def _telling(progress: Tell | None, done: int, total: int) -> Tell | None:
    return None if progress is None else lambda here, _: progress(done + here, total)


def _digest(
    model: LanguageModel, crosscoder: Crosscoder, mlps: MLPs, batch_sequences: int
) -> bytes:
    """What a slice's sums depend on, beside its tokens."""
    digest = hashlib.sha256(repr((model.weights_hash, model.dtype, mlps, batch_sequences)).encode())
    digest.update(repr((crosscoder.hookpoints.names, crosscoder.layout)).encode())
    digest.update(repr((crosscoder.config, crosscoder.positions, crosscoder.token_scale)).encode())
    for tensor in crosscoder.state_dict().values():
        flat = tensor.detach().cpu().reshape(-1).contiguous()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _is_there(place: Path, about: dict[str, str]) -> bool:
    try:
        return read_json(place / ABOUT) == about
    except CrossproofError:  # absent, or damaged: it is measured again
        return False


def _write(place: Path, tally: InteractionTally, about: dict[str, str]) -> None:
    shutil.rmtree(place, ignore_errors=True)  # of another dictionary or text
    tally.interactions.save(place / SUMS)
    totals = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in tally.totals.items()}
    seconds = {f"seconds.{name}": torch.tensor(value) for name, value in tally.seconds.items()}
    write_tensors(place / TOTALS, totals | seconds)
    write_json(place / ABOUT, about)  # last: then the slice is complete


def _merged(folder: Path, count: int, like: InteractionTally) -> InteractionTally:
    sums, rows = Accumulator(), []
    for number in range(count):
        place = folder / f"slice-{number:05d}"
        sums.add(Interactions.load(place / SUMS))
        rows.append({name: each.numpy() for name, each in read_tensors(place / TOTALS).items()})
    totals = {name: np.concatenate([row[name] for row in rows]) for name in like.totals}
    seconds = {name: sum(float(row[f"seconds.{name}"]) for row in rows) for name in like.seconds}
    return replace(like, interactions=sums.result(), totals=totals, seconds=seconds)
