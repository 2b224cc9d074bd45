"""The `Interactions` value type against triple loops in float64, and its bookkeeping."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dictionaries import Case, random_case
from reference import LIPSCHITZ, act
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions import (
    Accumulator,
    Interactions,
    MLPDictionary,
    additive_interaction,
    interaction,
    measure_interactions,
    merge,
    token_pairs,
)
from crossproof.lm import Activation
from crossproof.lm.constants import lipschitz, oscillation
from crossproof.proof.attribution.costs import _pair_charges

KERNELS = ("numba", "torch")


def brute_force(case: Case) -> dict[str, Tensor]:
    """Every form as an [H, H] matrix, one token, neuron and pair after another."""
    mlp, name = case.mlp, case.mlp.activation.value
    width = case.decoder.shape[0]
    forms = {f: torch.zeros(width, width, dtype=torch.float64) for f in ("I", "J", "Q", "AND")}
    counts = torch.zeros(width, width, dtype=torch.float64)
    owned = torch.zeros(width, dtype=torch.int64)
    for code in case.activations:
        active = [h for h in range(width) if code[h] != 0]
        for h, k in itertools.product(active, active):
            counts[h, k] += 1
        for n in range(mlp.n_neurons):
            norm = float(mlp.W_out[n].norm())
            p = {h: float(code[h] * (case.decoder[h] @ mlp.W_in[:, n])) for h in active}
            beta = float(case.bias @ mlp.W_in[:, n] + mlp.b_in[n])
            if not mlp.gated:
                owner = _owner({h: abs(v) for h, v in p.items()})
                if owner is None:
                    continue
                owned[owner] += 1
                low = beta + sum(min(v, 0.0) for v in p.values())
                high = beta + sum(max(v, 0.0) for v in p.values())
                swing = float(oscillation(mlp.activation, _one(low), _one(high)))
                for h, k in itertools.permutations(active, 2):
                    if h == owner:
                        forms["I"][h, k] += norm * abs(p[k])
                        forms["J"][h, k] += norm * swing * abs(p[k])
                    forms["Q"][h, k] += norm * swing * min(abs(p[h]), abs(p[k]))
                continue
            assert mlp.W_gate is not None
            assert mlp.b_gate is not None
            g = {h: float(code[h] * (case.decoder[h] @ mlp.W_gate[:, n])) for h in active}
            base = float(case.bias @ mlp.W_gate[:, n] + mlp.b_gate[n])
            owner = _owner({h: abs(p[h]) + abs(g[h]) for h in active})
            if owner is None:
                continue
            owned[owner] += 1
            slope = LIPSCHITZ[name]
            ends = [base + sum(clip(v, 0.0) for v in g.values()) for clip in (min, max)]
            local = float(lipschitz(mlp.activation, *map(_one, ends)))
            swing = float(oscillation(mlp.activation, *map(_one, ends)))
            value = abs(beta + p[owner])
            opening = abs(float(act(name, _one(base + g[owner]))))
            for h, k in itertools.product(active, active):
                if h == owner and k != owner:
                    charge = slope * value * abs(g[k]) + opening * abs(p[k])
                    forms["I"][h, k] += norm * charge
                if h != owner and k != owner:
                    forms["AND"][h, k] += norm * slope * abs(g[h]) * abs(p[k])
                    forms["I"][h, k] += norm * slope * abs(g[h]) * abs(p[k])
                if h != k:
                    crossed = abs(g[h]) * abs(p[k]) + abs(g[k]) * abs(p[h])
                    bent = abs(beta) * swing * min(abs(g[h]), abs(g[k]))
                    forms["Q"][h, k] += norm * (bent + local * crossed)
    return forms | {"counts": counts, "owned": owned}


def _one(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _owner(sizes: dict[int, float]) -> int | None:
    best = max(sizes.values(), default=0.0)
    return None if best == 0 else min(h for h, v in sizes.items() if v == best)


def matrix(found: Interactions, form: str) -> Tensor:
    out = found.matrix(form, normalise="sum")
    whole = found.gated and form in ("I", "AND")
    return out + torch.diag(found.diagonal.sum(0)) if whole else out


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("activation", [Activation.RELU, Activation.GELU])
def test_plain_forms_equal_triple_loops(
    activation: Activation, scale: float, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSPROOF_KERNELS", kernels)
    case = random_case(3, activation, scale=scale)
    found, wanted = measure_interactions(case.latents, {0: case.view}), brute_force(case)
    for form in ("I", "J", "Q"):
        torch.testing.assert_close(matrix(found, form), wanted[form], rtol=1e-10, atol=1e-12)
    counts = torch.diag(found.active.double())
    h, k = found.pairs.unbind(1)
    counts[h, k] = counts[k, h] = found.coactive.double()
    assert torch.equal(counts, wanted["counts"])
    assert torch.equal(found.owned[0], wanted["owned"])
    assert found.tokens == len(case.activations)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(
    "activation", [Activation.RELU, Activation.SILU, Activation.GELU, Activation.IDENTITY]
)
def test_gated_forms_equal_triple_loops(activation: Activation, scale: float) -> None:
    case = random_case(5, activation, gated=True, scale=scale)
    found, wanted = measure_interactions(case.latents, {0: case.view}), brute_force(case)
    for form in ("I", "AND", "Q"):
        torch.testing.assert_close(matrix(found, form), wanted[form], rtol=1e-10, atol=1e-12)
    assert torch.equal(found.owned[0], wanted["owned"])


@pytest.mark.parametrize("gated", [False, True])
def test_totals_are_the_interaction_of_the_theorem(gated: bool) -> None:
    case = random_case(7, Activation.SILU, gated=gated)
    found = measure_interactions(case.latents, {2: case.view})
    whole = interaction(case.view, case.latents, case.view.dominance(case.latents))
    total = found.total("I", normalise="mean")
    torch.testing.assert_close(total, whole.mean()[None], rtol=1e-10, atol=0)
    totals = token_pairs(case.latents, {2: case.view}).token_totals()
    torch.testing.assert_close(totals["I"][:, 0], whole, rtol=1e-10, atol=1e-12)


def test_sums_of_an_older_schema_get_what_they_lacked(tmp_path: Path) -> None:
    case = random_case(7, Activation.SILU, gated=True)
    found = measure_interactions(case.latents, {2: case.view})
    found.save(tmp_path / "new")
    sides = {"forward": found.forward, "backward": found.backward}
    without = {side: sums | {"I": sums["I"] - sums["AND"]} for side, sums in sides.items()}
    replace(found, **without).save(tmp_path / "old")
    facts = tmp_path / "old" / "interactions.json"
    facts.write_text(facts.read_text().replace('"schema": 2', '"schema": 1'))
    for name in ("new", "old"):
        again = Interactions.load(tmp_path / name)
        torch.testing.assert_close(again.forward, found.forward, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(again.backward, found.backward, rtol=1e-12, atol=1e-12)
    facts.write_text(facts.read_text().replace('"schema": 1', '"schema": 3'))
    with pytest.raises(CrossproofError, match="no interactions of schema 2 or older"):
        Interactions.load(tmp_path / "old")


@pytest.mark.parametrize("gated", [False, True])
def test_what_attribution_charges_a_pairs_neurons_is_the_pairs_sum(gated: bool) -> None:
    case = random_case(9, Activation.SILU, gated=gated, tokens=20)
    found = measure_interactions(case.latents, {0: case.view})
    owner = case.view.dominance(case.latents).owner
    slope = 1.0 if gated else LIPSCHITZ["silu"]
    for row, (h, k) in enumerate(found.pairs.tolist()):
        charged = _pair_charges(case.view, case.latents, owner, h, k).sum()
        expected = slope * found.pair_sums("I", normalise="sum")[row]
        torch.testing.assert_close(charged, expected, rtol=1e-6, atol=1e-9)


def test_the_total_of_the_additive_form_is_j() -> None:
    case = random_case(8)
    found = measure_interactions(case.latents, {0: case.view})
    whole = additive_interaction(case.view, case.latents, case.view.dominance(case.latents))
    torch.testing.assert_close(
        found.total("J", normalise="sum"), whole.sum()[None], rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("gated", [False, True])
def test_one_active_latent_or_none_interacts_with_nothing(gated: bool) -> None:
    case = random_case(2, Activation.SILU, gated=gated)
    activations = torch.zeros(3, 9, dtype=torch.float64)
    activations[1, 4] = 2.5
    found = measure_interactions(SparseLatents.from_dense(activations), {0: case.view})
    assert len(found.pairs) == 0
    assert found.total("I", normalise="sum").tolist() == [0.0]
    assert found.diagonal.abs().max() == 0
    assert found.active.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_negative_activations_of_other_peoples_dictionaries_are_measured() -> None:
    case = random_case(4)
    case.activations[:, ::2] *= -1
    found, wanted = measure_interactions(case.latents, {0: case.view}), brute_force(case)
    for form in ("I", "J", "Q"):
        torch.testing.assert_close(matrix(found, form), wanted[form], rtol=1e-10, atol=1e-12)


def shards(case: Case, parts: int) -> list[Interactions]:
    pieces = torch.tensor_split(case.activations, parts)
    views = {0: case.view, 3: case.view}
    return [measure_interactions(SparseLatents.from_dense(piece), views) for piece in pieces]


def assert_equal(left: Interactions, right: Interactions) -> None:
    assert torch.equal(left.pairs, right.pairs)
    assert left.tokens == right.tokens
    for name in ("coactive", "active", "owned"):
        assert torch.equal(getattr(left, name), getattr(right, name))
    for form in left.forms:
        ours, theirs = (m.matrix(form, normalise="sum") for m in (left, right))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(left.diagonal, right.diagonal, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gated", [False, True])
def test_shards_merge_to_the_whole_in_any_order_and_grouping(gated: bool) -> None:
    case = random_case(11, Activation.SILU, gated=gated, tokens=60)
    whole = measure_interactions(case.latents, {0: case.view, 3: case.view})
    parts = shards(case, 7)
    assert_equal(merge(parts), whole)
    assert_equal(merge([merge(parts[4:]), merge(parts[:4][::-1])]), whole)
    running = Accumulator()
    for part in parts:
        running.add(part)
    assert_equal(running.result(), whole)


def test_means_and_sums_differ_by_the_named_counts() -> None:
    case = random_case(6, tokens=20)
    found = measure_interactions(case.latents, {0: case.view})
    sums = found.pair_sums("I", normalise="sum")
    torch.testing.assert_close(found.pair_sums("I", normalise="mean") * 20, sums)
    torch.testing.assert_close(found.pair_sums("I", normalise="coactive") * found.coactive, sums)
    with pytest.raises(TypeError):
        found.pair_sums("I")  # type: ignore[call-arg]


def test_top_pairs_come_in_order() -> None:
    case = random_case(6, tokens=20)
    found = measure_interactions(case.latents, {0: case.view})
    top = found.top_pairs(5, normalise="sum")
    sums = found.pair_sums("I", normalise="sum")[top]
    assert (sums.diff() <= 0).all()
    assert sums[0] == found.pair_sums("I", normalise="sum").max()


def test_the_strongest_latents_are_those_with_the_largest_sums() -> None:
    case = random_case(6, tokens=20)
    found = measure_interactions(case.latents, {0: case.view})
    whole = found.matrix("I", normalise="sum")
    sums = whole.sum(0) + whole.sum(1)
    assert torch.equal(found.strongest(4), sums.argsort(descending=True, stable=True)[:4])
    torch.testing.assert_close(found.matrix("I", normalise="mean"), whole / 20)


@pytest.mark.parametrize("gated", [False, True])
def test_saved_interactions_are_read_back_as_they_were(gated: bool, tmp_path: Path) -> None:
    case = random_case(12, Activation.SILU, gated=gated, tokens=20)
    found = measure_interactions(case.latents, {1: case.view})
    found.save(tmp_path / "interactions")
    assert_equal(Interactions.load(tmp_path / "interactions"), found)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    case = random_case(12)
    measure_interactions(case.latents, {1: case.view}).save(tmp_path / "it")
    path = tmp_path / "it" / "interactions.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CrossproofError, match="damaged"):
        Interactions.load(tmp_path / "it")
    with pytest.raises(CrossproofError, match="missing"):
        Interactions.load(tmp_path / "nowhere")


def test_bad_input_is_refused_in_one_sentence() -> None:
    case, gated = random_case(1), random_case(1, Activation.SILU, gated=True)
    with pytest.raises(CrossproofError, match="No MLP reads the dictionary"):
        measure_interactions(case.latents, {})
    with pytest.raises(CrossproofError, match="mixed"):
        measure_interactions(case.latents, {0: case.view, 1: gated.view})
    narrow = MLPDictionary.build(case.mlp, case.decoder[:-1], case.bias)
    with pytest.raises(CrossproofError, match="9 latents, but the dictionary at block 0 has 8"):
        measure_interactions(case.latents, {0: narrow})
    broken = case.latents.with_values(case.latents.values * torch.nan)
    with pytest.raises(CrossproofError, match="NaN or infinity: check the encoder"):
        measure_interactions(broken, {0: case.view})
    decoder = case.decoder.clone()
    decoder[0, 0] = torch.inf
    with pytest.raises(CrossproofError, match="NaN or infinity: check its decoder"):
        measure_interactions(case.latents, {0: MLPDictionary.build(case.mlp, decoder, case.bias)})
    bias = torch.full_like(case.bias, torch.nan)
    with pytest.raises(CrossproofError, match="NaN or infinity: check its decoder"):
        measure_interactions(case.latents, {0: MLPDictionary.build(case.mlp, case.decoder, bias)})
    mlp = replace(case.mlp, W_out=case.mlp.W_out * torch.nan)
    with pytest.raises(CrossproofError, match="output weights at block 0 hold NaN"):
        measure_interactions(case.latents, {0: MLPDictionary.build(mlp, case.decoder, case.bias)})
    with pytest.raises(CrossproofError, match="needs a plain MLP, and this one is gated"):
        additive_interaction(gated.view, gated.latents, gated.view.dominance(gated.latents))
    found = measure_interactions(case.latents, {0: case.view})
    with pytest.raises(CrossproofError, match="no form AND of a plain MLP"):
        found.total("AND", normalise="sum")
    with pytest.raises(CrossproofError, match="Block 5 was not measured"):
        found.matrix("I", normalise="sum", block=5)
    nothing = measure_interactions(SparseLatents.from_dense(case.activations[:0]), {0: case.view})
    with pytest.raises(CrossproofError, match="No tokens"):
        nothing.total("I", normalise="mean")
    other = measure_interactions(case.latents, {4: case.view})
    with pytest.raises(CrossproofError, match="different dictionaries"):
        merge([found, other])
    with pytest.raises(CrossproofError, match="nothing to merge"):
        merge([])
