"""What latents of several dictionaries are called in tables."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from crossproof.evaluation.measurement import (
    InteractionSquare,
    MeasurementResult,
    PairFigures,
    pairs_table,
)
from crossproof.evaluation.naming import abbreviated, pair_name
from crossproof.evaluation.results import BlockEstimate

NAMED: dict[str, tuple[list[str], list[str], str]] = {
    "short": (["sae", "clt"], ["sae", "clt"], ""),
    "a layer each": (
        ["blocks.9.mlp.hook_in", "blocks.10.mlp.hook_in"],
        ["9", "10"],
        "10:N is latent N of blocks.10.mlp.hook_in, and so on.",
    ),
    "whole words": (
        ["layer_1", "layer_10"],
        ["1", "10"],
        "10:N is latent N of layer_10, and so on.",
    ),
    "no common ends": (["run/attention", "layer_3"], ["A", "B"], "B:N is latent N of layer_3."),
    "one": (["blocks.0.mlp"], ["A"], "A:N is latent N of blocks.0.mlp."),
    "one in another": (["mlp.1", "mlp.1.1"], ["A", "B"], "B:N is latent N of mlp.1.1."),
}


@pytest.mark.parametrize("case", NAMED)
def test_names_of_dictionaries_are_short_in_tables(case: str) -> None:
    names, short, said = NAMED[case]
    starts = {name: 100 * at for at, name in enumerate(names)}
    last = starts[names[-1]]
    made, sentence = abbreviated(starts, [last + 5])
    assert list(made) == short
    assert list(made.values()) == list(starts.values())
    assert sentence.startswith(said)
    assert bool(sentence) == bool(said)
    assert pair_name((last + 5, last + 7), made) == f"{short[-1]}:5\u00a0{short[-1]}:7"


def test_letters_of_many_dictionaries() -> None:
    made, sentence = abbreviated({f"{'x' * at}/{at}": at for at in range(1, 30)}, [3, 29])
    assert list(made)[:2] == ["AA", "AB"]
    assert len(made) == 29
    assert sentence == f"AC:N is latent N of xxx/3; BC:N is latent N of {'x' * 29}/29."


def test_pairs_of_many_layers_stand_in_eighty_columns() -> None:
    """A line a pair: dictionaries of real names, and latents of four digits."""
    names = [f"blocks.{at}.mlp.hook_in" for at in range(12)]
    forms = dict.fromkeys(("I", "J", "Q"), 123.4)
    pair = PairFigures((1023, 12287), 64, (80, 90), 7.674, forms, 14.73, {"11": 1.0}, (), (), 2.932)
    result = MeasurementResult(
        *(1006, 1, (11,), False, {}, {form: BlockEstimate(1.0, None) for form in forms}, {}),
        *(InteractionSquare(), (pair,)),
        dictionaries={name: 1024 * at for at, name in enumerate(names)},
    )
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(pairs_table("Strongest pairs", result).to_rich())
    assert "0:1023\u00a011:1023" in console.export_text()
