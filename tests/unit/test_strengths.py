"""`train` says how much a recipe's strengths weigh beside dictionaries of other sizes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from crossproof.commands.train import say_weight
from crossproof.training.config import DEMO, Objective


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (13 * 128, ""),
        (17 * 128, ""),
        (128, "13 times as much .*: --interaction 0.385 --keep-largest 15.4 --all-latents 3.85"),
        (30 * 576, ""),
    ],
)
def test_weights_beside_other_sizes_are_said(
    width: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say_weight(DEMO, width)
    error = capsys.readouterr().err
    assert re.search(said, error) if said else error == ""


def test_nothing_is_said_of_no_penalty(capsys: pytest.CaptureFixture[str]) -> None:
    say_weight(replace(DEMO, objective=Objective()), 128)
    assert capsys.readouterr().err == ""
