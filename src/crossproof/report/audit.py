"""The page of an audit: which texts stand out, by which detectors, and where inside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossproof.evaluation.contexts import Context
from crossproof.report.page import page_template, write_page
from crossproof.report.passages import Piece, pieces

LISTED = 20
LAYERS = {
    "I": ("Interaction I", "--run-1"),
    "error": ("Reconstruction error", "--run-2"),
    "loss": ("Loss", "--run-5"),
}
KINDS = {
    "interaction": "interactions inside MLPs",
    "latents": "latents alone",
    "activations": "activations",
    "model": "the model's loss",
    "text": "the text alone",
}


@dataclass(frozen=True)
class Layer:
    """One text coloured by one quantity."""

    label: str
    colour: str
    pieces: tuple[Piece, ...]


def write_audit(folder: Path, content: Mapping[str, Any]) -> Path:
    """Writes `folder`/report.html about the content of audit.json, and returns its path.

    Raises CrossproofError if the page cannot be written.
    """
    name = content["settings"]["detector"]
    page = page_template("audit.html.jinja").render(
        headline=headline(content),
        sentences=sentences(content),
        content=content,
        name=name,
        kinds=KINDS,
        ranked=content["texts"][:LISTED],
        coloured=coloured(content["shown"]),
        layers=LAYERS,
    )
    return write_page(folder / "report.html", page)


def headline(content: Mapping[str, Any]) -> str:
    """How many texts stand out by the ranking detector, and by the best that knows less."""
    name, texts = content["settings"]["detector"], content["suspect"]["texts"]
    flagged = content["detectors"][name]["flagged"]
    expected = content["detectors"][name]["level"] * texts
    beside = "no more than chance would give" if flagged <= 2 * expected + 1 else "beyond chance"
    said = f"{flagged} of {texts} suspect texts stand out by “{name}”: {beside}"
    if flagged == 0:
        said = f"None of {texts} suspect texts stands out by “{name}”"
    best = simplest(content)
    if best != name and content["detectors"][best]["flagged"] > flagged:
        said += f"; {content['detectors'][best]['flagged']} by “{best}”"
    return said


def simplest(content: Mapping[str, Any]) -> str:
    """The detector that flags most of those that look at no interactions."""
    found = content["detectors"]
    simple: list[str] = [n for n, entry in found.items() if entry["kind"] != "interaction"]
    return max(simple, key=lambda name: found[name]["flagged"])


def sentences(content: Mapping[str, Any]) -> list[str]:
    """What was done, and what the simplest detectors say beside the chosen one."""
    trusted, name = content["trusted"], content["settings"]["detector"]
    found = content["detectors"]
    level, texts = found[name]["level"], content["suspect"]["texts"]
    lines = [
        f"Detectors were fitted on {trusted['fit']} trusted texts and calibrated on "
        f"{trusted['calibrate']} others; a text is flagged if at most {level:.1%} of trusted "
        f"texts score as high. Of {texts} texts about {level * texts:.1f} are flagged by chance.",
        f"“{name}” ({found[name]['about']}) flags {found[name]['flagged']}.",
    ]
    best = simplest(content)
    if best != name and found[best]["flagged"] >= found[name]["flagged"]:
        lines.append(
            f"A simpler detector does as well: “{best}” ({found[best]['about']}) flags "
            f"{found[best]['flagged']}. What stands out need not be an interaction."
        )
    if content["suspect"]["cut"] or trusted["cut"]:
        lines.append(
            f"{content['suspect']['cut']} suspect and {trusted['cut']} trusted texts were longer "
            f"than the context, and only their beginnings were read."
        )
    return lines


def coloured(shown: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The first texts, each coloured by every layer: how far a token is above the trusted median.

    Full strength is the largest among the shown texts, or the 99th percentile of trusted tokens.
    """
    scales = {}
    for layer in LAYERS:
        values = [max(text["values"][layer]) for text in shown["texts"]]
        scales[layer] = max([shown["high"][layer], *values]) - shown["median"][layer]
    found = []
    for text in shown["texts"]:
        layers = []
        for layer, (label, colour) in LAYERS.items():
            above = [max(0.0, v - shown["median"][layer]) for v in text["values"][layer]]
            context = Context(tuple(text["tokens"]), tuple(above), above.index(max(above)))
            layers.append(Layer(label, colour, tuple(pieces(context, scales[layer]))))
        found.append({"place": text["place"], "layers": layers})
    return found
