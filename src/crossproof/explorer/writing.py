"""Tables and pages of one dictionary as Arrow files."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from crossproof.explorer.arrow import PAGE_COLUMNS, Growing, write_table
from crossproof.explorer.documents import (
    label,
    latent_pages,
    neuron_pages,
    pair_pages,
)
from crossproof.explorer.format import LATENTS, PAGES, PAIRS, ROWS
from crossproof.explorer.material import Document, Material
from crossproof.explorer.pair_tally import FIXED
from crossproof.interactions.measuring import COLUMNS

Page = tuple[int, Document]
_ROWS_OF_TABLES = 16_384
MAP_PAIRS = 600
"""Pairs in the map: the strongest by I."""
_NUMBERS = ("active", "frequency", "mean", "largest", "interaction")


def write_dictionary(folder: Path, material: Material, tell: Callable[[int, int], None]) -> None:
    """Writes all files of one dictionary into a folder; `tell` hears how many pages are done."""
    described = 0 if material.details is None else len(material.details.key)
    done = _told(tell, material.n_latents + described)
    _write_latents(folder, material, done)
    _write_pairs(folder / PAIRS, material)
    _write_pages(folder / PAGES["pair"], map(done, pair_pages(material)))
    _write_pages(folder / PAGES["neuron"], neuron_pages(material))
    _write_pages(folder / PAGES["map"], iter([(0, map_page(material))]))


def packed(page: Mapping[str, Any]) -> bytes:
    """A document as it lies in a store: JSON, compressed. Numbers that are not finite are null."""
    try:
        text = _json(page)
    except ValueError:  # a number that is not finite
        text = _json(_finite(page))
    return zlib.compress(text.encode("utf-8", errors="replace"), 6)


def _json(page: Any) -> str:
    return json.dumps(page, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def _write_pages(path: Path, pages: Iterator[Page]) -> None:
    with Growing(path, PAGE_COLUMNS, ROWS) as rows:
        for number, page in pages:
            rows.add({"number": number, "page": packed(page)})


def _told(tell: Callable[[int, int], None], total: int) -> Callable[[Page], Page]:
    """Passes pages on and counts them, a group at a time."""
    count = itertools.count(1)

    def passed(page: Page) -> Page:
        done = next(count)
        if done % ROWS == 0 or done == total:
            tell(done, total)
        return page

    return passed


def _write_latents(folder: Path, material: Material, done: Callable[[Page], Page]) -> None:
    """The pages, and from them the table that searches look through."""
    table = Growing(folder / LATENTS, _LATENT_COLUMNS, _ROWS_OF_TABLES)
    pages = Growing(folder / PAGES["latent"], PAGE_COLUMNS, ROWS)
    with table, pages:
        for latent, page in map(done, latent_pages(material)):
            pages.add({"number": latent, "page": packed(page)})
            table.add(_latent_row(page))


_LATENT_COLUMNS = {
    "latent": pa.int64(),
    "active": pa.int64(),
    **dict.fromkeys(("frequency", "mean", "largest", "interaction", "owned"), pa.float64()),
    "partners": pa.int64(),
    **dict.fromkeys(("strongest", "relative_norm"), pa.float64()),
    "cluster": pa.int64(),
    **dict.fromkeys(("label", "explanation", "snippet", "text"), pa.string()),
    "x": pa.float32(),
    "y": pa.float32(),
}


def _latent_row(page: Document) -> dict[str, Any]:
    contexts, partners, owned = page["contexts"], page["partners"], page["owned"]
    return {
        "latent": page["latent"],
        **{name: page[name] for name in _NUMBERS},
        "owned": sum(owned.values()) / len(owned) if owned else None,
        "partners": len(partners),
        "strongest": partners[0]["per_token"] if partners else None,
        "relative_norm": page["relative_norm"],
        "cluster": page["cluster"],
        "label": label(page),
        "explanation": page["explanation"],
        "snippet": json.dumps(_snippet(contexts[0])) if contexts else None,
        "text": "\n".join("".join(context["tokens"]) for context in contexts).lower(),
        "x": page["at"][0],
        "y": page["at"][1],
    }


def _snippet(context: Document, before: int = 5, after: int = 3) -> list[Any]:
    """A context's middle: what stands before the peak, the peak, what follows."""
    tokens, peak = context["tokens"], context["peak"]
    start = max(peak - before, 0)
    return ["".join(tokens[start:peak]), tokens[peak], "".join(tokens[peak + 1 : peak + 1 + after])]


def _write_pairs(path: Path, material: Material) -> None:
    """The pairs, strongest first."""
    pairs = material.text.pairs
    order = np.argsort(-pairs.form(COLUMNS["I"]), kind="stable")
    together = pairs.coactive[order]
    second = COLUMNS["AND"] if material.second == "AND" else COLUMNS["J"]
    forms = {"i": COLUMNS["I"], "second": second, "q": COLUMNS["Q"]}
    whole = {name: pairs.form(columns)[order] for name, columns in forms.items()}
    h, k = np.divmod(pairs.key[order], material.n_latents)
    described = material.described[order]
    blocks = np.array(material.blocks, dtype=np.int64)
    write_table(
        path,
        {
            "h": h,
            "k": k,
            "coactive": together,
            "block": blocks[np.stack(pairs.columns[FIXED:], 1)[order].argmax(1)]
            if len(order)
            else h,
            "per_token": whole["i"] / max(material.text.measured, 1),
            **{name: sums / together for name, sums in whole.items()},
            "difference": pa.array(
                material.differences[order], from_pandas=True, type=pa.float64()
            ),
            "described": described >= 0,
        },
    )


def map_page(material: Material) -> Document:
    """The strongest pairs as a graph, and every active latent's place in the plane."""
    pairs, tokens = material.text.pairs, max(material.text.measured, 1)
    size = pairs.form(COLUMNS["I"])
    order = np.argsort(-size, kind="stable")[:MAP_PAIRS]
    edges = [
        [*divmod(int(pairs.key[row]), material.n_latents), float(f"{size[row] / tokens:.4g}")]
        for row in order.tolist()
        if size[row] > 0
    ]
    alive = np.flatnonzero(material.text.active > 0)
    return {
        "edges": edges,
        "latents": alive.tolist(),
        "x": [round(float(v), 4) for v in material.map[alive, 0]],
        "y": [round(float(v), 4) for v in material.map[alive, 1]],
        "clusters": [material.cluster_of.get(latent, 0) for latent in alive.tolist()],
        "interaction": [
            float(f"{v / tokens:.3g}") for v in material.text.interaction[alive].tolist()
        ],
    }
