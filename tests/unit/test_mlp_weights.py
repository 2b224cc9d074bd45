from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import (
    ARCHITECTURES,
    CONTEXT,
    D_MODEL,
    N_BLOCKS,
    N_NEURONS,
    random_tokens,
    save_model,
)
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.activations import ACT2FN

from crossproof.errors import CrossproofError
from crossproof.lm import Activation, LanguageModel, MLPWeights, load_model


@pytest.mark.parametrize("block", range(N_BLOCKS))
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_view_computes_the_models_own_mlp_output(
    language_models: dict[str, LanguageModel], kind: str, block: int
) -> None:
    model = language_models[kind]
    names = [f"blocks.{block}.mlp.hook_in", f"blocks.{block}.hook_mlp_out"]
    read, written = model.activations(random_tokens(3, CONTEXT), names).unbind(dim=2)
    mlp = model.mlp(block)
    assert mlp.gated == (kind == "llama")
    assert (mlp.d_model, mlp.n_neurons) == (D_MODEL, N_NEURONS)
    # Written out, so that the test does not lean on the view's own call.
    hidden = read @ mlp.W_in + mlp.b_in
    if mlp.gated:
        hidden = mlp.activation(read @ mlp.W_gate + mlp.b_gate) * hidden
    else:
        hidden = mlp.activation(hidden)
    torch.testing.assert_close(hidden @ mlp.W_out + mlp.b_out, written, atol=1e-5, rtol=0)
    torch.testing.assert_close(mlp.neurons(read), hidden)
    torch.testing.assert_close(mlp(read), written, atol=1e-5, rtol=0)


def test_the_wrong_activation_would_be_noticed(language_models: dict[str, LanguageModel]) -> None:
    assert language_models["gpt-neo"].mlp(0).activation is Activation.GELU_TANH
    assert language_models["gpt-neox"].mlp(0).activation is Activation.GELU
    x = torch.linspace(-4, 4, 101)
    gap = (Activation.GELU(x) - Activation.GELU_TANH(x)).abs().max()
    assert gap > 1e-4


@pytest.mark.parametrize(
    "name", ["relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "quick_gelu", "linear"]
)
def test_activations_are_those_of_transformers(name: str) -> None:
    x = torch.linspace(-6, 6, 201)
    torch.testing.assert_close(Activation.from_name(name)(x), ACT2FN[name](x))


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(CrossproofError, match="'xielu'"):
        Activation.from_name("xielu")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_scaling_the_input_space_keeps_the_output(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    mlp = language_models[kind].mlp(1)
    x = torch.randn(5, D_MODEL)
    torch.testing.assert_close(mlp.input_scaled(0.25)(0.25 * x), mlp(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(CrossproofError, match="above 0"):
        mlp.input_scaled(0.0)


def test_output_norms_are_row_lengths(gpt_neo: LanguageModel) -> None:
    mlp = gpt_neo.mlp(0)
    neuron = torch.zeros(N_NEURONS)
    neuron[7] = 1.0
    torch.testing.assert_close(mlp.output_norms()[7], (neuron @ mlp.W_out).norm())


def test_weights_are_views_of_the_models(gpt_neo: LanguageModel) -> None:
    addresses = {tensor.data_ptr() for tensor in gpt_neo._bare.parameters()}
    mlp = gpt_neo.mlp(0)
    assert {mlp.W_in.data_ptr(), mlp.W_out.data_ptr(), mlp.b_in.data_ptr()} <= addresses


def test_to_changes_every_tensor(language_models: dict[str, LanguageModel]) -> None:
    mlp = language_models["llama"].mlp(0).to(dtype=torch.float64)
    x = torch.randn(2, D_MODEL, dtype=torch.float64)
    assert mlp(x).dtype == torch.float64


def test_a_plain_mlp_is_asked_for_where_one_is_needed(
    language_models: dict[str, LanguageModel],
) -> None:
    plain = language_models["gpt2"].mlp(0)
    assert plain.plain("This bound") is plain
    with pytest.raises(CrossproofError, match=r"^This bound needs a plain MLP.*gated"):
        language_models["llama"].mlp(0).plain("This bound")


def test_half_a_gate_is_an_error(gpt_neo: LanguageModel) -> None:
    mlp = gpt_neo.mlp(0)
    with pytest.raises(CrossproofError, match="both W_gate and b_gate"):
        MLPWeights(mlp.W_in, mlp.b_in, mlp.W_out, mlp.b_out, mlp.activation, W_gate=mlp.W_in)


def test_a_block_that_is_not_there_is_an_error(gpt_neo: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match="blocks 0 to 1"):
        gpt_neo.mlp(2)


def test_a_mixture_of_experts_is_no_dense_mlp(tmp_path: Path) -> None:
    config = MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        max_position_embeddings=16,
    )
    folder = save_model(tmp_path, lambda: MixtralForCausalLM(config), tokenizer=False)
    model = load_model(str(folder))
    assert "blocks.0.mlp.hook_in" in model.available_hookpoints()
    with pytest.raises(CrossproofError, match="MLP"):
        model.mlp(0)
