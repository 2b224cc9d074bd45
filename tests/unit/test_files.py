"""Files are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from crossproof.errors import CrossproofError
from crossproof.files import (
    atomic_file,
    atomic_folder,
    filled_folder,
    make_folder,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)


class StoppedError(Exception):
    """Something went wrong halfway."""


def _stop() -> None:
    raise StoppedError


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "first")

    def halfway() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            _stop()

    with pytest.raises(StoppedError):
        halfway()
    assert path.read_text() == "first"
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]


def test_a_folder_is_replaced_only_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_text("1")

    def halfway() -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "b").write_text("2")
            _stop()

    with pytest.raises(StoppedError):
        halfway()
    assert [each.name for each in folder.iterdir()] == ["a"]

    def other() -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "c").write_text("3")

    with pytest.raises(CrossproofError, match=r"folder holds other files \(a\)"):
        other()
    assert [each.name for each in folder.iterdir()] == ["a"]
    with atomic_folder(folder, replacing=("a",)) as temporary:
        (temporary / "c").write_text("3")
    assert [each.name for each in folder.iterdir()] == ["c"]
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    write_text(folder / "a", "1")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)

    def replaced() -> None:
        with atomic_folder(folder, replacing=("a",)) as temporary:
            (temporary / "b").write_text("2")

    with pytest.raises(CrossproofError, match="No space left on device"):
        replaced()
    assert (folder / "a").read_text() == "1"


def test_places_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for write in (
        lambda: write_text(blocked / "x.txt", ""),
        lambda: write_json(blocked / "x.json", {}),
        lambda: write_tensors(blocked / "x.safetensors", {"a": torch.zeros(1)}),
        lambda: make_folder(blocked / "folder"),
    ):
        with pytest.raises(CrossproofError, match=r"Cannot write .*: choose a writable folder"):
            write()


def test_a_file_is_never_replaced_by_a_folder_nor_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("dear")
    (tmp_path / "folder").mkdir()

    def folder_over_file() -> None:
        with atomic_folder(tmp_path / "file") as temporary:
            (temporary / "a").write_text("1")

    with pytest.raises(CrossproofError, match="it is not a folder"):
        folder_over_file()
    with pytest.raises(CrossproofError, match="it is not a file"):
        write_text(tmp_path / "folder", "1")
    assert (tmp_path / "file").read_text() == "dear"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_json_and_tensors_come_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"x": [1, 2.5, None]}
    tensors = {"a": torch.arange(6.0).view(2, 3).T}
    write_tensors(tmp_path / "a.safetensors", tensors)
    assert torch.equal(read_tensors(tmp_path / "a.safetensors")["a"], tensors["a"])


def test_names_that_are_not_utf8_do_not_stop_a_page(tmp_path: Path) -> None:
    write_text(tmp_path / "a.html", "folder \udcff")
    assert (tmp_path / "a.html").read_text() == "folder ?"


def test_json_never_holds_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", None, "is missing"),
        ("a.json", b"{", "cannot be read"),
        ("a.json", b"[1]", "does not hold a JSON object"),
        ("a.json", b"\xff\xfe", "cannot be read"),
        ("a.safetensors", None, "is missing"),
        ("a.safetensors", b"12345678", "damaged or not a safetensors file"),
    ],
)
def test_damaged_files_are_one_sentence(
    name: str, content: bytes | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CrossproofError, match=sentence):
        (read_json if name.endswith("json") else read_tensors)(path)


def fail_in(folder: Path, files: list[Path]) -> None:
    with filled_folder(folder):
        for file in files:
            file.write_text("")
        raise CrossproofError("It cannot be.")


def test_a_folder_that_nothing_came_into_is_taken_away(tmp_path: Path) -> None:
    empty, kept, before = (tmp_path / name for name in ("empty", "kept", "before"))
    before.mkdir()
    for folder in (empty, kept, before):
        with pytest.raises(CrossproofError):
            fail_in(folder, [folder / "file"] if folder == kept else [])
    assert [folder.exists() for folder in (empty, kept, before)] == [False, True, True]
    with filled_folder(None):
        pass
