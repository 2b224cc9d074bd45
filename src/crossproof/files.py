"""Files that are complete or absent: written under a temporary name, flushed, renamed.

Everything crossproof writes goes through here. Nothing is ever pickled, and JSON holds no NaN or
infinity (other programs could not read it).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossproof.errors import CrossproofError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = (
    "append_text",
    "atomic_file",
    "atomic_folder",
    "check_replaceable",
    "make_folder",
    "read_json",
    "read_tensors",
    "refuse_pointer",
    "write_json",
    "write_tensors",
    "write_text",
)


LFS = b"version https://git-lfs.github.com/spec"
"""How a file begins that Git LFS has left in another's place until it downloads that."""
POINTER = "'{}' is a Git LFS pointer: run `git lfs pull` in its folder."


def refuse_pointer(path: Path) -> None:
    """Raises CrossproofError for a pointer of Git LFS, with what to do; OSError as `open`."""
    with path.open("rb") as opened:
        pointer = opened.read(len(LFS)) == LFS
    if pointer:
        raise CrossproofError(POINTER.format(path))


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes it when the block ends without error.

    The folder is made if it is missing. Raises CrossproofError if the place cannot be written or
    the disk is full; what was there before then still is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _writing(path):
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, replacing: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder that becomes `folder` (replacing it) when the block ends without error.

    Raises CrossproofError if the place cannot be written or the disk is full, or if the folder
    holds anything but what is written anew and the names in `replacing`; what was there before then
    still is.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with _writing(folder):
        if folder.exists() and not folder.is_dir():
            raise OSError("it is not a folder")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            check_replaceable(folder, {*os.listdir(temporary), *replacing})
            for path in (*temporary.iterdir(), temporary):
                _flush(path)
            _replace_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(folder: Path, names: Collection[str]) -> None:
    """Raises CrossproofError if a folder that is to be replaced holds anything but `names`."""
    others = sorted({*os.listdir(folder)} - {*names}) if folder.is_dir() else []
    if others:
        raise CrossproofError(
            f"{folder} holds other files ({', '.join(others[:3])}), which writing there would "
            f"remove: choose a new or an empty folder.",
            code="CP-OUT",
        )


def make_folder(folder: Path) -> None:
    """Makes the folder and those above it; CrossproofError if it cannot be made."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def filled_folder(folder: Path | None) -> Iterator[None]:
    """Makes the folder for what the block writes; if that fails, takes it away if it is empty.

    None: nothing. CrossproofError as `make_folder`.
    """
    made = folder is not None and not folder.exists()
    if folder is not None:
        make_folder(folder)
    try:
        yield
    except BaseException:
        if folder is not None and made:
            with suppress(OSError):  # it holds something, or another process took it away
                folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, complete or not at all; errors as `atomic_file`.

    "?" stands for lone surrogates, such as Python makes of file names that are not UTF-8.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def append_text(path: Path, text: str) -> None:
    """Appends UTF-8 text to a file; CrossproofError if it cannot be written."""
    with _writing(path), path.open("a", encoding="utf-8") as handle:
        handle.write(text)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, complete or not at all; errors as `atomic_file`.

    Raises ValueError for NaN and infinite numbers: `Result.to_json` turns them into null.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`; CrossproofError if it is missing or damaged."""
    try:
        refuse_pointer(path)
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise CrossproofError(f"{path} is missing: the folder is not complete.") from error
    except (ValueError, OSError) as error:
        raise CrossproofError(f"{path} cannot be read ({error}): restore it.") from error
    if not isinstance(content, dict):
        raise CrossproofError(f"{path} does not hold a JSON object: restore it.")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; CrossproofError if it is missing, truncated or foreign."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # imported late: JSON needs no PyTorch

    try:
        refuse_pointer(path)
        return load_file(path)
    except FileNotFoundError as error:
        raise CrossproofError(f"{path} is missing: the folder is not complete.") from error
    except (SafetensorError, OSError) as error:
        raise CrossproofError(
            f"{path} is damaged or not a safetensors file ({error}): restore it or train again."
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file, complete or not at all; errors as `atomic_file`."""
    from safetensors.torch import save_file

    with atomic_file(path) as temporary:
        save_file(
            {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
            temporary,
        )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Errors of the file system as one sentence about `path`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:  # the latter: save_file on a full disk
        reason = getattr(error, "strerror", None) or error
        raise CrossproofError(
            f"Cannot write {path} ({reason}): choose a writable folder with enough free space."
        ) from error


def _replace_folder(temporary: Path, folder: Path) -> None:
    retired = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        os.rename(folder, retired)
    try:
        os.rename(temporary, folder)
    except OSError:
        if retired.exists():
            os.rename(retired, folder)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
