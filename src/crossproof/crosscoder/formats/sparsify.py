"""sparsify (EleutherAI): a folder a hookpoint with `cfg.json` and `sae.safetensors`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from crossproof.crosscoder.formats.files import config_at, read_json, read_weights, take
from crossproof.crosscoder.formats.foreign import (
    ForeignDictionary,
    autoencoder,
    less_decoder_bias,
    refuse_skip,
    transcoder,
)
from crossproof.errors import CrossproofError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
INPUT_OF = "input of "
"""Before a module's path: the module's input, where a transcoder reads."""


def recognise(path: Path) -> bool:
    """A folder whose cfg.json gives `d_in` and `expansion_factor`."""
    config = config_at(path / CONFIG)
    return "d_in" in config and "expansion_factor" in config


def read(path: Path) -> list[ForeignDictionary]:
    """The one dictionary of the folder; its name (less seed folders) is the hookpoint.

    Raises CrossproofError for a missing or damaged file, a linear skip, or signed latents.
    """
    config = read_json(path / CONFIG)
    tensors = read_weights(path / WEIGHTS)
    if config.get("signed"):
        raise CrossproofError(
            f"{path} has signed latents: a crosscoder's latents are not negative."
        )
    refuse_skip(str(path), tensors.get("W_skip"))
    names = "encoder.weight", "encoder.bias", "W_dec", "b_dec"
    weights = take(tensors, path / WEIGHTS, *names)
    k, activation = int(config.get("k", 0)), config.get("activation", "topk")
    if activation not in ("topk", "groupmax"):
        raise CrossproofError(f"{path} has the activation {activation!r}: not imported.")
    about = {"architecture": activation, "config": config}
    # groupmax: the largest of each of k groups
    number = {"k": k} if activation == "topk" else {"k": 1, "groups": k}
    more: dict[str, Any] = {"rule": "topk", "about": about, **number}
    module = _module(path)
    if config.get("transcode"):
        hooks = (module and INPUT_OF + module, module)
        return [transcoder(str(path), hooks, *weights, **more)]
    foreign = autoencoder(str(path), module, *weights, **more)
    return [less_decoder_bias(foreign)]


def _module(path: Path) -> str | None:
    """The module that the folder is named after: sparsify names folders by module paths."""
    folder = path.resolve()
    name = folder.parent.name if re.fullmatch(r"seed\d+", folder.name) else folder.name
    return name if re.search(r"(^|\.)\d+(\.|$)", name) else None
