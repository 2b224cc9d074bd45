"""`crossproof push`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from crossproof.commands.early import loading
from crossproof.commands.parsing import parse
from crossproof.crosscoder.folders import finished_crosscoders, own_folder
from crossproof.errors import CrossproofError, in_shell, nearest
from crossproof.working import working

if TYPE_CHECKING:
    from crossproof.evaluation.results import EvaluationResult, RunEvaluation
    from crossproof.tables import Estimate

FIGURES = {
    "fvu": "FVU",
    "l0": "L0",
    "dead": "dead latents",
    "ce_recovered": "CE recovered",
    "interaction": "interaction I",
    "dominant_share": "dominant share",
}
"""Attributes of an evaluation, and what the card calls them."""


@dataclass(frozen=True)
class Push:
    """Put a finished crosscoder onto the Hugging Face Hub, with a model card.

    The card holds the figures of the run's results.json, where the crosscoder comes from, and how
    to load it by the repository's id:

      crossproof push runs/demo my-name/stories-crosscoder --name penalised
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A folder written by `crossproof train` or `crossproof import`, or one crosscoder's own."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    """OWNER/NAME on the Hub; made if it does not exist. Log in first: hf auth login."""
    name: str = ""
    """Which of the run's crosscoders; needed where there are several."""
    model: str = ""
    """What the card calls the language model, such as its id; by default the name by which it was
    loaded, which of a folder of yours is its path."""
    private: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Make the repository a private one, if it is made."""
    message: str = "A crosscoder of crossproof"
    """Of the commit."""


def run(arguments: Sequence[str], began: float) -> None:
    """Uploads the folder with its card, and says where it is."""
    options: Push = parse(Push, "push", arguments)
    folders = finished_crosscoders(options.run)
    name = options.name or next(iter(folders))
    if name not in folders or (not options.name and len(folders) > 1):
        raise CrossproofError(
            f"{options.run} holds the crosscoders {', '.join(folders)}: give one of them by "
            f"--name.{nearest(options.name, folders)}",
            code="CP-NAME",
        )
    check_login()
    with loading():
        from crossproof.crosscoder.model import load_crosscoder

    crosscoder, origin = load_crosscoder(folders[name])
    if options.model:
        origin = replace(origin, model=options.model)
    elif Path(origin.model).exists():
        print(
            f"The card will name the model '{origin.model}': --model says what others know it as."
        )
    one_of_a_run = own_folder(options.run) != options.run  # RUN/penalised: figures are in RUN
    run = options.run.resolve().parent if one_of_a_run else options.run
    figures = card_figures(evaluated(options.run) or evaluated(run), name)
    with working(f"uploading to {options.repository}"):
        address = crosscoder.push_to_hub(
            options.repository, origin, figures, options.private, options.message
        )
    print(f"Crosscoder and card: {address}")
    if not figures:
        named = in_shell(options.run)
        print(f"The card has no figures: `crossproof evaluate {named}`, then push again.")
    print(f"Next: crossproof.Crosscoder.from_pretrained('{options.repository}') loads it anywhere.")


def check_login() -> None:
    """Raises CrossproofError if nobody is logged in, unless another server than the Hub is used."""
    from huggingface_hub import get_token

    if get_token() is None and not os.environ.get("HF_ENDPOINT"):
        raise CrossproofError(
            "Nobody is logged in to the Hub: `hf auth login`, or set HF_TOKEN.", code="CP-HUB"
        )


def evaluated(run: Path) -> RunEvaluation | None:
    """The run's results.json, or that of its evaluation on held-out text; None if there is none."""
    from crossproof.evaluation.results import RunEvaluation

    for path in (run / "results.json", run / "evaluation-held_out" / "results.json"):
        if path.exists():
            return RunEvaluation.load(path)
    return None


def card_figures(results: RunEvaluation | None, name: str) -> dict[str, str]:
    """The figures of one crosscoder as a card shows them, with 95% intervals, and their text."""
    if results is None or name not in results.runs:
        return {}
    figures: EvaluationResult = results.runs[name]
    whole = figures.whole_mid
    found: dict[str, Estimate | None] = {
        "Φ keep-largest": figures.fidelity("keep-largest"),
        "Φ all latents": figures.fidelity("none", whole),
        **{shown: figures.figure(attribute) for attribute, shown in FIGURES.items()},
    }
    from crossproof.tables import cell

    rows = {shown: str(cell(value)) for shown, value in found.items() if value is not None}
    text = results.evaluated_on
    if text is not None:
        where = f"{text.split} sequences of {text.context} tokens, {text.text}"
        rows["evaluated on"] = f"{figures.sequences} {where}; 95% intervals over sequences"
    return rows
