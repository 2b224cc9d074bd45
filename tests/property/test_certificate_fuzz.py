"""Damaged and hostile certificates: an error, or a claim that is below the truth. Never more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import certificates as small
import exact_checker
import exact_sequences
import hostile
import hostile_layers
import hostile_text
import numpy as np
import pytest
import statistical as documented
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import examples
from safetensors.numpy import load_file, save_file

from crossproof.errors import CrossproofError
from crossproof.proof.bounds.network import Network, SparseDomain
from crossproof.proof.certificate import format as form
from crossproof.proof.certificate.contexts import write_contexts
from crossproof.proof.certificate.cost import ProofCost
from crossproof.proof.certificate.provers.boxes import boxes_draft
from crossproof.proof.certificate.provers.latents import generating_latents
from crossproof.proof.certificate.provers.pairs import effects, pairs_draft
from crossproof.proof.certificate.result import VerificationResult
from crossproof.proof.certificate.verifier import verify
from crossproof.proof.certificate.verifier.verdict import Verdict
from crossproof.proof.certificate.writer import Draft, publish

ATTACKS = settings(
    examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass
class Target:
    folder: Path
    scratch: Path

    def copy(self) -> Path:
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.folder, self.scratch)
        return self.scratch


KINDS = ("points", "pairs", "boxes", "products", "attention", "attention-latents")
OF_TEXT = ("statistical", "contexts")
HASHED = {"statistical": ("text", "values"), "contexts": ("weights", "dictionary", "contexts")}
"""Parts whose hashes are in the header; of other kinds network, domain and dictionary."""


@pytest.fixture(scope="module", params=[*KINDS, *OF_TEXT])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    folder = tmp_path_factory.mktemp("certificate") / "honest"
    if request.param == "statistical":
        documented.written(folder, documents=6)
    elif request.param == "contexts":
        write_contexts(folder, hostile_text.model_end(0, 2))
    else:
        publish(draft(request.param), folder, {}, ProofCost(0, 0.0, 0))
    return Target(folder, folder.with_name("attacked"))


def draft(kind: str) -> Draft:
    if kind in hostile_layers.KINDS:
        return hostile_layers.attention(np.random.default_rng(0), kind, ("dense",))
    network, domain = small.sparse(F=4, N=6, noise=0.5)
    adder, pairs = small.modular(5, (1, 2), 5, noise=0.05)
    return {
        "points": lambda: small.sample_draft(network, domain, 12)[0],
        "pairs": lambda: pairs_draft(adder, pairs, effects(adder, pairs), 1),
        "boxes": lambda: boxes_draft(network, domain, generating_latents(domain), nodes=60),
        "products": lambda: hostile.products(np.random.default_rng(3), ("dense",)),
    }[kind]()


def sound(folder: Path, verdict: VerificationResult) -> None:
    """The certified figures against the network and domain that the folder itself holds."""
    if verdict.kind.startswith("attention"):
        _, read = exact_checker.read(folder)
        assert verdict.right <= len(exact_sequences.check(verdict.kind, read).right)
        return
    tensors = {k: torch.from_numpy(t) for k, t in form.read_certificate(folder).tensors.items()}
    network = Network(**{k[8:]: t for k, t in tensors.items() if k.startswith("network.")})
    domain = {k[7:]: t for k, t in tensors.items() if k.startswith("domain.")}
    if verdict.kind == "points":
        inputs, labels = domain["inputs"], domain["labels"]
    elif verdict.kind == "pairs":
        p = len(domain["left"])
        inputs = (domain["left"][:, None] + domain["right"][None]).flatten(0, 1)
        labels = ((torch.arange(p)[:, None] + torch.arange(p)) % p).flatten()
    elif verdict.kind == "products":
        inputs = (domain["left"][:, None] + domain["right"][None]).flatten(0, 1)
        labels = domain["table"].flatten()
    else:
        sparse = SparseDomain(decoder=domain.pop("atoms"), **domain)
        activations, labels = sparse.sample(2000, small.draws(0))
        inputs = sparse.inputs(activations)
    truth = small.truth(network, inputs, labels)
    assert verdict.accuracy <= truth.accuracy + (0.05 if verdict.kind == "boxes" else 0)
    if verdict.cross_entropy is not None:
        assert verdict.cross_entropy >= truth.cross_entropy * (1 - 1e-12)


def judged(folder: Path) -> Verdict | None:
    try:
        verdict = verify(folder)
    except CrossproofError:
        return None
    if isinstance(verdict, VerificationResult):
        sound(folder, verdict)
    assert repr(verdict)
    assert verdict.verdict
    return verdict


@ATTACKS
@given(data=st.data())
def test_changed_bytes(target: Target, data: st.DataObject) -> None:
    folder = target.copy()
    path = folder / data.draw(st.sampled_from([form.TENSORS, form.HEADER]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    judged(folder)


def rehash(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """A liar writes the hashes that fit the tensors."""
    header = json.loads((folder / form.HEADER).read_text())
    parts = HASHED.get(header["kind"], ("network", "domain", "dictionary"))
    places = header["hashes"] if header["kind"] == "contexts" else header
    for part in parts:
        mine = {k[len(part) + 1 :]: t for k, t in tensors.items() if k.startswith(f"{part}.")}
        wide = {k: t.astype(float if t.dtype.kind == "f" else int) for k, t in mine.items()}
        hashed = form.tensors_hash(wide) if mine else None
        if part == "text":
            header["text"]["sha256"] = hashed
        else:
            places[part] = hashed
    (folder / form.HEADER).write_text(json.dumps(header))


def edges() -> Iterator[float]:
    yield from (0.0, -1.0, 1e-40, 1e-300, -1e29, 1e29, float("nan"), float("inf"), 0.5, 3.0)


@ATTACKS
@given(data=st.data())
def test_changed_numbers_with_hashes_that_fit(target: Target, data: st.DataObject) -> None:
    folder = target.copy()
    tensors = {k: t.copy() for k, t in load_file(folder / form.TENSORS).items()}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        flat = tensors[name].reshape(-1)
        where = (
            slice(None) if data.draw(st.booleans()) else data.draw(st.integers(0, flat.size - 1))
        )
        if tensors[name].dtype.kind == "i":
            flat[where] = data.draw(st.integers(-3, 5))
        else:
            wide = tensors[name].astype(np.float64).reshape(-1)
            change = data.draw(st.sampled_from(["set", "scale", "add"]))
            value = data.draw(st.sampled_from(list(edges())))
            with np.errstate(all="ignore"):
                new = {"set": value + 0 * wide, "scale": value * wide, "add": value + wide}[change]
                wide[where] = new[where]
            tensors[name] = wide.reshape(tensors[name].shape)
    save_file(tensors, folder / form.TENSORS)
    rehash(folder, tensors)
    judged(folder)


@ATTACKS
@given(data=st.data())
def test_changed_headers(target: Target, data: st.DataObject) -> None:
    folder = target.copy()
    header = json.loads((folder / form.HEADER).read_text())
    junk = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4))
    key = data.draw(st.sampled_from(sorted(header)))
    nested = data.draw(st.booleans()) and isinstance(header[key], dict) and header[key]
    place = header[key] if nested else header
    inner = data.draw(st.sampled_from(sorted(place))) if nested else key
    place[inner] = data.draw(st.one_of(junk, st.lists(junk, max_size=2), st.just({})))
    (folder / form.HEADER).write_text(json.dumps(header))
    verdict = judged(folder)
    if isinstance(verdict, VerificationResult) and verdict.holds:
        claim = header["claim"]
        assert claim.get("accuracy", 0) <= verdict.accuracy
