"""The native format: a folder with `config.json` and `crosscoder.safetensors`, nothing pickled.

The folder is complete or absent: it is written under a temporary name, flushed to disk, renamed.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor, nn

from crossproof.activations.config import PositionRule
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.provenance import Provenance as Provenance
from crossproof.errors import CrossproofError
from crossproof.files import atomic_folder, read_json, read_tensors
from crossproof.lm.hookpoints import BlockHookpoints, Hookpoints

SCHEMA = 1
WEIGHTS, CONFIG = "crosscoder.safetensors", "config.json"


class Stored(nn.Module):
    """What the format holds of a `Crosscoder`, which is made from these and its tensors."""

    config: CrosscoderConfig
    hookpoints: Hookpoints
    d_model: int
    positions: PositionRule

    def fold(self) -> None:
        """Absorbs the scale into the weights."""


S = TypeVar("S", bound=Stored)


def save_crosscoder(crosscoder: Stored, folder: Path, provenance: Provenance) -> None:
    """Writes the crosscoder with its scale folded into the weights, atomically."""
    tensors = folded_tensors(crosscoder)
    config = {
        "schema": SCHEMA,
        "crossproof": _own_version(),
        "crosscoder": asdict(crosscoder.config),
        "d_model": crosscoder.d_model,
        "positions": asdict(crosscoder.positions),
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


def folded_tensors(crosscoder: Stored) -> dict[str, Tensor]:
    """The crosscoder's tensors with its scale absorbed, leaving the crosscoder as it is."""
    folded = copy.deepcopy(crosscoder)
    folded.fold()
    return {name: t.detach().cpu().contiguous() for name, t in folded.state_dict().items()}


def read_provenance(folder: Path) -> Provenance:
    """Where a saved crosscoder comes from, without reading its weights; errors as
    `read_crosscoder`."""
    try:
        return Provenance(**_read_config(folder)["provenance"])
    except (KeyError, TypeError) as error:
        raise CrossproofError(f"{folder / CONFIG} is damaged ({error}): restore it.") from error


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise CrossproofError(f"No crosscoder at {folder}: give the folder that holds {CONFIG}.")
    config = read_json(folder / CONFIG)
    if config.get("schema") != SCHEMA:
        raise CrossproofError(
            f"{folder / CONFIG} has schema {config.get('schema')!r}, this version of crossproof "
            f"reads {SCHEMA}: load it with the version that wrote it."
        )
    return config


def read_crosscoder(kind: type[S], folder: Path) -> tuple[S, Provenance]:
    """Makes a `kind` of what `save_crosscoder` wrote.

    Raises CrossproofError if the folder is missing, incomplete, truncated, or of another format.
    """
    config = _read_config(folder)
    tensors = read_tensors(folder / WEIGHTS)
    try:
        names = tuple(config["hookpoints"]["names"])
        blocks = tuple(BlockHookpoints(**block) for block in config["hookpoints"]["blocks"])
        crosscoder = kind(
            CrosscoderConfig(**config["crosscoder"]), Hookpoints(names, blocks), config["d_model"]
        )
        crosscoder.positions = PositionRule.stored(config.get("positions", {}))
        provenance = Provenance(**config["provenance"])
        crosscoder.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CrossproofError(
            f"{folder} is not a crossproof crosscoder ({error}): its {CONFIG} and {WEIGHTS} do "
            f"not fit each other."
        ) from error
    return crosscoder.eval(), provenance
