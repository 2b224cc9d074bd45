"""`crossproof prove` and `crossproof verify`, from a network's folder to an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import certificates as small
import pytest
import torch

import crossproof
from crossproof.commands import prove, verify
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, Provenance, save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.files import read_tensors, write_tensors
from crossproof.lm import Hookpoints
from crossproof.proof.bounds import Dictionary, SparseDomain, read_network, save_network


def crosscoder_of(domain: SparseDomain, names: int = 1) -> Crosscoder:
    """ReLU of the pseudo-inverse: nearly the features that generate the domain."""
    hookpoints = Hookpoints.from_names([f"blocks.{i}.mlp.hook_in" for i in range(names)], names)
    features, width = domain.decoder.shape
    crosscoder = Crosscoder(CrosscoderConfig(features, "topk", 2), hookpoints, width)
    encoder = torch.linalg.pinv(domain.decoder)
    with torch.no_grad():
        crosscoder.W_enc.copy_(encoder.T.float()[:, None].expand_as(crosscoder.W_enc))
        crosscoder.b_enc.copy_((-domain.bias @ encoder).float())
        crosscoder.W_dec.copy_(domain.decoder.float()[:, None].expand_as(crosscoder.W_dec))
        crosscoder.b_dec.copy_(domain.bias.float().expand_as(crosscoder.b_dec))
    return crosscoder


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sparse/ with its dictionary, and modular/."""
    root = tmp_path_factory.mktemp("networks")
    network, domain = small.sparse(noise=0.3)
    save_network(root / "sparse", network, domain)
    save_network(root / "modular", *small.modular(11, (1, 2, 3), 8, noise=0.02))
    save_crosscoder(crosscoder_of(domain), root / "dictionary", Provenance("toy", network.hash))
    save_crosscoder(crosscoder_of(domain, 2), root / "pair", Provenance("toy", network.hash))
    return root


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("sparse", ["--points", "100", "--dictionary", "dictionary"], "points"),
        ("sparse", ["--points", "100"], "points"),
        ("sparse", ["--kind", "boxes", "--nodes", "300", "--dictionary", "dictionary"], "boxes"),
        ("sparse", ["--kind", "boxes", "--nodes", "300"], "boxes"),
        ("modular", [], "pairs"),
        ("modular", ["--blocks", "1"], "pairs"),
    ],
)
def test_what_prove_writes_verify_confirms(
    name: str,
    options: list[str],
    kind: str,
    networks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(networks)
    folder = tmp_path / "proof"
    prove.run([name, "--out", str(folder), *options], 0.0)
    printed = capsys.readouterr().out
    assert "accuracy, at least" in printed
    assert "operations" in printed
    assert printed.splitlines()[-1] == f"Next: `crossproof verify {folder}` checks it anywhere."
    header = json.loads((folder / "certificate.json").read_text())
    assert header["kind"] == kind
    assert header["task"]["name"] == name
    assert header["network"] == read_network(name)[0].hash
    assert header["cost"]["prover"]["operations"] >= header["cost"]["verifier_operations"]
    assert header["claim"]["accuracy"] > 0.1
    verify.run([str(folder), "--arb", "--network", header["network"]], 0.0)
    printed = capsys.readouterr().out
    assert "The claim is verified." in printed
    assert "derived again" in printed
    assert printed.splitlines()[-1].startswith("Next: whoever has the folder")


def test_a_learned_dictionary_is_the_crosscoders_own(networks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "proof"
    arguments = ["--dictionary", str(networks / "dictionary"), "--points", "50"]
    prove.run([str(networks / "sparse"), *arguments, "--out", str(folder)], 0.0)
    crosscoder, _ = crossproof.crosscoder.load_crosscoder(networks / "dictionary")
    atoms = read_tensors(folder / "tensors.safetensors")["dictionary.atoms"]
    assert torch.equal(atoms.float(), crosscoder.decoder_vectors(0))


def test_a_false_claim_leaves_with_an_exit_code(
    networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "proof"
    prove.run([str(networks / "modular"), "--out", str(folder)], 0.0)
    path = folder / "certificate.json"
    header = json.loads(path.read_text())
    header["claim"]["cross_entropy"] /= 2
    path.write_text(json.dumps(header))
    with pytest.raises(SystemExit) as left:
        verify.run([str(folder)], 0.0)
    assert left.value.code == 1
    assert "NOT verified" in capsys.readouterr().err


def test_several_certificates_are_verified_together(
    networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for seed, folder in enumerate(folders):
        arguments = ["--points", "50", "--seed", str(seed), "--out", str(folder)]
        prove.run([str(networks / "sparse"), *arguments], 0.0)
    verify.run([str(folder) for folder in folders], 0.0)
    printed = capsys.readouterr().out
    assert "All claims are verified." in printed
    asks = f"Next: `crossproof verify {folders[0]} --network YOURS` asks whether it is about yours."
    assert printed.splitlines()[-1] == asks
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


@pytest.mark.parametrize(
    ("name", "dictionary", "message"),
    [
        ("modular", "dictionary", "certified without a dictionary: give none"),
        ("sparse", "pair", "reads 2 hookpoints"),
        ("other", None, "There is no folder .*other: give one that holds network.safetensors"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    name: str, dictionary: str | None, message: str, networks: Path, tmp_path: Path
) -> None:
    given = [] if dictionary is None else ["--dictionary", str(networks / dictionary)]
    with pytest.raises(CrossproofError, match=message):
        prove.run([str(networks / name), *given, "--out", str(tmp_path / "proof")], 0.0)


def test_a_dictionary_of_another_width_is_refused(tmp_path: Path) -> None:
    network, domain = small.sparse(D=6)
    _, wider = small.sparse(D=7)
    dictionary = Dictionary.of_crosscoder(crosscoder_of(wider))
    with pytest.raises(CrossproofError, match="have width 7, the network's inputs 6"):
        crossproof.prove(network, tmp_path, domain=domain, dictionary=dictionary)


def test_a_network_folder_gives_back_what_was_saved(networks: Path, tmp_path: Path) -> None:
    for name, (network, domain) in {
        "modular": small.modular(11, (1, 2, 3), 8, noise=0.02),
        "sparse": small.sparse(noise=0.3),
    }.items():
        again = read_network(networks / name)
        assert (again[0].hash, again[1].hash) == (network.hash, domain.hash)
        assert type(again[1]) is type(domain)
    path = tmp_path / "network.safetensors"
    tensors = read_tensors(networks / "sparse" / path.name)
    write_tensors(path, {name: t for name, t in tensors.items() if name != "domain.readout"})
    with pytest.raises(CrossproofError, match=r"lacks domain\.readout \[F, V\]"):
        read_network(tmp_path)
    write_tensors(path, tensors | {"network.b_in": tensors["network.b_in"][1:]})
    with pytest.raises(CrossproofError, match=r"network\.b_in .* shape \[11\]: .* N = 12"):
        read_network(tmp_path)
    nothing = tensors["domain.active_sets"][:0]
    write_tensors(path, tensors | {"domain.active_sets": nothing})
    with pytest.raises(CrossproofError, match=r"active_sets .* shape \[0, 2\]: .*none of them 0"):
        read_network(tmp_path)
    write_tensors(path, tensors | {"domain.active_sets": tensors["domain.active_sets"] + 0.5})
    with pytest.raises(CrossproofError, match="must hold whole numbers"):
        read_network(tmp_path)


@pytest.mark.parametrize("option", ["--points", "--nodes"])
def test_a_count_below_one_is_refused(option: str, networks: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="from 1 up"):
        prove.run([str(networks / "sparse"), option, "0", "--out", str(tmp_path)], 0.0)


def test_a_certificate_replaces_nothing_but_a_certificate(networks: Path) -> None:
    folder = networks / "sparse"
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(CrossproofError, match="holds other files"):
        prove.run([str(folder), "--out", str(folder)], 0.0)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_network_in_memory_is_certified(tmp_path: Path) -> None:
    network, domain = small.sparse(seed=0, noise=0.3)
    dictionary = Dictionary.of_crosscoder(crosscoder_of(domain))
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
