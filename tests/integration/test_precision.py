"""Language models in every precision: through the public functions and the commands."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, VOCABULARY, random_tokens

import crossproof
from crossproof.crosscoder import CrosscoderConfig
from crossproof.interactions import (
    attention_dictionary,
    mlp_views,
    second_difference_scores,
    token_pairs,
)
from crossproof.lm import LanguageModel, load_model
from crossproof.training.config import Optimisation, RunConfig
from crossproof.training.objectives import Objective

DTYPES = ("float32", "bfloat16", "float16", "float64")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of documents, packed into one stream."""
    path = tmp_path_factory.mktemp("text") / "tokens.npy"
    np.save(path, random_tokens(1, 30_000)[0].numpy().astype(np.int32) % VOCABULARY)
    return path


def config(model: Path, text: Path, dtype: str) -> RunConfig:
    return RunConfig(
        model=str(model),
        text=str(text),
        context=CONTEXT // 2,
        crosscoder=CrosscoderConfig(n_latents=24, k=4),
        objective=Objective(keep_largest=1.0, all_latents=1.0, interaction=1.0),
        optimisation=Optimisation(penalty_warmup=0.0),
        steps=3,
        batch_tokens=64,
        dtype=dtype,  # type: ignore[arg-type]  # one of DTYPES
    )


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("bfloat16", "gpt-neo"),
        pytest.param("bfloat16", "llama", marks=pytest.mark.slow),
        pytest.param("float16", "gpt-neo", marks=pytest.mark.slow),
        ("float16", "llama"),
        ("float64", "gpt-neo"),
        pytest.param("float64", "llama", marks=pytest.mark.slow),
        pytest.param("float32", "llama", marks=pytest.mark.slow),
    ],
)
def test_every_figure_of_a_model_in_any_precision(
    model_folders: dict[str, Path], text: Path, tmp_path: Path, dtype: str, kind: str
) -> None:
    options = config(model_folders[kind], text, dtype)
    trained = crossproof.train(options, tmp_path / "run")
    model = load_model(model_folders[kind], dtype=dtype)
    crosscoder = trained.crosscoder("penalised")
    tokens = crossproof.read_sequences(str(text), model, CONTEXT // 2)[:3]
    result = crossproof.evaluate(model, crosscoder, tokens)
    assert result.model_loss is not None
    scored = crossproof.scored_positions(tokens, model.special_ids, crosscoder.positions.skip_first)
    single = load_model(model_folders[kind]).token_losses(tokens)[scored[:, :-1]].mean().item()
    # Losses of a few nats, of logits wrong by some units in the last place of a number below 16.
    assert abs(result.model_loss - single) < 64 * max(torch.finfo(model.dtype).eps, 1e-6)
    assert math.isfinite(result.fvu)
    functions(model, crosscoder, tokens)
    crossproof.measure(model, crosscoder, tokens, crossproof.MeasureOptions(shapley_tokens=0))
    with crossproof.spliced(model, crosscoder):
        assert torch.isfinite(model.logits(tokens)).all()


def functions(
    model: LanguageModel, crosscoder: crossproof.Crosscoder, tokens: torch.Tensor
) -> None:
    """The pure functions, with dictionary, latents and activations in precisions of their own."""
    names = crosscoder.hookpoints.names
    x = model.activations(tokens, names).flatten(0, 1)
    at = crosscoder.hookpoints.index("blocks.1.mlp.hook_in")
    for mine in (torch.float32, model.dtype):
        latents = crosscoder.encode(x.to(mine))
        latents = latents.with_values(latents.values.to(mine))
        decoder = crosscoder.decoder_vectors(at).detach().to(mine)
        bias = crosscoder.decoder_bias(at).detach().to(mine)
        view = crossproof.MLPDictionary.build(model.mlp(1), decoder, bias)
        dominance = view.dominance(latents)
        x_hat = crosscoder.decode(latents).detach()
        figures = [
            crossproof.interaction(view, latents, dominance),
            crossproof.residual(view, x[:, at].to(mine), x_hat[:, at]),
            crossproof.dominant_share(view, latents, dominance),
            view.output(*view.sums(latents)),
            *view.hull(latents),
        ]
        if not view.mlp.gated:
            figures.append(crossproof.additive_interaction(view, latents, dominance))
            token_pairs(latents, {1: view})
            second_difference_scores(view, latents)
        for figure in figures:
            assert figure.dtype == torch.promote_types(mine, torch.float32)
            assert torch.isfinite(figure).all()
    assert mlp_views(model, crosscoder)[1].dictionary.G.dtype == torch.float32
    if "blocks.1.attn.hook_in" in names:
        attention_dictionary(model, crosscoder, 1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_commands_run_in_any_precision(
    model_folders: dict[str, Path], text: Path, tmp_path: Path, dtype: str
) -> None:
    from crossproof.cli import main

    run, model = tmp_path / "run", model_folders["llama"]
    crossproof.train(config(model, text, dtype), run)
    few = ["--context", "16"]
    main(["evaluate", str(run), "--sequences", "3", *few])
    main(["measure", str(run), "--tokens", "600", *few])
    judged = ["--judge", "overlap", "--min-tokens", "1", "--max-frequency", "1"]
    main(["cluster", str(run), "--tokens", "2000", "--clusters", "3", *judged])
    main(["attribute", str(run), "--sequences", "2", *few])
    packed = ["--trusted", str(text), "--suspect", str(text), "--out", str(tmp_path / "audit")]
    main(["audit", str(model), "--dtype", dtype, *packed])
    stored = json.loads((run / "config.json").read_text())
    assert stored["dtype"] == dtype
    other = "float32" if dtype != "float32" else "bfloat16"
    with pytest.raises(SystemExit, match="explains"):
        main(["evaluate", str(run), "--dtype", other, *few])
