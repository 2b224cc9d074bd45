"""SAEs of attention's heads: all or one, as wide as the model, wider, and behind folded biases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from foreign_layouts import Draws
from safetensors.torch import save_file
from tiny_models import D_MODEL, IDS, N_BLOCKS, N_NEURONS, gpt2, llama, random_tokens, save_model
from torch import Tensor
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

import crossproof
from crossproof.crosscoder.encode import encode_batches
from crossproof.errors import CrossproofError
from crossproof.interactions import mlp_views
from crossproof.interactions.views import needs_of
from crossproof.lm import LanguageModel, load_model

F, K, TOKENS = 12, 3, random_tokens(2, 8)
CLOSE = {"rtol": 0.0, "atol": 2e-5}
"""Float32: sums of at most 80 products of numbers of order one, three of them in turn."""


def wide() -> PreTrainedModel:
    """Heads that put out 40 numbers, in a model 16 wide; normalised queries and keys."""
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 20, **IDS}
    sizes |= {"hidden_size": D_MODEL, "num_hidden_layers": N_BLOCKS, "intermediate_size": N_NEURONS}
    return Qwen3ForCausalLM(Qwen3Config(**sizes))


def biased() -> PreTrainedModel:
    """GPT-2 whose values and outputs have biases."""
    model = gpt2()
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.bias += torch.randn_like(block.attn.c_attn.bias)
            block.attn.c_proj.bias += torch.randn_like(block.attn.c_proj.bias)
    return model


MODELS: dict[str, tuple[Callable[[], PreTrainedModel], int, str]] = {
    "gpt2": (biased, 16, "transformer.h.1.attn.c_proj"),
    "llama": (llama, 16, "model.layers.1.self_attn.o_proj"),
    "wide": (wide, 40, "model.layers.1.self_attn.o_proj"),
}
Case = tuple[LanguageModel, int, torch.nn.Module]


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    build, width, path = MODELS[request.param]
    torch.manual_seed(3)
    model = load_model(str(save_model(tmp_path_factory.mktemp("heads") / request.param, build)))
    return model, width, model._bare.get_submodule(path)


def saved(folder: Path, width: int, kwargs: dict[str, bool], head: int | None = None) -> Draws:
    shapes = {"W_enc": (width, F), "W_dec": (F, width), "b_enc": (F,), "b_dec": (width,)}
    weights = Draws(5, **shapes)
    save_file(weights, folder / "sae_weights.safetensors")
    meta = {"hook_name": "blocks.1.attn.hook_z", "hook_head_index": head}
    meta |= {"model_from_pretrained_kwargs": kwargs}
    config = {"architecture": "topk", "k": K, "d_in": width, "d_sae": F, "metadata": meta}
    (folder / "cfg.json").write_text(json.dumps(config | {"reshape_activations": "hook_z"}))
    return weights


def output(weights: Draws, z: Tensor) -> tuple[Tensor, Tensor]:
    """The SAE of z as SAELens defines it: code and reconstruction."""
    pre = (z - weights.b_dec) @ weights.W_enc + weights.b_enc
    at = pre.topk(K, dim=-1).indices
    code = torch.zeros_like(pre).scatter(-1, at, pre.gather(-1, at).relu())
    return code, code @ weights.W_dec + weights.b_dec


def with_z(
    model: LanguageModel, projection: torch.nn.Module, change: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """z as the model has it, and its logits with what `change` makes of z in its place."""
    seen: list[Tensor] = []

    def hook(_: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen.append(args[0].clone())
        return (change(args[0]),)

    handle = projection.register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            logits = model._bare(input_ids=TOKENS, use_cache=False).logits
    finally:
        handle.remove()
    return seen[0], logits


@pytest.mark.parametrize("head", [None, 1])
@pytest.mark.parametrize("folded", [False, True])
def test_an_sae_of_heads_writes_what_it_says_of_z(
    case: Case, tmp_path: Path, head: int | None, folded: bool
) -> None:
    model, width, projection = case
    part = width if head is None else width // (4 if "llama" in model.name else 2)
    columns = slice(0, width) if head is None else slice(head * part, (head + 1) * part)
    weights = saved(tmp_path, part, {"fold_value_biases": folded}, head)
    crosscoder, _ = crossproof.import_dictionary(tmp_path, model)
    shift = torch.zeros(width)
    if folded and "gpt2" in model.name:
        shift = model._bare.transformer.h[1].attn.c_attn.bias.detach()[2 * D_MODEL :]

    def spliced(z: Tensor) -> Tensor:
        new = z.clone()
        new[..., columns] = (output(weights, (z - shift).double()[..., columns])[1]).float()
        new[..., columns] += shift[columns]
        new[:, 0] = z[:, 0]  # unscored: the first token of each row
        return new

    z, expected = with_z(model, projection, spliced)
    with crossproof.spliced(model, crosscoder) as patched:
        found = patched.logits(TOKENS)
    scored = next(encode_batches(model, crosscoder, TOKENS, 2)).scored
    assert scored[:, 1:].all()
    torch.testing.assert_close(found, expected, **CLOSE)
    views = mlp_views(model, crosscoder)
    batch = next(encode_batches(model, crosscoder, TOKENS, 2, [*needs_of(views), OUT]))
    code = output(weights, (z - shift)[batch.scored].double()[..., columns])[0]
    torch.testing.assert_close(batch.latents.dense(), code.float(), **CLOSE)
    assert list(views) == [1]
    seen = views[1].at(batch)  # T6: all contributions together are the model's own MLP
    out = seen.dictionary.output(*seen.dictionary.sums(seen.latents))
    torch.testing.assert_close(out, batch.model_activations[OUT][batch.scored], **CLOSE)
    crosscoder.save_pretrained(tmp_path / "saved", crossproof.Provenance("tiny", "0" * 16))
    again = crossproof.Crosscoder.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(batch.x), crosscoder(batch.x))


OUT = "blocks.1.mlp.hook_out"


def test_what_reads_no_heads_of_the_model_is_refused(case: Case, tmp_path: Path) -> None:
    model, width, _ = case
    saved(tmp_path, width + 2, {})
    with pytest.raises(CrossproofError, match=f"the heads of '.*' put out {width}"):
        crossproof.import_dictionary(tmp_path, model)
    saved(tmp_path, 5, {}, head=1)
    with pytest.raises(CrossproofError, match="reads 5 numbers of head 1"):
        crossproof.import_dictionary(tmp_path, model)
    saved(tmp_path, width // 2, {}, head=7)
    with pytest.raises(CrossproofError, match="of head 7"):
        crossproof.import_dictionary(tmp_path, model)
