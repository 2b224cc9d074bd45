from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crossproof.crosscoder import SparseLatents


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """[B, H] with zeros, empty rows and both signs; B may be zero."""
    tokens, latents = draw(st.integers(0, 6)), draw(st.integers(1, 7))
    entry = st.one_of(st.just(0.0), st.floats(-4, 4, width=32))
    rows = st.lists(entry, min_size=latents, max_size=latents)
    drawn = draw(st.lists(rows, min_size=tokens, max_size=tokens))
    return torch.tensor(drawn).reshape(tokens, latents)


@given(matrices())
def test_dense_and_back(dense: Tensor) -> None:
    latents = SparseLatents.from_dense(dense)
    assert torch.equal(latents.dense(), dense)
    assert latents.n_tokens == len(dense)
    assert latents.l0() == (dense != 0).sum().item() / max(len(dense), 1)
    for b in range(len(dense)):
        own = latents.indices[latents.offsets[b] : latents.offsets[b + 1]].tolist()
        assert own == sorted(own)
        assert own == dense[b].nonzero()[:, 0].tolist()


@given(matrices(), st.data())
def test_keep_is_masking(dense: Tensor, data: st.DataObject) -> None:
    latents = SparseLatents.from_dense(dense)
    size = len(latents.values)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    kept = latents.keep(mask.bool())
    expected = dense.clone()
    places = latents.token_index, latents.indices
    expected[places] = expected[places] * mask
    assert torch.equal(kept.dense(), expected)
    assert len(kept.values) == int(mask.sum())


@given(matrices(), st.data())
def test_rows_are_slices(dense: Tensor, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(dense)))
    stop = data.draw(st.integers(start, len(dense) + 2))
    rows = SparseLatents.from_dense(dense).rows(start, stop)
    assert torch.equal(rows.dense(), dense[start:stop])


@given(matrices())
def test_transposed_holds_the_same_entries_by_latent(dense: Tensor) -> None:
    latents = SparseLatents.from_dense(dense)
    offsets, tokens, order = latents.transposed
    turned = SparseLatents(offsets, tokens, latents.values[order], len(dense))
    assert torch.equal(turned.dense(), dense.T)


@given(matrices())
def test_with_values_keeps_the_structure_and_its_caches(dense: Tensor) -> None:
    latents = SparseLatents.from_dense(dense)
    cached = latents.transposed
    doubled = latents.with_values(2 * latents.values)
    assert torch.equal(doubled.dense(), 2 * dense)
    assert doubled.transposed is cached


@given(st.integers(0, 5), st.integers(1, 6), st.data())
def test_from_rows_sorts_and_keeps_zeros(tokens: int, latents: int, data: st.DataObject) -> None:
    width = data.draw(st.integers(0, latents))
    rows = [data.draw(st.permutations(range(latents)))[:width] for _ in range(tokens)]
    indices = torch.tensor(rows, dtype=torch.int64).reshape(tokens, width)
    values = torch.arange(tokens * width, dtype=torch.float32).reshape(tokens, width)
    made = SparseLatents.from_rows(indices, values, latents)
    expected = torch.zeros(tokens, latents)
    if tokens * width:
        expected.scatter_(1, indices, values)
    assert torch.equal(made.dense(), expected)
    assert len(made.values) == tokens * width
    assert (made.indices.reshape(tokens, width).diff(dim=1) > 0).all()


def test_dense_is_differentiable() -> None:
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    latents = SparseLatents(torch.tensor([0, 2, 2, 3]), torch.tensor([0, 2, 1]), values, 3)
    weight = torch.arange(9.0).reshape(3, 3)
    (latents.dense() * weight).sum().backward()
    assert values.grad.tolist() == [0.0, 2.0, 7.0]
