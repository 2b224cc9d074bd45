"""What commands end with: the step that a run folder has not seen yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossproof.crosscoder.folders import finished_crosscoders
from crossproof.errors import CrossproofError, in_shell
from crossproof.files import read_json

STEPS = {
    "measure": ("measure/measure.json", "which latents interact, where and on which texts"),
    "cluster": ("clusters/clusters.json", "groups of latents that interact, explained and judged"),
    "attribute": ("attribution/attribution.json", "at which steps a proof about the model fails"),
}
"""Commands on a run folder, in the order of use: what they leave there, and what they say."""


def next_step(run: Path, together: Sequence[Path] = ()) -> str:
    """A sentence that names the next command on a run folder, or what to look at.

    `together`: run folders whose dictionaries were taken at once; only `measure` does that, too.
    """
    place = run / "together" if together else run
    names = " ".join(map(in_shell, together or [run])) + (" --together" if together else "")
    for command, (left, says) in STEPS.items():
        if together and command != "measure":
            continue
        if command == "attribute" and not _attributable(run):
            continue
        if not (place / left).exists():
            return f"Next: `crossproof {command} {names}` shows {says}."
    pages = [place / "report.html", *sorted(place.glob("evaluation-*/report.html"))]
    page = next((page for page in pages if page.exists()), None)
    if page is None:
        return f"Next: `crossproof evaluate {names}` makes a report of all of it."
    more = f"`crossproof explore {in_shell(run)}` shows more"
    return f"Next: open {page}, which holds all of it; {more}."


def _attributable(run: Path) -> bool:
    """Whether `attribute` can walk through every block: not of most dictionaries of others."""
    try:
        folders = finished_crosscoders(run).values()
        return any(_everywhere(read_json(each / "config.json")) for each in folders)
    except (CrossproofError, LookupError, TypeError):
        return True  # the command itself says what is wrong


def _everywhere(config: dict[str, Any]) -> bool:
    places = ("resid_pre", "resid_mid", "mlp_in")
    blocks = config["hookpoints"]["blocks"]
    return all(block[place] is not None for block in blocks for place in places)
