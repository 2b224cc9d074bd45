"""The last block's certificates against every corner of what the gaps allow."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from dictionaries import F64, random_mlp
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from torch import Tensor

from crossproof.lm import Activation, MLPWeights
from crossproof.lm.norms import Norm
from crossproof.lm.unembedding import Unembedding
from crossproof.proof.attribution.last_block import LastBlock
from crossproof.proof.attribution.simplified import Simplified


def random_block(
    seed: int, width: int = 4, neurons: int = 4, classes: int = 7, centred: bool = True
) -> LastBlock:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    norm = Norm(1 + 0.3 * draw(width), 0.5 * draw(width), 1e-3, centred)
    mlp = random_mlp(Activation.GELU, False, generator, width, neurons)
    return LastBlock(mlp, Unembedding(norm, draw(classes, width), draw(classes)))


def simplified(block: LastBlock, neurons: Tensor, gap: Tensor) -> Simplified:
    output = neurons @ block.mlp.W_out + block.mlp.b_out
    return Simplified(output, neurons, gap, torch.zeros(len(gap), dtype=torch.int64))


def certified_and_attacked(block: LastBlock, mid: Tensor, values: Tensor, gap: Tensor) -> Tensor:
    """Whether a certified prediction changes at some corner (or midpoint) of the gaps' box."""
    signs = torch.tensor(list(product((-1.0, 0.0, 1.0), repeat=gap.shape[1])), dtype=F64)
    moved = values + signs[:, None] * gap
    many = [x.expand(len(signs), *x.shape).flatten(0, 1) for x in (mid, values, gap)]
    verdict = block.judge(many[0], moved.flatten(0, 1), simplified(block, *many[1:]))
    assert bool((verdict.error <= verdict.bound * (1 + 1e-12) + 1e-12).all())
    broken = verdict.certified & ~verdict.unchanged
    return broken.view(len(signs), -1).any(0)


@examples(40)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.0, 0.01, 0.1, 0.4]),
    size=st.sampled_from([0.1, 1.0, 10.0]),
    centred=st.booleans(),
)
def test_no_corner_changes_a_certified_prediction(
    seed: int, scale: float, size: float, centred: bool
) -> None:
    block = random_block(seed, centred=centred)
    generator = torch.Generator().manual_seed(seed + 1)
    mid = size * torch.randn(6, 4, generator=generator, dtype=F64)
    values = torch.randn(6, 4, generator=generator, dtype=F64)
    gap = scale * torch.rand(6, 4, generator=generator, dtype=F64)
    assert not bool(certified_and_attacked(block, mid, values, gap).any())


def test_certificates_are_given_and_lost_as_gaps_grow() -> None:
    block = random_block(3)
    generator = torch.Generator().manual_seed(4)
    mid = torch.randn(200, 4, generator=generator, dtype=F64)
    values = torch.randn(200, 4, generator=generator, dtype=F64)
    shares = []
    for scale in (0.0, 0.01, 0.1, 1.0):
        simple = simplified(block, values, torch.full((200, 4), scale, dtype=F64))
        verdict = block.judge(mid, values, simple)
        assert bool(verdict.unchanged.all())
        shares.append(float(verdict.certified.double().mean()))
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < shares[1] < 1
    assert shares[3] < 0.2


def narrow_case() -> tuple[LastBlock, Tensor, Tensor, Tensor]:
    """A neuron that writes across all margins' directions: it moves the norm's scale alone.

    Only the last class can overtake the first one, and eight others stand between them.
    """
    norm = Norm(torch.ones(2, dtype=F64), torch.zeros(2, dtype=F64), 1e-6, False)
    rows = torch.zeros(10, 2, dtype=F64)
    rows[:9, 0] = torch.linspace(1, 0.9, 9, dtype=F64)
    view = Unembedding(norm, rows, torch.tensor([-1.0] * 9 + [0.0], dtype=F64))
    W_out = torch.tensor([[0.0, 1.0]], dtype=F64)
    zero = torch.zeros(2, 1, dtype=F64)
    mlp = MLPWeights(
        zero, torch.zeros(1, dtype=F64), W_out, torch.zeros(2, dtype=F64), Activation.RELU
    )
    mid, values = torch.tensor([[1.0, 0.0]], dtype=F64), torch.zeros(1, 1, dtype=F64)
    return LastBlock(mlp, view), mid, values, torch.full((1, 1), 2.0, dtype=F64)


def test_the_scale_of_the_norm_is_taken_at_its_worse_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not bool(certified_and_attacked(*narrow_case()).any())
    right = Norm.scale_range
    monkeypatch.setattr(Norm, "scale_range", lambda *a: right(*a)[::-1])
    assert bool(certified_and_attacked(*narrow_case()).any())


def test_a_class_behind_all_rivals_is_looked_at() -> None:
    """Its direction alone is written to; eight classes stand between it and the prediction."""
    norm = Norm(torch.ones(3, dtype=F64), torch.zeros(3, dtype=F64), 1e-6, False)
    rows = torch.zeros(10, 3, dtype=F64)
    rows[:9, 0] = torch.linspace(1, 0.9, 9, dtype=F64)
    rows[9] = torch.tensor([0.85, 1, 0], dtype=F64)
    view = Unembedding(norm, rows, torch.zeros(10, dtype=F64))
    W_out, zero = torch.tensor([[0.0, 1, 0]], dtype=F64), torch.zeros(3, dtype=F64)
    mlp = MLPWeights(zero[:, None], zero[:1], W_out, zero, Activation.RELU)
    block, mid = LastBlock(mlp, view), torch.tensor([[1.0, 0, 0]], dtype=F64)
    for gap, safe in ((0.14, True), (0.16, False)):
        box = torch.full((1, 1), gap, dtype=F64)
        verdict = block.judge(mid, box, simplified(block, zero[:1, None], box))
        assert bool(verdict.certified[0]) is safe
        assert bool(verdict.unchanged[0]) is safe


def test_gaps_of_half_their_size_are_refuted() -> None:
    """Corners of a box twice as wide as claimed do change certified predictions."""
    block = random_block(3, centred=False)
    generator = torch.Generator().manual_seed(4)
    mid = torch.randn(300, 4, generator=generator, dtype=F64)
    values = torch.randn(300, 4, generator=generator, dtype=F64)
    gap = torch.full((300, 4), 0.06, dtype=F64)
    simple = simplified(block, values, gap / 2)
    changed = torch.zeros(300, dtype=torch.bool)
    for signs in product((-1.0, 1.0), repeat=4):
        verdict = block.judge(mid, values + torch.tensor(signs, dtype=F64) * gap, simple)
        changed |= verdict.certified & ~verdict.unchanged
    assert bool(changed.any())
