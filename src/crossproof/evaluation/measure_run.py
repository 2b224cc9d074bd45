"""Measures the crosscoders of run folders on one text and writes what it finds beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crossproof.activations import read_sequences
from crossproof.activations.corpus import Split
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.attention import attention_figures
from crossproof.evaluation.contexts import top_contexts
from crossproof.evaluation.pair_contexts import pair_examples
from crossproof.evaluation.pair_summary import owners, pair_rows, ratios, square, totals
from crossproof.evaluation.pair_sums import Measurement, measure
from crossproof.files import write_json
from crossproof.lm import LanguageModel
from crossproof.training.run_folder import check_model, run_crosscoders

SCHEMA = 1
SHOWN_SEQUENCES = 256
"""Contexts and second differences come from this many of the measured sequences at most."""

Progress = Callable[[str, int, int], None]
"""Called with a crosscoder's name, sequences measured and their number."""


@dataclass(frozen=True)
class Corpus:
    """The text that is measured."""

    text: str
    split: Split
    tokens: int
    """At least so many, if the split has them."""
    context: int
    """Tokens a sequence."""


def measure_runs(
    model: LanguageModel,
    folders: list[Path],
    output: Path,
    corpus: Corpus,
    pairs: int = 12,
    progress: Progress | None = None,
    attention: bool = True,
) -> dict[str, Any]:
    """Measures every crosscoder of `folders`; writes sums and measure.json into `output`.

    Returns the content of measure.json. With several crosscoders, each is compared with the first
    (`ratios`) if it decodes at the same MLPs' inputs; those that decode at none are passed over
    if another does. With `attention`, what attention scores are made of is measured too; a
    crosscoder or model for which that is not possible has the reason instead. Raises
    CrossproofError if a crosscoder explains another model, or if none writes an MLP's input.
    """
    sequences = read_sequences(corpus.text, model, corpus.context, corpus.split)
    sequences = sequences[: max(1, -(-corpus.tokens // corpus.context))]
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "model": model.name,
        "model_hash": model.weights_hash,
        "corpus": asdict(corpus) | {"sequences": len(sequences)},
        "runs": {},
        "ratios": {},
    }
    first: Measurement | None = None
    for name, crosscoder in measurable(named_crosscoders(model, folders)).items():

        def tell(done: int, total: int, name: str = name) -> None:
            if progress is not None:
                progress(name, done, total)

        measured = measure(model, crosscoder, sequences, progress=tell)
        measured.interactions.save(output / name.replace("/", "-"))
        content["runs"][name] = _figures(model, crosscoder, measured, sequences, pairs)
        if attention:
            content["runs"][name]["attention"] = _attention(model, crosscoder, sequences)
        if first is not None and first.interactions.blocks == measured.interactions.blocks:
            content["ratios"][name] = ratios(first, measured)
        first = measured if first is None else first
    write_json(output / "measure.json", content)
    return content


def measurable(crosscoders: dict[str, Crosscoder]) -> dict[str, Crosscoder]:
    """Those with a decoder at an MLP's input; if none has, all, so that measuring says so."""
    some = {name: c for name, c in crosscoders.items() if c.hookpoints.mlp_blocks}
    return some or crosscoders


def named_crosscoders(model: LanguageModel, folders: list[Path]) -> dict[str, Crosscoder]:
    """Crosscoders by name; names of a second folder's are preceded by that folder's."""
    found: dict[str, Crosscoder] = {}
    for folder in folders:
        for name, (crosscoder, provenance) in run_crosscoders(folder).items():
            check_model(model, provenance, folder)
            full = name if folder == folders[0] else f"{folder.name}/{name}"
            if full in found:
                raise CrossproofError(
                    f"There are two crosscoders named {full}: give folders with different names."
                )
            found[full] = crosscoder
    return found


def _attention(model: LanguageModel, crosscoder: Crosscoder, sequences: Any) -> dict[str, Any]:
    try:
        return attention_figures(model, crosscoder, sequences)
    except CrossproofError as error:
        return {"missing": str(error)}


def _figures(
    model: LanguageModel, crosscoder: Crosscoder, measured: Measurement, sequences: Any, pairs: int
) -> dict[str, Any]:
    found, some = measured.interactions, sequences[:SHOWN_SEQUENCES]
    top = found.top_pairs(pairs, normalise="sum")
    chosen = [(int(h), int(k)) for h, k in found.pairs[top].tolist()]
    examples = pair_examples(model, crosscoder, some, chosen)
    latents = sorted({latent for pair in chosen for latent in pair})
    contexts = top_contexts(model, crosscoder, some, latents, contexts=2) if latents else []
    return {
        "tokens": found.tokens,
        "pairs": len(found.pairs),
        "blocks": list(found.blocks),
        "gated": found.gated,
        "seconds": {name: round(value, 2) for name, value in measured.seconds.items()},
        "totals": totals(measured),
        "owners": owners(found),
        "matrix": square(found),
        "top_pairs": pair_rows(found, top, examples, contexts),
    }
