"""evaluate() against loops over dense tensors, on tiny language models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reference import DenseMLP, DenseView
from tiny_models import CONTEXT, D_MODEL, END, random_tokens
from torch import Tensor

from crossproof.activations import scored_positions
from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.evaluation import SCHEMES, EvaluationOptions, EvaluationResult, evaluate
from crossproof.lm import LanguageModel

KINDS = ("gpt-neo", "llama", "gpt-neox")  # plain; gated; plain in parallel with attention
LENGTH, LATENTS, K = 12, 40, 4


def sequences() -> Tensor:
    """A special token first everywhere, and one in the middle of the second sequence."""
    tokens = random_tokens(3, LENGTH, seed=5)
    tokens[:, 0] = END
    tokens[1, 6] = END
    return tokens


def perfect(model: LanguageModel) -> Crosscoder:
    """x = Σ max(x_i, 0) e_i - Σ max(-x_i, 0) e_i: one latent for each sign of each dimension."""
    hookpoints = model.hookpoints()
    size = len(hookpoints) * D_MODEL
    crosscoder = Crosscoder(CrosscoderConfig(2 * size, "relu"), hookpoints, D_MODEL)
    axes = torch.cat([torch.eye(size), -torch.eye(size)]).view_as(crosscoder.W_enc)
    with torch.no_grad():
        crosscoder.W_enc.copy_(axes)
        crosscoder.W_dec.copy_(axes)
    return crosscoder


def rough(model: LanguageModel) -> Crosscoder:
    """Directions of the data, untrained: a poor dictionary in which every scheme differs."""
    hookpoints = model.hookpoints()
    crosscoder = Crosscoder(CrosscoderConfig(LATENTS, "topk", K), hookpoints, D_MODEL)
    tokens = random_tokens(20, CONTEXT, seed=9)
    crosscoder.initialise(model.activations(tokens, hookpoints.names).flatten(0, 1), seed=0)
    return crosscoder


def run(model: LanguageModel, crosscoder: Crosscoder, **options: Any) -> dict[str, Any]:
    tokens = options.pop("tokens", sequences())
    settings = EvaluationOptions(resamples=options.pop("resamples", 50), **options)
    result = evaluate(model, crosscoder, tokens, settings)
    assert EvaluationResult.from_json(result.to_json()).to_json() == result.to_json()
    return {key: value for key, value in result.to_json().items() if key != "latents"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_dictionary_scores_perfectly(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    model = language_models[kind]
    result = run(model, perfect(model))
    assert result["fvu"] == pytest.approx(0, abs=1e-9)
    assert result["ce_recovered"] == pytest.approx(1, abs=1e-4)
    assert result["kl_recovered"] == pytest.approx(1, abs=1e-4)
    for zero in ("phi", "phi_mlp_removed"):
        for figure in result[zero]["none"].values():
            assert figure["mean"] == pytest.approx(1, abs=1e-3)
    assert result["residual"] == pytest.approx(0, abs=1e-3)
    assert result["interaction"] > 1  # sixteen latents a hookpoint act together
    assert abs(result["phi"]["keep-largest"]["exact_mid"]["mean"] - 1) > 1e-3


class BruteForce:
    """One MLP's contributions on all sequences at once, p[token, neuron, latent] spelt out."""

    def __init__(self, model: LanguageModel, crosscoder: Crosscoder, block: int) -> None:
        self.model, self.block, self.tokens = model, block, sequences()
        self.scored = scored_positions(self.tokens, model.special_ids)
        names, roles = crosscoder.hookpoints.names, crosscoder.hookpoints.blocks[block]
        x = model.activations(self.tokens, names)[self.scored]
        latents = crosscoder.encode(x)
        with torch.no_grad():
            decoder, bias = (
                crosscoder.decoder_vectors(roles.mlp_in),
                crosscoder.decoder_bias(roles.mlp_in),
            )
            mid = (
                None if roles.resid_mid is None else crosscoder.decode(latents)[:, roles.resid_mid]
            )
        self.mid = mid
        self.mlp = DenseMLP(model.mlp(block))
        code = latents.dense().double()
        self.view = DenseView(self.mlp, code, decoder.double(), bias.double())
        self.active = code > 0

    def output(self, scheme: str) -> Tensor:
        view = self.view
        if scheme == "mlp-removed":
            return torch.zeros(len(self.active), D_MODEL)
        rank = view.strength.argsort(dim=2, descending=True, stable=True)
        kept = self.active[:, None].expand_as(view.p).clone()
        match scheme:
            case "keep-largest":
                kept &= torch.zeros_like(kept).scatter(2, rank[..., :1], True)
            case "drop-largest":
                kept.scatter_(2, rank[..., :1], False)
            case "drop-second":
                kept.scatter_(2, rank[..., 1:2], False)
            case "features-removed":
                kept[:] = False
        gate = view.beta_gate + (view.q * kept).sum(2) if view.gated else None
        return self.mlp.out(view.beta + (view.p * kept).sum(2), gate).float()

    def loss(self, name: str, values: Tensor) -> float:
        own = self.model.activations(self.tokens, [name])[:, :, 0].clone()
        own[self.scored] = values
        losses = self.model.token_losses(self.tokens, {name: own})
        return losses[self.scored[:, :-1]].double().sum().item()

    def losses(self, scheme: str, reconstructed_mid: bool) -> float:
        output = self.output(scheme)
        if reconstructed_mid:
            return self.loss(f"blocks.{self.block}.hook_resid_post", self.mid + output)
        return self.loss(f"blocks.{self.block}.mlp.hook_out", output)

    def clean(self) -> float:
        losses = self.model.token_losses(self.tokens)
        return losses[self.scored[:, :-1]].double().sum().item()


@pytest.mark.parametrize("kind", KINDS)
def test_fidelities_equal_brute_force(language_models: dict[str, LanguageModel], kind: str) -> None:
    model = language_models[kind]
    crosscoder = rough(model)
    result = run(model, crosscoder)
    mids = ["exact_mid"] if kind == "gpt-neox" else ["exact_mid", "reconstructed_mid"]
    for block in result["blocks"]:
        brute = BruteForce(model, crosscoder, block)
        for mid in mids:
            patched = mid == "reconstructed_mid"
            for key, zero in (("phi", "features-removed"), ("phi_mlp_removed", "mlp-removed")):
                span = brute.losses(zero, patched) - brute.clean()
                for scheme in set(SCHEMES) - {"drop-random"}:
                    assert list(result[key][scheme]) == mids
                    expected = 1 - (brute.losses(scheme, patched) - brute.clean()) / span
                    found = result[key][scheme][mid]["by_block"][block]
                    assert found == pytest.approx(expected, abs=2e-3 / min(1, abs(span)))


@pytest.mark.parametrize("kind", KINDS)
def test_measures_equal_brute_force(language_models: dict[str, LanguageModel], kind: str) -> None:
    model = language_models[kind]
    crosscoder = rough(model)
    result = run(model, crosscoder)
    names = crosscoder.hookpoints.names
    tokens = sequences()
    scored = scored_positions(tokens, model.special_ids)
    x = model.activations(tokens, names)[scored]
    latents = crosscoder.encode(x)
    x_hat = crosscoder.decode(latents).detach()
    spread = (x - x.mean(0)).pow(2).sum((0, 2))
    fvu = (x - x_hat).pow(2).sum((0, 2)) / spread
    assert result["tokens"] == int(scored.sum()) == 3 * LENGTH - 4
    assert list(result["by_hookpoint"]["fvu"].values()) == pytest.approx(fvu.tolist(), rel=1e-4)
    assert result["l0"] == pytest.approx(latents.l0())
    assert result["dead"] == pytest.approx(1 - len(latents.indices.unique()) / LATENTS)
    for place, block in enumerate(result["blocks"]):
        brute = BruteForce(model, crosscoder, block)
        at = crosscoder.hookpoints.blocks[block].mlp_in
        by_block = {name: values[place] for name, values in result["by_block"].items()}
        assert by_block["fvu_mlp_in"] == pytest.approx(fvu[at].item(), rel=1e-4)
        assert by_block["dominant_share"] == pytest.approx(
            brute.view.share().mean().item(), rel=1e-4
        )
        assert by_block["interaction"] == pytest.approx(
            brute.view.interaction().mean().item(), rel=1e-4
        )
        expected = brute.view.residual(x[:, at].double(), x_hat[:, at].double()).mean().item()
        assert by_block["residual"] == pytest.approx(expected, rel=1e-4)
        assert sum(result["share_histogram"]["by_block"][place]) == pytest.approx(1)
    assert ("additive_interaction" in result) == (kind != "llama")


def test_patched_hookpoints_equal_brute_force(gpt_neo: LanguageModel) -> None:
    crosscoder = rough(gpt_neo)
    result = run(gpt_neo, crosscoder)
    brute = BruteForce(gpt_neo, crosscoder, 0)
    x = gpt_neo.activations(sequences(), crosscoder.hookpoints.names)[brute.scored]
    x_hat = crosscoder.decode(crosscoder.encode(x)).detach()
    for place, name in enumerate(crosscoder.hookpoints.names):
        patched = brute.loss(name, x_hat[:, place]) - brute.clean()
        zeroed = brute.loss(name, torch.zeros_like(x[:, place])) - brute.clean()
        found = result["by_hookpoint"]["ce_recovered"][name]
        assert found == pytest.approx(1 - patched / zeroed, abs=1e-3 * max(1, 1 / abs(zeroed)))


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """All numbers of a nested result by their path."""
    if isinstance(value, str):
        return {}
    if isinstance(value, dict):
        parts = [numbers(v, f"{path}/{k}") for k, v in value.items()]
    elif isinstance(value, list):
        parts = [numbers(v, f"{path}/{i}") for i, v in enumerate(value)]
    else:
        return {path: float(value)}
    return {k: v for part in parts for k, v in part.items()}


@pytest.mark.parametrize("kind", ["gpt-neo", "llama"])
def test_no_figure_depends_on_the_batch(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    model = language_models[kind]
    crosscoder = rough(model)
    one, all_at_once = (numbers(run(model, crosscoder, batch_sequences=n)) for n in (1, 8))
    assert one.keys() == all_at_once.keys()
    assert len(one) > 100
    for name, value in one.items():
        assert value == pytest.approx(all_at_once[name], rel=2e-3, abs=2e-3), name


def test_equal_seeds_give_equal_figures_and_drop_random_follows_the_seed(
    gpt_neo: LanguageModel,
) -> None:
    crosscoder = rough(gpt_neo)
    first, again, other = (run(gpt_neo, crosscoder, seed=s) for s in (0, 0, 1))
    assert first == again
    dropped = [r["phi"]["drop-random"]["exact_mid"]["mean"] for r in (first, other)]
    assert dropped[0] != dropped[1]
    for scheme in ("none", "drop-second", "keep-largest"):
        means = [r["phi"][scheme]["exact_mid"]["mean"] for r in (first, other)]
        assert means[0] == means[1]


def test_intervals_hold_the_figures(gpt_neo: LanguageModel) -> None:
    result = run(gpt_neo, rough(gpt_neo), resamples=400)
    for name, (low, high) in result["intervals"].items():
        assert low <= result[name] <= high, name


def test_text_without_ordinary_tokens_has_no_figures(gpt_neo: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match="no tokens to evaluate"):
        run(gpt_neo, rough(gpt_neo), tokens=torch.full((3, LENGTH), END))


def test_a_dictionary_that_overflows_has_no_figures(gpt_neo: LanguageModel) -> None:
    crosscoder = rough(gpt_neo)
    crosscoder.W_dec.data *= 1e38
    crosscoder.W_enc.data *= 1e10
    with pytest.raises(CrossproofError, match="NaN or infinity: check the crosscoder's weights"):
        run(gpt_neo, crosscoder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_dictionary_in_half_precision_has_figures_in_float32(
    gpt_neo: LanguageModel, dtype: torch.dtype
) -> None:
    """Those of its weights as they are, with nothing rounded besides."""
    half = rough(gpt_neo).to(dtype)
    expected = run(gpt_neo, rough(gpt_neo).to(dtype).float())
    assert run(gpt_neo, half) == expected
    assert half.b_dec.dtype == dtype  # the user's own is left alone


def test_one_sequence_is_too_few(gpt_neo: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match="at least 2 sequences"):
        evaluate(gpt_neo, rough(gpt_neo), random_tokens(1, LENGTH))


@pytest.mark.parametrize("kind", KINDS)
def test_the_keep_curve_runs_from_the_largest_to_all(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    model = language_models[kind]
    result = run(model, rough(model))
    curve = result["keep_curve"]
    assert curve["kept"] == [1.0, 2.0, float(K)]
    assert curve["sequences"] == len(sequences())
    ends = curve["phi"][0], curve["phi"][-1]
    for end, scheme in zip(ends, ("keep-largest", "none"), strict=True):
        expected = result["phi"][scheme]["exact_mid"]
        assert end["mean"] == pytest.approx(expected["mean"], rel=1e-6)
        assert end["ci"] == pytest.approx(expected["ci"], rel=1e-6)
    one, two, every = (point["mean"] for point in curve["phi"])
    assert curve["area"]["mean"] == pytest.approx((one + 2 * two + every) / 4, rel=1e-6)


def stream_dictionary(model: LanguageModel, *names: str) -> Crosscoder:
    """Directions of the data at places of the stream."""
    hookpoints = model.hookpoints(names)
    crosscoder = Crosscoder(CrosscoderConfig(LATENTS, "topk", K), hookpoints, D_MODEL)
    tokens = random_tokens(20, CONTEXT, seed=9)
    crosscoder.initialise(model.activations(tokens, hookpoints.names).flatten(0, 1), seed=0)
    return crosscoder


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_of_the_stream_is_evaluated_at_the_next_mlp(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    model = language_models[kind]
    result = run(model, stream_dictionary(model, "blocks.0.hook_resid_pre"))
    assert result["blocks"] == [0]
    assert result["views"]["0"].startswith("residual stream blocks.0.hook_resid_pre")
    phi = result["phi"]
    # Everything beside the latents is the model's own: all latents keep the MLP whole.
    assert phi["none"]["exact_mid"]["mean"] == pytest.approx(1, abs=1e-3)
    assert abs(phi["none"]["mean_rest"]["mean"] - 1) > 1e-3
    assert abs(phi["keep-largest"]["exact_mid"]["mean"] - 1) > 1e-3
    assert set(phi["keep-largest"]) == {"exact_mid", "mean_rest"}
    assert result["interaction"] > 0
    assert result["norm_interaction"] > result["norm_interaction_single"] > 0
    assert "fvu_mlp_in" not in result


def test_a_dictionary_that_no_mlp_reads_is_evaluated_without_interactions(
    gpt_neo: LanguageModel,
) -> None:
    crosscoder = stream_dictionary(gpt_neo, "blocks.1.hook_resid_post")
    result = run(gpt_neo, crosscoder)
    assert result["blocks"] == []
    assert "interaction" not in result
    assert result["ce_recovered"] is not None
    assert result["unread"] == "No MLP reads what it writes."
    assert "reads what this dictionary writes" in run(gpt_neo, crosscoder, mlps="all")["unread"]
    with pytest.raises(CrossproofError, match="reads what this dictionary writes"):
        run(gpt_neo, crosscoder, mlps=(1,))
