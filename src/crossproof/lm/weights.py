"""Reading a model's weights: every one that the configuration asks for, plain and finite."""

from __future__ import annotations

import re
from typing import Any

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from crossproof.errors import CrossproofError
from crossproof.lm.sources import GGUF, Reading, Source
from crossproof.lm.tracing import context_of

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""In which models run, by name; figures are float32 in any of them, float64 in float64."""

CHECK_TOKENS = 8

UNPACKED = ("fp8", "mxfp4")
"""Quantisations that transformers turns into plain weights as it reads them, on any machine."""

MOST_A_BYTE = 4
"""Parameters that a byte of weights can hold, with room to spare: packed ones are two a byte."""


def dtype_of(dtype: torch.dtype | str) -> torch.dtype:
    """The dtype of a name; CrossproofError unless models can run in it."""
    value = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if value is None or value not in DTYPES.values():
        raise CrossproofError(
            f"Models cannot run in {dtype}; choose {', '.join(DTYPES)}.", code="CP-OPTION"
        )
    return value


def read_weights(
    source: Source, config: PreTrainedConfig, dtype: torch.dtype, trust_remote_code: bool
) -> PreTrainedModel:
    """The model that a configuration describes, with the weights beside it, on the CPU.

    Raises CrossproofError for weights that are missing, damaged, quantised, not finite, or of
    another configuration.
    """
    _ask_unpacked(source.name, config)
    _check_size(source, config, trust_remote_code)
    with Reading(f"The model '{source.name}' cannot be read", _remedy(source), source.folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.repository,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
            **source.options,
        )
    model: PreTrainedModel = loaded[0]
    _check_complete(model, source.name, loaded[1])
    check_plain(model, source.name)
    _check_finite(model, source.name, dtype)
    model.requires_grad_(False)
    model.train(False)
    return model


def check_plain(model: PreTrainedModel, name: str) -> None:
    """Raises CrossproofError for weights that are packed, or that are not there (device meta)."""
    for key, parameter in model.named_parameters():
        if parameter.is_meta:
            raise CrossproofError(
                f"The weights of '{name}' are not in memory ('{key}' is on the device meta); load "
                f"it whole onto one device."
            )
        if parameter.dtype not in DTYPES.values() or type(parameter) is not torch.nn.Parameter:
            raise _quantised(name, str(parameter.dtype).removeprefix("torch."))
    if not getattr(model, "is_quantized", False):
        return
    method = str(getattr(model.config.quantization_config, "quant_method", "unknown"))
    if method.rpartition(".")[2].lower() != "gguf" or "GgufLinear" in map(_kind, model.modules()):
        raise _quantised(name, method)
    # Unpacked while it was read: a model like any other, which can be saved and converted.
    vars(model)["is_quantized"] = False
    del model.hf_quantizer, model.config.quantization_config


def few_tokens(model: PreTrainedModel) -> Int[Tensor, "1 T"]:
    """The first tokens of the vocabulary, to try a model on."""
    vocabulary = len(next(model.get_input_embeddings().parameters()))
    count = min(CHECK_TOKENS, vocabulary, context_of(model))
    return torch.arange(count, device=model.device).unsqueeze(0)


def check_runs(model: PreTrainedModel, name: str) -> None:
    """Raises CrossproofError unless the model gives finite logits for a few tokens."""
    with Reading(f"The model '{name}' cannot be run", "copy its files again"), torch.no_grad():
        output = model(input_ids=few_tokens(model), use_cache=False)
        finite = bool(output.logits.isfinite().all())
    if not finite:
        raise CrossproofError(
            f"The model '{name}' computes NaN or infinity in {model.dtype}; choose another dtype, "
            f"or copy its files again.",
            code="CP-NOT-FINITE",
        )


def _kind(module: torch.nn.Module) -> str:
    return type(module).__name__


def _ask_unpacked(name: str, config: PreTrainedConfig) -> None:
    """Asks for plain weights where transformers can unpack them; refuses other quantisations."""
    stored = getattr(config, "quantization_config", None)
    if not stored:
        vars(config).pop("quantization_config", None)  # {} says no more than nothing
        return
    method = stored.get("quant_method") if isinstance(stored, dict) else None
    if method not in UNPACKED:
        raise _quantised(name, str(method or "unknown"))
    config.quantization_config = {**stored, "dequantize": True}


def _quantised(name: str, method: str) -> CrossproofError:
    return CrossproofError(
        f"The weights of '{name}' are quantised ({method}), and views of a model need plain ones; "
        f"give the model that was quantised, or a copy saved after `model.dequantize()`.",
        code="CP-QUANTISED",
    )


def _check_size(source: Source, config: PreTrainedConfig, trust_remote_code: bool) -> None:
    """A configuration far larger than its weights is refused before memory is asked for it."""
    folder = source.folder
    files = list(folder.glob("*.safetensors")) if folder and not source.gguf else []
    if not files:
        return
    try:
        tensors = sum(_count_plain(safe_open(path, "pt"), source.name) for path in files)
    except (OSError, SafetensorError):
        return  # said when they are read
    layers = getattr(config, "num_hidden_layers", 0)
    parameters = 0
    fits = isinstance(layers, int) and layers <= tensors
    if fits:
        what = f"The config.json of '{source.name}' describes no model"
        with Reading(what, "mend it, or copy it again"), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        parameters = sum(parameter.numel() for parameter in model.parameters())
    if not fits or parameters > MOST_A_BYTE * sum(path.stat().st_size for path in files):
        raise CrossproofError(
            f"The config.json of '{source.name}' describes a far larger model than the weights "
            f"beside it; copy both again, from one place."
        )


def _count_plain(tensors: Any, name: str) -> int:
    """How many tensors a file holds; CrossproofError if a weight among them is of integers.

    Read into a plain model these would be taken for the numbers that they stand for.
    """
    keys = list(tensors.keys())
    for key in keys:
        stored = tensors.get_slice(key).get_dtype() if key.endswith(".weight") else ""
        if stored.startswith(("I", "U")):
            raise _quantised(name, f"'{key}' holds {stored}")
    return len(keys)


def _check_complete(model: PreTrainedModel, name: str, report: dict[str, Any]) -> None:
    """Raises CrossproofError unless configuration and weights are of one model."""
    for key, stored, asked in sorted(report["mismatched_keys"]):
        raise CrossproofError(
            f"The weights of '{name}' do not fit its config.json: '{key}' is {tuple(stored)} where "
            f"{tuple(asked)} is asked for; copy both again, from one place."
        )
    if missing := sorted(report["missing_keys"]):
        raise CrossproofError(
            f"The weights of '{name}' lack {len(missing)} tensors, '{missing[0]}' first; download "
            f"or copy them again."
        )
    modules = {
        _anyhow(k) for k, m in model.named_modules() if any(True for _ in m.parameters(False))
    }
    extra = [k for k in report["unexpected_keys"] if _anyhow(k.rpartition(".")[0]) in modules]
    if extra:
        raise CrossproofError(
            f"The weights of '{name}' hold {len(extra)} tensors that its config.json leaves out, "
            f"'{min(extra)}' first; copy both again, from one place."
        )


def _anyhow(path: str) -> str:
    """A module's path whatever its block: where `h.7.mlp` is not in a model, `h.0.mlp` may be."""
    return re.sub(r"\.\d+\.", ".0.", path)


def _check_finite(model: PreTrainedModel, name: str, dtype: torch.dtype) -> None:
    for key, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            narrow = f", or what {dtype} cannot hold: choose another dtype" * (
                dtype is torch.float16
            )
            raise CrossproofError(
                f"The weights of '{name}' hold NaN or infinity in '{key}'{narrow}; download or "
                f"copy them again.",
                code="CP-NOT-FINITE",
            )


def _remedy(source: Source) -> str:
    folder = source.folder
    ggufs = sorted(p.name for p in folder.glob(f"*{GGUF}")) if folder and not source.gguf else []
    if ggufs:
        return f"if its GGUF file is meant, give '{source.name.rstrip('/')}/{ggufs[0]}'"
    return "its weights are missing or damaged: download or copy them again"
