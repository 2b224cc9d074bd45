"""Tables and pages of one dictionary as parquet files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossproof.explorer.documents import (
    label,
    latent_pages,
    neuron_pages,
    pair_figures,
    pair_pages,
)
from crossproof.explorer.format import LATENTS, PAGES, PAIRS, ROWS
from crossproof.explorer.material import Document, Material
from crossproof.explorer.pair_tally import FIXED
from crossproof.interactions.measuring import COLUMNS

_ROWS_OF_TABLES = 16_384
MAP_PAIRS = 600
"""Pairs in the map: the strongest by I."""
_NUMBERS = ("active", "frequency", "mean", "largest", "interaction")


def write_dictionary(folder: Path, material: Material) -> None:
    """Writes all files of one dictionary into a folder."""
    _write_latents(folder, material)
    _write_pairs(folder / PAIRS, material)
    _write_pages(folder / PAGES["pair"], pair_pages(material))
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


def _write_pages(path: Path, pages: Iterator[tuple[int, Document]]) -> None:
    with _Growing(path, {"number": pa.int64(), "page": pa.binary()}, ROWS) as rows:
        for number, page in pages:
            rows.add({"number": number, "page": packed(page)})


def _write_latents(folder: Path, material: Material) -> None:
    """The pages, and from them the table that searches look through."""
    table = _Growing(folder / LATENTS, _LATENT_COLUMNS, _ROWS_OF_TABLES)
    pages = _Growing(folder / PAGES["latent"], {"number": pa.int64(), "page": pa.binary()}, ROWS)
    with table, pages:
        for latent, page in latent_pages(material):
            pages.add({"number": latent, "page": packed(page)})
            table.add(_latent_row(page))


_LATENT_COLUMNS = {
    "latent": pa.int64(),
    "active": pa.int64(),
    **dict.fromkeys(("frequency", "mean", "largest", "interaction", "owned"), pa.float64()),
    "partners": pa.int64(),
    "strongest": pa.float64(),
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
        "cluster": page["cluster"],
        "label": label(page),
        "explanation": page["explanation"],
        "snippet": json.dumps(_snippet(contexts[0])) if contexts else None,
        "text": "\n".join("".join(context["tokens"]) for context in contexts),
        "x": page["at"][0],
        "y": page["at"][1],
    }


def _snippet(context: Document, before: int = 5, after: int = 3) -> list[Any]:
    """A context's middle: what stands before the peak, the peak, what follows."""
    tokens, peak = context["tokens"], context["peak"]
    start = max(peak - before, 0)
    return ["".join(tokens[start:peak]), tokens[peak], "".join(tokens[peak + 1 : peak + 1 + after])]


def _write_pairs(path: Path, material: Material) -> None:
    pairs = material.text.pairs
    columns = {"h": pa.int64(), "k": pa.int64(), "coactive": pa.int64(), "block": pa.int64()}
    columns |= dict.fromkeys(("per_token", "i", "second", "q", "difference"), pa.float64())
    columns["described"] = pa.bool_()
    order = np.argsort(-pairs.form(COLUMNS["I"]), kind="stable")
    with _Growing(path, columns, _ROWS_OF_TABLES) as rows:
        for row in order.tolist():
            figures = pair_figures(material, row)
            h, k = divmod(int(pairs.key[row]), material.n_latents)
            each = figures["per_coactive"]
            rows.add(
                {
                    "h": h,
                    "k": k,
                    "coactive": figures["coactive"],
                    "block": material.blocks[int(pairs.sums[row, FIXED:].argmax())],
                    "per_token": figures["per_token"],
                    "i": each["I"],
                    "second": each[material.second],
                    "q": each["Q"],
                    "difference": figures["second_difference"],
                    "described": figures["described"],
                }
            )


def map_page(material: Material) -> Document:
    """The strongest pairs as a graph, and every active latent's place in the plane."""
    pairs, tokens = material.text.pairs, max(material.text.tokens, 1)
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


class _Growing:
    """Rows of one parquet file, written a group at a time."""

    def __init__(self, path: Path, columns: Mapping[str, Any], group: int) -> None:
        self._schema = pa.schema(list(columns.items()))
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._group = group
        self._waiting: list[dict[str, Any]] = []

    def __enter__(self) -> _Growing:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, row: dict[str, Any]) -> None:
        """Takes one row."""
        self._waiting.append(row)
        if len(self._waiting) == self._group:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            rows: Sequence[dict[str, Any]] = self._waiting
            self._writer.write_table(pa.Table.from_pylist(list(rows), schema=self._schema))
            self._waiting = []
