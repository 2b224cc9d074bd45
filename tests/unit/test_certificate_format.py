"""Certificate folders: written, read again, and refused when they are not what they should be."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certificates as small
import numpy as np
import pytest
from certificates import copied, edit_header, edit_tensors, published
from safetensors.numpy import load_file, save_file

import crossproof.proof.certificate as package
from crossproof.errors import CrossproofError
from crossproof.proof.certificate import format as form
from crossproof.proof.certificate.verifier import verify

PACKAGE = Path(package.__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return published(tmp_path_factory)


@pytest.fixture(params=["points", "pairs", "boxes"])
def folder(request: pytest.FixtureRequest, made: dict[str, Path], tmp_path: Path) -> Path:
    return copied(made[request.param], tmp_path)


def test_claims_are_what_the_verifier_confirms(folder: Path) -> None:
    header = json.loads((folder / form.HEADER).read_text())
    verdict = verify(folder)
    assert verdict.holds
    assert set(header) == form.KEYS
    assert header["claim"]["accuracy"] == pytest.approx(verdict.accuracy, abs=1e-8)
    assert header["claim"]["accuracy"] <= verdict.accuracy
    assert header["cost"]["verifier_operations"] == verdict.operations
    assert verdict.bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_hashes_are_those_of_certificates() -> None:
    network, domain = small.sparse()
    for thing in (network, domain):
        arrays = {name: tensor.numpy() for name, tensor in thing.tensors().items()}
        assert thing.hash == form.tensors_hash(arrays)
    other = small.sparse(seed=1)[0]
    assert network.hash != other.hash


def test_a_claim_beyond_the_proof_does_not_hold(folder: Path) -> None:
    edit_header(folder, lambda header: header["claim"].update(accuracy=1.1))
    assert not verify(folder).holds
    edit_header(folder, lambda header: header.update(claim={"cross_entropy": 0.0}))
    assert not verify(folder).holds
    edit_header(folder, lambda header: header.update(claim={"accuracy": 0.0}))
    assert verify(folder).holds


def test_another_network_or_domain_is_refused(folder: Path) -> None:
    verdict = verify(folder)
    assert verify(folder, network=verdict.network, domain=verdict.domain) is not None
    with pytest.raises(CrossproofError, match="speaks about the network"):
        verify(folder, network="0" * 64)
    with pytest.raises(CrossproofError, match="speaks about the domain"):
        verify(folder, domain=verdict.network)


@pytest.mark.parametrize("part", ["network", "domain"])
def test_tensors_that_do_not_fit_their_hash_are_refused(folder: Path, part: str) -> None:
    tensors = load_file(folder / form.TENSORS)
    name = next(
        name for name in tensors if name.startswith(part) and tensors[name].dtype.kind == "f"
    )
    tensors[name] = tensors[name] + 1
    save_file(tensors, folder / form.TENSORS)
    with pytest.raises(CrossproofError, match=f"The {part} in .* has hash"):
        verify(folder)


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "schema": (lambda h: h.update(schema=2), "has schema 2"),
    "boolean": (lambda h: h.update(schema=True), "has schema True"),
    "verifier": (lambda h: h.update(verifier=7), "has verifier 7"),
    "kind": (lambda h: h.update(kind="magic"), "has kind 'magic'"),
    "missing": (lambda h: h.pop("cost"), "exactly the keys"),
    "foreign": (lambda h: h.update(trust="me"), "exactly the keys"),
    "task": (lambda h: h.update(task="x"), "must be objects"),
    "no claim": (lambda h: h.update(claim={}), "'claim' in"),
    "claim": (lambda h: h.update(claim={"truth": 1}), "'claim' in"),
    "text": (lambda h: h.update(claim={"accuracy": "1"}), "must be a number"),
    "yes": (lambda h: h.update(claim={"accuracy": True}), "must be a number"),
    "nan": (lambda h: h.update(claim={"accuracy": float("nan")}), "NaN is not a number"),
    "inf": (lambda h: h.update(claim={"accuracy": float("-inf")}), "is not a number"),
    "hash": (lambda h: h.update(network=None), "has hash"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_malformed_headers_are_refused(folder: Path, name: str) -> None:
    change, complaint = HEADERS[name]
    edit_header(folder, change)
    with pytest.raises(CrossproofError, match=complaint):
        verify(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "[" * 100_000, "\xff\xfe"])
def test_headers_that_are_not_json_are_refused(folder: Path, text: str) -> None:
    (folder / form.HEADER).write_bytes(text.encode("latin-1"))
    with pytest.raises(CrossproofError):
        verify(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e31, -1e31, 1e-61, -5e-324])
@pytest.mark.parametrize("part", ["network", "proof"])
def test_numbers_that_are_not_are_refused(folder: Path, value: float, part: str) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        name = next(k for k, t in tensors.items() if k.startswith(part) and t.dtype.kind == "f")
        tensors[name] = tensors[name].astype(np.float64)
        tensors[name].flat[0] = value

    edit_tensors(folder, spoil)
    with pytest.raises(CrossproofError, match="NaN, infinity, or a number beyond"):
        verify(folder)


def test_every_tensor_of_another_shape_or_type_or_none_is_refused(folder: Path) -> None:
    original = load_file(folder / form.TENSORS)
    for name, tensor in original.items():
        other = tensor.astype(np.int64 if tensor.dtype.kind == "f" else np.float64)
        for wrong in (tensor[None], np.concatenate([tensor] * 3, axis=-1), other, None):

            def spoil(tensors: dict[str, np.ndarray], name: str = name, wrong: Any = wrong) -> None:
                tensors.clear()
                tensors.update(original)
                tensors.pop(name)
                if wrong is not None:
                    tensors[name] = wrong

            edit_tensors(folder, spoil)
            with pytest.raises(CrossproofError):
                verify(folder)


def test_foreign_tensors_are_refused(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update(extra=np.zeros(1)))
    with pytest.raises(CrossproofError, match="may not hold 'extra'"):
        verify(folder)
    edit_tensors(folder, lambda tensors: tensors.pop("extra"))
    edit_tensors(folder, lambda tensors: tensors.update({"proof.extra": np.zeros(1)}))
    with pytest.raises(CrossproofError, match=r"may not hold 'proof\.extra'"):
        verify(folder)


def test_truncated_files_are_refused(folder: Path) -> None:
    content = (folder / form.TENSORS).read_bytes()
    for length in (0, 7, 100, len(content) - 1):
        (folder / form.TENSORS).write_bytes(content[:length])
        with pytest.raises(CrossproofError, match=r"damaged|not valid JSON"):
            verify(folder)
    (folder / form.TENSORS).write_bytes(content)
    (folder / form.TENSORS).unlink()
    with pytest.raises(CrossproofError, match="is missing"):
        verify(folder)


def test_the_verifier_imports_only_the_format_reader_and_its_result() -> None:
    allowed = {"numpy", "flint"}
    own = "crossproof.proof.certificate.verifier"
    shared = ("crossproof.proof.certificate.format", "crossproof.proof.certificate.result")
    standard = {"__future__", "collections", "dataclasses", "fractions", "hashlib", "math"}
    standard |= {"functools", "itertools", "pathlib", "time", "typing"}
    for path in sorted((PACKAGE / "verifier").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            else:
                continue
            for name in names:
                if name.startswith("crossproof"):
                    assert name.startswith((own, *shared)), path
                else:
                    assert name.split(".")[0] in allowed | standard, path


def test_nothing_is_ever_unpickled_or_evaluated() -> None:
    words = ("pickle", "torch.load", "eval(", "exec(", "allow_pickle")
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text().replace("unpickled", "").replace("nothing pickled", "")
        assert not [word for word in words if word in text], path
