from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crossproof import kernels
from crossproof.crosscoder import SparseLatents
from crossproof.kernels import numba_cpu, torch_any

PATHS = ("numba", "torch", "triton")
WIDTHS = (1, 7, 512, 1030)  # the numba loop walks tiles of 512
INTERPRETED = (1, 300)  # Triton's programs take tiles of 256; its interpreter takes its time


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "triton":
        pytest.importorskip("triton")
    monkeypatch.setenv("CROSSPROOF_KERNELS", request.param)
    return str(request.param)


def on_every_path(*widths: int) -> pytest.MarkDecorator:
    """Parametrises `path` and `width`."""
    compiled = itertools.product(("numba", "torch"), widths)
    interpreted = itertools.product(("triton",), INTERPRETED)
    return pytest.mark.parametrize(("path", "width"), [*compiled, *interpreted], indirect=["path"])


def code(tokens: int = 7, latents: int = 11, dtype: torch.dtype = torch.float64) -> SparseLatents:
    """Some tokens without entries, one with all latents."""
    generator = torch.Generator().manual_seed(3)
    dense = torch.randn(tokens, latents, generator=generator, dtype=dtype)
    dense *= torch.rand(tokens, latents, generator=generator) < 0.4
    dense[0] = 0
    dense[-1] = 0
    dense[2] = torch.linspace(0.5, 2, latents, dtype=dtype)
    return SparseLatents.from_dense(dense)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def entries_of(latents: SparseLatents, token: int) -> range:
    return range(int(latents.offsets[token]), int(latents.offsets[token + 1]))


def dominant_by_loops(
    latents: SparseLatents, weights: Tensor, excluded: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    shape = latents.n_tokens, weights.shape[1]
    best, owner = np.zeros(shape), np.full(shape, -1)
    for b in range(shape[0]):
        for n in range(shape[1]):
            for j in entries_of(latents, b):
                p = float(latents.values[j] * weights[latents.indices[j], n])
                barred = excluded is not None and int(excluded[b, n]) == j
                if abs(p) > abs(best[b, n]) and not barred:
                    best[b, n], owner[b, n] = p, j
    return best, owner


def backward(
    latents: SparseLatents,
    weights: Tensor,
    owner: Tensor,
    grad: Tensor,
    onto: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    arguments = latents.indices, latents.values, weights, owner, grad
    return kernels.dominant_backward(*arguments, lambda: latents.transposed, onto)


def test_the_switch_chooses_the_path(path: str) -> None:
    for uses, name in ((kernels.uses_numba, "numba"), (kernels.uses_triton, "triton")):
        assert uses(torch.zeros(1)) == (path == name)
        assert not uses(torch.zeros(1, dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_above(path: str, dtype: torch.dtype) -> None:
    pre, thresholds = normal(9, 13, dtype=dtype), normal(13, seed=1, dtype=dtype)
    pre[4] = -100
    pre[5, 3] = thresholds[3]  # equal is not above
    offsets, indices, values = kernels.entries_above(pre, thresholds)
    for b in range(9):
        wanted = [h for h in range(13) if pre[b, h] > thresholds[h]]
        assert indices[offsets[b] : offsets[b + 1]].tolist() == wanted
        assert values[offsets[b] : offsets[b + 1]].tolist() == pre[b, wanted].tolist()
    assert len(indices) == offsets[-1]


def test_entries_above_takes_an_expanded_threshold_and_finds_nothing(path: str) -> None:
    offsets, indices, values = kernels.entries_above(normal(3, 5), torch.tensor(99.0).expand(5))
    assert offsets.tolist() == [0, 0, 0, 0]
    assert len(indices) == len(values) == 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@on_every_path(*WIDTHS)
def test_row_products_and_weighted_rows(
    path: str, width: int, dtype: torch.dtype, tolerance: float
) -> None:
    latents = code(dtype=dtype)
    left, right = normal(7, width, dtype=dtype), normal(11, width, seed=1, dtype=dtype)
    entries = latents.offsets, latents.indices
    products = kernels.row_products(*entries, left, right)
    sums = kernels.weighted_rows(*entries, latents.values, right)
    for b in range(7):
        total = torch.zeros(width, dtype=torch.float64)
        for j in entries_of(latents, b):
            row = right[latents.indices[j]].double()
            expected = float((left[b].double() * row).sum())
            assert float(products[j]) == pytest.approx(expected, abs=tolerance * width**0.5 * 10)
            total += latents.values[j].double() * row
        torch.testing.assert_close(sums[b].double(), total, atol=10 * tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@on_every_path(*WIDTHS)
def test_dominant_and_runner_up(path: str, width: int, dtype: torch.dtype) -> None:
    latents, weights = code(dtype=dtype), normal(11, width, dtype=dtype)
    weights[:, 0] = 0  # a neuron nobody contributes to
    entries = latents.offsets, latents.indices, latents.values
    best, owner = kernels.dominant(*entries, weights)
    expected, expected_owner = dominant_by_loops(latents, weights)
    np.testing.assert_array_equal(owner.numpy(), expected_owner)
    np.testing.assert_allclose(best.numpy(), expected, rtol=1e-6)
    second, second_owner = kernels.dominant(*entries, weights, excluded=owner)
    expected, expected_owner = dominant_by_loops(latents, weights, owner)
    np.testing.assert_array_equal(second_owner.numpy(), expected_owner)
    np.testing.assert_allclose(second.numpy(), expected, rtol=1e-6)
    assert owner.dtype == torch.int32


def test_sums_by_sign(path: str) -> None:
    """Of activations of either sign, too."""
    latents, weights = code(), normal(11, 1030)
    sums = kernels.sums_by_sign(latents.offsets, latents.indices, latents.values, weights)
    products = latents.dense()[..., None] * weights
    for given, part in zip(sums, (products.clamp_max(0), products.clamp_min(0)), strict=True):
        torch.testing.assert_close(given, part.sum(1), atol=1e-12, rtol=1e-12)


def test_the_owner_by_both_paths_of_a_gated_neuron(path: str) -> None:
    latents, weights, beside = code(), normal(11, 7), normal(11, 7, seed=8)
    entries = latents.offsets, latents.indices, latents.values
    owner = kernels.dominant_of_both(*entries, weights, beside)
    expected = dominant_by_loops(latents, weights.abs() + beside.abs())[1]
    np.testing.assert_array_equal(owner.numpy(), expected)


def test_the_first_entry_wins_ties_of_either_sign(path: str) -> None:
    dense = torch.tensor([[1.0, 2.0, 0.0, 2.0], [0.0, 1.0, 1.0, 1.0]])
    weights = torch.tensor([[2.0, 1.0], [1.0, -3.0], [1.0, 1.0], [-1.0, 3.0]])
    latents = SparseLatents.from_dense(dense)
    entries = latents.offsets, latents.indices, latents.values
    best, owner = kernels.dominant(*entries, weights)
    assert best.tolist() == [[2.0, -6.0], [1.0, -3.0]]
    assert latents.indices[owner.long()].tolist() == [[0, 1], [1, 1]]
    second, owner = kernels.dominant(*entries, weights, excluded=owner)
    assert second.tolist() == [[2.0, 6.0], [1.0, 3.0]]
    assert latents.indices[owner.long()].tolist() == [[1, 3], [2, 3]]


def test_no_entries_at_all(path: str) -> None:
    latents, weights = SparseLatents.from_dense(torch.zeros(3, 4)), normal(4, 5).float()
    entries = latents.offsets, latents.indices, latents.values
    best, owner = kernels.dominant(*entries, weights)
    assert best.abs().sum() == 0
    assert (owner == -1).all()
    gradients = backward(latents, weights, owner, torch.ones(3, 5))
    assert [g.shape for g in gradients] == [(0,), (4, 5)]
    assert gradients[1].abs().sum() == 0
    assert kernels.weighted_rows(*entries, weights).tolist() == [[0.0] * 5] * 3
    assert all(not part.any() for part in kernels.sums_by_sign(*entries, weights))
    assert len(kernels.row_products(*entries[:2], torch.ones(3, 5), weights)) == 0


@on_every_path(1, 3, 514)
def test_dominant_backward(path: str, width: int) -> None:
    latents, weights = code(), normal(11, width)
    grad = normal(7, width, seed=5)
    _, owner = kernels.dominant(latents.offsets, latents.indices, latents.values, weights)
    owner[2, 0] = -1
    got = backward(latents, weights, owner, grad)
    by_value, by_weight = torch.zeros(len(latents.values)), torch.zeros(11, width)
    by_value, by_weight = by_value.double(), by_weight.double()
    for b in range(7):
        for n in range(width):
            j = int(owner[b, n])
            if j >= 0:
                h = latents.indices[j]
                by_value[j] += grad[b, n] * weights[h, n]
                by_weight[h, n] += grad[b, n] * latents.values[j]
    torch.testing.assert_close(got[0], by_value, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(got[1], by_weight, atol=1e-11, rtol=1e-11)
    onto = normal(11, width, seed=6)
    added = backward(latents, weights, owner, grad, onto.clone())
    torch.testing.assert_close(added[1], onto + by_weight, atol=1e-11, rtol=1e-11)


def test_chunks_of_the_torch_path_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSPROOF_KERNELS", "torch")
    latents, weights, left = code(), normal(11, 20), normal(7, 20, seed=1)
    entries = latents.offsets, latents.indices
    whole = kernels.dominant(*entries, latents.values, weights)
    products = kernels.row_products(*entries, left, weights)
    monkeypatch.setattr(torch_any, "CHUNK_ELEMENTS", 50)  # two rows of twenty
    for ours, theirs in zip(
        kernels.dominant(*entries, latents.values, weights), whole, strict=True
    ):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(kernels.row_products(*entries, left, weights), products)


def test_transposed_and_strided_inputs_are_read_right(path: str) -> None:
    latents, weights = code(), normal(20, 11).T
    assert not weights.is_contiguous()
    best, _ = kernels.dominant(latents.offsets, latents.indices, latents.values, weights)
    np.testing.assert_allclose(best.numpy(), dominant_by_loops(latents, weights)[0], rtol=1e-12)


@pytest.mark.parametrize("threads", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_the_kernels_keep_to_pytorchs_threads(threads: str) -> None:
    """In a fresh process: starting numba's thread pool must not change PyTorch's count."""
    script = (
        "import torch; from crossproof import kernels\n"
        f"torch.set_num_threads({threads})\n"
        "for _ in range(2): kernels.entries_above(torch.ones(9, 3), torch.zeros(3))\n"
        "import numba; print(torch.get_num_threads(), numba.get_num_threads())"
    )
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2", "CROSSPROOF_KERNELS": "numba"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == [threads, threads]


def pair_inputs(
    latents: SparseLatents, width: int, dtype: torch.dtype, tokens: int = 7
) -> tuple[Tensor, ...]:
    """Arguments of `plain_pairs` behind the code's offsets, and the sums' place."""
    counts = latents.offsets.diff()
    starts = torch.nn.functional.pad((counts * (counts - 1) // 2).cumsum(0), (1, 0))
    weights = normal(latents.n_latents, width, dtype=dtype)
    weights[:, 0] = 0  # a neuron nobody owns
    norms, swings = (
        normal(width, seed=4, dtype=dtype).abs(),
        normal(tokens, width, dtype=dtype).abs(),
    )
    entries = latents.offsets, latents.indices, latents.values
    owner = kernels.dominant(*entries, weights)[1]
    sums = torch.full((int(starts[-1]), 5), torch.nan, dtype=torch.float64)
    return starts, latents.indices, latents.values, weights, owner, norms, swings, sums


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@on_every_path(*WIDTHS)
def test_plain_pairs_are_sums_over_neurons(
    path: str, width: int, dtype: torch.dtype, tolerance: float
) -> None:
    latents = code(dtype=dtype)
    arguments = pair_inputs(latents, width, dtype)
    kernels.plain_pairs(latents.offsets, *arguments)
    _, indices, values, weights, owner, norms, swings, sums = arguments
    sizes = (values[:, None].double() * weights[indices].double()).abs()
    w, s = norms.double(), swings.double()
    row = 0
    for b in range(latents.n_tokens):
        for h, k in itertools.combinations(entries_of(latents, b), 2):
            of_h, of_k = owner[b] == h, owner[b] == k
            expected = [
                (w * sizes[k])[of_h].sum(),
                (w * sizes[h])[of_k].sum(),
                (w * s[b] * sizes[k])[of_h].sum(),
                (w * s[b] * sizes[h])[of_k].sum(),
                (w * s[b] * torch.minimum(sizes[h], sizes[k])).sum(),
            ]
            torch.testing.assert_close(sums[row], torch.stack(expected), rtol=tolerance, atol=1e-13)
            row += 1
    assert row == len(sums)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that an operation makes."""

    numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not func.is_view:
            self.numbers = max(self.numbers, made.numel())
        return made


def test_one_wide_token_does_not_widen_all(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = torch.zeros(40, 60, dtype=torch.float64)
    dense[:, :3] = 1 + torch.rand(40, 3, dtype=torch.float64)
    dense[7] = 1 + torch.rand(60, dtype=torch.float64)
    latents, found = SparseLatents.from_dense(dense), []
    for most in (torch_any.PAIR_ELEMENTS, 2**12):
        monkeypatch.setattr(torch_any, "PAIR_ELEMENTS", most)
        arguments = pair_inputs(latents, 1030, torch.float64, tokens=40)
        with Largest() as largest:
            torch_any.plain_pairs(latents.offsets, *arguments)
        found.append(arguments[-1])
    assert largest.numbers <= 3 * 60 * 60  # three sums of a pair each, of the wide token
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_pair_tables_add_up_the_tokens_of_each_pair(path: str) -> None:
    latents = code(tokens=70, latents=75)  # more latents than parts of the loop
    counts = latents.offsets.diff()
    starts = torch.nn.functional.pad((counts * (counts - 1) // 2).cumsum(0), (1, 0))
    sums = normal(int(starts[-1]), 3, seed=5)
    found = kernels.pair_table(latents.offsets, starts, latents.indices, sums, 75)
    expected: dict[tuple[int, int], list[Tensor]] = {}
    rows = iter(sums)
    for b in range(latents.n_tokens):
        for pair in itertools.combinations(entries_of(latents, b), 2):
            h, k = (int(latents.indices[j]) for j in pair)
            expected.setdefault((h, k), []).append(next(rows))
    pairs, together, table = found
    assert [tuple(pair) for pair in pairs.tolist()] == sorted(expected)
    assert together.tolist() == [len(expected[pair]) for pair in sorted(expected)]
    for row, pair in zip(table, sorted(expected), strict=True):
        torch.testing.assert_close(row, torch.stack(expected[pair]).sum(0))


def test_tables_of_no_pairs_are_empty(path: str) -> None:
    latents = SparseLatents.from_dense(torch.eye(3, dtype=torch.float64))
    starts, sums = torch.zeros(4, dtype=torch.int64), torch.zeros(0, 20, dtype=torch.float64)
    pairs, together, table = kernels.pair_table(latents.offsets, starts, latents.indices, sums, 3)
    assert pairs.shape == (0, 2)
    assert together.shape == (0,)
    assert table.shape == (0, 20)


def test_without_numba_the_plain_path_gives_the_same_numbers() -> None:
    """In a fresh process where numba cannot be imported; float32 sums of 40 terms differ by less
    than 40 units of rounding, 5e-6, of their size."""
    script = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch; from crossproof import kernels\n"
        "assert not kernels.HAVE_NUMBA\n"
        "pre = torch.linspace(-1, 1, 60).view(3, 20).sin()\n"
        "offsets, indices, values = kernels.entries_above(pre, torch.zeros(20))\n"
        "weights = torch.linspace(-2, 1, 800).view(20, 40).cos()\n"
        "best, owner = kernels.dominant(offsets, indices, values, weights)\n"
        "products = kernels.row_products(offsets, indices, best, weights)\n"
        "print(indices.tolist(), owner.tolist(), products.tolist(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    indices, owner, products = map(json.loads, done.stdout.splitlines())
    pre = torch.linspace(-1, 1, 60).view(3, 20).sin()
    entries = kernels.entries_above(pre, torch.zeros(20))
    weights = torch.linspace(-2, 1, 800).view(20, 40).cos()
    best, owners = kernels.dominant(*entries, weights)
    assert kernels.uses_numba(best)
    assert entries[1].tolist() == indices
    assert owners.tolist() == owner
    ours = kernels.row_products(*entries[:2], best, weights)
    size = float(best.norm(dim=1).max() * weights.norm(dim=1).max())
    torch.testing.assert_close(ours, torch.tensor(products), rtol=0, atol=5e-6 * size)


def doubled(given, out):  # type: ignore[no-untyped-def]
    for at in range(len(out)):
        out[at] = 2 * given[at]


def test_a_loop_that_cannot_be_kept_is_compiled_without(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = numba_cpu.numba

    def refusing(**flags: object) -> object:
        if flags.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**flags)

    monkeypatch.setattr(numba_cpu, "numba", SimpleNamespace(njit=refusing, jit=numba.jit))
    loop = numba_cpu._compiled({"cache": True, "nogil": True})(doubled)
    out = np.zeros(2)
    numba_cpu.run(loop, [np.ones(2), out])
    assert out.tolist() == [2, 2]

    class Loop:
        """A loop whose cache is on a full disk."""

        py_func, targetoptions = staticmethod(doubled), {"nopython": True}

        def __call__(self, *arrays: object) -> None:
            raise OSError(28, "No space left on device")

    out = np.zeros(2)
    numba_cpu.run(Loop(), [np.ones(2), out])
    assert out.tolist() == [2, 2]


FALLBACK = """
import os, sys, torch
from pathlib import Path
import numba.core.caching as caching
how, folder = sys.argv[1], Path(sys.argv[2])
caching.config.CACHE_DIR = str(folder)
if how == "nowhere":  # neither the package nor the home can be written
    def refuse(self):
        raise PermissionError(30, "Read-only file system")
    caching._CacheLocator.ensure_cache_path = refuse
if how == "full":
    def full(self, overloads):
        raise OSError(28, "No space left on device")
    caching.IndexDataCacheFile._save_index = full
from crossproof import kernels
assert kernels.HAVE_NUMBA
pre = torch.linspace(-1, 1, 60).view(3, 20).sin()
for _ in range(2):
    print(kernels.entries_above(pre, torch.zeros(20))[1].tolist())
print(len(list(folder.rglob("*.nbi"))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["nowhere", "full", "damaged"])
def test_where_nothing_can_be_kept_the_loops_are_compiled_anew(how: str, tmp_path: Path) -> None:
    """In fresh processes: read-only installations and homes, full disks, torn files."""

    def printed(how: str) -> list[str]:
        command = [sys.executable, "-c", FALLBACK, how, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    pre = torch.linspace(-1, 1, 60).view(3, 20).sin()
    expected = str(torch_any.entries_above(pre, torch.zeros(20))[1].tolist())
    if how == "damaged":
        assert printed("kept") == [expected, expected, "2"]
        for index in tmp_path.rglob("*.nbi"):
            index.write_bytes(index.read_bytes()[:20])
    assert printed(how)[:2] == [expected, expected]
