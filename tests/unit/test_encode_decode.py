"""Sparse encode and decode against dense autograd, for every sparsity rule."""

from __future__ import annotations

import copy

import pytest
import torch
from dictionaries import mlp_hookpoints, random_batch, random_crosscoder
from reference import batch_topk_mask
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig, SparseLatents
from crossproof.errors import CrossproofError

K, LATENTS, WIDTH, TOKENS = 4, 24, 5, 19
RULES = ("topk", "batch_topk", "relu", "jumprelu")
PRECISION = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


def make(rule: str, dtype: torch.dtype = torch.float64) -> Crosscoder:
    config = CrosscoderConfig(LATENTS, rule, K)
    crosscoder = random_crosscoder(config, mlp_hookpoints(2), WIDTH, dtype=dtype)
    if rule == "jumprelu":
        spread = torch.linspace(0.06, 1.5, LATENTS)
        crosscoder.sparsity.log_threshold.data.copy_(spread.log())
    return crosscoder


class Heaviside(torch.autograd.Function):
    """H(z - θ) with the published pseudo-derivative in θ, and none in z."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, z: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(z, theta)
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[None, Tensor]:
        z, theta = ctx.saved_tensors
        kernel = ((z - theta) / 0.1).abs() < 0.5  # the rectangle of width 0.1
        return None, (-grad * kernel / 0.1).sum(0)


def jump(z: Tensor, theta: Tensor) -> Tensor:
    """z H(z - θ): in θ, -(θ/ε) K((z - θ)/ε); in z, H(z - θ)."""
    step = Heaviside.apply(z.detach(), theta)
    return z * step.detach() + theta * (step - step.detach())


def dense_code(rule: str, pre: Tensor, theta: Tensor | None) -> Tensor:
    if rule == "relu":
        return pre.relu()
    if rule == "jumprelu":
        return jump(pre, theta)
    mask = batch_topk_mask(pre.detach(), K)
    if rule == "topk":
        mask = torch.zeros_like(mask).scatter(1, pre.argsort(1, descending=True)[:, :K], True)
    return pre.relu() * mask


def gradients(crosscoder: Crosscoder) -> dict[str, Tensor]:
    return {n: p.grad for n, p in crosscoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@pytest.mark.parametrize("rule", RULES)
def test_values_and_gradients_equal_dense_autograd(
    rule: str, dtype: torch.dtype, tolerance: float
) -> None:
    crosscoder = make(rule, dtype)
    raw = random_batch(crosscoder, TOKENS)
    x = raw.flatten(1)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    encoding = crosscoder.encode_training(raw)
    decoded = crosscoder.decode_scaled(encoding.latents).flatten(1)
    extra = encoding.latents.values.pow(2).sum()
    if rule == "jumprelu":
        extra = extra + 3 * crosscoder.sparsity.l0(encoding.entries)
    ((decoded - x).pow(2) * weight).sum().add(extra).backward()
    ours = gradients(crosscoder)

    leaves = {n: p.detach().clone().requires_grad_() for n, p in crosscoder.named_parameters()}
    pre = x @ leaves["W_enc"].flatten(1).T + leaves["b_enc"]
    theta = leaves["sparsity.log_threshold"].exp() if rule == "jumprelu" else None
    code = dense_code(rule, pre, theta)
    expected = code @ leaves["W_dec"].flatten(1) + leaves["b_dec"].flatten()
    extra = code.pow(2).sum()
    if rule == "jumprelu":
        extra = extra + 3 * Heaviside.apply(pre.detach(), theta).sum() / TOKENS
    ((expected - x).pow(2) * weight).sum().add(extra).backward()

    assert (code != 0).sum() > 20
    torch.testing.assert_close(encoding.pre, pre.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(encoding.latents.dense(), code, rtol=tolerance, atol=tolerance)
    assert ours.keys() == leaves.keys()
    for name, leaf in leaves.items():
        size = leaf.grad.abs().max()
        assert size > 0, name
        assert (ours[name] - leaf.grad).abs().max() <= tolerance * size, name
    torch.testing.assert_close(decoded, expected, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("rule", RULES)
def test_inference_equals_the_dense_code_of_raw_activations(rule: str) -> None:
    crosscoder = make(rule)
    x = random_batch(crosscoder, TOKENS)
    if rule == "batch_topk":
        crosscoder.sparsity.threshold.fill_(0.7)
    pre = torch.einsum("bpd,p,hpd->bh", x, crosscoder.scale, crosscoder.W_enc) + crosscoder.b_enc
    match rule:
        case "batch_topk":
            expected = pre * (pre > 0.7)
        case "jumprelu":
            expected = pre * (pre > crosscoder.sparsity.threshold)
        case _:
            expected = dense_code(rule, pre, None)
    latents = crosscoder.encode(x)
    torch.testing.assert_close(latents.dense(), expected.detach(), rtol=1e-10, atol=1e-10)
    assert (latents.values > 0).all()
    decoder = torch.stack([crosscoder.decoder_vectors(p) for p in range(3)], dim=1)
    bias = torch.stack([crosscoder.decoder_bias(p) for p in range(3)])
    decoded = torch.einsum("bh,hpd->bpd", expected, decoder) + bias
    torch.testing.assert_close(crosscoder.decode(latents), decoded, rtol=1e-10, atol=1e-10)


def test_folding_the_scale_keeps_the_function() -> None:
    crosscoder = make("topk")
    x = random_batch(crosscoder, TOKENS)
    before, decoded = crosscoder.encode(x), crosscoder.decode(crosscoder.encode(x))
    decoder = crosscoder.decoder_vectors(1).clone()
    crosscoder.fold()
    assert crosscoder.scale.tolist() == [1.0] * 3
    torch.testing.assert_close(crosscoder.encode(x).dense(), before.dense())
    torch.testing.assert_close(crosscoder.decode(crosscoder.encode(x)), decoded)
    torch.testing.assert_close(crosscoder.decoder_vectors(1), decoder)


def test_decoding_nothing_gives_the_bias() -> None:
    crosscoder = make("relu")
    nothing = SparseLatents.from_dense(torch.zeros(2, LATENTS, dtype=torch.float64))
    bias = torch.stack([crosscoder.decoder_bias(p) for p in range(3)])
    torch.testing.assert_close(crosscoder.decode(nothing), bias.expand(2, 3, WIDTH))


def test_activations_of_another_model_are_refused() -> None:
    with pytest.raises(CrossproofError, match=r"\[tokens, 2, 5\].*3 hookpoints of width 5"):
        make("relu").encode(torch.zeros(4, 2, 5, dtype=torch.float64))


@pytest.mark.parametrize("rule", ["topk", "batch_topk"])
@pytest.mark.parametrize("k", [0, 25])
def test_k_must_fit_the_dictionary(rule: str, k: int) -> None:
    with pytest.raises(CrossproofError, match=rf"k = {k} .* 1 <= k <= 24"):
        Crosscoder(CrosscoderConfig(LATENTS, rule, k), mlp_hookpoints(1), WIDTH)


def test_initialisation_is_unit_sparse_directions_of_the_data() -> None:
    crosscoder = Crosscoder(CrosscoderConfig(LATENTS, "topk", K), mlp_hookpoints(2), WIDTH)
    sample = 7 * torch.randn(200, 3, WIDTH, generator=torch.Generator().manual_seed(0)) + 2
    crosscoder.initialise(sample, seed=5)
    scaled = sample * crosscoder.scale[:, None]
    torch.testing.assert_close(scaled.norm(dim=-1).median(0).values, torch.full((3,), WIDTH**0.5))
    torch.testing.assert_close(crosscoder.b_dec.data, scaled.mean(0))
    torch.testing.assert_close(crosscoder.W_dec.flatten(1).norm(dim=1), torch.ones(LATENTS))
    centred = (scaled - crosscoder.b_dec).flatten(1) @ crosscoder.W_enc.flatten(1).T
    pre = crosscoder.encode_training(scaled).pre
    torch.testing.assert_close(pre, centred.detach(), atol=1e-4, rtol=1e-4)
    again = Crosscoder(CrosscoderConfig(LATENTS, "topk", K), mlp_hookpoints(2), WIDTH)
    again.initialise(sample, seed=5)
    assert torch.equal(again.W_dec, crosscoder.W_dec)
    again.initialise(sample, seed=6)
    assert not torch.equal(again.W_dec, crosscoder.W_dec)


@pytest.mark.parametrize("rule", ["topk", "batch_topk", "relu", "jumprelu"])
def test_the_fitted_gain_is_the_best_factor_and_changes_no_choice(rule: str) -> None:
    generator = torch.Generator().manual_seed(0)
    common = 5 * torch.randn(1, 3, WIDTH, generator=generator)
    strengths = torch.randn(200, 1, 1, generator=generator)
    sample = strengths * common + torch.randn(200, 3, WIDTH, generator=generator)
    crosscoder = Crosscoder(CrosscoderConfig(LATENTS, rule, K), mlp_hookpoints(2), WIDTH)
    crosscoder.initialise(sample, seed=5)
    flat = sample * crosscoder.scale[:, None]
    target = flat - crosscoder.b_dec.detach()
    buffers = copy.deepcopy(list(crosscoder.buffers()))

    def unexplained(factor: float) -> tuple[float, torch.Tensor]:
        other = copy.deepcopy(crosscoder)
        with torch.no_grad():
            other.W_enc.mul_(factor)
            other.b_enc.mul_(factor)
            if rule == "jumprelu":  # the choice is by thresholds, which a factor would pass
                other.sparsity.log_threshold.fill_(-50)
            latents = other.encode_training(flat).latents
            error = (other.decode_scaled(latents) - flat).pow(2).sum() / target.pow(2).sum()
        return float(error), latents.indices

    if rule == "jumprelu":
        with torch.no_grad():
            crosscoder.sparsity.log_threshold.fill_(-50)
    before, chosen = unexplained(1.0)
    gain = crosscoder.fit_gain(sample)
    after, still = unexplained(1.0)
    assert 0 < gain < 1
    assert after < min(before, 1)
    assert torch.equal(chosen, still)
    assert after <= min(unexplained(0.98)[0], unexplained(1.02)[0])
    assert crosscoder.fit_gain(sample) == pytest.approx(1, abs=1e-5)
    for old, new in zip(buffers, crosscoder.buffers(), strict=True):
        assert torch.equal(old, new)


def test_a_sample_without_variance_leaves_the_encoder_as_it_is() -> None:
    crosscoder = Crosscoder(CrosscoderConfig(LATENTS, "topk", K), mlp_hookpoints(2), WIDTH)
    sample = torch.ones(10, 3, WIDTH)
    crosscoder.initialise(sample, seed=0)
    weights = crosscoder.W_enc.clone()
    assert crosscoder.fit_gain(sample) == 1
    assert torch.equal(crosscoder.W_enc, weights)
