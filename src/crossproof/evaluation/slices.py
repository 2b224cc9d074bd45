"""A long text read slice by slice: by several processes, and again from where one stopped.

What is read of a text are sums, and rows that stand in the order of the text: slices can be read by
anybody, in any order. Each is written when it is done, with what it is of, and is taken as it is
when a command is run again. They are put together in order, whoever read them: what comes out does
not depend on the number of processes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.files import read_json, read_tensors, write_json, write_tensors
from crossproof.lm.model import LanguageModel
from crossproof.training import distributed

SLICES = ".slices"
"""The folder of a command's slices, beside what it is going to write."""
ABOUT, ROWS = "slice.json", "rows.safetensors"

Tell = Callable[[int, int], None]
"""Called with how many sequences are read, and of how many."""
Rows = dict[str, Tensor]
"""What is read of a slice, by name."""


def cut(
    sequences: Int[Tensor, "S T"], batch_sequences: int, slice_tokens: int
) -> list[Int[Tensor, "R T"]]:
    """Slices of about so many tokens: whole batches, a function of the text alone."""
    tokens = max(1, sequences.shape[1]) * batch_sequences
    return list(sequences.cpu().split(batch_sequences * max(1, slice_tokens // tokens)))


def subject_of(model: LanguageModel, crosscoder: Crosscoder, *what: object) -> bytes:
    """A digest of what a slice's rows depend on, beside its tokens: the model, the dictionary, and
    `what`, tensors or plain values."""
    digest = hashlib.sha256(repr((model.weights_hash, model.dtype)).encode())
    digest.update(repr((crosscoder.hookpoints.names, crosscoder.layout)).encode())
    digest.update(repr((crosscoder.config, crosscoder.positions, crosscoder.token_scale)).encode())
    tensors = [each for each in what if isinstance(each, Tensor)]
    digest.update(repr([each for each in what if not isinstance(each, Tensor)]).encode())
    for tensor in (*crosscoder.state_dict().values(), *tensors):
        flat = tensor.detach().cpu().reshape(-1).contiguous()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.digest()


def shared_out(
    folder: Path,
    slices: Sequence[Int[Tensor, "_ _"]],
    subject: bytes,
    read: Callable[[int, Int[Tensor, "R T"], Path], None],
) -> list[Path]:
    """Has each slice read by one process, unless it is there, and returns their folders.

    `read` is called with the sequences before a slice, the slice, and an empty folder to write
    into. All processes return when all slices are there; `forget` removes them.
    """
    places = [folder / f"slice-{number:05d}" for number in range(len(slices))]
    for number, (first, part) in enumerate(zip(_firsts(slices), slices, strict=True)):
        of = hashlib.sha256(subject + repr((first, *part.shape)).encode() + part.numpy().tobytes())
        about, place = {"of": of.hexdigest()}, places[number]
        mine = number % distributed.world() == distributed.rank()
        if mine and not _is_there(place, about):
            shutil.rmtree(place, ignore_errors=True)  # of another dictionary or text, or half
            read(first, part, place)
            write_json(place / ABOUT, about)  # last: then the slice is complete
    distributed.wait_for_all()
    return places


def read_slices(
    folder: Path | None,
    slices: Sequence[Int[Tensor, "_ _"]],
    subject: Callable[[], bytes],
    read: Callable[[int, Int[Tensor, "R T"]], Rows],
) -> Iterator[Rows]:
    """The rows of every slice, in order, as `shared_out` gets them: each process has all of them.

    Without a folder a process reads all by itself, and so does one alone with a single slice.
    """
    if folder is None or (len(slices) == 1 and distributed.world() == 1):
        return map(read, _firsts(slices), slices)

    def write(first: int, part: Tensor, place: Path) -> None:
        write_tensors(place / ROWS, read(first, part))

    places = shared_out(folder, slices, subject(), write)
    return (read_tensors(place / ROWS) for place in places)


def forget(folder: Path | None) -> None:
    """Removes what was kept, once no process needs it any more."""
    distributed.wait_for_all()
    if folder is not None and distributed.rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)


def telling(progress: Tell | None, first: int, total: int) -> Tell | None:
    """Word of a slice's sequences as word of the whole text's."""
    return progress and partial(_tell, progress, first, total)


def joined(rows: Sequence[Rows]) -> Rows:
    """The rows of all slices, one below the other."""
    return {name: torch.cat([each[name] for each in rows]) for name in rows[0]}


def _tell(progress: Tell, first: int, total: int, done: int, _: int) -> None:
    progress(first + done, total)


def _firsts(slices: Sequence[Tensor]) -> list[int]:
    return [0, *accumulate(map(len, slices[:-1]))] if slices else []


def _is_there(place: Path, about: dict[str, str]) -> bool:
    try:
        return read_json(place / ABOUT) == about
    except CrossproofError:  # absent, or damaged: it is read again
        return False
