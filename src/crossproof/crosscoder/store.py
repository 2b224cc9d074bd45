"""The native format: a folder with `config.json` and `crosscoder.safetensors`, nothing pickled.

The folder is complete or absent: it is written under a temporary name, flushed to disk, renamed.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder, CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.lm.hookpoints import BlockHookpoints, Hookpoints

SCHEMA = 1
WEIGHTS, CONFIG = "crosscoder.safetensors", "config.json"


@dataclass(frozen=True)
class Provenance:
    """Where a crosscoder comes from: the model it explains and how it was trained."""

    model: str
    """Name of the language model, as given to `load_model`."""
    weights_hash: str
    """Hash of the language model's weights (`LanguageModel.weights_hash`)."""
    seed: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)
    """The training configuration, as plain values."""


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` (replacing it) when the block ends without error.

    Raises CrossproofError if the place cannot be written or the disk is full; what was there
    before then still is.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
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
    except (OSError, SafetensorError) as error:  # the latter: save_file on a full disk
        reason = getattr(error, "strerror", None) or error
        raise CrossproofError(
            f"Cannot write {folder} ({reason}): choose a writable folder with enough free space."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_crosscoder(crosscoder: Crosscoder, folder: Path, provenance: Provenance) -> None:
    """Writes the crosscoder with its scale folded into the weights, atomically."""
    tensors = folded_tensors(crosscoder)
    config = {
        "schema": SCHEMA,
        "crossproof": _own_version(),
        "crosscoder": asdict(crosscoder.config),
        "d_model": crosscoder.d_model,
        "hookpoints": {
            "names": list(crosscoder.hookpoints.names),
            "blocks": [asdict(block) for block in crosscoder.hookpoints.blocks],
        },
        "provenance": asdict(provenance),
    }
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _own_version() -> str:
    try:
        return version("crossproof")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "not installed"


def folded_tensors(crosscoder: Crosscoder) -> dict[str, Tensor]:
    """The crosscoder's tensors with its scale absorbed, leaving the crosscoder as it is."""
    folded = copy.deepcopy(crosscoder)
    folded.fold()
    return {name: t.detach().cpu().contiguous() for name, t in folded.state_dict().items()}


def load_crosscoder(folder: Path) -> tuple[Crosscoder, Provenance]:
    """Reads what `save_crosscoder` wrote.

    Raises CrossproofError if the folder is missing, incomplete, truncated, or of another format.
    """
    if not folder.is_dir():
        raise CrossproofError(f"No crosscoder at {folder}: give the folder that holds {CONFIG}.")
    config = read_json(folder / CONFIG)
    if config.get("schema") != SCHEMA:
        raise CrossproofError(
            f"{folder / CONFIG} has schema {config.get('schema')!r}, this version of crossproof "
            f"reads {SCHEMA}: load it with the version that wrote it."
        )
    tensors = read_tensors(folder / WEIGHTS)
    try:
        names = tuple(config["hookpoints"]["names"])
        blocks = tuple(BlockHookpoints(**block) for block in config["hookpoints"]["blocks"])
        crosscoder = Crosscoder(
            CrosscoderConfig(**config["crosscoder"]), Hookpoints(names, blocks), config["d_model"]
        )
        provenance = Provenance(**config["provenance"])
        crosscoder.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CrossproofError(
            f"{folder} is not a crossproof crosscoder ({error}): its {CONFIG} and {WEIGHTS} do "
            f"not fit each other."
        ) from error
    return crosscoder.eval(), provenance


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`; CrossproofError if it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CrossproofError(f"{path} is missing: the folder is not complete.") from error
    except (ValueError, OSError) as error:
        raise CrossproofError(f"{path} cannot be read ({error}): restore it.") from error
    if not isinstance(content, dict):
        raise CrossproofError(f"{path} does not hold a JSON object: it is not ours.")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; CrossproofError if it is missing, truncated or foreign."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CrossproofError(f"{path} is missing: the folder is not complete.") from error
    except (SafetensorError, OSError) as error:
        raise CrossproofError(
            f"{path} is damaged or not a safetensors file ({error}): restore it or train again."
        ) from error
