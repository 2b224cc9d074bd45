"""Audits suspect texts against trusted ones, on any model: fits, calibrates, scores, ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.activations.corpus import fitting_context
from crossproof.activations.positions import scored_positions
from crossproof.auditing.config import DETECTORS, AuditSettings, check_audit
from crossproof.auditing.detectors import Detector, detectors, fit_all, score_all
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
from crossproof.crosscoder.model import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.store import Provenance, save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.contexts import token_strings
from crossproof.interactions import mlp_views
from crossproof.interactions.views import described
from crossproof.lm import LanguageModel
from crossproof.training.config import DEMO, RunConfig, config_to_dict
from crossproof.training.run_folder import RunFolder
from crossproof.training.together import train_together

Tell = Callable[[int, int], None]
"""Called with how many texts are done, and of how many."""

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
    progress: Callable[[str, int, int], None] = lambda _doing, _done, _total: None,
) -> AuditResult:
    """Ranks suspect texts by how unusual the model's insides are on them.

    Texts are a list of documents, or a source: a .txt or .jsonl file, hf:NAME, packed tokens, or
    `bundled`. Without a crosscoder (or the folder of one) one is trained on part of the trusted
    texts. With `output`, audit.json and a crosscoder trained here are written there. `say` gets
    lines about what begins, `progress` what is being done, texts done and their number. Raises
    CrossproofError for texts that are missing, empty or too few, an unknown detector, and a
    crosscoder of another model.
    """
    check_audit(settings)
    given: Crosscoder | None = None
    origin = "trained here"
    if isinstance(crosscoder, str | Path):
        given, origin = _opened(model, Path(crosscoder)), str(crosscoder)
    elif crosscoder is not None:
        given, origin = for_figures(crosscoder), "given in memory"
    context = fitting_context(settings.context, model)
    usual = text_rows(trusted, model, context, "train")
    odd = text_rows(suspect, model, context, "held_out")
    parts = dealt(usual.tokens, given is None, settings.seed)
    used = given or _trained(model, parts.train, usual.source, settings, output, say)
    say(f"fitting detectors on {len(parts.fit)} trusted texts")
    fitted = _fitted(model, used, parts.fit, partial(progress, "fitting"))
    say(f"scoring {len(parts.calibrate)} other trusted texts and {len(odd)} suspect ones")
    calibration = _scored(model, used, fitted, parts.calibrate, partial(progress, "calibrating"))
    scores = _scored(model, used, fitted, odd.tokens, partial(progress, "scoring"))
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
    if output is not None:
        result.save(output / "audit.json")
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


def _opened(model: LanguageModel, folder: Path) -> Crosscoder:
    run = RunFolder.open(folder)
    if len(run.names) > 1:
        raise CrossproofError(
            f"{folder} holds {len(run.names)} crosscoders: give one, such as "
            f"{run.folders[run.names[0]]}."
        )
    return run.crosscoders(model)[run.names[0]]


def _trained(
    model: LanguageModel,
    rows: Int[Tensor, "S T"],
    source: str,
    settings: AuditSettings,
    output: Path | None,
    say: Callable[[str], None],
) -> Crosscoder:
    config = RunConfig(
        model=model.name,
        text=source,
        context=rows.shape[1],
        crosscoder=CrosscoderConfig(n_latents=settings.n_latents, k=16),
        optimisation=DEMO.optimisation,
        baseline=False,
        steps=settings.steps,
        batch_tokens=1024,
        seed=settings.seed,
    )
    # Short texts need few tokens a step; a batch may hold no more than there are.
    scored = int(scored_positions(rows, model.special_ids).sum())
    if scored < config.batch_tokens:
        raise CrossproofError(
            f"The trusted texts leave {scored} tokens to train a crosscoder on, fewer than one "
            f"batch of {config.batch_tokens}: give more text, or a finished --crosscoder."
        )
    say(f"training a crosscoder on {len(rows)} trusted texts ({scored:,} tokens)")
    crosscoder = train_together(model, rows, {"audit": config}, say)["audit"]
    if output is not None:
        origin = Provenance(model.name, model.weights_hash, settings.seed, config_to_dict(config))
        save_crosscoder(crosscoder, output / "crosscoder", origin)
    crosscoder.fold()
    return crosscoder


def _fitted(
    model: LanguageModel, crosscoder: Crosscoder, rows: Int[Tensor, "S T"], tell: Tell
) -> dict[str, Detector]:
    per_token = len(crosscoder.hookpoints) * crosscoder.d_model
    readings: list[TextReading] = []
    kept = 0
    for reading in _told(read_batches(model, crosscoder, rows), len(rows), tell):
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
    rows: Int[Tensor, "S T"],
    tell: Tell,
) -> Scores:
    return score_all(fitted, _told(read_batches(model, crosscoder, rows), len(rows), tell))


def _told(readings: Iterable[TextReading], total: int, tell: Tell) -> Iterator[TextReading]:
    """The readings, and how many texts are done after each."""
    done = 0
    for reading in readings:
        yield reading
        done += len(reading.tokens)
        tell(done, total)


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
