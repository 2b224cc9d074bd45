"""Attribution on tiny language models: every bound holds, per token, whatever the dictionary."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attributions import LENGTH, Lookup, everything, in_double, text, trained_looking
from reports import results
from tiny_models import SEQUENTIAL

from crossproof.cli import main
from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.store import Provenance, save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.interactions import MLPDictionary
from crossproof.lm import LanguageModel
from crossproof.lm.hookpoints import Hookpoints
from crossproof.proof.attribution import attribute
from crossproof.proof.attribution import chain as chain_module
from crossproof.proof.attribution.model_parts import ModelParts, model_parts
from crossproof.proof.attribution.streams import Stream
from crossproof.proof.attribution.summary import first_vacuous, summarise
from crossproof.proof.attribution.token_bounds import TokenBounds, token_bounds
from crossproof.training.config import RECIPES

ROUNDING = 1e-6
"""Some models keep norms or attention in float32 whatever their weights are."""


@pytest.fixture(scope="module")
def doubles(language_models: dict[str, LanguageModel]) -> dict[str, LanguageModel]:
    return {kind: in_double(language_models[kind]) for kind in SEQUENTIAL}


@pytest.fixture(scope="module")
def parts(doubles: dict[str, LanguageModel]) -> dict[str, ModelParts]:
    return {kind: model_parts(model) for kind, model in doubles.items()}


def assert_sound(found: TokenBounds) -> None:
    """Every per-token bound is at least the quantity that it bounds."""
    rows = found.tokens
    for name, stages in found.stages.items():
        radii, bounds = rows[f"{name}/radius"], rows[f"{name}/loss_bound"]
        assert bool((radii.diff(dim=1) >= 0).all())
        names = [stage.name for stage in stages]
        ends = [0]
        for block in range(2):
            attention = "error" if "measured" in name else "consistency"
            ends.append(names.index(f"blocks.{block} attention {attention}"))
            ends.append(names.index(f"blocks.{block} MLP consistency"))
        assert bool((radii[:, ends] >= rows["true_radius"] - ROUNDING).all())
        assert bool((bounds[:, -1] >= rows["true_loss"] - ROUNDING).all())
        assert bool((bounds >= rows["claimed_loss"][:, None] - ROUNDING).all())
        engine, sizes = name.split(",")[0], radii.diff(dim=1)
        for kind in ("interaction", "norm defect"):
            places = [names.index(f"blocks.{block} {kind}") - 1 for block in range(2)]
            truth = rows[f"{engine}/{kind.replace(' ', '_')}_true"]
            assert bool((sizes[:, places] >= truth - ROUNDING).all())
    for name in rows:
        if name.startswith("restarted/") and not name.endswith(" true"):
            assert bool((rows[name] >= rows[f"{name} true"] - ROUNDING).all())
    for name in found.last:
        if name.endswith("/certified"):
            stem = name.removesuffix("/certified")
            if not stem.endswith(", centred"):  # which may well pass the ceiling
                ceiling = found.last[f"{stem}/ceiling"]
                assert not bool((found.last[name] & ~ceiling).any())
                assert not bool((ceiling & ~found.last[f"{stem}/unchanged"]).any())
            assert not bool((found.last[name] & ~found.last[f"{stem}/unchanged"]).any())
            truth = found.last[f"{stem}/error"]
            assert bool((found.last[f"{stem}/bound"] >= truth - ROUNDING).all())


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_every_bound_holds_for_an_untrained_dictionary(
    kind: str, doubles: dict[str, LanguageModel], parts: dict[str, ModelParts]
) -> None:
    model = doubles[kind]
    found = token_bounds(model, parts[kind], trained_looking(model), text())
    assert len(found.stages) == 4
    assert_sound(found)
    summary = summarise(found, resamples=20)
    for figures in summary.chains.values():
        assert figures.violations == 0
        lost = [stage.first_vacuous_here for stage in figures.stages]
        whole = sum(lost) + figures.vacuous_by_claimed_loss + figures.never_vacuous
        assert whole == pytest.approx(1)


@pytest.mark.parametrize("kind", ["gpt-neo", "llama"])
@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_every_bound_holds_at_extreme_scales(
    kind: str, scale: float, doubles: dict[str, LanguageModel], parts: dict[str, ModelParts]
) -> None:
    crosscoder = trained_looking(doubles[kind])
    with torch.no_grad():
        crosscoder.W_dec.mul_(scale)
    assert_sound(token_bounds(doubles[kind], parts[kind], crosscoder, text()))


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_a_perfect_dictionary_proves_the_models_own_loss(
    kind: str, doubles: dict[str, LanguageModel], parts: dict[str, ModelParts]
) -> None:
    model, tokens = doubles[kind], text()
    values = everything(model, tokens)
    found = token_bounds(model, parts[kind], Lookup(model, values, values), tokens)
    assert_sound(found)
    for name in found.stages:
        final = found.tokens[f"{name}/loss_bound"][:, -1]
        # Layers that stay in float32 leave a ball of their rounding, which attention widens.
        slack = 2e-2 if "bounded" in name else 1e-4
        torch.testing.assert_close(final, found.tokens["true_loss"], rtol=slack, atol=slack)
    for variant in ("keep 1", "keep all", "additive", "keep 1, centred"):
        assert bool(found.last[f"model/{variant}/certified"].all())
        # The same layers' rounding, of streams and logits of a few units.
        bound = float(found.last[f"model/{variant}/bound"].max())
        assert bound < 64 * torch.finfo(torch.float32).eps


def shifted_embeddings(model: LanguageModel, size: float) -> LanguageModel:
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(2)
    weight = other._bare.get_input_embeddings().weight
    noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    weight.data.add_(size * noise)
    return other


def propagation_only(kind: str, doubles: dict[str, LanguageModel], parts: Any, size: float) -> Any:
    """A dictionary that decodes another run of the same layers: all the error is in the base."""
    model, tokens = doubles[kind], text()
    tokens[tokens == 0] = 7
    other = everything(shifted_embeddings(model, size), tokens)
    crosscoder = Lookup(model, everything(model, tokens), other)
    object.__setattr__(crosscoder.positions, "skip_first", 0)  # so that every key is decoded
    return token_bounds(model, parts[kind], crosscoder, tokens)


@pytest.mark.parametrize("kind", SEQUENTIAL)
@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
def test_a_ball_alone_is_carried_through_all_blocks(
    kind: str, size: float, doubles: dict[str, LanguageModel], parts: dict[str, ModelParts]
) -> None:
    found = propagation_only(kind, doubles, parts, size)
    assert_sound(found)
    for name, stages in found.stages.items():
        if "bounded" not in name:
            continue
        sizes = found.tokens[f"{name}/radius"].diff(dim=1)
        still = [i - 1 for i, stage in enumerate(stages) if stage.kind == "code"]
        assert float(sizes[:, still].max()) < 1e-5  # nothing but the ball moves


@pytest.mark.parametrize("forgotten", ["base", "attention moves", "MLP moves"])
def test_forgetting_a_part_of_the_propagation_is_noticed(
    forgotten: str,
    doubles: dict[str, LanguageModel],
    parts: dict[str, ModelParts],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if forgotten == "base":
        whole = chain_module.run_chain

        def without_base(inputs: Any, *rest: Any) -> Any:
            decoded = inputs[0].pre.decoded
            first = replace(inputs[0], pre=Stream(decoded, decoded))
            return whole([first, *inputs[1:]], *rest)

        monkeypatch.setattr("crossproof.proof.attribution.token_bounds.run_chain", without_base)
    elif forgotten == "attention moves":
        step = chain_module.bounded_attention
        monkeypatch.setattr(
            chain_module, "bounded_attention", lambda *a: (0 * step(*a)[0], step(*a)[1])
        )
    else:
        spread = chain_module.through_norm
        monkeypatch.setattr(chain_module, "through_norm", lambda *a: 0 * spread(*a))
    found = propagation_only("gpt-neo", doubles, parts, 0.1)
    with pytest.raises(AssertionError):
        assert_sound(found)


def interaction_only(kind: str, doubles: dict[str, LanguageModel], parts: Any) -> TokenBounds:
    """Two latents a token; behind block 0 the dictionary decodes what its dominant one gives."""
    model, tokens = doubles[kind], text()
    tokens[tokens == 0] = 7
    values = everything(model, tokens)
    first = Lookup(model, values, values, split=2)
    block, places = parts[kind].blocks[0], model.hookpoints().blocks[0]
    view = MLPDictionary.build(
        block.mlp.mlp,
        first.decoder_vectors(places.mlp_in).data,
        first.decoder_bias(places.mlp_in).data,
    )
    latents = first.encode(values)
    simple = view.output(*[part for part in _dominant(view, latents)])
    decoded = values.clone()
    decoded[:, places.resid_post] = values[:, places.resid_mid] + simple
    return token_bounds(model, parts[kind], Lookup(model, values, decoded, split=2), tokens)


def _dominant(view: Any, latents: Any) -> tuple[Any, Any]:
    found = view.dominance(latents)
    return found.value, found.gate


@pytest.mark.parametrize("kind", ["gpt-neo", "llama"])
def test_interaction_alone_is_charged(
    kind: str, doubles: dict[str, LanguageModel], parts: dict[str, ModelParts]
) -> None:
    found = interaction_only(kind, doubles, parts)
    assert_sound(found)
    name = "dominant, attention measured"
    stages = [stage.name for stage in found.stages[name]]
    sizes = found.tokens[f"{name}/radius"].diff(dim=1)
    assert float(sizes[:, stages.index("blocks.0 MLP consistency") - 1].max()) < 1e-6
    assert float(sizes[:, stages.index("blocks.0 interaction") - 1].min()) > 1e-3


@pytest.mark.parametrize("kind", ["gpt-neo", "llama"])
def test_dropping_the_interaction_is_noticed(
    kind: str,
    doubles: dict[str, LanguageModel],
    parts: dict[str, ModelParts],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = chain_module.run_chain

    def without(inputs: Any, mlps: Any, *rest: Any) -> Any:
        changed = [copy.copy(mlp) for mlp in mlps]
        for mlp in changed:
            object.__setattr__(mlp, "interaction", 0 * mlp.interaction)
        return whole(inputs, changed, *rest)

    monkeypatch.setattr("crossproof.proof.attribution.token_bounds.run_chain", without)
    with pytest.raises(AssertionError):
        assert_sound(interaction_only(kind, doubles, parts))


@pytest.mark.parametrize("kind", SEQUENTIAL[:2])
def test_batches_do_not_matter(
    kind: str, doubles: dict[str, LanguageModel], parts: dict[str, ModelParts]
) -> None:
    """Wider for GPT-Neo: its attention scores are float32, so activations depend on the batch."""
    tokens, last = (1e-6, 1e-4) if kind == "gpt-neo" else (1e-9, 1e-9)
    model = doubles[kind]
    crosscoder = trained_looking(model)
    one = token_bounds(model, parts[kind], crosscoder, text(), batch_sequences=1)
    all_at_once = token_bounds(model, parts[kind], crosscoder, text(), batch_sequences=4)
    for name, values in one.tokens.items():
        torch.testing.assert_close(values, all_at_once.tokens[name], rtol=tokens, atol=tokens / 1e3)
    for name, values in one.last.items():
        torch.testing.assert_close(values, all_at_once.last[name], rtol=last, atol=last / 1e3)


@pytest.mark.parametrize("kind", ["gpt-neo", "llama"])
def test_costs_add_up_and_name_their_neurons(
    kind: str, doubles: dict[str, LanguageModel], parts: dict[str, ModelParts]
) -> None:
    found = token_bounds(
        doubles[kind], parts[kind], trained_looking(doubles[kind]), text(), top=9999
    )
    pairs = sum(pair.per_token for pair in found.costs.pairs)
    neurons = sum(neuron.per_token for neuron in found.costs.neurons)
    assert neurons == pytest.approx(found.costs.per_token)
    if kind == "gpt-neo":
        assert pairs == pytest.approx(neurons)
    for pair in found.costs.pairs[:5]:
        assert sum(pair.by_block.values()) == pytest.approx(pair.per_token)
        named = sum(neuron.per_token for neuron in pair.neurons)
        assert 0 < named <= pair.per_token * (1 + 1e-9)


def test_the_first_vacuous_stage() -> None:
    bounds = torch.tensor([[1.0, 2.0, 5.0], [1.0, 1.0, 1.0], [9.0, 9.0, 9.0], [4.0, 5.0, 6.0]])
    claimed = torch.tensor([0.5, 0.5, 8.0, 1.0])
    assert first_vacuous(claimed, bounds, 4.0).tolist() == [2, 3, -1, 0]


def test_missing_hookpoints_are_named(
    doubles: dict[str, LanguageModel], parts: dict[str, ModelParts]
) -> None:
    model = doubles["gpt-neo"]
    names = ("blocks.0.hook_resid_pre", "blocks.1.mlp.hook_in")
    hookpoints = Hookpoints.from_names(names, 2)
    crosscoder = Crosscoder(CrosscoderConfig(8, "topk", 2), hookpoints, model.d_model).double()
    with torch.no_grad():
        crosscoder.W_dec.normal_()
        crosscoder.W_enc.normal_()
    with pytest.raises(CrossproofError, match=r"lacks blocks\.0\.hook_resid_mid, blocks\.0\.mlp"):
        token_bounds(model, parts["gpt-neo"], crosscoder, text())
    found = token_bounds(model, parts["gpt-neo"], crosscoder, text(), "last-block")
    assert not found.tokens
    assert_sound(found)
    blind = Hookpoints.from_names(names[:1], 2)
    without = Crosscoder(CrosscoderConfig(8, "topk", 2), blind, model.d_model).double()
    with pytest.raises(CrossproofError, match=r"no decoder at blocks\.1\.mlp\.hook_in"):
        token_bounds(model, parts["gpt-neo"], without, text(), "last-block")
    with pytest.raises(CrossproofError, match=r"hook_resid_mid and 2 more: .*measure") as refused:
        token_bounds(model, parts["gpt-neo"], without, text())
    assert "last-block" not in str(refused.value)  # which would be refused too


def test_what_is_refused_leaves_no_folder(
    doubles: dict[str, LanguageModel], tmp_path: Path
) -> None:
    model = doubles["gpt-neo"]
    hookpoints = Hookpoints.from_names(["blocks.0.hook_resid_pre"], 2)
    crosscoder = Crosscoder(CrosscoderConfig(8, "topk", 2), hookpoints, model.d_model).double()
    out = tmp_path / "attribution"
    for there in (False, True):
        if there:
            out.mkdir()
        with pytest.raises(CrossproofError):
            attribute(model, crosscoder, text(), out=out)
        assert out.exists() == there


def test_text_without_ordinary_tokens_is_refused(
    doubles: dict[str, LanguageModel], parts: dict[str, ModelParts]
) -> None:
    model = doubles["gpt-neo"]
    with pytest.raises(CrossproofError, match="no tokens to attribute"):
        token_bounds(model, parts["gpt-neo"], trained_looking(model), torch.zeros(2, 8).long())


@pytest.fixture(scope="module")
def run_folder(
    language_models: dict[str, LanguageModel],
    model_folders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Two untrained crosscoders and a text, as a run leaves them."""
    folder, model = tmp_path_factory.mktemp("attributed"), language_models["gpt-neo"]
    where = str(model_folders["gpt-neo"])
    words = " ".join(f"w{i}" for i in text(40).flatten().tolist() if i)
    (folder / "text.txt").write_text("\n<|endoftext|>\n".join([words] * 30))
    for name in ("unpenalised", "penalised"):
        crosscoder = trained_looking(model).float()
        config = replace(RECIPES["demo"], text=str(folder / "text.txt"), model=where)
        provenance = Provenance(where, model.weights_hash, training=asdict(config))
        save_crosscoder(crosscoder, folder / name / "crosscoder", provenance)
    return folder


def command(*arguments: object) -> None:
    main(["attribute", *map(str, arguments)])


def test_the_command_writes_figures_and_tables(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(run_folder, "--sequences", 4, "--context", LENGTH, "--threads", 1, "--top", 3)
    printed = capsys.readouterr().out
    assert "Report:" not in printed  # the run was not evaluated
    assert "Cross-entropy in nats" in printed
    content = json.loads((run_folder / "attribution" / "attribution.json").read_text())
    assert list(content["runs"]) == ["unpenalised", "penalised"]
    for run in content["runs"].values():
        assert len(run["costs"]["pairs"]) == 3
        assert run["loss"]["true"]["ci"][0] <= run["loss"]["true"]["mean"]
        for variant in ("keep 1", "keep 1, centred"):
            figures = run["last_block"]["model"][variant]
            assert figures["certified"]["mean"] <= figures["unchanged"]["mean"]
            assert figures["violations"] == 0
        assert run["last_block"]["model"]["keep 1, centred"]["ceiling"] is None
    assert (run_folder / "attribution" / "penalised.safetensors").exists()


@pytest.mark.slow
def test_the_command_renews_the_report_of_an_evaluated_run(
    run_folder: Path, language_models: dict[str, LanguageModel], capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"text": str(run_folder / "text.txt"), "split": "held_out", "sequences": 2}
    weights = language_models["gpt-neo"].weights_hash
    of = results() | {"evaluated_on": place | {"context": LENGTH}, "model_hash": weights}
    (run_folder / "results.json").write_text(json.dumps(of))
    options = ("--sequences", 2, "--context", LENGTH, "--threads", 1, "--parts", "last-block")
    command(run_folder, *options, "--out", run_folder / "elsewhere")
    assert "Report:" not in capsys.readouterr().out  # which reads the run's own folder
    command(run_folder, *options)
    assert f"Report: {run_folder / 'report.html'}" in capsys.readouterr().out
    assert "How far a proof gets" in (run_folder / "report.html").read_text()
    attribution = json.loads((run_folder / "attribution" / "attribution.json").read_text())
    assert attribution["model_hash"] == weights
