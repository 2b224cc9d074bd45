"""What a certificate needs is known before it is done: memory and operations, of odd shapes too."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crossproof.errors import CrossproofError
from crossproof.proof.certificate import format as form
from crossproof.proof.certificate.format import Certificate, Limits
from crossproof.proof.certificate.verifier import balls, boxes, pairs, points
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import Draft, as_certificate

G = np.random.default_rng(0)


def network(D: int, N: int, V: int) -> dict[str, Any]:
    shapes = {"W_in": (D, N), "b_in": (N,), "W_out": (N, V), "b_out": (V,), "skip": (D, V)}
    return {name: G.standard_normal(shape) for name, shape in shapes.items()}


def of_points(D: int, N: int, V: int, H: int, T: int, K: int, labels: int = 2) -> Draft:
    return Draft(
        "points",
        network(D, N, V),
        {"inputs": G.standard_normal((T, D)), "labels": np.arange(T) % labels},
        {"offsets": np.arange(T + 1) * K, "indices": np.arange(T * K) % H,
         "values": G.standard_normal(T * K)},
        {"atoms": G.standard_normal((H, D)), "bias": G.standard_normal(D)},
    )  # fmt: skip


def of_pairs(D: int, N: int, p: int, owned: bool) -> Draft:
    effects = {
        f"effect_{k}": G.standard_normal((p, N)) for k in ("left", "right", "sum", "difference")
    }
    owners = 1 + np.arange(N) % (p // 2) if owned else np.zeros(N, np.int64)
    return Draft(
        "pairs",
        network(D, N, p),
        {"left": G.standard_normal((p, D)), "right": G.standard_normal((p, D))},
        effects | {"owners": owners, "scale": np.zeros(N, np.int64)},
    )


def without_skip(draft: Draft) -> Draft:
    return replace(draft, network={**draft.network, "skip": 0 * draft.network["skip"]})


def of_boxes(D: int, N: int, V: int, F: int, K: int, M: int, depth: int, H: int) -> Draft:
    sets = np.stack([np.arange(K), (np.arange(K) + 1) % F])
    codes = [-1] * depth + [2] + [1, 3] * depth
    return Draft(
        "boxes",
        network(D, N, V),
        {"atoms": G.standard_normal((F, D)), "bias": G.standard_normal(D), "low": np.full(F, 0.2),
         "high": np.full(F, 1.0), "active_sets": sets, "readout": G.standard_normal((F, V))},
        {"latent_index": np.arange(2 * M).reshape(2, M) % H,
         "latent_slopes": G.standard_normal((2, K, M)), "latent_offset": np.ones((2, M)),
         "tree": np.array(2 * codes[: 2 * depth + 1])},
        {"atoms": G.standard_normal((H, D)), "bias": G.standard_normal(D)},
    )  # fmt: skip


SHAPES = {
    "points, few": of_points(3, 4, 3, 5, 20, 2),
    "points, many": of_points(4, 6, 3, 5, 5_000, 3),
    "points, classes": of_points(3, 4, 2000, 5, 100, 2),
    "points, labels": of_points(3, 4, 80, 5, 80, 2, labels=80),
    "points, latents": of_points(2, 3, 2, 4, 100, 100),
    "points, width": of_points(2, 2000, 2, 4, 50, 4),
    "points, inputs": of_points(3000, 3, 2, 4, 50, 2),
    "points, one neuron": of_points(1, 1, 2, 1, 3000, 1),
    "pairs, one neuron": of_pairs(1, 1, 41, False),
    "pairs, blocks": of_pairs(2, 40, 31, True),
    "pairs, width": of_pairs(2, 3000, 5, True),
    "pairs, inputs": of_pairs(3000, 2, 5, True),
    "boxes, few": of_boxes(3, 4, 3, 4, 2, 2, 3, 4),
    "boxes, classes": of_boxes(3, 4, 700, 4, 2, 2, 20, 4),
    "boxes, width": of_boxes(3, 150, 3, 4, 2, 2, 20, 4),
    "boxes, features": of_boxes(3, 4, 3, 400, 300, 2, 30, 4),
    "boxes, latents": of_boxes(3, 4, 3, 4, 2, 300, 10, 300),
    "boxes, inputs": of_boxes(3000, 4, 3, 4, 2, 2, 3, 4),
    "pairs, no skip": without_skip(of_pairs(3, 4, 6, True)),
}


COSTS = {
    "points, few": (52_208, 17_196, 9_746, 1_960),
    "points, many": (19_884_016, 6_882_176, 3_666_845, 720_000),
    "points, classes": (26_850_648, 40_456_040, 14_518_482, 4_403_200),
    "points, labels": (1_029_528, 1_337_680, 1_238_758, 143_360),
    "points, latents": (3_168_560, 1_230_080, 537_352, 5_400),
    "points, width": (63_183_032, 23_084_660, 11_338_348, 1_001_200),
    "points, inputs": (6_690_960, 2_113_888, 1_974_844, 1_501_700),
    "points, one neuron": (2_592_376, 576_136, 285_157, 84_000),
    "pairs, one neuron": (549_144, 2_968_744, 872_367, 768_422),
    "pairs, blocks": (586_856, 5_283_835, 3_251_407, 2_747_127),
    "pairs, width": (3_369_160, 4_185_110, 2_511_535, 1_036_325),
    "pairs, inputs": (1_258_568, 767_390, 643_781, 421_735),
    "boxes, few": (110_168, 92_460, 5_887, None),
    "boxes, classes": (59_391_072, 89_211_360, 1_558_540, None),
    "boxes, width": (10_693_240, 13_455_652, 1_151_322, None),
    "boxes, features": (40_301_496, 37_889_412, 427_638, None),
    "boxes, latents": (20_578_680, 13_733_636, 209_268, None),
    "boxes, inputs": (1_021_256, 1_099_452, 832_338, None),
    "pairs, no skip": (19_056, 24_336, 11_238, 3_840),
}
"""Bytes and operations that are asked for, operations that are counted, and those of brute force.
Options of users and tables of the documentation rest on them: they change on purpose only."""


def needs(certificate: Certificate) -> tuple[int, int]:
    """Bytes and operations that the verifier says it needs."""
    asked: list[tuple[int, int]] = []

    class Asking(Limits):
        def check(self, memory: int = 0, operations: int = 0) -> None:
            asked.append((memory, operations))

    {"points": points, "pairs": pairs, "boxes": boxes}[certificate.kind].read(certificate, Asking())
    return asked[-1]


@pytest.mark.parametrize("name", SHAPES)
def test_no_more_is_used_than_was_asked_for(name: str) -> None:
    certificate = as_certificate(SHAPES[name])
    memory, operations = needs(certificate)
    judge(as_certificate(SHAPES["points, few"]))  # what is imported late
    tracemalloc.start()
    verdict = judge(certificate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert certificate.memory + peak <= memory + 500_000
    assert verdict.operations <= operations
    if not name.startswith("boxes"):  # whose leaves may all be given up
        assert operations <= 4 * verdict.operations
    with pytest.raises(CrossproofError, match="bytes of memory"):
        judge(certificate, limits=Limits(memory=memory - 1))
    with pytest.raises(CrossproofError, match="operations; the limit"):
        judge(certificate, limits=Limits(operations=operations - 1))
    judge(certificate, limits=Limits(memory, operations))


@pytest.mark.parametrize("name", COSTS)
def test_what_is_asked_for_and_counted_is_known(name: str) -> None:
    certificate = as_certificate(SHAPES[name])
    verdict = judge(certificate)
    assert 0 <= verdict.seconds < 60
    counted = verdict.operations, verdict.brute_force
    assert (*needs(certificate), *counted) == COSTS[name]


def test_the_limits_are_those_of_the_documentation() -> None:
    assert (form.SMALLEST_VALUE, form.LARGEST_VALUE) == (1e-60, 1e30)
    assert (form.LARGEST_SUM, pairs.LARGEST_SCALE) == (10**6, 40)
    assert (boxes.LARGEST_TREE, boxes.DEEPEST) == (2_000_000, 64)
    assert (boxes.CHUNK, boxes.SCORES, points.CHUNK) == (1024, 4_000_000, 1_000_000)
    assert (balls.BITS, balls.SAMPLE, balls.BUDGET) == (128, 64, 20_000_000)
    assert Limits() == Limits(memory=4 * 2**30, operations=10**13)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("points, few", "boxes, few"):
        certificate = as_certificate(SHAPES[name])
        whole = judge(certificate)
        for module, constant in ((points, "CHUNK"), (boxes, "CHUNK"), (boxes, "SCORES")):
            monkeypatch.setattr(module, constant, 3)
        assert (
            needs(certificate)
            == {"points": (10_256, 24_636), "boxes": (41272, 99372)}[certificate.kind]
        )
        parts = judge(certificate)
        assert (parts.accuracy, parts.right) == (whole.accuracy, whole.right)
        assert parts.majority == pytest.approx(whole.majority, rel=1e-12)
        if whole.cross_entropy is not None:
            assert parts.cross_entropy == pytest.approx(whole.cross_entropy, rel=1e-9)


def test_trees_of_too_many_nodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = as_certificate(SHAPES["boxes, few"])
    monkeypatch.setattr(boxes, "LARGEST_TREE", certificate.sizes["L"])
    boxes.evaluate(Arithmetic(), boxes.read(certificate, Limits()))
    monkeypatch.setattr(boxes, "LARGEST_TREE", certificate.sizes["L"] - 1)
    with pytest.raises(CrossproofError, match="more than 13 nodes"):
        boxes.read(certificate, Limits())


RANGES: dict[str, tuple[str, str, int, int]] = {
    "domain.labels": ("points, few", "domain", 0, 2),
    "proof.indices": ("points, few", "proof", 0, 4),
    "proof.owners": ("pairs, no skip", "proof", 0, 3),
    "proof.scale": ("pairs, no skip", "proof", -40, 40),
    "domain.active_sets": ("boxes, few", "domain", 0, 3),
    "proof.latent_index": ("boxes, few", "proof", 0, 3),
    "proof.tree": ("boxes, few", "proof", -2, 3),
}


@pytest.mark.parametrize("name", RANGES)
def test_integers_have_their_ranges(name: str) -> None:
    shape, part, low, high = RANGES[name]
    draft, short = SHAPES[shape], name.split(".")[1]
    tensors = getattr(draft, part)
    for value, fits in ((low - 1, False), (low, True), (high, True), (high + 1, False)):
        changed = tensors[short].copy()
        changed.flat[-1] = value
        if name == "domain.active_sets":
            changed.flat[-2] = 1
        certificate = as_certificate(replace(draft, **{part: {**tensors, short: changed}}))
        reader = {"points": points, "pairs": pairs, "boxes": boxes}[draft.kind]
        if fits:
            reader.read(certificate, Limits())
            continue
        with pytest.raises(CrossproofError, match=f"{name} must hold numbers between"):
            reader.read(certificate, Limits())


@pytest.mark.parametrize("offsets", [[1, 2, 4], [0, 2, 3], [0, 5, 4], [0, 4], [0, 0, 0, 4]])
def test_offsets_rise_from_nothing_to_all_latents(offsets: list[int]) -> None:
    draft = of_points(3, 4, 3, 5, 2, 2)
    points.read(as_certificate(draft), Limits())
    wrong = replace(draft, proof={**draft.proof, "offsets": np.array(offsets)})
    with pytest.raises(CrossproofError, match="must rise from 0"):
        points.read(as_certificate(wrong), Limits())


def test_scales_that_lose_digits_and_other_classes_are_refused() -> None:
    certificate = as_certificate(SHAPES["pairs, no skip"])
    for name in ("W_in", "b_in", "W_out"):
        lost = certificate.tensors[f"network.{name}"] * 0 + 2.0**-1060
        down = -40 if name != "W_out" else 40
        scale = certificate.tensors["proof.scale"] * 0 + down
        tensors = {**certificate.tensors, f"network.{name}": lost, "proof.scale": scale}
        with pytest.raises(CrossproofError, match="loses digits"):
            pairs.read(replace(certificate, tensors=tensors), Limits())
    draft = of_pairs(3, 4, 6, True)
    other = {**draft.network, "b_out": np.zeros(5)}
    other |= {"W_out": np.zeros((4, 5)), "skip": np.zeros((3, 5))}
    with pytest.raises(CrossproofError, match="modulo 6 needs 6 classes, not 5"):
        pairs.read(as_certificate(replace(draft, network=other)), Limits())


def test_boxes_are_halved_64_times_at_most() -> None:
    draft = SHAPES["boxes, few"]
    domain = {**draft.domain, "low": np.zeros(4)}
    for depth, refused in ((64, False), (65, True)):
        lower = [-1] * depth + [1] + [0] * depth
        upper = [-1, 0] * 40 + [-2, 0] * (depth - 40) + [1]
        for codes in (lower, upper):
            proof = {**draft.proof, "tree": np.array(2 * codes)}
            problem = boxes.read(
                as_certificate(replace(draft, domain=domain, proof=proof)), Limits()
            )
            if refused:
                with pytest.raises(CrossproofError, match="cannot be halved"):
                    boxes.leaves(problem)
            else:
                assert len(boxes.leaves(problem).sets) == 2 * (depth + 1)


def test_features_twice_and_upside_down_are_refused() -> None:
    draft = SHAPES["boxes, few"]
    for name, value, complaint in (
        ("active_sets", np.array([[0, 1], [2, 2]]), "names a feature twice"),
        ("low", np.full(4, 1.1), "low above high"),
        ("low", np.array([0.2, 0.2, 0.2, 1.1]), "low above high"),
    ):
        wrong = replace(draft, domain={**draft.domain, name: value})
        with pytest.raises(CrossproofError, match=complaint):
            boxes.read(as_certificate(wrong), Limits())
