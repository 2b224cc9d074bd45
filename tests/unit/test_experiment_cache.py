"""The cache: complete entries or none, whoever writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crossproof.errors import CrossproofError
from paper.measuring.cache import ResultCache

KEY = {"steps": 3, "terms": {"a": 1.0, "b": 2.0}}


def write(text: str):  # type: ignore[no-untyped-def]
    return lambda folder: (folder / "result").write_text(text)


def test_an_entry_is_found_by_its_content_whatever_the_order(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path / "cache")
    assert cache.find("kind", KEY) is None
    path = cache.put("kind", KEY, write("one"))
    assert (path / "result").read_text() == "one"
    assert json.loads((path / "key.json").read_text()) == KEY
    assert cache.find("kind", dict(reversed(KEY.items()))) == path
    for other in ({**KEY, "steps": 4}, {**KEY, "terms": {"a": 1.0, "b": 2.5}}):
        assert cache.find("kind", other) is None
    assert cache.find("other", KEY) is None


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)
    cache.get("kind", KEY, write("one"))
    path = cache.get("kind", KEY, write("two"))
    assert (path / "result").read_text() == "one"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_an_interrupted_entry_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    def write_half(folder: Path) -> None:
        (folder / "result").write_text("half")
        raise failure

    cache = ResultCache(tmp_path)
    with pytest.raises(failure):
        cache.put("kind", KEY, write_half)
    assert cache.find("kind", KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_entry(tmp_path: Path) -> None:
    """SIGKILL runs no clean-up: what remains has a temporary name."""

    def die(folder: Path) -> None:
        (folder / "result").write_text("half")
        os._exit(9)

    cache = ResultCache(tmp_path)
    child = os.fork()
    if child == 0:
        cache.put("kind", KEY, die)
    os.waitpid(child, 0)
    assert list(tmp_path.iterdir())
    assert cache.find("kind", KEY) is None
    assert (cache.get("kind", KEY, write("whole")) / "result").read_text() == "whole"


def test_the_second_of_two_writers_gives_way(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)

    def overtaken(folder: Path) -> None:
        (folder / "result").write_text("second")
        cache_of_another = cache.path("kind", KEY)
        cache_of_another.mkdir()
        (cache_of_another / "result").write_text("first")

    path = cache.put("kind", KEY, overtaken)
    assert (path / "result").read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CrossproofError, match=r"choose a writable --cache"):
        ResultCache(tmp_path / "file").put("kind", KEY, write("one"))
