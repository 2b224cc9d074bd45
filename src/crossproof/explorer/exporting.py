"""A store as a folder of files that any web server shows, or a browser from the disk."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from crossproof.errors import CrossproofError
from crossproof.explorer.columns import column
from crossproof.explorer.format import LATENTS, PAIRS
from crossproof.explorer.server import FILES, index_page, static_file
from crossproof.explorer.store import Store
from crossproof.files import make_folder, write_text

CHUNK = 64
"""Pages of a file."""
MOST_PAIRS = 20_000
"""Pairs in an exported table, and with an exported page: the strongest."""
_SPELT = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
Packed = tuple[int, bytes]


def export_site(store: Store, folder: Path) -> int:
    """Writes the site; its size in bytes. Pages open without a server and ask nothing of any.

    Raises CrossproofError if the folder holds something else, or cannot be written.
    """
    check_site(folder)
    shutil.rmtree(folder / "data", ignore_errors=True)
    make_folder(folder / "data")
    manifest = store.manifest.shown() | {"live": False, "chunk": CHUNK}
    write_text(folder / "index.html", index_page(manifest, "files"))
    for name in FILES:
        write_text(folder / name, static_file(name).decode())
    for number in range(len(store.dictionaries)):
        _export_dictionary(store, number, folder / "data")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_site(folder: Path) -> None:
    """Raises CrossproofError if the folder holds something that is no exported site."""
    if folder.exists() and (not folder.is_dir() or _foreign(folder)):
        raise CrossproofError(f"{folder} holds something that is no exported site: give another.")


def _foreign(folder: Path) -> bool:
    index = folder / "index.html"
    ours = index.is_file() and 'name="source" content="files"' in index.read_text("utf-8", "ignore")
    return any(folder.iterdir()) and not ours


def _export_dictionary(store: Store, number: int, folder: Path) -> None:
    make_folder(folder / str(number))
    words: dict[str, int] = {}
    for kind in ("latent", "neuron"):
        pages = store.packed_pages(number, kind)
        for at, group in groupby(pages, lambda each: each[0] // CHUNK):
            _write(folder, f"{number}/{kind}-{at}", _together(group, words))
    map_pages = [(0, store.packed_page(number, "map", 0))]
    _write(folder, f"{number}/map-0", _together(map_pages, words))
    _write(folder, f"{number}/latents", _table(store.table(number, LATENTS), words))
    _write(folder, f"{number}/texts", store.texts(number))
    _export_pairs(store, number, folder, words)
    _write(folder, f"{number}/words", list(words))


def _export_pairs(store: Store, number: int, folder: Path, words: dict[str, int]) -> None:
    """The table of pairs, and the pages of those in it; the index says which file has which."""
    table, latents = store.table(number, PAIRS, MOST_PAIRS), store.dictionaries[number].latents
    columns = table["columns"]
    h, k = columns.index("h"), columns.index("k")
    chosen = {row[h] * latents + row[k] for row in table["rows"]}
    described = columns.index("described")
    index: dict[int, int] = {}
    pages = (each for each in store.packed_pages(number, "pair") if each[0] in chosen)
    for at, group in enumerate(_chunks(pages)):
        index |= dict.fromkeys((key for key, _ in group), at)
        _write(folder, f"{number}/pair-{at}", _together(group, words))
    for row in table["rows"]:
        row[described] = row[h] * latents + row[k] in index
    _write(folder, f"{number}/pairs", _table(table, words))
    _write(folder, f"{number}/pair-index", index)


def _chunks(pages: Iterator[Packed]) -> Iterator[list[Packed]]:
    for _, group in groupby(enumerate(pages), lambda each: each[0] // CHUNK):
        yield [page for _, page in group]


def _together(pages: Iterable[Packed], words: dict[str, int]) -> dict[str, Any]:
    """Pages of one file: their numbers, and a column of them."""
    listed = list(pages)
    content = [json.loads(zlib.decompress(packed)) for _, packed in listed]
    return {"numbers": [number for number, _ in listed], "pages": column(content, words)}


def _table(table: dict[str, Any], words: dict[str, int]) -> dict[str, Any]:
    """A table's rows as a column."""
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    return {"total": table["total"], "columns": table["columns"], "rows": column(rows, words)}


def _write(folder: Path, name: str, content: Any) -> None:
    """One file of data: a call with its name and its content, compressed, seven bits a letter."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    bits = np.unpackbits(np.frombuffer(zlib.compress(text.encode(), 9), dtype=np.uint8))
    sevens = np.append(bits, np.zeros(-len(bits) % 7, dtype=np.uint8)).reshape(-1, 7)
    letters = (np.packbits(sevens, axis=1)[:, 0] >> 1).tobytes().decode("ascii")
    spelt = letters.translate(_SPELT)
    write_text(folder / f"{name}.js", f'explorerData("{name}","{spelt}")\n')
