"""A tiny Llama as a GGUF file, written from the format's own description."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from tiny_models import CONTEXT, D_MODEL, N_BLOCKS, N_NEURONS, VOCABULARY
from transformers import LlamaForCausalLM

LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def save_gguf(model: LlamaForCausalLM, path: Path, vocabulary: bool = True) -> Path:
    """`model` (of `tiny_models.llama`) in float32, with a tokenizer of letters and one pair."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(N_BLOCKS)
    writer.add_feed_forward_length(N_NEURONS)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(VOCABULARY)
    if vocabulary:
        writer.add_tokenizer_model("gpt2")
        letters = [chr(0x21 + i) for i in range(VOCABULARY - 2)]
        writer.add_token_list(["<end>", *letters, '!"'])
        writer.add_token_types([gguf.TokenType.CONTROL] + [1] * (VOCABULARY - 1))
        writer.add_token_merges(['! "'])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(_name(name), _stored(name, tensor, config).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name: str) -> str:
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    module = name.removesuffix(".weight")
    if module in whole:
        return f"{whole[module]}.weight"
    _, _, block, rest = module.split(".", 3)
    return f"blk.{block}.{LAYER[rest]}.weight"


def _stored(name: str, tensor: torch.Tensor, config: object) -> torch.Tensor:
    """Queries and keys with the two halves of each head interleaved, as the format has them."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    for part, count in heads.items():
        if part in name:
            split = tensor.reshape(getattr(config, count), 2, -1, tensor.shape[1])
            return split.transpose(1, 2).reshape(tensor.shape).contiguous()
    return tensor.contiguous()
