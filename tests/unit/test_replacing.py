"""Layers replaced by transcoders in one pass, against a model that is rebuilt with them."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from dictionaries import F64, random_kind, random_transcoder
from torch import Tensor, nn

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.layout import LatentGroup, Layout
from crossproof.crosscoder.side_by_side import compacted, side_by_side
from crossproof.evaluation import EvaluationOptions, evaluate
from crossproof.lm import LanguageModel, load_model

SINGLE = 1e-6
"""Losses are taken in float32."""
OPTIONS = EvaluationOptions(resamples=5, schemes=(), batch_sequences=2)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    return load_model(tiny_models.llama(3).double())


class Instead(nn.Module):
    """A transcoder where an MLP was; the first position keeps the MLP."""

    def __init__(self, mlp: nn.Module, transcoder: Crosscoder) -> None:
        super().__init__()
        self.mlp, self.transcoder = mlp, transcoder

    def forward(self, x: Tensor) -> Tensor:
        out = self.mlp(x).clone()
        raw = torch.stack([x, torch.zeros_like(x)], 2)[:, 1:]
        out[:, 1:] = self.transcoder(raw.flatten(0, 1))[:, 1].view_as(out[:, 1:]).detach()
        return out


@pytest.mark.parametrize("rule", [pytest.param("topk", marks=pytest.mark.slow), "batch_topk"])
def test_all_mlps_at_once_is_the_model_rebuilt(rule: str, model: LanguageModel) -> None:
    tokens = tiny_models.random_tokens(4, 9) % 63 + 1  # no end of text: all but the first count
    members = {f"layer {b}": random_transcoder(model, b, b == 1, rule) for b in range(3)}
    figures = evaluate(model, side_by_side(model, members), tokens, OPTIONS)
    bare = tiny_models.llama(3).double()
    bare.load_state_dict(model._bare.state_dict())
    for block, member in enumerate(members.values()):
        layer = bare.model.layers[block]
        layer.mlp = Instead(layer.mlp, member)
    logits = bare(input_ids=tokens).logits[:, 1:-1]
    loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 2:].flatten())
    assert figures.replaced is not None
    assert figures.replaced.loss.mean == pytest.approx(float(loss.detach()), abs=SINGLE)
    assert figures.replaced.mlp_parameters == 3 * 3 * 16 * 48
    alone = [evaluate(model, member, tokens, OPTIONS) for member in members.values()]
    for name, each in zip(figures.replaced.hookpoints, alone, strict=True):
        assert each.replaced is not None
        assert each.replaced.hookpoints == (name,)  # one MLP alone: both ways are the same
        assert each.replaced.increase.mean == pytest.approx(each.replaced.alone[name], abs=SINGLE)
        assert figures.replaced.alone[name] == pytest.approx(each.replaced.alone[name], abs=SINGLE)
    for each, skip in zip(alone, (0, 16 * 16, 0), strict=True):
        active = each.l0 * (2 * 16 + 1) + skip
        assert each.replaced.active_parameters.mean == pytest.approx(active)


class AcrossLayers(nn.Module):
    """One layer of a cross-layer transcoder, where an MLP was; all layers share what was read."""

    def __init__(self, mlp: nn.Module, clt: Crosscoder, at: int, read: dict[int, Tensor]) -> None:
        super().__init__()
        self.mlp, self.clt, self.at, self.read = mlp, clt, at, read

    def forward(self, x: Tensor) -> Tensor:
        out = self.mlp(x).clone()
        self.read[self.at] = x[:, 1:]
        none = torch.zeros_like(x[:, 1:])
        raw = torch.stack([self.read.get(place, none) for place in range(4)], 2)
        written = self.clt(raw.flatten(0, 1))[:, self.at + 1].detach()
        out[:, 1:] = written.view_as(out[:, 1:])
        return out


def test_earlier_layers_of_a_cross_layer_transcoder_write_later_outputs(
    model: LanguageModel,
) -> None:
    names = [f"blocks.{b}.{part}" for b in range(2) for part in ("mlp.hook_in", "hook_mlp_out")]
    groups = LatentGroup(5, (0,), (1, 3)), LatentGroup(5, (2,), (3,))
    tokens = tiny_models.random_tokens(3, 7) % 63 + 1
    clt = random_kind(model, names, Layout(groups), "relu")
    figures = evaluate(model, clt, tokens, OPTIONS)
    bare = tiny_models.llama(3).double()
    bare.load_state_dict(model._bare.state_dict())
    read: dict[int, Tensor] = {}
    for block in range(2):
        layer = bare.model.layers[block]
        layer.mlp = AcrossLayers(layer.mlp, clt, 2 * block, read)
    logits = bare(input_ids=tokens).logits[:, 1:-1]
    loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 2:].flatten())
    assert figures.replaced is not None
    assert figures.replaced.hookpoints == tuple(names[1::2])
    assert figures.replaced.loss.mean == pytest.approx(float(loss.detach()), abs=SINGLE)
    refused = evaluate(model, random_kind(model, names, Layout(groups), "topk"), tokens, OPTIONS)
    assert refused.replaced is None
    assert "one after another" in refused.unreplaced


def test_compacting_tells_what_zeros_hide(model: LanguageModel) -> None:
    names = [f"blocks.{b}.{part}" for b in range(2) for part in ("mlp.hook_in", "hook_mlp_out")]
    wide = Crosscoder(CrosscoderConfig(8, "topk", 2, 2), model.hookpoints(names), 16).to(F64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for rows, read, written in ((slice(0, 4), 0, 1), (slice(4, 8), 2, 3)):
            wide.W_enc[rows, read] = torch.randn(4, 16, generator=generator, dtype=F64)
            wide.W_dec[rows, written] = torch.randn(4, 16, generator=generator, dtype=F64)
    compact = compacted(wide)
    assert compact.layout.groups == (LatentGroup(4, (0,), (1,)), LatentGroup(4, (2,), (3,)))
    x = torch.randn(6, 4, 16, generator=generator, dtype=F64)
    torch.testing.assert_close(compact(x), wide(x))
    figures = evaluate(model, wide, tiny_models.random_tokens(3, 7), OPTIONS)
    assert figures.replaced is not None
