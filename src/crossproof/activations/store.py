"""Activations on a disk: harvested once, in the order in which a training reads them.

FOLDER/crossproof-activations.json         of what they are, and a hash of each file; its being
                                           there says: complete
FOLDER/crossproof-activations.begun.json   the same of a store that is not complete yet
FOLDER/activations-N.safetensors           `activations` [M, P, D], the tokens of successive batches
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossproof.activations.beginning import LongFolder
from crossproof.activations.config import PositionRule, StoredDtype
from crossproof.activations.harvest import Harvest
from crossproof.activations.massive import MassiveActivation
from crossproof.errors import CrossproofError, first_line, nearest
from crossproof.files import atomic_file
from crossproof.lm import LanguageModel

KIND, FORMAT = "activations", "crossproof-activations-1"
SHARD_BYTES = 1 << 28
"""A file holds about so much, and a batch at least."""
GIB = 2**30
DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def stored_bytes(harvest: Harvest, batches: int, dtype: StoredDtype) -> int:
    """What the activations of so many batches take on a disk."""
    width = len(harvest.names) * harvest.model.d_model
    return batches * harvest.batch_tokens * width * DTYPES[dtype].itemsize


def check_space(folder: Path, size: int) -> None:
    """Raises CrossproofError if what is still to be written into `folder` is more than is free."""
    there = sum(file.stat().st_size for file in folder.glob("activations-*.safetensors"))
    above = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(above).free
    if size - there > free:
        raise CrossproofError(
            f"The activations would take {size / GIB:.1f} GiB and {folder} has {free / GIB:.1f} "
            f"free: harvest fewer --steps or hookpoints, --store-as bfloat16, or to another disk.",
            code="CP-FILE",
        )


def write_store(
    harvest: Harvest,
    folder: Path,
    batches: int,
    dtype: StoredDtype,
    origin: Mapping[str, Any],
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes the first `batches` batches; files that an earlier, stopped call has written stay.

    `origin` says where they come from. Raises CrossproofError if the folder holds something else
    or another store, if the disk has too little space, and for numbers beyond the dtype's range.
    """
    size = stored_bytes(harvest, batches, dtype)
    per_file = min(batches, max(1, SHARD_BYTES * batches // size))
    rule = asdict(harvest.positions)
    about = {
        "format": FORMAT,
        "dtype": dtype,
        "names": list(harvest.names),
        "d_model": harvest.model.d_model,
        "batch_tokens": harvest.batch_tokens,
        "batches": batches,
        "epoch": len(harvest),
        "batches_per_file": per_file,
        "model_hash": harvest.model.weights_hash,
        "positions": rule | {"norm_limits": list(harvest.positions.norm_limits)},
        **origin,
    }
    own = LongFolder(folder, KIND)
    own.begin(about)
    check_space(folder, size)
    hashes = []
    for number, start in enumerate(range(0, batches, per_file)):
        path, stop = _path(folder, number), min(start + per_file, batches)
        if not path.is_file():
            _write(path, harvest, range(start, stop), DTYPES[dtype])
        with _damage(path), safe_open(path, framework="pt") as opened:
            hashes.append(opened.metadata()["sha256"])
        tell(stop, batches)
    own.finish(about | {"sha256": hashes})


def _write(path: Path, harvest: Harvest, steps: range, dtype: torch.dtype) -> None:
    values = torch.cat([harvest.batch(step).to(dtype).cpu() for step in steps])
    if not bool(torch.isfinite(values.sum(dtype=torch.float64))):
        raise CrossproofError(
            f"Activations at steps {steps.start} to {steps.stop - 1} are too large for "
            f"{str(dtype).removeprefix('torch.')}: store them as bfloat16 or float32."
        )
    with atomic_file(path) as temporary:
        save_file({"activations": values}, temporary, {"sha256": _hash(values)})


def _path(folder: Path, number: int) -> Path:
    return folder / f"activations-{number:05d}.safetensors"


def _hash(values: Tensor) -> str:
    return hashlib.sha256(values.view(torch.uint8).numpy().data).hexdigest()


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What reading a file raises, as one sentence."""
    try:
        yield
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise CrossproofError(
            f"{path} is damaged ({first_line(error)}): restore it, or harvest again."
        ) from error


def read_index(folder: Path) -> dict[str, Any]:
    """What a complete store says of itself; CrossproofError if there is none."""
    return LongFolder(folder, KIND).read("harvest", FORMAT)


class StoredActivations:
    """Batches of a store, as `Harvest` has them: in its order, and again from its beginning.

    `share` picks one process's rows of each batch. With batches of the size that the store was
    harvested in they are those of the training that runs the model, to the rounding of the store's
    dtype. One file is in memory, and the next one is read and checked meanwhile. Raises
    CrossproofError if the store is of another model or lacks hookpoints, and, when a file is
    read, if that is not the one that was written.
    """

    def __init__(
        self,
        folder: Path,
        model: LanguageModel,
        names: Sequence[str],
        batch_tokens: int,
        share: slice = slice(None),
    ) -> None:
        index = self._index = read_index(folder)
        self.folder, self.model, self.names = folder, model, tuple(names)
        self.batch_tokens, self.share = batch_tokens, share
        with _damage(LongFolder(folder, KIND).index):
            self._check(index["model_hash"], index["names"])
            self.positions = self._rule(index["positions"], index["names"])
            self.massive = tuple(MassiveActivation(**each) for each in index["massive"])
            self._hashes: list[str] = index["sha256"]
            self._columns = [index["names"].index(name) for name in names]
            self._per_file = index["batches_per_file"] * index["batch_tokens"]
            self._tokens = index["batches"] * index["batch_tokens"]
            self._epoch = index["epoch"] * index["batch_tokens"]
        if self.batches == 0:
            raise CrossproofError(
                f"{folder} holds {self._tokens} tokens, fewer than one batch of {batch_tokens}: "
                f"use a smaller batch, or harvest more."
            )
        self._reader = ThreadPoolExecutor(1, "activations")
        self._files: dict[int, Future[Tensor]] = {}

    def _check(self, model_hash: str, known: Sequence[str]) -> None:
        if model_hash != self.model.weights_hash:
            raise CrossproofError(
                f"The activations in {self.folder} are of a model with the weights {model_hash}, "
                f"not of '{self.model.name}' ({self.model.weights_hash}): load the model that they "
                f"were harvested from."
            )
        for name in self.names:
            if name not in known:
                raise CrossproofError(
                    f"The activations in {self.folder} lack '{name}'.{nearest(name, known)} "
                    f"Harvest with that hookpoint and this objective, or train without."
                )

    def _rule(self, stored: Mapping[str, Any], known: Sequence[str]) -> PositionRule:
        """The store's, with the limits of the hookpoints that are read here."""
        rule = PositionRule.stored(stored)
        limits = dict(zip(known, rule.norm_limits, strict=False))
        return PositionRule(rule.skip_first, tuple(limits[n] for n in self.names if n in limits))

    @property
    def batches(self) -> int:
        """How many there are before the store begins again."""
        return int(self._tokens // self.batch_tokens)

    def __len__(self) -> int:
        """Batches in an epoch of the text, or in the store if that has fewer."""
        return int(min(self._tokens, self._epoch) // self.batch_tokens)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that say which activations these are."""
        return hashlib.sha256("".join(self._hashes).encode()).hexdigest()[:16]

    def batch(self, step: int) -> Float[Tensor, "B P D"]:
        """The batch of a step (float32, the caller's own), on the model's device."""
        at = step % self.batches * self.batch_tokens
        parts, last = [], at + self.batch_tokens
        while at < last:
            number, within = divmod(at, self._per_file)
            parts.append(self._file(number)[within : within + last - at])
            at += len(parts[-1])
        batch = torch.cat(parts)[self.share][:, self._columns]
        return batch.to(self.model.device).float()

    def iterate(self, start: int = 0) -> Iterator[Float[Tensor, "B P D"]]:
        """The batches of steps `start`, `start` + 1, ... without end."""
        step = start
        while True:
            yield self.batch(step)
            step += 1

    def _file(self, number: int) -> Tensor:
        """A file's activations; the one behind it is asked for, too."""
        wanted = (number, (number + 1) % len(self._hashes))
        self._files = {n: file for n, file in self._files.items() if n in wanted}
        for each in wanted:
            if each not in self._files:
                self._files[each] = self._reader.submit(self._read, each)
        return self._files[number].result()

    def _read(self, number: int) -> Tensor:
        path = _path(self.folder, number)
        with _damage(path), safe_open(path, framework="pt") as opened:
            values: Tensor = opened.get_tensor("activations")
            if _hash(values) != self._hashes[number]:
                raise ValueError("its SHA-256 is not that of what was harvested")
            return values
