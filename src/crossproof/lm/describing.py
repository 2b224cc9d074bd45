"""Reading what stands beside a model's weights: its configuration and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.activations import ACT2FN
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from crossproof.errors import CrossproofError
from crossproof.extras import needed
from crossproof.lm.sources import Reading, Source

ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
"""Where configurations name the MLPs' activation function."""

TOKENIZERS = ("tokenizer*", "vocab.*", "merges.txt", "spiece.model", "*.tiktoken", "tekken.json")
"""Files that tokenizers are saved in."""


def read_config(source: Source, trust_remote_code: bool) -> PreTrainedConfig:
    """The configuration of a model.

    Raises CrossproofError where it is missing or malformed, of a kind that transformers does not
    know, or needs code of its own that is not to be trusted.
    """
    if source.gguf:
        needed("gguf", "gguf", "models in GGUF files")
    else:
        _check_known(source.name, _stored(source), trust_remote_code)
    what = f"The configuration of '{source.name}' describes no model that transformers knows"
    with Reading(what, "mend it, or copy it again", source.folder):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            source.repository, trust_remote_code=trust_remote_code, **source.options
        )
    return config


def read_tokenizer(
    source: Source, config: PreTrainedConfig, trust_remote_code: bool
) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer, or None where it has none: it can be read all the same.

    Raises CrossproofError for a tokenizer that is there and cannot be read.
    """
    folder = source.folder
    if folder and not source.gguf and not any(any(folder.glob(each)) for each in TOKENIZERS):
        return None
    with Reading(
        f"The tokenizer of '{source.name}' cannot be read",
        "copy its files again, or update transformers and tokenizers if it is newer than they are",
        folder,
    ):
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                source.repository,
                config=config,
                trust_remote_code=trust_remote_code,
                **source.options,
            )
        except OSError:
            if folder:
                raise
            return None  # a repository of the Hub without one
        # For files that hold no words, transformers may make one up that knows none.
        words = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    return tokenizer if words else None


def _stored(source: Source) -> Mapping[str, Any]:
    path = source.file("config.json")
    what = f"The config.json of '{source.name}' is no JSON object"
    with Reading(what, "mend it, or copy it again", source.folder):
        stored = json.loads(path.read_bytes())
        if not isinstance(stored, dict):
            raise TypeError(f"it is a {type(stored).__name__}")
    return stored


def _check_known(name: str, stored: Mapping[str, Any], trust_remote_code: bool) -> None:
    """Raises CrossproofError for what transformers would ask about, or would name badly."""
    kind, code = stored.get("model_type"), stored.get("auto_map")
    if code and kind not in list(CONFIG_MAPPING) and not trust_remote_code:
        raise CrossproofError(
            f"'{name}' is a '{kind}', which transformers knows only by code of the model's own, "
            f"and that is not run unasked; read it, and give --trust-remote-code "
            f"(trust_remote_code=True) if you trust it.",
            code="CP-REMOTE-CODE",
        )
    if kind is not None and not code and kind not in list(CONFIG_MAPPING):
        raise CrossproofError(
            f"'{name}' is a '{kind}', which is no model that transformers knows; update "
            f"transformers if it is newer."
        )
    for key in ACTIVATIONS:
        act = stored.get(key)
        if act is not None and not code and act not in list(ACT2FN):
            raise CrossproofError(
                f"The config.json of '{name}' names the activation function {act!r} ({key}), which "
                f"transformers does not know; mend it, or update transformers."
            )
