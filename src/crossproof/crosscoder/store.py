"""The native format: a folder with `config.json` and `crosscoder.safetensors`, nothing pickled.

The folder is complete or absent: it is written under a temporary name, flushed to disk, renamed.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor, nn

from crossproof.activations.config import PositionRule
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.folders import WEIGHTS
from crossproof.crosscoder.layout import Layout, widest
from crossproof.crosscoder.provenance import Provenance as Provenance
from crossproof.crosscoder.token_scale import TokenScale
from crossproof.errors import CrossproofError
from crossproof.files import atomic_folder, check_replaceable, read_json, read_tensors
from crossproof.lm.hookpoints import BlockHookpoints, Hookpoints

SCHEMA = 1
CONFIG, CARD = "config.json", "README.md"


class Stored(nn.Module):
    """What the format holds of a `Crosscoder`, which is made from these and its tensors."""

    config: CrosscoderConfig
    hookpoints: Hookpoints
    d_model: int
    positions: PositionRule
    layout: Layout
    token_scale: TokenScale

    def fold(self) -> None:
        """Absorbs the scale into the weights."""


S = TypeVar("S", bound=Stored)
T = TypeVar("T")


def save_crosscoder(crosscoder: Stored, folder: Path, provenance: Provenance) -> None:
    """Writes the crosscoder with its scale folded into the weights, atomically.

    Replaces a crosscoder that is there. Raises CrossproofError if the folder holds anything else,
    which would be lost, or cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and not folder.is_dir():
        raise CrossproofError(f"{folder} is a file: choose a folder to save the crosscoder in.")
    check_replaceable(folder, (WEIGHTS, CONFIG, CARD))
    tensors = folded_tensors(crosscoder)
    config = {
        "schema": SCHEMA,
        "crossproof": _installed_version(),
        "crosscoder": asdict(crosscoder.config),
        "d_model": crosscoder.d_model,
        "positions": asdict(crosscoder.positions),
        "hookpoints": {
            "names": list(crosscoder.hookpoints.names),
            "blocks": [asdict(block) for block in crosscoder.hookpoints.blocks],
        },
        **_layout_entry(crosscoder),
        "provenance": asdict(provenance),
    }
    with atomic_folder(folder, (CARD,)) as temporary:
        save_file(tensors, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _layout_entry(crosscoder: Stored) -> dict[str, Any]:
    """Nothing for a crosscoder, whose latents read and write every hookpoint."""
    joint = Layout.joint(crosscoder.config.n_latents, len(crosscoder.hookpoints))
    return {} if crosscoder.layout == joint else {"layout": asdict(crosscoder.layout)}


def _installed_version() -> str:
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
        return _typed(Provenance, _read_config(folder)["provenance"], Provenance("", ""))
    except (KeyError, TypeError, ValueError) as error:
        raise CrossproofError(f"{folder / CONFIG} is damaged ({error}): restore it.") from error


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise CrossproofError(f"No crosscoder at {folder}: give the folder that holds {CONFIG}.")
    config = read_json(folder / CONFIG)
    if config.get("schema") != SCHEMA:
        raise CrossproofError(
            f"{folder / CONFIG} has schema {config.get('schema')!r}, this version of crossproof "
            f"reads {SCHEMA}: load it with the version that wrote it.",
            code="CP-VERSION",
        )
    return config


def read_crosscoder(kind: type[S], folder: Path) -> tuple[S, Provenance]:
    """Makes a `kind` of what `save_crosscoder` wrote.

    Raises CrossproofError if the folder is missing, incomplete, truncated, of another format, or
    holds NaN or infinite weights.
    """
    config = _read_config(folder)
    tensors = read_tensors(folder / WEIGHTS)
    try:
        size = _typed(CrosscoderConfig, config["crosscoder"], CrosscoderConfig())
        hookpoints = _hookpoints(config["hookpoints"])
        if not size.sparsity.isprintable():
            raise TypeError(f"sparsity is {size.sparsity!r}")
        given = config.get("layout")
        layout = None if given is None else Layout.stored(given)
        read = len(hookpoints) if layout is None else widest(layout.reading)
        shape = (size.n_latents, read, config["d_model"])
        if tensors["W_enc"].shape != shape or min(shape) < 1:  # before so much is allocated
            raise TypeError(f"W_enc has shape {list(tensors['W_enc'].shape)}, not {list(shape)}")
        more = () if layout is None else (layout,)
        crosscoder = kind(size, hookpoints, config["d_model"], *more)
        crosscoder.positions = PositionRule.stored(config.get("positions", {}))
        provenance = _typed(Provenance, config["provenance"], Provenance("", ""))
        crosscoder.token_scale.restore(tensors, len(hookpoints))
        crosscoder.load_state_dict({n: _usable(n, t) for n, t in tensors.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CrossproofError(
            f"{folder} is not a crossproof crosscoder ({reason}): its {CONFIG} and {WEIGHTS} do "
            f"not fit each other."
        ) from error
    return crosscoder.eval(), provenance


def _typed(kind: type[T], values: Mapping[str, Any], like: T) -> T:
    """A dataclass of `values`, each of the type that `like` has there; TypeError otherwise."""
    for name, value in dict(values).items():
        usual = type(getattr(like, name, value))
        if type(value) is not usual:
            raise TypeError(f"{name} is {value!r}, not of type {usual.__name__}")
    return kind(**values)


def _hookpoints(content: Mapping[str, Any]) -> Hookpoints:
    names, blocks = content["names"], [BlockHookpoints(**block) for block in content["blocks"]]
    usual = [None, *range(len(names))]
    wrong = [index for block in blocks for index in vars(block).values() if index not in usual]
    printable = all(type(name) is str and name.isprintable() for name in names)
    if type(names) is not list or not printable or wrong:
        raise TypeError(f"hookpoints are {names!r}, and blocks have some at {wrong}")
    return replace(Hookpoints.from_names(names, 0), blocks=tuple(blocks))


def _usable(name: str, tensor: Tensor) -> Tensor:
    """Floating and finite; sparsity rules may have infinite thresholds, kept as the largest number
    (a logarithm that large is as good as infinite)."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} holds numbers of type {tensor.dtype}")
    if bool(tensor.isnan().any()):
        raise TypeError(f"{name} holds NaN")
    if name.startswith("sparsity."):
        return tensor.nan_to_num()
    if name == "scale" and not bool((tensor > 0).all()):
        raise TypeError("scale holds a number that is not above 0")
    if bool(tensor.isinf().any()):
        raise TypeError(f"{name} holds infinite numbers")
    return tensor
