"""`crossproof prove` and `crossproof verify`, from a task to an exit code."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certificates as small
import pytest
import torch

import crossproof
from crossproof.commands import prove, verify
from crossproof.errors import CrossproofError
from crossproof.proof.bounds.network import Dictionary


def learned(decoder: torch.Tensor, bias: torch.Tensor) -> Dictionary:
    def encode(x: torch.Tensor) -> torch.Tensor:
        return torch.relu((x - bias) @ torch.linalg.pinv(decoder) - 1e-3)

    return Dictionary(decoder, bias, encode)


@dataclass
class Built:
    network: Any
    domain: Any
    dictionary: Any


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tasks in place of trained ones."""

    def build(task: str, seed: int, quick: bool) -> Built:
        if task.startswith("modular"):
            return Built(*small.modular(11, (1, 2, 3), 8, noise=0.02, seed=seed), None)
        network, domain = small.sparse(seed=seed, noise=0.3)
        return Built(network, domain, learned(domain.decoder, domain.bias))

    module = types.ModuleType("crossproof.proof.tasks")
    module.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "crossproof.proof.tasks", module)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize(
    ("task", "options", "kind"),
    [
        ("sparse", ["--points", "100"], "points"),
        ("coactive", ["--points", "100", "--dictionary", "true"], "points"),
        ("sparse", ["--kind", "boxes", "--nodes", "300"], "boxes"),
        ("continuum", ["--nodes", "300", "--dictionary", "true"], "boxes"),
        ("modular-53", [], "pairs"),
        ("modular-113", ["--blocks", "1"], "pairs"),
    ],
)
def test_what_prove_writes_verify_confirms(
    task: str, options: list[str], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "proof"
    prove.run([task, "--out", str(folder), *options], 0.0)
    printed = capsys.readouterr().out
    assert "accuracy, at least" in printed
    assert "operations" in printed
    header = json.loads((folder / "certificate.json").read_text())
    assert header["kind"] == kind
    assert header["task"]["name"] == task
    assert header["cost"]["prover"]["operations"] >= header["cost"]["verifier_operations"]
    assert header["claim"]["accuracy"] > 0.1
    verify.run([str(folder), "--arb", "--network", header["network"]], 0.0)
    printed = capsys.readouterr().out
    assert "The claim is verified." in printed
    assert "derived again" in printed


def test_a_false_claim_leaves_with_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "proof"
    prove.run(["modular-53", "--out", str(folder)], 0.0)
    path = folder / "certificate.json"
    header = json.loads(path.read_text())
    header["claim"]["cross_entropy"] /= 2
    path.write_text(json.dumps(header))
    with pytest.raises(SystemExit) as left:
        verify.run([str(folder)], 0.0)
    assert left.value.code == 1
    assert "NOT verified" in capsys.readouterr().err


def test_several_certificates_are_verified_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for seed, folder in enumerate(folders):
        prove.run(["sparse", "--points", "50", "--seed", str(seed), "--out", str(folder)], 0.0)
    verify.run([str(folder) for folder in folders], 0.0)
    assert "All claims are verified." in capsys.readouterr().out
    header = json.loads((folders[1] / "certificate.json").read_text())
    header["claim"]["accuracy"] = 1.0
    (folders[1] / "certificate.json").write_text(json.dumps(header))
    with pytest.raises(SystemExit):
        verify.run([str(folder) for folder in folders], 0.0)
    captured = capsys.readouterr()
    assert "two is NOT verified" in captured.err
    assert captured.out.count("NOT verified") == 1
    with pytest.raises(CrossproofError, match="Nothing to verify"):
        verify.run([], 0.0)


def test_what_is_no_certificate_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match=r"certificate.json is missing: give the folder"):
        verify.run([str(tmp_path)], 0.0)


def test_a_task_without_a_dictionary_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(task: str, seed: int, quick: bool) -> Built:
        return Built(*small.sparse(), None)

    monkeypatch.setattr(sys.modules["crossproof.proof.tasks"], "build", build)
    with pytest.raises(CrossproofError, match="use --dictionary true"):
        prove.run(["sparse", "--out", str(tmp_path / "proof")], 0.0)


def test_a_network_in_memory_is_certified(tmp_path: Path) -> None:
    network, domain = small.sparse(seed=0, noise=0.3)
    dictionary = learned(domain.decoder, domain.bias)
    options = crossproof.ProverOptions(points=50)
    result = crossproof.prove(
        network, tmp_path / "proof", options, domain=domain, dictionary=dictionary
    )
    assert result.verification.kind == "points"
    assert result.verification.accuracy <= result.truth.accuracy
    again = crossproof.verify(tmp_path / "proof")
    assert (again.holds, again.network) == (True, network.hash)
    assert crossproof.VerificationResult.from_json(again.to_json()) == again
    assert "The truth" in repr(result)
    with pytest.raises(CrossproofError, match="certified on a domain"):
        crossproof.prove(network, tmp_path / "proof")
