"""Every causal language model of the installed transformers, tiny: what crossproof reads of it.

`python -m tools.architectures` writes the table of docs/models.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel, load_model, quiet
from crossproof.lm.mixture import MixtureWeights
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.tracing import FORWARD_ERRORS

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
LARGEST = 20_000_000
"""Parameters of a model that is still tiny."""
LAYERS, WIDTH, HEADS, HEAD, NEURONS, CONTEXT, VOCABULARY = 2, 32, 4, 8, 48, 64, 64
SIZES = {
    r"vocab_size|vocab_size_per_layer_input|n_words": VOCABULARY,
    r"num_hidden_layers|n_layers?|num_layers|(num_)?(de|en)coder_layers": LAYERS,
    r"hidden_size|d_model|n_embd|dim|emb_dim|embedding_size|word_embed_proj_dim": WIDTH,
    r"num_attention_heads|n_heads?|(linear_)?num_heads|(num_)?(de|en)coder_attention_heads": HEADS,
    r"num_key_value_heads|num_kv_heads|linear_num_key_heads": HEADS // 2,
    r"intermediate_size|moe_intermediate_size|shared_expert_intermediate_size|dff": NEURONS,
    r"n_inner|((de|en)coder_)?ffn_dim|(expert_)?ffn_hidden_size": NEURONS,
    r"linear_num_value_heads": HEADS,
    r"(linear_|attention_|v_|qk_(nope|rope)_)?((key|value)_)?head_dim|d_head|rotary_dim": HEAD,
    r"kv_lora_rank|q_lora_rank|hidden_size_per_layer_input": 2 * HEAD,
    r"(mamba_)?chunk_size|(mamba_d_|ssm_)?state(_size)?": 2 * HEAD,
    r"max_position_embeddings|n_positions|max_seq_len|n_ctx|seq_length": CONTEXT,
}
OPTIONAL = ("head_dim", "num_key_value_heads")
"""Sizes that are given also where the configuration has none."""
_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2}
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": NEURONS, "moe_num_experts": 2, "moe_top_k": 1},
    },
    "deepseek_v2": _EXPERTS,
    "dots1": _EXPERTS,
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": _HYBRID,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "olmo_hybrid": _HYBRID,
    "qwen3_5_moe_text": _HYBRID,
    "qwen3_5_text": _HYBRID,
    "qwen3_next": _HYBRID,
    "xmod": {"default_language": "en_XX"},
}


@dataclass(frozen=True)
class Row:
    """What the table says of one architecture."""

    architecture: str
    hookpoints: str
    mlp: str = ""
    attention: str = ""

    def line(self) -> str:
        """The row in Markdown."""
        cells = (f"`{self.architecture}`", self.hookpoints, self.mlp, self.attention)
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def tiny_config(kind: str, **special: Any) -> PreTrainedConfig:
    """A configuration of a model type with every size made small."""
    return _tiny(CONFIG_MAPPING[kind], SPECIAL.get(kind, {}) | special)


def _tiny(cls: Any, special: dict[str, Any]) -> PreTrainedConfig:
    given: dict[str, Any] = {}
    usual = cls()
    for name, value in usual.to_dict().items():
        if name in cls.sub_configs and isinstance(value, dict):
            given[name] = _tiny(type(getattr(usual, name)), {}).to_dict()
        elif name == "is_decoder":
            given[name] = True
        elif name.endswith("token_id"):
            given[name] = None if not isinstance(value, int) else int("pad" in name)
        elif isinstance(value, int) or (value is None and name in OPTIONAL):
            for pattern, size in SIZES.items():
                if re.fullmatch(pattern, name):
                    given[name] = size
    config: PreTrainedConfig = cls(**(given | special))
    return config


def tiny_model(kind: str) -> PreTrainedModel | None:
    """A seeded model whose every weight has moved, or None if transformers cannot make it tiny."""
    model = None
    for special in ({}, {"num_key_value_heads": HEADS}):  # some have no grouped queries
        try:
            config = tiny_config(kind, **special)
            with torch.device("meta"):
                if AutoModelForCausalLM.from_config(config).num_parameters() > LARGEST:
                    continue
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).eval()
            for parameter in model.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
            model(input_ids=torch.arange(8).view(2, 4), use_cache=False)
            break
        except (*FORWARD_ERRORS, StrictDataclassError):
            continue
    return model


def examine(kind: str) -> Row:
    """Load a tiny model, check it by `check_exact`, and say what can be read."""
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    with quiet():
        bare = tiny_model(kind)
    if bare is None:
        return Row(architecture, "not tried: no tiny one can be made from its configuration alone")
    try:
        model = load_model(bare)
    except CrossproofError as error:
        return Row(architecture, f"refused: {_reason(error)}")
    check_exact(model)
    blocks = range(model.n_blocks)
    return Row(
        architecture,
        _hookpoints(model),
        _joined(_view(partial(_mlp, model), block) for block in blocks),
        _joined(_view(model.attention, block) for block in blocks),
    )


def check_exact(model: LanguageModel) -> None:
    """Raises CrossproofError unless values and replacements at hookpoints are the model's own.

    Every hookpoint replaced by its own value changes nothing, and the last stream of another text
    gives that text's logits.
    """
    length = min(12, model.context)
    generator = torch.Generator().manual_seed(0)
    tokens, others = torch.randint(2, model.vocab_size, (2, 2, length), generator=generator)
    names = model.available_hookpoints()
    values = dict(zip(names, model.activations(tokens, names).unbind(2), strict=True))
    _check_same(model, model.logits(tokens, values), model.logits(tokens), "its own values")
    last = f"blocks.{model.n_blocks - 1}.hook_resid_post"
    stream = model.activations(others, [last])[:, :, 0]
    moved = model.logits(tokens, {last: stream})
    _check_same(model, moved, model.logits(others), f"another text's {last}")


def _check_same(model: LanguageModel, ours: Tensor, own: Tensor, what: str) -> None:
    if not torch.allclose(ours, own, rtol=1e-4, atol=1e-4 * float(own.abs().max())):
        raise CrossproofError(f"With {what}, '{model.name}' gives logits that it should not.")


def _hookpoints(model: LanguageModel) -> str:
    of_block = sum(name.startswith("blocks.0.") for name in model.available_hookpoints())
    reasons: dict[str, list[str]] = {}
    for name, why in model.missing_hookpoints().items():
        short = re.sub(r"blocks\.\d+\.", "", name)
        if short not in reasons.setdefault(why, []):
            reasons[why].append(short)
    lacking = [f"no {', '.join(names)} ({why})" for why, names in reasons.items()]
    return "; ".join([f"{of_block} a block", *lacking])


def _view(read: Any, block: int) -> str:
    try:
        view = read(block)
    except CrossproofError as error:
        return _reason(error)
    if isinstance(view, MixtureWeights):
        return "experts"
    return {True: "gated", False: "plain"}[view.gated] if hasattr(view, "gated") else "yes"


def _mlp(model: LanguageModel, block: int) -> MLPWeights | MixtureWeights:
    return model.mixture(block) if model.is_mixture(block) else model.mlp(block)


def _joined(outcomes: Iterator[str]) -> str:
    return " / ".join(dict.fromkeys(outcomes))


def _reason(error: CrossproofError) -> str:
    """The sentence without the model's name and the advice."""
    text = re.sub(r"^[^']*'[^']*'(, an? \w+,)?:? ", "", str(error).split(";")[0])
    return re.sub(r"^has no hookpoint '[^']*': ", "", text).rstrip(".")


def rows() -> Iterator[Row]:
    """Every architecture once, in the order of the alphabet."""
    kinds = {name: kind for kind, name in reversed(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items())}
    for _, kind in sorted(kinds.items(), key=lambda item: item[0].lower()):
        yield examine(kind)


def main() -> int:
    """Write the table into docs/models.md, below its heading."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    text = PAGE.read_text(encoding="utf-8")
    head = text[: text.index("| --- |")] + "| --- | --- | --- | --- |\n"
    PAGE.write_text(head + "".join(f"{row.line()}\n" for row in rows()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
