"""Every objective term, and its gradient, against the dense float64 formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from dictionaries import F64, mlp_hookpoints, random_batch, random_crosscoder, random_mlp
from reference import DenseMLP, DenseView, batch_topk_mask, block_terms
from rounding import close
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.lm import Activation, Norm
from crossproof.training.objectives import Objective, penalties, reconstruction
from crossproof.training.step import Step, StreamReading, TargetMLP

K, LATENTS, WIDTH, NEURONS, TOKENS = 3, 14, 4, 10, 9
NAMES = (
    "interaction",
    "output_norm",
    "keep_largest",
    "all_latents",
    "certified",
    "dominant_share",
    "mlp_in",
    "rotated",
    "l1",
    "reconstruction",
)


@dataclass(frozen=True, eq=False)
class Setup:
    crosscoder: Crosscoder
    sites: list[TargetMLP]
    x: Tensor
    streams: Tensor | None = None

    def step(self) -> Step:
        crosscoder = self.crosscoder
        x = self.x * crosscoder.scale[:, None]
        encoding = crosscoder.encode_training(x)
        return Step.build(crosscoder, encoding, x, self.sites, streams=self.streams)

    def to(self, dtype: torch.dtype) -> Setup:
        sites = [
            replace(site, mlp=site.mlp.to(dtype=dtype), rotation=site.rotation.to(dtype))
            for site in self.sites
        ]
        return Setup(self.crosscoder.to(dtype), sites, self.x.to(dtype))


def setup(blocks: int, gated: bool, activation: Activation | None = None) -> Setup:
    activation = activation or (Activation.SILU if gated else Activation.GELU_TANH)
    config = CrosscoderConfig(LATENTS, "batch_topk", K)
    crosscoder = random_crosscoder(config, mlp_hookpoints(blocks), WIDTH)
    generator = torch.Generator().manual_seed(4)
    sites = [
        TargetMLP.build(p, random_mlp(activation, gated, generator, WIDTH, NEURONS), seed=1)
        for p in range(blocks)
    ]
    return Setup(crosscoder, sites, random_batch(crosscoder, TOKENS))


def stream_setup(gated: bool, centred: bool, activation: Activation | None = None) -> Setup:
    """Two MLPs behind norms: one reads the first hookpoint, the other the first two together."""
    case = setup(2, gated, activation)
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    sites = [
        TargetMLP.build(
            0,
            random_mlp(site.mlp.activation, gated, generator, WIDTH, NEURONS),
            1,
            StreamReading(read, Norm(1 + 0.3 * draw(WIDTH), draw(WIDTH), 1e-5, centred), at),
        )
        for at, (site, read) in enumerate(zip(case.sites, ((0,), (0, 1)), strict=True))
    ]
    return replace(case, sites=sites, streams=2 * draw(TOKENS, 2, WIDTH))


def dense_stream(
    case: Setup, site: TargetMLP, code: Tensor, x_hat: Tensor, leaves: dict[str, Tensor]
) -> tuple[Tensor, ...]:
    """Code, decoder, bias, input and reconstruction at a folded MLP, over the denominator."""
    assert site.upstream is not None
    assert case.streams is not None
    read, scale = list(site.upstream.hookpoints), case.crosscoder.scale.detach()
    r, norm = case.streams[:, site.upstream.stream], site.upstream.norm
    s = (norm.centre(r).square().mean(1, keepdim=True) + norm.epsilon).sqrt()
    decoder = sum(leaves["W_dec"][:, p] / scale[p] for p in read)
    error = sum(case.x[:, p] - x_hat[:, p] / scale[p] for p in read)
    return code / s, decoder, r / s - (code / s) @ decoder, r / s, (r - error) / s


def dense_terms(case: Setup, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """All terms from explicit tensors; `leaves` are the crosscoder's parameters."""
    scale = case.crosscoder.scale.detach()
    scaled = case.x * scale[:, None]
    pre = torch.einsum("bpd,hpd->bh", scaled, leaves["W_enc"]) + leaves["b_enc"]
    code = pre.relu() * batch_topk_mask(pre.detach(), K)
    x_hat = torch.einsum("bh,hpd->bpd", code, leaves["W_dec"]) + leaves["b_dec"]
    blocks = []
    for site in case.sites:
        p = site.hookpoint
        arguments = code, leaves["W_dec"][:, p] / scale[p], leaves["b_dec"][p] / scale[p]
        values = case.x[:, p], x_hat[:, p] / scale[p]
        if site.upstream is not None:
            *arguments, x, x_hat_there = dense_stream(case, site, code, x_hat, leaves)
            values = x, x_hat_there
        terms = block_terms(DenseMLP(site.mlp), *arguments, *values, site.second)
        turned = DenseMLP(site.mlp)
        turned.W_in = site.rotation @ turned.W_in
        turned.W_gate = None if turned.W_gate is None else site.rotation @ turned.W_gate
        ones = torch.ones(NEURONS, dtype=F64)
        terms["rotated"] = DenseView(turned, *arguments).interaction(ones).mean() / NEURONS
        blocks.append(terms)
    result = {name: torch.stack([b[name] for b in blocks]).mean() for name in blocks[0]}
    norms = leaves["W_dec"].flatten(1).pow(2).sum(1).sqrt()
    result["l1"] = (code * norms).sum(1).mean()
    result["reconstruction"] = (scaled - x_hat).pow(2).sum((1, 2)).mean()
    return result


def leaves_of(crosscoder: Crosscoder) -> dict[str, Tensor]:
    return {n: p.detach().clone().requires_grad_() for n, p in crosscoder.named_parameters()}


def our_term(case: Setup, name: str) -> Tensor:
    if name == "reconstruction":
        return reconstruction(case.step())
    if name == "output_norm":
        objective = Objective(interaction=1.0, interaction_weights="output_norm")
    else:
        objective = Objective(**{name: 1.0})
    ((_, strength, value),) = penalties(objective, case.step())
    assert strength == 1.0
    return value


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("blocks", [1, 4, 12])
def test_values_and_gradients_equal_the_dense_formulas(blocks: int, gated: bool) -> None:
    assert_dense(setup(blocks, gated))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_upstream_of_a_norm_too(gated: bool, centred: bool) -> None:
    assert_dense(stream_setup(gated, centred))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("upstream", [False, True])
def test_behind_a_second_norm_too(gated: bool, centred: bool, upstream: bool) -> None:
    case = stream_setup(gated, centred) if upstream else setup(2, gated)
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(WIDTH, generator=generator, dtype=F64)
    second = Norm(weight, torch.randn(WIDTH, generator=generator, dtype=F64), 1e-5, centred)
    sites = [replace(site, second=second) for site in case.sites]
    assert_dense(replace(case, sites=sites))


def assert_dense(case: Setup) -> None:
    for name in NAMES:
        leaves = leaves_of(case.crosscoder)
        expected = dense_terms(case, leaves)[name]
        expected.backward()
        case.crosscoder.zero_grad(set_to_none=True)
        ours = our_term(case, name)
        ours.backward()
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
        for key, parameter in case.crosscoder.named_parameters():
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            wanted = torch.zeros_like(grad) if leaves[key].grad is None else leaves[key].grad
            gap, size = (grad - wanted).abs().max(), wanted.abs().max()
            assert gap <= 1e-8 * size + 1e-12, (name, key)


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("gated", [False, True])
def test_every_activation(activation: Activation, gated: bool) -> None:
    case = setup(2, gated, activation)
    expected = dense_terms(case, leaves_of(case.crosscoder))
    for name in NAMES:
        torch.testing.assert_close(our_term(case, name), expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gated", [False, True])
def test_single_precision_agrees(gated: bool) -> None:
    case = setup(4, gated)
    expected = dense_terms(case, leaves_of(case.crosscoder))
    single = case.to(torch.float32)
    for name in NAMES:
        torch.testing.assert_close(
            our_term(single, name).double(), expected[name], rtol=2e-5, atol=0
        )


@pytest.mark.parametrize("name", ["interaction", "keep_largest", "certified", "dominant_share"])
def test_the_gradient_reaches_encoder_and_decoder_of_all_twelve_blocks(name: str) -> None:
    case = setup(12, gated=False)
    our_term(case, name).backward()
    for parameter in (case.crosscoder.W_enc, case.crosscoder.W_dec):
        reached = parameter.grad[:, :12].abs().amax(dim=(0, 2))
        assert (reached > 0).all()
    # The last hookpoint is no MLP's input: the penalty leaves its decoder alone.
    assert case.crosscoder.W_dec.grad[:, 12].abs().max() == 0


def mutants(view: DenseView, bias_share: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Plausible mistakes in Σ|p| - max|p|, averaged over tokens and neurons."""
    p = view.p
    active = (p.abs().sum(1, keepdim=True) > 0).to(p.dtype)
    spread = p + bias_share[:, None]
    signed = p.gather(2, p.argmax(2, keepdim=True))[..., 0]
    magnitude = p.abs()
    norms = view.mlp.norms()
    return {
        "bias in every contribution": lambda: (spread.abs().sum(2) - spread.abs().amax(2)).mean(),
        "no absolute value": lambda: (p.sum(2) - p.amax(2)).mean(),
        "argmax of signed p": lambda: (magnitude.sum(2) - signed.abs()).mean(),
        "mean over latents": lambda: (magnitude.mean(2) - magnitude.amax(2) / LATENTS).mean(),
        "mean over active latents": lambda: (
            (magnitude.sum(2) - magnitude.amax(2)) / active.sum(2).clamp_min(1)
        ).mean(),
        "absolute value of the sum": lambda: (p.sum(2).abs() - magnitude.amax(2)).mean(),
        "sum over neurons": lambda: (magnitude.sum(2) - magnitude.amax(2)).sum(1).mean(),
        "one owner for all neurons": lambda: (
            magnitude.sum(2)
            - magnitude.gather(2, magnitude.sum(1).argmax(1)[:, None, None].expand(-1, NEURONS, 1))[
                ..., 0
            ]
        ).mean(),
        "output norms in the uniform form": lambda: view.interaction(norms).mean() / NEURONS,
    }


def test_plausible_mistakes_are_told_apart() -> None:
    case = setup(1, gated=False)
    leaves = leaves_of(case.crosscoder)
    truth = dense_terms(case, leaves)["interaction"].detach()
    scale, site = case.crosscoder.scale[0], case.sites[0]
    encoding = case.step().encoding
    bias = leaves["b_dec"][0].detach() / scale
    decoder = leaves["W_dec"][:, 0].detach() / scale
    view = DenseView(DenseMLP(site.mlp), encoding.latents.dense().detach(), decoder, bias)
    ours = our_term(case, "interaction").detach()
    torch.testing.assert_close(ours, truth)
    for mistake, value in mutants(view, (bias @ site.mlp.W_in) / LATENTS).items():
        assert abs(value() - ours) > 1e-2 * ours, mistake


def test_strengths_and_labels() -> None:
    objective = Objective(keep_largest=1000.0, l1=0.5, interaction_weights="output_norm")
    assert objective.strengths() == {"keep_largest": 1000.0, "l1": 0.5}
    assert objective.describe() == "keep_largest 1000, l1 0.5"
    assert Objective().describe() == "reconstruction only"


def test_rotation_is_orthogonal_seeded_and_keeps_the_neurons_lengths() -> None:
    site = setup(1, gated=True).sites[0]
    eye = torch.eye(WIDTH, dtype=F64)
    # Householder's rotations are drawn in single precision.
    single = close(8 * WIDTH**2, 1, torch.float32)
    torch.testing.assert_close(site.rotation @ site.rotation.T, eye, **single)
    turned = site.rotated().mlp
    lengths = site.mlp.W_in.norm(dim=0)
    torch.testing.assert_close(turned.W_in.norm(dim=0) / lengths, lengths / lengths, **single)
    torch.testing.assert_close(turned.W_gate, site.rotation @ site.mlp.W_gate)
    assert torch.equal(TargetMLP.build(0, site.mlp, 1).rotation, site.rotation)
    assert not torch.equal(TargetMLP.build(0, site.mlp, 2).rotation, site.rotation)


def test_l0_counts_only_where_thresholds_are_learned() -> None:
    case = setup(1, gated=False)
    assert float(our_term(case, "l0")) == 0.0
