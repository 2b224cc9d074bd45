"""Tiny language models of several architectures, saved as folders with a tokenizer beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Exaone4Config,
    Exaone4ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Glm4Config,
    Glm4ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

VOCABULARY = 64
CONTEXT = 32
D_MODEL = 16
N_NEURONS = 48
N_BLOCKS = 2
END = 0
IDS = {"vocab_size": VOCABULARY, "bos_token_id": END, "eos_token_id": END}


def gpt2() -> PreTrainedModel:
    """Plain MLPs (tanh GELU) whose weights are stored input-first, learned positions."""
    return GPT2LMHeadModel(
        GPT2Config(
            n_positions=CONTEXT,
            n_embd=D_MODEL,
            n_layer=N_BLOCKS,
            n_head=2,
            n_inner=N_NEURONS,
            **IDS,
        )
    )


def gpt_neo() -> PreTrainedModel:
    """Plain MLPs (tanh GELU), one global and one local attention."""
    return GPTNeoForCausalLM(
        GPTNeoConfig(
            max_position_embeddings=CONTEXT,
            hidden_size=D_MODEL,
            num_layers=N_BLOCKS,
            attention_types=[[["global", "local"], N_BLOCKS // 2]],
            num_heads=2,
            intermediate_size=N_NEURONS,
            window_size=8,
            **IDS,
        )
    )


def gpt_neox(parallel: bool = True) -> PreTrainedModel:
    """Plain MLPs (exact GELU), rotary positions; attention and MLP in parallel or in turn."""
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            hidden_size=D_MODEL,
            num_hidden_layers=N_BLOCKS,
            num_attention_heads=2,
            intermediate_size=N_NEURONS,
            max_position_embeddings=CONTEXT,
            use_parallel_residual=parallel,
            **IDS,
        )
    )


def llama(blocks: int = N_BLOCKS) -> PreTrainedModel:
    """Gated MLPs (SiLU) without biases, grouped queries, RMS norms."""
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=D_MODEL,
            num_hidden_layers=blocks,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=N_NEURONS,
            max_position_embeddings=CONTEXT,
            **IDS,
        )
    )


_GATED = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": N_NEURONS,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": END,
    **IDS,
}


def gemma2() -> PreTrainedModel:
    """RMS norms with 1 + γ, a second norm on what attention and MLP write, gated tanh GELU."""
    return Gemma2ForCausalLM(Gemma2Config(**_GATED))


def gemma3() -> PreTrainedModel:
    """The same with norms of queries and keys, too."""
    return Gemma3ForCausalLM(Gemma3TextConfig(**_GATED))


def olmo2() -> PreTrainedModel:
    """Norms on what attention and MLP write alone: both read the stream as it is."""
    return Olmo2ForCausalLM(Olmo2Config(**_GATED))


def exaone4() -> PreTrainedModel:
    """The same in another family."""
    return Exaone4ForCausalLM(Exaone4Config(**_GATED))


def glm4() -> PreTrainedModel:
    """Norms before and behind attention and MLP, γ as it is stored."""
    return Glm4ForCausalLM(Glm4Config(**_GATED))


def granite(residual_multiplier: float) -> PreTrainedModel:
    """Blocks that scale what attention and MLP put out before the stream takes it."""
    return GraniteForCausalLM(GraniteConfig(residual_multiplier=residual_multiplier, **_GATED))


SECOND_NORMS: dict[str, Callable[[], PreTrainedModel]] = {
    "gemma2": gemma2,
    "gemma3": gemma3,
    "glm4": glm4,
    "olmo2": olmo2,
    "exaone4": exaone4,
}
"""Families whose MLPs' outputs pass a norm before the stream takes them."""

_MIXTURE = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": CONTEXT,
    "head_dim": 4,
    "experts_implementation": "eager",  # the usual one knows no float64
    **IDS,
}


def mixtral(experts: int = 4, chosen: int = 2) -> PreTrainedModel:
    """Experts whose weights add up to one."""
    options = _MIXTURE | {"num_experts_per_tok": chosen, "num_local_experts": experts}
    return MixtralForCausalLM(MixtralConfig(intermediate_size=24, **options))


def llama_like(mixture: PreTrainedModel) -> PreTrainedModel:
    """The dense model that a Mixtral of one expert is."""
    config = mixture.config
    dense = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=D_MODEL,
            num_hidden_layers=N_BLOCKS,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=CONTEXT,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters=config.rope_parameters,
            head_dim=4,
            **IDS,
        )
    )
    weights = dict(mixture.state_dict())
    for block in range(N_BLOCKS):
        at = f"model.layers.{block}.mlp"
        both = weights.pop(f"{at}.experts.gate_up_proj")[0]
        weights[f"{at}.gate_proj.weight"], weights[f"{at}.up_proj.weight"] = both.chunk(2)
        weights[f"{at}.down_proj.weight"] = weights.pop(f"{at}.experts.down_proj")[0]
        weights.pop(f"{at}.gate.weight")
    dense.load_state_dict(weights)
    return dense


def qwen2_moe() -> PreTrainedModel:
    """Experts beside a shared one, which a sigmoid weighs."""
    sizes = {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 20, "num_experts": 4}
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(intermediate_size=24, **sizes, **_MIXTURE))


def qwen3_moe() -> PreTrainedModel:
    """Experts without a shared one."""
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(intermediate_size=24, moe_intermediate_size=12, num_experts=4, **_MIXTURE)
    )


def olmoe() -> PreTrainedModel:
    """Experts whose weights do not add up to one."""
    return OlmoeForCausalLM(OlmoeConfig(intermediate_size=12, num_experts=4, **_MIXTURE))


def gpt_oss() -> PreTrainedModel:
    """Experts with biases and a gate of their own."""
    sizes = {"intermediate_size": 16, "num_local_experts": 4}
    return GptOssForCausalLM(GptOssConfig(**sizes, **_MIXTURE))


MIXTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "mixtral": mixtral,
    "qwen2-moe": qwen2_moe,
    "qwen3-moe": qwen3_moe,
    "olmoe": olmoe,
}

ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": gpt2,
    "gpt-neo": gpt_neo,
    "gpt-neox": gpt_neox,
    "gpt-neox-sequential": lambda: gpt_neox(parallel=False),
    "llama": llama,
}
SEQUENTIAL = tuple(kind for kind in ARCHITECTURES if kind != "gpt-neox")


def tuned_gpt_neo() -> PreTrainedModel:
    """GPT-Neo with other weights, as if it had been tuned."""
    model = gpt_neo()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def save_model(folder: Path, build: Callable[[], PreTrainedModel], tokenizer: bool = True) -> Path:
    """Save a model with seeded weights, none at its initial value, so that nothing hides."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    if tokenizer:
        word_tokenizer().save_pretrained(folder)
    return folder


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words "w1" to "w62" and "?" for any other; "<end>" is BOS, EOS and PAD."""
    words = {"<end>": END, **{f"w{i}": i for i in range(1, VOCABULARY - 1)}, "?": VOCABULARY - 1}
    backend = Tokenizer(models.WordLevel(words, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<end>",
        eos_token="<end>",
        pad_token="<end>",
        unk_token="?",
    )


def random_tokens(sequences: int, length: int, seed: int = 0) -> torch.Tensor:
    """[S,T] ordinary tokens: none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (sequences, length), generator=generator)
