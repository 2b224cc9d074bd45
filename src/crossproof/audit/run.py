"""Audits suspect texts against trusted ones, on any model: fits, calibrates, scores, ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.audit.config import AuditSettings as AuditSettings
from crossproof.audit.detectors import DETECTORS, Detector, detectors, fit_all, score_all
from crossproof.audit.readings import Reading, read
from crossproof.audit.scores import TokenTable, token_table
from crossproof.audit.texts import Texts, read_texts
from crossproof.crosscoder.model import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.store import Provenance, save_crosscoder
from crossproof.errors import CrossproofError, nearest
from crossproof.evaluation.contexts import token_strings
from crossproof.files import write_json
from crossproof.lm import LanguageModel
from crossproof.training.config import DEMO, RunConfig
from crossproof.training.run_folder import check_model, run_crosscoders
from crossproof.training.together import train_together

SCHEMA = 1
MOST = 300
"""Trusted texts that detectors are fitted on, and that they are calibrated on, at most."""
NUMBERS = 2**27
"""Activations of the fitted texts that are kept, at most: 512 MiB."""
LAYERS = ("I", "error", "loss")
"""What the coloured texts show."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The trusted texts, dealt out: detectors never see what their thresholds come from."""

    train: Int[Tensor, "A T"]
    fit: Int[Tensor, "F T"]
    calibrate: Int[Tensor, "C T"]


def audit(
    model: LanguageModel,
    settings: AuditSettings,
    output: Path,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Audits, writes audit.json (and the crosscoder, if trained here), and returns its content.

    Raises CrossproofError for texts that are missing, empty or too few, an unknown detector, and a
    crosscoder of another model.
    """
    if settings.detector not in DETECTORS:
        raise CrossproofError(
            f"There is no detector '{settings.detector}'.{nearest(settings.detector, DETECTORS)}"
        )
    given = None if settings.crosscoder is None else _given(model, settings.crosscoder)
    trusted = read_texts(settings.trusted, model, settings.context, "train")
    suspect = read_texts(settings.suspect, model, settings.context, "held_out")
    parts = dealt(trusted.tokens, given is None, settings.seed)
    crosscoder = given or _trained(model, parts.train, settings, output, say)
    say(f"fitting detectors on {len(parts.fit)} trusted texts")
    found = _fitted(model, crosscoder, parts.fit)
    say(f"scoring {len(parts.calibrate)} other trusted texts and {len(suspect)} suspect ones")
    usual = score_all(found, read(model, crosscoder, parts.calibrate))
    scores = score_all(found, read(model, crosscoder, suspect.tokens))
    p_values = {name: chances(usual[name], scores[name]) for name in scores}
    order = np.lexsort((-scores[settings.detector], p_values[settings.detector]))
    texts = [_text(model, suspect, int(place), scores, p_values) for place in order]
    content = {
        "schema": SCHEMA,
        "model": model.name,
        "model_hash": model.weights_hash,
        "settings": asdict(settings) | {"crosscoder": str(settings.crosscoder or "trained here")},
        "trusted": {"texts": len(trusted), "cut": trusted.cut, **_counts(parts)},
        "suspect": {"texts": len(suspect), "cut": suspect.cut},
        "detectors": _summaries(found, p_values, len(parts.calibrate)),
        "texts": texts,
        "shown": _shown(model, crosscoder, suspect, parts, order[: settings.shown]),
    }
    write_json(output / "audit.json", content)
    return content


def dealt(trusted: Int[Tensor, "S T"], train: bool, seed: int) -> Parts:
    """Trusted texts at random: a fifth (at most 300) to fit detectors, as many to calibrate them,
    the rest to train on; without training, half each.

    Raises CrossproofError if there are too few.
    """
    share = min(MOST, len(trusted) // (5 if train else 2))
    if share < 20:
        least = 100 if train else 40
        instead = "" if not train else ", or 40 and a finished --crosscoder"
        raise CrossproofError(
            f"There are {len(trusted)} trusted texts, too few to know what is usual; give at "
            f"least {least}{instead}."
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = trusted[torch.randperm(len(trusted), generator=generator)]
    return Parts(shuffled[2 * share :], shuffled[:share], shuffled[share : 2 * share])


def chances(usual: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often a trusted text scores at least as high, the text itself counted among them."""
    above = (usual >= scores[:, None]).sum(1)
    chance: NDArray[np.float64] = (above + 1) / (len(usual) + 1)
    return chance


def flag_level(calibration: int) -> float:
    """The chance at or below which a text is flagged: 1%, or the least that can be found."""
    return max(0.01, 1 / (calibration + 1))


def _given(model: LanguageModel, folder: Path) -> Crosscoder:
    found = run_crosscoders(folder)
    if len(found) > 1:
        raise CrossproofError(
            f"{folder} holds {len(found)} crosscoders: give one, such as "
            f"{folder / next(iter(found)) / 'crosscoder'}."
        )
    crosscoder, provenance = next(iter(found.values()))
    check_model(model, provenance, folder)
    return crosscoder


def _trained(
    model: LanguageModel,
    rows: Int[Tensor, "S T"],
    settings: AuditSettings,
    output: Path,
    say: Callable[[str], None],
) -> Crosscoder:
    config = RunConfig(
        model=model.name,
        text=settings.trusted,
        context=rows.shape[1],
        crosscoder=CrosscoderConfig(n_latents=settings.n_latents, k=16),
        optimisation=DEMO.optimisation,
        baseline=False,
        steps=settings.steps,
        batch_tokens=1024,
        seed=settings.seed,
    )
    # Short texts need few tokens a step; a batch may hold no more than there are.
    scored = int((~torch.isin(rows, torch.tensor(sorted(model.special_ids)))).sum())
    if scored < config.batch_tokens:
        raise CrossproofError(
            f"The trusted texts leave {scored} tokens to train a crosscoder on, fewer than one "
            f"batch of {config.batch_tokens}: give more text, or a finished --crosscoder."
        )
    say(f"training a crosscoder on {len(rows)} trusted texts ({scored:,} tokens)")
    crosscoder = train_together(model, rows, {"audit": config}, say)["audit"]
    origin = Provenance(model.name, model.weights_hash, settings.seed, asdict(config))
    save_crosscoder(crosscoder, output / "crosscoder", origin)
    return Crosscoder.from_pretrained(output / "crosscoder")


def _fitted(
    model: LanguageModel, crosscoder: Crosscoder, rows: Int[Tensor, "S T"]
) -> dict[str, Detector]:
    per_token = len(crosscoder.hookpoints) * crosscoder.d_model
    readings: list[Reading] = []
    kept = 0
    for reading in read(model, crosscoder, rows):
        readings.append(reading)
        kept += len(reading.ids) * per_token
        if kept > NUMBERS:
            break
    found = detectors(gated=any(view.mlp.gated for view in readings[0].views.values()))
    fit_all(found, readings)
    return found


def _counts(parts: Parts) -> dict[str, int]:
    return {name: len(getattr(parts, name)) for name in ("train", "fit", "calibrate")}


def _summaries(
    found: dict[str, Detector], p_values: dict[str, NDArray[np.float64]], calibration: int
) -> dict[str, Any]:
    level = flag_level(calibration)
    return {
        name: {
            "kind": DETECTORS[name].kind,
            "about": DETECTORS[name].about,
            "level": level,
            "flagged": int((p_values[name] <= level).sum()),
        }
        for name in found
    }


def _text(
    model: LanguageModel,
    suspect: Texts,
    place: int,
    scores: dict[str, NDArray[np.float64]],
    p_values: dict[str, NDArray[np.float64]],
) -> dict[str, Any]:
    row = suspect.tokens[place]
    ids = [i for i in row.tolist() if i not in model.special_ids]
    return {
        "place": place,
        "text": "".join(token_strings(model.tokenizer, ids[:40])),
        "chance": {name: float(values[place]) for name, values in p_values.items()},
        "score": {name: float(values[place]) for name, values in scores.items()},
    }


def _shown(
    model: LanguageModel,
    crosscoder: Crosscoder,
    suspect: Texts,
    parts: Parts,
    places: NDArray[np.int64],
) -> dict[str, Any]:
    """Tokens of the first texts with their scores, less the median of trusted tokens."""
    usual = token_table(read(model, crosscoder, parts.calibrate))
    found = token_table(read(model, crosscoder, suspect.tokens[torch.from_numpy(places)]))
    usual_medians = {layer: float(np.median(usual.columns[layer])) for layer in LAYERS}
    high = {layer: float(np.quantile(usual.columns[layer], 0.99)) for layer in LAYERS}
    texts = [_coloured(model, found, row, int(place)) for row, place in enumerate(places)]
    return {"median": usual_medians, "high": high, "texts": texts}


def _coloured(model: LanguageModel, found: TokenTable, row: int, place: int) -> dict[str, Any]:
    mine = found.text == row
    tokens = token_strings(model.tokenizer, found.ids[mine].tolist())
    values = {layer: found.columns[layer][mine].round(4).tolist() for layer in LAYERS}
    return {"place": place, "tokens": list(tokens), "values": values}
