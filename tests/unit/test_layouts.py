"""Every kind of dictionary against dense autograd, and what a layout must be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dictionaries import F64, dense, random_mlp
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig, load_crosscoder
from crossproof.crosscoder.layout import LatentGroup, Layout
from crossproof.crosscoder.provenance import Provenance
from crossproof.crosscoder.store import save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm import Activation
from crossproof.lm.hookpoints import Hookpoints
from crossproof.training.step import Step, TargetMLP

LATENTS, WIDTH, TOKENS = 12, 5, 17
NAMES = [f"blocks.{i}.{part}" for i in range(2) for part in ("mlp.hook_in", "mlp.hook_out")]
HOOKPOINTS = Hookpoints.from_names(NAMES, 2)

KINDS = {
    "crosscoder": Layout.joint(LATENTS, 4),
    "transcoder": Layout((LatentGroup(LATENTS, (0,), (1,)),)),
    "skip transcoder": Layout((LatentGroup(LATENTS, (0,), (1,)),), skips=((0, 1),)),
    "cross-layer transcoder": Layout(
        (LatentGroup(5, (0,), (1, 3)), LatentGroup(7, (2,), (3,))), skips=((0, 1), (2, 3))
    ),
    "weakly causal crosscoder": Layout((LatentGroup(8, (0,), (0, 2)), LatentGroup(4, (2,), (2,)))),
    "transcoders side by side": Layout((LatentGroup(6, (0,), (1,)), LatentGroup(6, (2,), (3,)))),
    "reads two, writes one": Layout((LatentGroup(LATENTS, (0, 2), (3,)),), skips=((0, 3), (2, 3))),
}


def make(layout: Layout, rule: str = "topk") -> Crosscoder:
    generator = torch.Generator().manual_seed(0)
    crosscoder = Crosscoder(CrosscoderConfig(LATENTS, rule, 4), HOOKPOINTS, WIDTH, layout).to(F64)
    with torch.no_grad():
        for name, parameter in crosscoder.named_parameters():
            if not name.startswith("sparsity"):
                noise = torch.randn(parameter.shape, generator=generator, dtype=F64)
                parameter.copy_(0.4 * noise)
        silent = [p for p in range(4) if p not in layout.written]
        crosscoder.b_dec[silent] = 0
        crosscoder.scale.copy_(0.5 + torch.rand(4, generator=generator, dtype=F64))
    return crosscoder


def batch(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(TOKENS, 4, WIDTH, generator=generator, dtype=F64)


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_equal_dense_autograd(kind: str) -> None:
    layout = KINDS[kind]
    crosscoder, x, where = make(layout), batch(), (3, 1)
    weight = torch.randn(TOKENS, 4, WIDTH, generator=torch.Generator().manual_seed(9), dtype=F64)
    encoding = crosscoder.encode_training(x)
    decoded, vectors = crosscoder.decode_with_vectors(encoding.latents, where, x)
    ((decoded - x).pow(2) * weight).sum().add(vectors.pow(3).sum()).backward()

    leaves = {n: p.detach().clone().requires_grad_() for n, p in crosscoder.named_parameters()}
    W_enc, W_dec = (dense(layout, leaves[f"W_{side}"], side, 4) for side in ("enc", "dec"))
    pre = x.flatten(1) @ W_enc.flatten(1).T + leaves["b_enc"]
    mask = torch.zeros_like(pre).scatter(1, pre.topk(4, dim=1).indices, 1)
    code = pre.relu() * mask
    expected = (code @ W_dec.flatten(1)).view_as(x) + leaves["b_dec"]
    for at, (read, written) in enumerate(layout.skips):
        added = torch.zeros_like(x)
        added[:, written] = x[:, read] @ leaves["W_skip"][at]
        expected = expected + added
    loss = ((expected - x).pow(2) * weight).sum() + W_dec[:, list(where)].pow(3).sum()
    loss.backward()

    torch.testing.assert_close(encoding.latents.dense(), code, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(decoded, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(vectors, W_dec[:, list(where)])
    for name, leaf in leaves.items():
        ours = dict(crosscoder.named_parameters())[name].grad
        assert leaf.grad is not None
        assert leaf.grad.abs().max() > 0, name
        torch.testing.assert_close(ours, leaf.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_folding_and_saving_keep_the_function(kind: str, tmp_path: Path) -> None:
    crosscoder, x = make(KINDS[kind]), batch()
    latents, decoded = crosscoder.encode(x), crosscoder(x)
    vectors = crosscoder.decoder_vectors(3)
    bias = crosscoder.b_dec[3] / crosscoder.scale[3]
    by_hand = latents.dense() @ vectors + bias + crosscoder.affine(x)[:, 3]
    torch.testing.assert_close(decoded[:, 3], by_hand)
    save_crosscoder(crosscoder, tmp_path / "saved", Provenance("m", "h"))
    loaded = load_crosscoder(tmp_path / "saved")[0].double()
    assert loaded.layout == crosscoder.layout
    assert loaded.scale.tolist() == [1.0] * 4
    assert loaded.written == crosscoder.layout.written
    single = {"rtol": 1e-5, "atol": 1e-5}  # folders are loaded in float32
    torch.testing.assert_close(loaded.encode(x).dense(), latents.dense(), **single)
    torch.testing.assert_close(loaded(x), decoded, **single)
    text = (tmp_path / "saved" / "config.json").read_text()
    assert ('"layout"' in text) == (kind != "crosscoder")


@pytest.mark.parametrize("kind", KINDS)
def test_initialisation_takes_each_latents_own_places(kind: str) -> None:
    layout = KINDS[kind]
    crosscoder = make(layout, "batch_topk")
    sample = 7 * batch(3).repeat(20, 1, 1) + 2
    sample += torch.randn(sample.shape, generator=torch.Generator().manual_seed(4), dtype=F64)
    crosscoder.initialise(sample, seed=5)
    start = 0
    for group in layout.groups:
        rows = slice(start, start + group.latents)
        for weights, places in (
            (crosscoder.W_enc, group.reads),
            (crosscoder.W_dec, group.writes),
        ):
            norms = weights[rows, : len(places)].flatten(1).norm(dim=1)
            torch.testing.assert_close(norms, torch.ones(group.latents, dtype=F64))
        start = rows.stop
    silent = [p for p in range(4) if p not in layout.written]
    assert not crosscoder.b_dec[silent].any()
    at_mean = crosscoder.encode_training((sample * crosscoder.scale[:, None]).mean(0)[None]).pre
    assert at_mean.abs().max() < 1e-9  # the encoder sees what is read less its mean

    def unexplained() -> float:
        x = sample * crosscoder.scale[:, None]
        latents = crosscoder.encode_training(x).latents
        error = (crosscoder.decode_scaled(latents) - x)[:, list(layout.written)]
        return float(error.detach().pow(2).sum())

    before = unexplained()
    assert crosscoder.fit_gain(sample) != 1
    assert unexplained() < before


def test_decoding_needs_the_input_of_a_skip() -> None:
    crosscoder, x = make(KINDS["skip transcoder"]), batch()
    with pytest.raises(CrossproofError, match="give decode the activations"):
        crosscoder.decode(crosscoder.encode(x))


def test_layouts_that_cannot_be_are_refused() -> None:
    with pytest.raises(CrossproofError, match="places in order"):
        LatentGroup(3, (1, 0), (1,)) and Layout((LatentGroup(3, (1, 0), (1,)),))
    with pytest.raises(CrossproofError, match="needs latents"):
        Layout((LatentGroup(0, (0,), (1,)),))
    with pytest.raises(CrossproofError, match="listed twice"):
        Layout((LatentGroup(3, (0,), (1,)),), skips=((0, 1), (0, 1)))
    with pytest.raises(CrossproofError, match="does not fit"):
        Crosscoder(CrosscoderConfig(9, "relu"), HOOKPOINTS, WIDTH, KINDS["transcoder"])


def test_a_penalised_mlp_behind_a_skip_reads_each_tokens_own_baseline() -> None:
    """All latents and the skip give the MLP what the reconstruction gives it."""
    layout = Layout((LatentGroup(LATENTS, (1,), (2,)),), skips=((1, 2),))
    crosscoder, x = make(layout), batch()
    generator = torch.Generator().manual_seed(2)
    target = TargetMLP.build(2, random_mlp(Activation.SILU, True, generator), 0)
    encoding = crosscoder.encode_training(x)
    step = Step.build(crosscoder, encoding, x, [target], fraction=0.5)
    (block,) = step.blocks
    view = block.view
    ours = view.output(*view.sums(block.latents))
    read = target.mlp(step.x_hat[: len(ours), 2] / crosscoder.scale[2])
    torch.testing.assert_close(ours, read, rtol=1e-10, atol=1e-10)
