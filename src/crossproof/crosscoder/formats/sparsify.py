"""sparsify (EleutherAI): a folder a hookpoint with `cfg.json` and `sae.safetensors`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from crossproof.crosscoder.formats.files import Config, config_at, read_config
from crossproof.crosscoder.formats.foreign import INPUT_OF, ForeignDictionary
from crossproof.crosscoder.formats.save import Save
from crossproof.errors import CrossproofError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def recognise(path: Path) -> bool:
    """A folder whose cfg.json gives `d_in` and `expansion_factor`."""
    return {"d_in", "expansion_factor"} <= config_at(path / CONFIG).keys()


def read(path: Path) -> list[ForeignDictionary]:
    """The one dictionary of the folder; its name (less seed folders) is the hookpoint.

    Where it has a skip, and nothing says whether it is a transcoder, hookpoints given later do.
    Raises CrossproofError for a missing or damaged file, or an activation it does not know.
    """
    config = read_config(path / CONFIG)
    save = Save(path, path / WEIGHTS, config)
    k, activation = config.whole("k") or 0, config.text("activation") or "topk"
    if activation not in ("topk", "groupmax"):
        raise CrossproofError(f"{path} has the activation {activation!r}: not imported.")
    # groupmax: the largest of each of k groups
    number = {"k": k} if activation == "topk" else {"k": 1, "groups": k}
    rule = "abs_topk" if config.flag("signed") and activation == "topk" else "topk"
    weights = save.take("encoder.weight h d", "encoder.bias h", "W_dec h e", "b_dec e")
    _check_factor(config, save.file, *weights[0].shape)
    _check_skip(save)
    module, transcode = _module(path), config.flag("transcode")
    hooks = (module and INPUT_OF + module, module) if transcode else (module,)
    unsaid = "transcode" not in config and config.flag("skip_connection")
    if unsaid:  # skip transcoders were saved before the configuration named them
        hooks = (None,)
    more: dict[str, Any] = {"less_decoder_bias": not transcode, "rule": rule, **number}
    more["either"] = unsaid
    more |= save.skip("W_skip e d", len(hooks))
    return [save.dictionary(hooks, activation, *weights, **more)]


def _check_factor(config: Config, file: Path, n_latents: int, width: int) -> None:
    """Where `num_latents` is nought, the factor says how many latents there are."""
    factor = config.number("expansion_factor")
    if not config.whole("num_latents") and factor and factor * width != n_latents:
        raise CrossproofError(
            f"{config.source} gives expansion_factor as {factor:g}, and the tensors in {file} have "
            f"{n_latents} latents of width {width}: put the configuration and the weights of one "
            f"dictionary together."
        )


def _check_skip(save: Save) -> None:
    said, there = save.config.flag("skip_connection"), "W_skip" in save.tensors
    if said != there:
        raise CrossproofError(
            f"{save.config.source} gives skip_connection as {str(said).lower()}, and {save.file} "
            f"holds {'a' if there else 'no'} W_skip: put the configuration and the weights of one "
            f"dictionary together."
        )


def _module(path: Path) -> str | None:
    """The module that the folder is named after: sparsify names folders by module paths."""
    folder = Path(os.path.abspath(path))  # as given: a link's own name, not its target's
    name = folder.parent.name if re.fullmatch(r"seed\d+", folder.name) else folder.name
    return name if re.search(r"(^|\.)\d+(\.|$)", name) else None
