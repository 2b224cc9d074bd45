"""Mutants of the verifier's signs and constants: each must certify something that is false.

A mutated copy of the verifier package is imported under another name and given small networks on
which the bounds are nearly attained. What a mutant certifies is compared with running the network.
"""

from __future__ import annotations

import importlib
import itertools
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import certificates as small
import numpy as np
import pytest
import torch

import crossproof.proof.certificate.verifier as verifier
from crossproof.crosscoder.latents import SparseLatents
from crossproof.proof.bounds.network import Network, SparseDomain
from crossproof.proof.certificate.provers.boxes import boxes_draft
from crossproof.proof.certificate.provers.latents import AffineLatents
from crossproof.proof.certificate.provers.pairs import effects, pairs_draft
from crossproof.proof.certificate.provers.points import points_draft
from crossproof.proof.certificate.writer import as_certificate

SOURCE = Path(verifier.__file__).parent
NAME = "crossproof.proof.certificate.verifier"


def load(folder: Path, module: str = "", old: str = "", new: str = "") -> str:
    """A copy of the verifier with one change; its package name."""
    name = f"mutant_{abs(hash((module, old, new)))}"
    shutil.copytree(SOURCE, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / name).glob("*.py"):
        text = path.read_text()
        if path.stem == module:
            assert text.count(old) >= 1, f"{old!r} is not in {module}"
            text = text.replace(old, new)
        path.write_text(text.replace(NAME, name))
    return name


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("mutant_")]:
        del sys.modules[name]


def parts(name: str) -> Any:
    importlib.invalidate_caches()
    return lambda module: importlib.import_module(f"{name}.{module}")


def points_are_sound(load_part: Any) -> bool:
    """Every margin of every point is below the true one (300 networks of two neurons)."""
    points, count = load_part("points"), load_part("arithmetic").Arithmetic()
    for seed in range(60):
        network = small.random_network(3, 2, 2, seed)
        g = small.draws(seed)
        decoder = small.single(torch.randn(3, 3, generator=g))
        activations = torch.rand(5, 3, generator=g, dtype=torch.float64)
        bias = small.single(torch.randn(3, generator=g))
        noise = torch.randn(5, 3, generator=g, dtype=torch.float64) * (seed % 3) / 4
        inputs, labels = activations @ decoder + bias + noise, torch.arange(5) % 2
        latents = SparseLatents.from_dense(activations)
        draft = points_draft(network, inputs, labels, decoder, bias, latents)
        engine = points.PointsEngine(count, points.read(as_certificate(draft)))
        truth = small.true_margins(network, inputs, labels)
        for label in (0, 1):
            rows = np.flatnonzero(labels.numpy() == label)
            if not (engine.margins(rows, label) <= truth[rows] + 1e-12).all():
                return False
    return True


def pairs_are_sound(load_part: Any) -> bool:
    """Every margin of every pair is below the true one."""
    pairs, count = load_part("pairs"), load_part("arithmetic").Arithmetic()
    for seed, blocks in itertools.product(range(6), (0, 1)):
        network, domain = small.modular(5, (1, 2), 1, noise=0.5, seed=seed)
        draft = pairs_draft(network, domain, effects(network, domain), blocks)
        problem = pairs.read(as_certificate(draft))
        tables, built = pairs.build_tables(count, problem), pairs.build_blocks(count, problem)
        truth = small.true_margins(network, domain.inputs(), domain.labels()).reshape(5, 5, 5)
        for a in range(5):
            low = pairs.margins(count, problem, tables, built, a).low
            if not (low <= truth[a] + 1e-12).all():
                return False
        for a, worst, entropy in pairs.evaluate(count, problem):
            least = truth[a].min(axis=1)
            exact = np.log1p(np.exp(-truth[a]).sum(axis=1))
            if (worst > least + 1e-12).any() or (entropy < exact - 1e-12).any():
                return False
    return True


def boxes_are_sound(load_part: Any) -> bool:
    """Every bound of every box is below all margins inside; labels and masses are right."""
    for seed in range(48):
        network = small.random_network(2, 1 + seed % 2, 2, seed)
        g = small.draws(seed)
        draw = [small.single(torch.randn(*s, generator=g)) for s in [(2, 2), (2,), (2, 2)]]
        low = torch.tensor([0.25, 0.5], dtype=torch.float64)
        domain = SparseDomain(draw[0], draw[1], low, low + 2, torch.tensor([[0, 1]]), draw[2])
        latents = small.learned_like(domain, 2, 0.3 if seed % 8 == 1 else 0.0, seed)
        if seed % 8 in (4, 5):  # what the dictionary gets wrong switches neurons
            latents = replace(latents, bias=latents.bias + 2 * torch.randn(2, generator=g).double())
        if seed % 4 > 1:  # latents of either sign, which reconstruct all the same
            shift = torch.tensor([1.0, 1.5], dtype=torch.float64)
            latents = replace(
                latents, offset=-shift[None], bias=domain.bias + shift @ domain.decoder
            )
        if not _boxes_sound(load_part, network, domain, latents, seed):
            return False
    return True


def _boxes_sound(
    load_part: Any, network: Network, domain: SparseDomain, latents: AffineLatents, seed: int
) -> bool:
    boxes, enclosures = load_part("boxes"), load_part("enclosures")
    draft = boxes_draft(network, domain, latents, nodes=1)
    draft = small.with_proof(draft, tree=np.array([-1, 0, -2, 0, 0]))
    problem = boxes.read(as_certificate(draft))
    if boxes.leaves(problem).mass.sum() > 1:
        return False
    prover, count = boxes.Prover(load_part("arithmetic").Arithmetic(), problem), 16
    g = np.random.default_rng(seed)
    width = g.choice([1e-3, 0.2, 1.5], (count, 2))
    low = domain.low.numpy() + (2 - width) * g.random((count, 2))
    sets, active = np.zeros(count, np.int64), np.tile([[0, 1]], (count, 1))
    unit = np.array(list(itertools.product(np.linspace(0, 1, 17), repeat=2)))
    at = torch.from_numpy(low[:, None] + unit * width[:, None]).flatten(0, 1)
    inputs, labels = domain.inputs(at), domain.labels(at).reshape(count, -1)
    label, constant = prover.labels(sets, low, low + width)
    if any((labels[box] != int(label[box])).any() for box in constant):
        return False
    for y in (0, 1):
        truth = small.true_margins(network, inputs, torch.full((len(at),), y))[:, 1 - y]
        least = truth.reshape(count, -1).min(axis=1)
        batch = enclosures.Boxes(sets, active, low, low + width, y)
        found = prover.enclosures
        for bound in (found.interval, found.linear, prover.additive.margins):
            if not (bound(batch).low[:, 1 - y] <= least + 1e-12).all():
                return False
    return True


CHECKS = {"points": points_are_sound, "pairs": pairs_are_sound, "boxes": boxes_are_sound}

MUTANTS = [
    ("points", "points", "count.subtract(margin, count.product(less, helping))", "margin"),
    ("points", "points", "count.add(margin, count.product(more, hurting)).low", "margin.low"),
    ("points", "points", "p.value[:, k] > 0", "p.value[:, k] < 0"),
    ("points", "points", "count.add(residual, count.absolute(others))", "residual"),
    ("points", "points", "count.add(residual, count.absolute(others))", "count.absolute(others)"),
    ("points", "points", "_unless(highest.high <= 0, error)", "_unless(highest.high <= 1, error)"),
    ("points", "points", "count.maximum(count.maximum(z, reconstructed), kept)", "kept"),
    ("points", "points", "count.maximum(z, reconstructed).high <= 0", "reconstructed.high <= 0"),
    ("points", "points", "(down.low >= 0) | (up.high <= 0)", "(down.low >= -1) | (up.high <= 0)"),
    ("points", "points", "(down.low >= 0) | (up.high <= 0)", "(down.low >= 0) | (up.high <= 1)"),
    ("points", "points", "count.add(less, _unless(same, step))", "_unless(same, step)"),
    ("points", "points", "count.add(more, _unless(~same, step))", "_unless(~same, step)"),
    ("points", "points", "range(1, p.value.shape[1])", "range(2, p.value.shape[1])"),
    ("points", "points", "_unless(off, residual)", "_unless(off | True, residual)"),
    ("points", "points", "np.maximum(best, low)", "best + np.abs(low)"),
    ("pairs", "pairs", "return arithmetic.subtract(gap, charge)", "return gap"),
    ("pairs", "pairs", "label, difference = (a + b) % p", "label, difference = (a + b + 1) % p"),
    ("pairs", "pairs", "arithmetic.norm(active), blocks",
     "arithmetic.norm(active[b // 2]), blocks"),
    ("pairs", "pairs", "blocks.distance[label]", "blocks.distance[0]"),
    ("pairs", "pairs", "table[index] if logits is None else arithmetic.add(table[index], logits)",
     "table[index]"),
    ("pairs", "pairs", "rest.append(arithmetic.subtract(rows[slices[-1]], span))",
     "rest.append(span)"),
    ("pairs", "arithmetic", "value: Array = shift + np.log(total)", "value: Array = np.log(total)"),
    ("boxes", "enclosures", "count.total(count.minimum(*ends), axis=1)",
     "count.total(count.maximum(*ends), axis=1)"),
    ("boxes", "enclosures", "count.product(low, count.relu(rows))",
     "count.product(high, count.relu(rows))"),
    ("boxes", "enclosures", "count.product(high, count.below(rows))",
     "count.product(low, count.below(rows))"),
    ("boxes", "enclosures", "above = count.add(count.times(base, over), lift)",
     "above = count.times(base, over)"),
    ("boxes", "enclosures", "under = np.where((lowest == 0)",
     "under = 1.5 * np.where((lowest == 0)"),
    ("boxes", "enclosures", "np.maximum(high.high, 0.0)", "0.7 * np.maximum(high.high, 0.0)"),
    ("boxes", "additive", "low.min(axis=1) >= 0)", "low.min(axis=1) >= -9)"),
    ("boxes", "additive", "_where((bottom.low >= 0) | (top.high <= 0), charge)",
     "_where(top.high <= 9, charge)"),
    ("boxes", "additive",
     "return count.add(down, count.below(smallest)), count.add(up, count.relu(largest))",
     "return down, up"),
    ("boxes", "additive", "margins = count.add(margins, self._skip_error(boxes))", ""),
    ("boxes", "additive", "exact = count.minimum(*corners), count.maximum(*corners)",
     "exact = corners[0], corners[0]"),
    ("boxes", "additive", "dead = (top.high <= 0) &", "dead ="),
    ("boxes", "curves", "count.total(count.minimum(least, inside), axis=1)",
     "count.total(least, axis=1)"),
    ("boxes", "curves", "count.minimum(at_ends[0], at_ends[1])", "at_ends[1]"),
    ("boxes", "boxes", "rows[self._positive(", "rows[np.ones(len(rows), bool) | self._positive("),
    ("boxes", "boxes", "(high - low) / np.where", "2 * (high - low) / np.where"),
]  # fmt: skip


@pytest.mark.parametrize("kind", CHECKS)
def test_the_verifier_itself_is_sound(kind: str, workshop: Path) -> None:
    assert CHECKS[kind](parts(load(workshop)))


@pytest.mark.parametrize(("kind", "module", "old", "new"), MUTANTS)
def test_mutants_certify_what_is_false(
    kind: str, module: str, old: str, new: str, workshop: Path
) -> None:
    with np.errstate(all="ignore"):
        assert not CHECKS[kind](parts(load(workshop, module, old, new)))
