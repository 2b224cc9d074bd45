"""`crossproof.train` on a model and tokens in memory: the same crosscoders as in a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import random_tokens
from transformers import GPTNeoConfig, GPTNeoForCausalLM

import crossproof
from crossproof import CrosscoderConfig, Objective, RunConfig, TrainingResult
from crossproof.errors import CrossproofError
from crossproof.evaluation import EvaluationOptions
from crossproof.interactions.config import mlps_of
from crossproof.lm import LanguageModel

CONFIG = RunConfig(
    hookpoints=("blocks.*.mlp.hook_in",),
    crosscoder=CrosscoderConfig(n_latents=32, k=4),
    objective=Objective(keep_largest=10.0),
    steps=4,
    batch_tokens=16,
    buffer_batches=4,
    log_every=2,
)


@pytest.mark.parametrize(
    ("hookpoints", "penalise", "blocks"),
    [
        (("blocks.0.hook_resid_post",), "next", (1,)),
        (("blocks.0.hook_resid_pre",), "all", (0, 1)),
        (("blocks.0.hook_attn_out", "blocks.0.hook_mlp_out"), "blocks.1.mlp", (1,)),
    ],
)
def test_dictionaries_of_the_stream_train_for_the_mlps_behind_them(
    gpt_neo: LanguageModel, hookpoints: tuple[str, ...], penalise: str, blocks: tuple[int, ...]
) -> None:
    config = replace(CONFIG, hookpoints=hookpoints, penalise=penalise, steps=100, log_every=5)
    tokens = random_tokens(24, 16)
    result = crossproof.train(config, model=gpt_neo, text=tokens)
    lines = result.runs["penalised"].metrics
    errors = [line.terms["keep_largest"] for line in lines if "keep_largest" in line.terms]
    assert sum(errors[-4:]) < 0.8 * sum(errors[:4])
    options = EvaluationOptions(resamples=5, mlps=mlps_of(penalise), patch_hookpoints=False)
    figures = crossproof.evaluate(gpt_neo, result.crosscoder("penalised"), tokens, options)
    assert figures.blocks == blocks


def test_what_nothing_reads_cannot_be_penalised(gpt_neo: LanguageModel) -> None:
    config = replace(CONFIG, hookpoints=("blocks.1.hook_resid_post",))
    with pytest.raises(CrossproofError, match="nothing to penalise"):
        crossproof.train(config, model=gpt_neo, text=random_tokens(12, 16))


def test_memory_and_folder_train_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = GPTNeoConfig(
        vocab_size=64,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=32,
        attention_types=[[["global"], 2]],
        max_position_embeddings=32,
    )
    model, tokens = GPTNeoForCausalLM(shape), random_tokens(12, 16)
    memory = crossproof.train(CONFIG, model=model, text=tokens)
    saved = crossproof.train(CONFIG, tmp_path / "run", model=model, text=tokens)
    assert [line.step for line in memory.runs["penalised"].metrics] == [2, 4]
    assert "penalised" in repr(memory)
    loaded = TrainingResult.from_json(saved.to_json())
    ours, theirs = memory.crosscoder("penalised"), loaded.crosscoder("penalised")
    for hookpoint in range(2):
        torch.testing.assert_close(
            ours.decoder_vectors(hookpoint), theirs.decoder_vectors(hookpoint)
        )
    with pytest.raises(CrossproofError, match="was not saved"):
        TrainingResult.from_json(memory.to_json()).crosscoder("penalised")
