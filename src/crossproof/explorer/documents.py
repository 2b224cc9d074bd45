"""The documents that pages are made of: plain values for JSON, from what the passes left."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from math import isnan
from typing import Any

import numpy as np

from crossproof.explorer.material import Document, Material, rounded, short
from crossproof.explorer.pair_tally import FIXED
from crossproof.explorer.strongest import WINDOW, Ints
from crossproof.explorer.text_tally import BINS, MIDDLE, PER_OCTAVE, TextTally
from crossproof.interactions.measuring import COLUMNS

QUANTILES = 4
"""Parts of the range of activations from which drawn contexts are shown."""
PER_QUANTILE = 2
_AT_ONCE = 256
"""Pairs whose figures are looked up together."""


def latent_pages(material: Material) -> Iterator[tuple[int, Document]]:
    """The page of every latent."""
    for latent in range(material.n_latents):
        yield latent, latent_page(material, latent)


def latent_page(material: Material, latent: int) -> Document:
    """Everything about one latent."""
    text = material.text
    active, tokens = int(text.active[latent]), max(text.tokens, 1)
    measured = max(text.measured, 1)
    near = zip(*(side[latent].tolist() for side in material.nearest), strict=True)
    return {
        "latent": latent,
        "active": active,
        "tokens": text.tokens,
        "frequency": active / tokens,
        "mean": float(text.total[latent]) / max(active, 1),
        "largest": float(text.largest[latent]),
        "interaction": float(text.interaction[latent]) / measured,
        "histogram": _histogram(text.bins[latent]),
        "contexts": _contexts(material, latent),
        "logits": _logits(material, latent),
        "nearest": [[other, short(cosine)] for other, cosine in near],
        "partners": _partners(material, latent),
        "neurons": _neurons(material, latent),
        "owned": _owned(material, latent),
        "norms": rounded(material.norms[latent]),
        "relative_norm": _known(float(material.whose[latent])),
        "cluster": material.cluster_of.get(latent),
        "explanation": material.explanations.get(latent),
        "at": rounded(material.map[latent]),
    }


def _rows(material: Material, latent: int) -> Ints:
    """A latent's partners, those kept for another's sake left out where they are many."""
    rows = material.partners.get(latent, np.zeros(0, dtype=np.int64))
    sums, kept = material.text.pairs.sums(rows), []
    for columns in dict.fromkeys(COLUMNS.values()):
        kept.append(np.argsort(-sums[:, columns].sum(1), kind="stable")[:16])
    chosen = np.unique(np.concatenate(kept))
    chosen = chosen[np.argsort(rows[chosen], kind="stable")]
    size = sums[chosen][:, COLUMNS["I"]].sum(1)
    return rows[chosen[np.argsort(-size, kind="stable")]]


def pair_figures(material: Material, rows: Ints) -> Iterator[Document]:
    """Figures of pairs: per token of the text, and per token with both active."""
    pairs, tokens = material.text.pairs, max(material.text.measured, 1)
    blocks = [str(block) for block in material.blocks]
    forms = {"I": COLUMNS["I"], material.second: COLUMNS["J"], "Q": COLUMNS["Q"]}
    for together, sums, difference, described in zip(
        pairs.coactive[rows].tolist(),
        pairs.sums(rows).tolist(),
        material.differences[rows].tolist(),
        (material.described[rows] >= 0).tolist(),
        strict=True,
    ):
        whole = {form: sum(sums[column] for column in columns) for form, columns in forms.items()}
        yield {
            "coactive": together,
            "per_token": whole["I"] / tokens,
            "per_coactive": {form: value / together for form, value in whole.items()},
            "directed": [sums[column] / together for column in COLUMNS["I"]],
            "by_block": {
                block: value / together for block, value in zip(blocks, sums[FIXED:], strict=True)
            },
            "second_difference": None if isnan(difference) else difference,
            "described": described,
        }


def _partners(material: Material, latent: int) -> list[Document]:
    """What a latent's page says of its pairs; the pairs' own pages have the rest."""
    rows, found = _rows(material, latent), []
    both = np.stack(np.divmod(material.text.pairs.key[rows], material.n_latents), 1).tolist()
    shown = ("coactive", "per_token", "per_coactive", "second_difference", "described")
    for (h, k), figures in zip(both, pair_figures(material, rows), strict=True):
        block = max(figures["by_block"], key=figures["by_block"].__getitem__)
        partner = {"latent": k if h == latent else h, "block": int(block)}
        found.append(partner | {name: figures[name] for name in shown})
    return found


def pair_pages(material: Material) -> Iterator[tuple[int, Document]]:
    """The page of every described pair."""
    details, pairs = material.details, material.text.pairs
    if details is None:
        return
    rows = np.searchsorted(pairs.key, details.key)
    parts = (rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE))
    figures = itertools.chain.from_iterable(pair_figures(material, part) for part in parts)
    for at, (key, of_pair) in enumerate(zip(details.key.tolist(), figures, strict=True)):
        latents = divmod(key, material.n_latents)
        contexts = []
        for place in np.flatnonzero(details.contexts.key[at] > 0).tolist():
            met = material.pair_neurons.get(at * details.contexts.count + place, "[]")
            contexts.append(
                {**material.context(details.contexts, at, place), "neurons": json.loads(met)}
            )
        used = {context["sequence"] for context in contexts}
        yield (
            key,
            {
                "latents": list(latents),
                "active": [int(material.text.active_measured[latent]) for latent in latents],
                "tokens": material.text.measured,
                "detail_tokens": details.tokens,
                "together": int(details.together[at]),
                "compared": int(details.compared[at]),
                **of_pair,
                "contexts": contexts,
                "alone": [_apart(material, latent, used) for latent in latents],
            },
        )


def _apart(material: Material, latent: int, used: set[int]) -> list[Document]:
    """Strongest contexts of a latent in other sequences than those."""
    tops = material.text.top
    places = np.flatnonzero(tops.key[latent] > 0).tolist()
    apart = [place for place in places if int(tops.sequence[latent, place]) not in used]
    return [material.context(tops, latent, place) for place in apart[:2]]


def neuron_pages(material: Material) -> Iterator[tuple[int, Document]]:
    """The page of every neuron."""
    details = material.details
    if details is None:
        return
    for number in range(details.numbers.count):
        block, neuron = details.numbers.named(number)
        examples = []
        for place in np.flatnonzero(details.examples.key[number] > 0).tolist():
            stacked = material.neuron_examples.get(number * details.examples.count + place)
            if stacked is not None:
                context = material.context(details.examples, number, place)
                examples.append({**context, **json.loads(stacked)})
        page = {
            "block": block,
            "neuron": neuron,
            "number": number,
            "tokens": details.tokens,
            "owners": material.owned[1].get(number, []),
            "examples": examples,
        }
        yield number, page


def _contexts(material: Material, latent: int) -> list[Document]:
    """Strongest contexts, then drawn ones by the part of the range that their peak is in."""
    text, found, seen = material.text, [], set()
    for place in np.flatnonzero(text.top.key[latent] > 0).tolist():
        seen.add(int(text.top.sequence[latent, place]))
        found.append({**material.context(text.top, latent, place), "group": "top"})
    for part, place in _quantiles(text, latent):
        if int(text.drawn.sequence[latent, place]) not in seen:
            found.append({**material.context(text.drawn, latent, place), "group": part})
    return found


def _quantiles(text: TextTally, latent: int) -> list[tuple[int, int]]:
    """(part, place) of drawn contexts, a few in each part of the range, highest part first."""
    places = np.flatnonzero(text.drawn.key[latent] >= 0)
    peaks = np.abs(text.drawn.values(latent, places)[:, 0, WINDOW])
    largest = max(abs(float(text.largest[latent])), 1e-30)
    part = (peaks / largest * QUANTILES).astype(int).clip(0, QUANTILES - 1)
    found = []
    for quantile in reversed(range(QUANTILES)):
        found += [(quantile, int(place)) for place in places[part == quantile][:PER_QUANTILE]]
    return found


def _histogram(bins: Ints) -> list[list[Any]]:
    """[lower end, count] of all bins from the first to the last with a count."""
    filled = np.flatnonzero(bins)
    if len(filled) == 0:
        return []
    span = range(int(filled[0]), min(int(filled[-1]) + 1, BINS))
    return [[short(2.0 ** ((at - MIDDLE) / PER_OCTAVE)), int(bins[at])] for at in span]


def _logits(material: Material, latent: int) -> Document:
    effects = material.logits
    if not effects.hookpoint:
        return {"missing": effects.missing}
    token, value = effects.token[latent].tolist(), effects.value[latent].tolist()
    named = [[material.strings.one(t), short(v)] for t, v in zip(token, value, strict=True)]
    half = len(named) // 2
    return {"hookpoint": effects.hookpoint, "promoted": named[:half], "suppressed": named[half:]}


def _neurons(material: Material, latent: int) -> list[Document]:
    """Neurons that the latent dominates most often, with the share of all tokens read again."""
    if material.details is None:
        return []
    found = []
    for number, share in material.owned[0].get(latent, []):
        block, neuron = material.details.numbers.named(int(number))
        found.append({"block": block, "neuron": neuron, "number": int(number), "share": share})
    return found


def _owned(material: Material, latent: int) -> dict[str, float]:
    """By block, the share of (token, neuron) pairs at which the latent is dominant."""
    owned, totals = material.text.owned[:, latent].tolist(), material.owned_in_all
    return {
        str(block): count / total
        for block, count, total in zip(material.blocks, owned, totals, strict=True)
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else short(value)


def label(page: Mapping[str, Any]) -> str:
    """A few words at the peaks of a latent's strongest contexts."""
    tops = [context for context in page["contexts"] if context["group"] == "top"]
    words = [_word(context["tokens"][context["peak"]]) for context in tops]
    return " · ".join(list(dict.fromkeys(filter(None, words)))[:4])


def _word(token: str) -> str:
    return token.strip() or token.replace("\n", "↵").strip(" ")
