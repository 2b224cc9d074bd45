"""What a model is like whose layers transcoders have replaced, and its rows for tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from crossproof.tables import Estimate, Row, Table

REPLACED = "What the dictionary writes takes the model’s place at scored positions, as it runs."


@dataclass(frozen=True)
class ReplacedLayers:
    """Cross-entropy where everything that the dictionary writes is its own, in one pass."""

    hookpoints: tuple[str, ...]
    """What is replaced, at scored positions."""
    loss: Estimate
    """Nats a scored token."""
    increase: Estimate
    """Over the model's own."""
    recovered: Estimate
    """1 - increase over that of zeros in their place."""
    active_parameters: Estimate
    """A token: the vectors and biases of its active latents, and the affine skips."""
    mlp_parameters: int | None = None
    """Of the MLPs whose outputs are replaced; None where something else is."""
    alone: dict[str, float] | None = None
    """Increase where each hookpoint is replaced alone, at the model's own inputs."""


def replaced_table(columns: tuple[str, ...], made: Sequence[ReplacedLayers | None]) -> Table:
    """Dictionaries side by side; without rows where none has replaced anything."""
    return Table("Layers replaced", columns, tuple(_rows(made)), note=REPLACED)


def _rows(made: Sequence[ReplacedLayers | None]) -> Iterator[Row]:
    if not any(made):
        return
    for name, label, note in (
        ("loss", "Cross-entropy", "nats a token, all replaced at once"),
        ("increase", "Increase", "over the model's own"),
        ("recovered", "Recovered", "of what zeros in their place would cost"),
        ("active_parameters", "Active parameters", "vectors of active latents and skips, a token"),
        ("mlp_parameters", "MLP parameters", "of the MLPs replaced"),
    ):
        values = tuple(None if each is None else getattr(each, name) for each in made)
        if any(value is not None for value in values):
            yield Row(label, values, note)
    places = dict.fromkeys(place for each in made if each for place in each.alone or {})
    for place in places:
        values = tuple((each.alone or {}).get(place) if each else None for each in made)
        yield Row(f"{place} alone", values, "increase, at the model's own input")


def unreplaced_note(reasons: Mapping[str, str | None]) -> str:
    """Why layers that dictionaries write are not replaced, by name, where they are not."""
    told = [
        f"What {name} writes is not put in the model’s place: {why}."
        for name, why in reasons.items()
        if why
    ]
    return " ".join(told)
