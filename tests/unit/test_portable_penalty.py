"""The penalty outside our trainer is the one inside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from dictionaries import F64, random_crosscoder
from tiny_models import D_MODEL, random_tokens

from crossproof import MLPPenalty, Objective
from crossproof.crosscoder import CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.lm import Hookpoints, LanguageModel
from crossproof.training import Step, TargetMLP, penalties
from crossproof.training.step import StreamReading

OBJECTIVE = Objective(interaction=2.0, keep_largest=3.0, all_latents=1.0, certified=0.5)
PAGE = Path(__file__).parents[2] / "docs" / "extending" / "penalty.md"


@pytest.mark.parametrize("kind", ["gpt-neo", "llama"])
@pytest.mark.parametrize("place", ["blocks.0.hook_resid_pre", "blocks.0.mlp.hook_in"])
def test_it_equals_the_trainers_terms(
    language_models: dict[str, LanguageModel], kind: str, place: str
) -> None:
    model = language_models[kind]
    hookpoints = Hookpoints.from_names((place,), 2)
    crosscoder = random_crosscoder(CrosscoderConfig(20, "topk", 4), hookpoints, D_MODEL)
    tokens = random_tokens(3, 9)
    values = model.activations(tokens, [place, "blocks.0.ln2.hook_in"]).double()
    x, stream = values.flatten(0, 1).unbind(1)
    ours = MLPPenalty.of(model, 0, OBJECTIVE)
    in_stream = place.endswith("resid_pre")

    scaled = (x * crosscoder.scale)[:, None]
    encoding = crosscoder.encode_training(scaled)
    reading = StreamReading((0,), ours._norm, 0) if in_stream else None
    target = TargetMLP.build(0, model.mlp(0).to(dtype=F64), 0, reading)
    step = Step.build(crosscoder, encoding, scaled, [target], streams=stream[:, None])
    expected = sum(strength * value for _, strength, value in penalties(OBJECTIVE, step))
    expected.backward()
    gradients = [crosscoder.W_dec.grad.clone(), crosscoder.W_enc.grad.clone()]
    crosscoder.zero_grad()

    encoding = crosscoder.encode_training(scaled)
    dense = encoding.latents.dense()
    decoder, bias = crosscoder.decoder_vectors(0), crosscoder.decoder_bias(0)
    if in_stream:
        error = x - (dense @ decoder + bias)
        found = ours.in_stream(dense, decoder, stream, error)
    else:
        found = ours.at_input(dense, decoder, bias, x)
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip((crosscoder.W_dec, crosscoder.W_enc), gradients, strict=True):
        torch.testing.assert_close(mine.grad, theirs, rtol=1e-7, atol=1e-10)


def test_what_it_cannot_do_it_says(gpt_neo: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match="no term about an MLP"):
        MLPPenalty.of(gpt_neo, 0, Objective(l1=1.0))
    penalty = MLPPenalty(gpt_neo.mlp(0), Objective(keep_largest=1.0))
    some = torch.rand(4, 6), torch.rand(6, D_MODEL), torch.rand(4, D_MODEL)
    with pytest.raises(CrossproofError, match="knows no norm"):
        penalty.in_stream(*some)


def test_it_computes_in_float32_what_comes_in_half_precision(gpt_neo: LanguageModel) -> None:
    penalty = MLPPenalty.of(gpt_neo, 0, Objective(keep_largest=1.0, interaction=1.0))
    latents, decoder = torch.rand(4, 6).bfloat16(), torch.rand(6, D_MODEL).bfloat16()
    decoder.requires_grad_()
    stream = torch.rand(4, D_MODEL).bfloat16()
    found = penalty.in_stream(latents, decoder, stream, error=stream - latents @ decoder)
    expected = penalty.in_stream(latents.float(), decoder.detach().float(), stream.float())
    torch.testing.assert_close(found, expected)
    found.backward()
    assert decoder.grad is not None
    assert decoder.grad.dtype == torch.bfloat16
    at_input = penalty.at_input(latents, decoder, torch.zeros(D_MODEL).bfloat16(), stream)
    assert at_input.dtype == torch.float32


@pytest.mark.parametrize(
    ("latents", "decoder", "stream", "said"),
    [  # asked directly: in tests jaxtyping stands before the public methods
        ((2, 3, 6), (6, D_MODEL), (2, 3, D_MODEL), "sequences flattened"),
        ((4, 6), (D_MODEL, 6), (4, D_MODEL), rf"decoder \[{D_MODEL}, 6\]"),
        ((4, 7), (6, D_MODEL), (4, D_MODEL), "do not fit"),
        ((5, 6), (6, D_MODEL), (4, D_MODEL), "do not fit"),
        ((4, 6), (6, D_MODEL + 1), (4, D_MODEL), "do not fit"),
        ((1, 6), (6, D_MODEL), (1, D_MODEL), "give two or more"),
    ],
)
def test_what_does_not_fit_is_said(
    gpt_neo: LanguageModel,
    latents: tuple[int, ...],
    decoder: tuple[int, ...],
    stream: tuple[int, ...],
    said: str,
) -> None:
    penalty = MLPPenalty.of(gpt_neo, 0, Objective(keep_largest=1.0))
    x = torch.rand(stream)
    with pytest.raises(CrossproofError, match=said):
        penalty._checked(torch.rand(latents), torch.rand(decoder), x, x)


def test_a_bias_that_does_not_fit_is_said(gpt_neo: LanguageModel) -> None:
    penalty = MLPPenalty.of(gpt_neo, 0, Objective(keep_largest=1.0))
    latents, decoder, x = torch.rand(4, 6), torch.rand(6, D_MODEL), torch.rand(4, D_MODEL)
    with pytest.raises(CrossproofError, match=rf"beside them, \[3, {D_MODEL}\]"):
        penalty._checked(latents, decoder, x[:3], x)


def test_a_block_that_is_not_there_is_said(gpt_neo: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match="no block 9"):
        MLPPenalty.of(gpt_neo, 9, Objective(keep_largest=1.0))


def test_no_active_latent_costs_what_nothing_costs(gpt_neo: LanguageModel) -> None:
    penalty = MLPPenalty.of(gpt_neo, 0, Objective(interaction=1.0))
    nothing = torch.zeros(4, 6, requires_grad=True)
    value = penalty.in_stream(nothing, torch.rand(6, D_MODEL), torch.rand(4, D_MODEL))
    assert value.item() == 0.0


def test_the_pages_example_runs_and_lowers_the_loss() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(source, PAGE.name, "exec"), names)
    loss = names["loss"]
    assert isinstance(loss, torch.Tensor)
    assert bool(torch.isfinite(loss))
    assert float(loss) < 1.5
