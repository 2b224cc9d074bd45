"""Audits suspect texts against trusted ones, on any model: fits, calibrates, scores, ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.activations.corpus import fitting_context
from crossproof.auditing.config import DETECTORS, AuditSettings, check_audit
from crossproof.auditing.detectors import Detector, detectors, fit_all, score_all
from crossproof.auditing.dictionary import opened, trained
from crossproof.auditing.readings import TextReading, read_batches
from crossproof.auditing.result import (
    AuditedWith,
    AuditResult,
    ColouredTexts,
    DetectorSummary,
    RankedText,
    ScoredTokens,
    SuspectTexts,
    TrustedTexts,
)
from crossproof.auditing.scores import TokenTable, token_table
from crossproof.auditing.texts import TextRows, text_rows
from crossproof.crosscoder.encode import for_figures
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.contexts import token_strings
from crossproof.evaluation.slices import (
    SLICES,
    Rows,
    Tell,
    forget,
    joined,
    read_slices,
    subject_of,
    telling,
)
from crossproof.interactions import mlp_views
from crossproof.interactions.views import described
from crossproof.lm import LanguageModel
from crossproof.training import distributed
from crossproof.working import told

BATCH, SLICE_TEXTS = 16, 64
"""Texts a forward pass, and a slice."""
MOST = 300
"""Trusted texts that detectors are fitted on, and that they are calibrated on, at most."""
NUMBERS = 2**27
"""Activations of the fitted texts that are kept, at most: 512 MiB."""
LAYERS = ("I", "error", "loss")
"""What the coloured texts show."""

Scores = dict[str, NDArray[np.float64]]
"""By detector, one number a text."""


@dataclass(frozen=True, eq=False)
class TrustedParts:
    """The trusted texts, dealt out: detectors never see what their thresholds come from."""

    train: Int[Tensor, "A T"]
    fit: Int[Tensor, "F T"]
    calibrate: Int[Tensor, "C T"]


def audit(
    model: LanguageModel,
    trusted: str | Sequence[str],
    suspect: str | Sequence[str],
    crosscoder: Crosscoder | Path | str | None = None,
    settings: AuditSettings = AuditSettings(),  # noqa: B008  (frozen)
    output: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[str, int, int], None] | None = None,
) -> AuditResult:
    """Ranks suspect texts by how unusual the model's insides are on them.

    Texts are a list of documents, or a source: a .txt or .jsonl file, hf:NAME, packed tokens, or
    `bundled`. Without a crosscoder (or the folder of one) one is trained on part of the trusted
    texts. With `output`, audit.json and a crosscoder trained here are written there, and processes
    of torchrun share out the scoring. `say` gets lines about what begins, `progress` what is being
    done, how much of it, and of how much. Raises CrossproofError for texts that are missing, empty
    or too few, an unknown detector, and a crosscoder of another model.
    """
    check_audit(settings)
    given: Crosscoder | None = None
    shown, origin = progress or (lambda _doing, _done, _total: None), "trained here"
    if isinstance(crosscoder, str | Path):
        given, origin = opened(model, Path(crosscoder)), str(crosscoder)
    elif crosscoder is not None:
        given, origin = for_figures(crosscoder), "given in memory"
    context = fitting_context(settings.context, model)
    usual = text_rows(trusted, model, context, "train")
    odd = text_rows(suspect, model, context, "held_out")
    parts = dealt(usual.tokens, given is None, settings.seed)
    tell = progress and partial(progress, "training")
    used = given or trained(model, parts.train, usual.source, settings, output, say, tell)
    say(f"fitting detectors on {len(parts.fit)} trusted texts")
    fitted = _fitted(model, used, parts.fit, partial(shown, "fitting"))
    say(f"scoring {len(parts.calibrate)} other trusted texts and {len(odd)} suspect ones")
    scoring = partial(_scored, model, used, fitted, parts.fit, output)
    calibration = scoring(parts.calibrate, "calibrating", shown)
    scores = scoring(odd.tokens, "scoring", shown)
    p_values = {name: chances(calibration[name], scores[name]) for name in scores}
    order = np.lexsort((-scores[settings.detector], p_values[settings.detector]))
    result = AuditResult(
        model=model.name,
        model_hash=model.weights_hash,
        settings=AuditedWith(
            **asdict(settings),
            trusted=usual.source,
            suspect=odd.source,
            crosscoder=origin,
        ),
        trusted=TrustedTexts(len(usual), usual.cut, *map(len, vars(parts).values())),
        suspect=SuspectTexts(len(odd), odd.cut),
        detectors=_summaries(p_values, flag_level(len(parts.calibrate))),
        texts=[_ranked(model, odd, int(at), scores, p_values) for at in order],
        shown=_coloured(model, used, odd, parts, order[: settings.shown]),
        views={str(b): described(v, used) for b, v in mlp_views(model, used).items()},
    )
    if output is not None and distributed.rank() == 0:
        result.save(output / "audit.json")
    forget(output and output / SLICES)
    return result


def _summaries(p_values: Scores, level: float) -> dict[str, DetectorSummary]:
    return {
        name: DetectorSummary(
            **vars(DETECTORS[name]), level=level, flagged=int((values <= level).sum())
        )
        for name, values in p_values.items()
    }


def dealt(trusted: Int[Tensor, "S T"], train: bool, seed: int) -> TrustedParts:
    """Trusted texts at random: a fifth (at most 300) to fit detectors, as many to calibrate them,
    the rest to train on; without training, half each.

    Raises CrossproofError if there are too few.
    """
    size = min(MOST, len(trusted) // (5 if train else 2))
    if size < 20:
        least = 100 if train else 40
        instead = "" if not train else ", or 40 and a finished --crosscoder"
        raise CrossproofError(
            f"There are {len(trusted)} trusted texts, too few to know what is usual; give at "
            f"least {least}{instead}."
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = trusted[torch.randperm(len(trusted), generator=generator)]
    return TrustedParts(shuffled[2 * size :], shuffled[:size], shuffled[size : 2 * size])


def chances(usual: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often a trusted text scores at least as high, the text itself counted among them."""
    above = (usual >= scores[:, None]).sum(1)
    chance: NDArray[np.float64] = (above + 1) / (len(usual) + 1)
    return chance


def flag_level(calibration: int) -> float:
    """The chance at or below which a text is flagged: 1%, or the least that can be found."""
    return max(0.01, 1 / (calibration + 1))


def _fitted(
    model: LanguageModel, crosscoder: Crosscoder, rows: Int[Tensor, "S T"], tell: Tell
) -> dict[str, Detector]:
    per_token = len(crosscoder.hookpoints) * crosscoder.d_model
    readings: list[TextReading] = []
    kept = 0
    batches = read_batches(model, crosscoder, rows)
    for reading in told(batches, lambda each: each.end, len(rows), tell):
        readings.append(reading)
        kept += len(reading.token_ids) * per_token
        if kept > NUMBERS:
            break
    made = detectors(gated=any(view.dictionary.mlp.gated for view in readings[0].seen.values()))
    fit_all(made, readings)
    return made


def _scored(
    model: LanguageModel,
    crosscoder: Crosscoder,
    fitted: dict[str, Detector],
    fitted_on: Int[Tensor, "F T"],
    output: Path | None,
    rows: Int[Tensor, "S U"],
    doing: str,
    progress: Callable[[str, int, int], None],
) -> Scores:
    """Scores of all texts, read in slices that torchrun's processes share out."""

    def read(first: int, part: Tensor) -> Rows:
        readings = read_batches(model, crosscoder, part, BATCH, first=first)
        tell = telling(partial(progress, doing), first, len(rows))
        scores = score_all(fitted, told(readings, lambda each: each.end - first, len(part), tell))
        return {name: torch.from_numpy(values) for name, values in scores.items()}

    slices = [rows[at : at + SLICE_TEXTS] for at in range(0, len(rows), SLICE_TEXTS)]
    subject = partial(subject_of, model, crosscoder, fitted_on, sorted(fitted))
    scores = list(read_slices(output and output / SLICES / doing, slices, subject, read))
    return {name: joined(scores)[name].numpy() for name in fitted}


def _ranked(
    model: LanguageModel, suspect: TextRows, index: int, scores: Scores, p_values: Scores
) -> RankedText:
    ids = [i for i in suspect.tokens[index].tolist() if i not in model.special_ids]
    return RankedText(
        index,
        "".join(token_strings(model.tokenizer, ids[:40])),
        {name: float(values[index]) for name, values in p_values.items()},
        {name: float(values[index]) for name, values in scores.items()},
    )


def _coloured(
    model: LanguageModel,
    crosscoder: Crosscoder,
    suspect: TextRows,
    parts: TrustedParts,
    indices: NDArray[np.int64],
) -> ColouredTexts:
    """Tokens of the first texts with their scores, and what is usual of trusted tokens."""
    usual = token_table(read_batches(model, crosscoder, parts.calibrate)).columns
    rows = suspect.tokens[torch.from_numpy(indices)]
    table = token_table(read_batches(model, crosscoder, rows))
    return ColouredTexts(
        {layer: float(np.median(usual[layer])) for layer in LAYERS},
        {layer: float(np.quantile(usual[layer], 0.99)) for layer in LAYERS},
        [_scored_tokens(model, table, row, int(index)) for row, index in enumerate(indices)],
    )


def _scored_tokens(model: LanguageModel, table: TokenTable, row: int, index: int) -> ScoredTokens:
    mine = table.text == row
    tokens = token_strings(model.tokenizer, table.ids[mine].tolist())
    values = {layer: table.columns[layer][mine].round(4).tolist() for layer in LAYERS}
    return ScoredTokens(index, list(tokens), values)
