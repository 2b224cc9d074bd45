"""Hostile files: whatever a folder holds, the reader ends in a sentence, with little memory."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certificates as small
import numpy as np
import pytest
import torch
from certificates import copied, drafts, edit_header, edit_tensors, published
from safetensors.numpy import load_file, save_file

from crossproof.errors import CrossproofError
from crossproof.proof.bounds.network import Network
from crossproof.proof.certificate import format as form
from crossproof.proof.certificate import reading
from crossproof.proof.certificate.identity import network_hash
from crossproof.proof.certificate.verifier import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return published(tmp_path_factory)


@pytest.fixture(params=["points", "pairs", "boxes"])
def folder(request: pytest.FixtureRequest, made: dict[str, Path], tmp_path: Path) -> Path:
    return copied(made[request.param], tmp_path)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edits the header of the safetensors file; the numbers stay."""
    content = (folder / form.TENSORS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    text = change(header)
    raw = text if isinstance(text, bytes) else json.dumps(header if text is None else text).encode()
    body = content[8 + length :]
    (folder / form.TENSORS).write_bytes(struct.pack("<Q", len(raw)) + raw + body)


def first(header: dict[str, Any]) -> dict[str, Any]:
    return next(iter(header.values()))


def twice(header: dict[str, Any]) -> bytes:
    text = json.dumps(header)
    name = json.dumps(next(iter(header)))
    return (text[:-1] + f", {name}: {json.dumps(first(header))}}}").encode()


DESCRIPTIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda h: [h], "wrongly"),
    "duplicate": (twice, "a key occurs twice"),
    "utf-16": (lambda h: json.dumps(h).encode("utf-16"), "not valid JSON"),
    "bom": (lambda h: b"\xef\xbb\xbf" + json.dumps(h).encode(), "not valid JSON"),
    "nan": (lambda h: first(h).update(shape=[float("nan")]), "NaN is not a number"),
    "deep": (lambda h: b"[" * 100_000, "not valid JSON"),
    "type": (lambda h: first(h).update(dtype="F16"), "has type 'F16'"),
    "type of a type": (lambda h: first(h).update(dtype=[1]), "wrongly"),
    "scalar": (lambda h: first(h).update(shape=[]), "wrongly"),
    "text": (lambda h: first(h).update(shape="12"), "wrongly"),
    "negative": (lambda h: first(h).update(shape=[-1, -30]), "wrongly"),
    "boolean": (lambda h: first(h).update(shape=[True]), "wrongly"),
    "huge": (lambda h: first(h).update(shape=[2**62, 2**62]), "wrongly"),
    "axes": (lambda h: first(h).update(shape=[9999] * 150_000), "wrongly"),
    "digits": (lambda h: first(h).update(shape=[int("9" * 4000)] * 200), "wrongly"),
    "extra": (lambda h: first(h).update(pickle="x"), "wrongly"),
    "missing": (lambda h: first(h).pop("dtype"), "wrongly"),
    "offsets": (lambda h: first(h).update(data_offsets=[0]), "wrongly"),
    "overlap": (lambda h: h.update(copy=first(h)), "do not fill it"),
    "name": (lambda h: h.update({"proof": h.pop(next(iter(h)))}), "may not hold 'proof'"),
    "escape": (
        lambda h: h.update({"\r\x1b[2Kverified\x1b[8m\u202e": h.pop(next(iter(h)))}),
        r"may not hold '\\r\\x1b\[2Kverified\\x1b\[8m\\u202e'",
    ),
    "long": (lambda h: h.update({"x" * 900: h.pop(next(iter(h)))}), r"may not hold 'x{79}\.\.\.\."),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_tensors_that_are_described_wrongly_are_refused(folder: Path, name: str) -> None:
    change, complaint = DESCRIPTIONS[name]
    rewrite(folder, change)
    with pytest.raises(CrossproofError, match=complaint) as caught:
        verify(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [form.HEADER, form.TENSORS])
def test_what_git_lfs_has_not_downloaded_is_named(folder: Path, name: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / name).write_text(pointer)
    with pytest.raises(CrossproofError, match=f"{name}' is a Git LFS pointer: run `git lfs pull`"):
        verify(folder)
    if name == form.TENSORS:
        with pytest.raises(CrossproofError, match="run `git lfs pull`"):
            network_hash(folder)


def test_a_reader_can_insist_on_what_the_kind_has_alone(made: dict[str, Path]) -> None:
    hashed = verify(made["points"]).dictionary
    assert verify(made["points"], dictionary=hashed).pinned == ("dictionary",)
    with pytest.raises(CrossproofError, match="speaks about the dictionary"):
        verify(made["points"], dictionary="0" * 64)
    for pin in ({"model": "0" * 16}, {"text": "0" * 64}, {"dictionary": "0" * 64}):
        with pytest.raises(CrossproofError, match=r"speaks about no .* network, domain"):
            verify(made["pairs"], **pin)


def test_metadata_is_passed_over(folder: Path) -> None:
    rewrite(folder, lambda h: h.update(__metadata__={"format": "pt"}))
    assert verify(folder).holds


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_headers_of_another_encoding_are_refused(folder: Path, encoding: str) -> None:
    text = (folder / form.HEADER).read_text()
    (folder / form.HEADER).write_bytes(text.encode(encoding))
    with pytest.raises(CrossproofError, match="not valid JSON"):
        verify(folder)


def test_the_hash_of_nothing_is_no_dictionary(folder: Path) -> None:
    kind = json.loads((folder / form.HEADER).read_text())["kind"]
    edit_header(folder, lambda header: header.update(dictionary=form.tensors_hash({})))
    with pytest.raises(CrossproofError, match=r"The dictionary in .* has hash"):
        verify(folder)
    if kind != "pairs":
        edit_header(folder, lambda header: header.update(dictionary=None))
        with pytest.raises(CrossproofError, match=r"The dictionary in .* has hash"):
            verify(folder)


def test_a_dictionary_of_another_hash_is_refused(folder: Path) -> None:
    edit_header(folder, lambda header: header.update(dictionary="0" * 64))
    with pytest.raises(CrossproofError, match=r"The dictionary in .* has hash"):
        verify(folder)


@pytest.mark.parametrize("name", [form.HEADER, form.TENSORS])
def test_only_regular_files_are_opened(made: dict[str, Path], tmp_path: Path, name: str) -> None:
    for path in made["points"].iterdir():
        (tmp_path / path.name).symlink_to(path)  # as in the Hub's cache
    assert verify(tmp_path).holds
    here = tmp_path / name
    here.unlink()
    here.symlink_to("/dev/zero")
    with pytest.raises(CrossproofError, match="is no file"):
        verify(tmp_path)
    here.unlink()
    os.mkfifo(here)
    with pytest.raises(CrossproofError, match="is no file"):
        verify(tmp_path)
    here.unlink()
    here.symlink_to("/proc/self/environ")  # regular, but no file on a disk
    with pytest.raises(CrossproofError, match=r"empty, or not on a disk|is missing"):
        verify(tmp_path)
    here.unlink()
    here.symlink_to(here)
    with pytest.raises(CrossproofError, match="cannot be read"):
        verify(tmp_path)
    here.unlink()
    with pytest.raises(CrossproofError, match="is missing"):
        verify(tmp_path)
    here.write_bytes(b" " * (reading.LARGEST_HEADER + 1))
    with pytest.raises(CrossproofError, match=r"larger than|damaged"):
        verify(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x/" * 3000, "\x1b[2Kgone", "\udcff"])
def test_paths_that_are_none_end_in_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(CrossproofError) as caught:
        verify(tmp_path / name)
    assert str(caught.value).isprintable()


def test_claims_beyond_all_numbers_are_refused(folder: Path) -> None:
    header = json.loads((folder / form.HEADER).read_text())
    header["claim"] = {"accuracy": 0.125}
    for text in ("1e999", "1" + "0" * 400, "1" * 5000, "-1e31"):
        (folder / form.HEADER).write_text(json.dumps(header).replace("0.125", text))
        with pytest.raises(CrossproofError, match=r"must be a number|not valid JSON"):
            verify(folder)


def test_numbers_at_the_edge_of_the_range_are_taken(folder: Path) -> None:
    for value in (form.SMALLEST_VALUE, form.LARGEST_VALUE, -form.LARGEST_VALUE, -0.0):

        def spoil(tensors: dict[str, np.ndarray], value: float = value) -> None:
            tensors["network.b_out"] = tensors["network.b_out"].astype(np.float64)
            tensors["network.b_out"][0] = value

        edit_tensors(folder, spoil)
        verify(folder)


LABELS: dict[str, tuple[str, str, list[int]]] = {
    "labels": ("points", "domain.labels", [-1, 3]),
    "indices": ("points", "proof.indices", [-1, 5]),
    "owners": ("pairs", "proof.owners", [-1, 4]),
    "scale": ("pairs", "proof.scale", [-41, 41]),
    "features": ("boxes", "domain.active_sets", [-1, 5]),
    "latents": ("boxes", "proof.latent_index", [-1, 5]),
    "codes": ("boxes", "proof.tree", [-3, 4]),
}


@pytest.mark.parametrize("name", LABELS)
def test_integers_out_of_range_are_refused(
    made: dict[str, Path], tmp_path: Path, name: str
) -> None:
    kind, tensor, values = LABELS[name]
    copied(made[kind], tmp_path)
    for value in (*values, -(2**63), 2**62):

        def spoil(tensors: dict[str, np.ndarray], value: int = value) -> None:
            tensors[tensor] = tensors[tensor].astype(np.int64)
            tensors[tensor].flat[-1] = value

        edit_tensors(tmp_path, spoil)
        with pytest.raises(CrossproofError, match="must hold numbers between"):
            verify(tmp_path)


OFFSETS = [[0, 1, 0, 2], [0, 2, 1, 2], [1, 1, 2, 2], [0, 1, 2, 1], [0, 1, 2], [0, 1, 1, 2, 2]]


@pytest.mark.parametrize("offsets", OFFSETS)
def test_offsets_that_are_none_are_refused(
    made: dict[str, Path], tmp_path: Path, offsets: list[int]
) -> None:
    copied(made["points"], tmp_path)

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors["domain.inputs"] = tensors["domain.inputs"][:3]
        tensors["domain.labels"] = tensors["domain.labels"][:3]
        tensors["proof.offsets"] = np.array(offsets)
        for name in ("indices", "values"):
            tensors[f"proof.{name}"] = tensors[f"proof.{name}"][:2]

    edit_tensors(tmp_path, spoil)
    with pytest.raises(CrossproofError, match="must rise from 0"):
        verify(tmp_path)


def test_one_class_is_nothing_to_certify(made: dict[str, Path], tmp_path: Path) -> None:
    copied(made["points"], tmp_path)

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors["domain.labels"] = 0 * tensors["domain.labels"]
        for name in ("W_out", "b_out", "skip"):
            tensors[f"network.{name}"] = tensors[f"network.{name}"][..., :1].copy()

    edit_tensors(tmp_path, spoil)
    with pytest.raises(CrossproofError, match="fewer than two classes"):
        verify(tmp_path)


def test_a_scale_that_loses_digits_is_refused() -> None:
    draft = drafts()["pairs"]
    from crossproof.proof.certificate.verifier import pairs
    from crossproof.proof.certificate.writer import as_certificate

    network = dict(draft.network)
    network["W_in"] = network["W_in"] * 0 + 1e-60
    pairs.read(as_certificate(small.replace(draft, network=network)), form.Limits())
    certificate = as_certificate(draft)
    lost = certificate.tensors["network.W_in"] * 0 + 2.0**-1060
    tensors = {**certificate.tensors, "network.W_in": lost}
    tensors["proof.scale"] = tensors["proof.scale"] * 0 - 40
    with pytest.raises(CrossproofError, match="loses digits"):
        pairs.read(small.replace(certificate, tensors=tensors), form.Limits())


def test_sums_of_too_many_terms_are_refused() -> None:
    shapes = {name: (tuple([3] * len(letters.split())), name in form.WHOLE)
              for name, letters in form.LAYOUT["pairs"].items()}  # fmt: skip
    assert form.check_layout("pairs", shapes)["p"] == 3
    many = form.LARGEST_SUM + 1
    shapes = {
        name: (tuple(many if n == "D" else 3 for n in form.LAYOUT["pairs"][name].split()), whole)
        for name, (_, whole) in shapes.items()
    }
    with pytest.raises(CrossproofError, match="has D = 1,000,001; the limit is 1,000,000"):
        form.check_layout("pairs", shapes)


def test_what_does_not_fit_the_limits_is_refused_unread(folder: Path) -> None:
    for limits, complaint in (
        (form.Limits(memory=1000), "bytes of memory; the limit is 1,000: allow more with --memory"),
        (form.Limits(operations=1000), "operations; the limit is 1,000: .* --operations"),
    ):
        with pytest.raises(CrossproofError, match=complaint):
            verify(folder, limits=limits)


def test_bytes_that_become_eight_are_counted(made: dict[str, Path], tmp_path: Path) -> None:
    """A million numbers of one byte: counted as eight each, and refused before they are read."""
    copied(made["boxes"], tmp_path)
    edit_tensors(tmp_path, lambda t: t.update({"proof.tree": np.zeros(1_000_000, np.int8)}))
    tracemalloc.start()
    with pytest.raises(CrossproofError, match=r"needs 9,0.* bytes of memory"):
        verify(tmp_path, limits=form.Limits(memory=4_000_000))
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_a_process_that_computes_otherwise_is_refused(folder: Path) -> None:
    assert torch.set_flush_denormal(True)
    try:
        with pytest.raises(CrossproofError, match="flushes small numbers to zero"):
            verify(folder)
    finally:
        torch.set_flush_denormal(False)
    assert verify(folder).holds


def test_ones_own_network_has_the_hash_of_the_certificate(tmp_path: Path) -> None:
    network = small.random_network(3, 4, 2)
    network = small.replace(network, skip=torch.zeros_like(network.skip))
    tensors = {name: tensor.numpy() for name, tensor in network.tensors().items()}
    single = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    del single["skip"]
    save_file(single, tmp_path / "plain.safetensors")
    assert network_hash(tmp_path / "plain.safetensors") == network.hash
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    module[0].load_state_dict({"weight": network.W_in.T, "bias": network.b_in})
    module[2].load_state_dict({"weight": network.W_out.T, "bias": network.b_out})
    assert Network.of_module(module).hash == network.hash
    state = {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}
    save_file(dict(reversed(state.items())), tmp_path / "model.safetensors")
    assert network_hash(tmp_path) == network.hash
    save_file({f"network.{k}": t.copy() for k, t in tensors.items()} | {"domain.x": np.zeros(2)},
              tmp_path / "network.safetensors")  # fmt: skip
    assert network_hash(tmp_path) == network.hash
    save_file({"0.weight": np.zeros((2, 2))}, tmp_path / "other.safetensors")
    with pytest.raises(CrossproofError, match="is no network of one hidden layer"):
        network_hash(tmp_path / "other.safetensors")
    for name, shape in (("b_out", ()), ("W_in", ()), ("b_in", (3,)), ("b_in", (0,))):
        save_file(single | {name: np.ones(shape)}, tmp_path / "other.safetensors")
        with pytest.raises(CrossproofError, match=f"{name} has shape .* is needed"):
            network_hash(tmp_path / "other.safetensors")
    for path in (tmp_path / "none", tmp_path / ("x" * 300), "0123456789ab", "a\0b"):
        with pytest.raises(CrossproofError, match=r"is no network: give .* all 64 digits"):
            network_hash(path)
    widths = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 5), "2.bias": (2,)}
    save_file({name: np.zeros(s) for name, s in widths.items()}, tmp_path / "w.safetensors")
    with pytest.raises(CrossproofError, match="their widths differ"):
        network_hash(tmp_path / "w.safetensors")
    module[1] = torch.nn.GELU()
    with pytest.raises(CrossproofError, match="does not compute"):
        Network.of_module(module)
    assert load_file(tmp_path / "w.safetensors")
