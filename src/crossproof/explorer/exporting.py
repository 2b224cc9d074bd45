"""A store as a folder of files that any web server shows, or a browser from the disk."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from crossproof.errors import CrossproofError
from crossproof.explorer.format import LATENTS, PAGES, PAIRS
from crossproof.explorer.server import static_file
from crossproof.explorer.store import Store
from crossproof.files import make_folder, write_text

CHUNK = 32
"""Pages of a file."""
MOST_PAIRS = 20_000
"""Pairs in an exported table, and with an exported page: the strongest."""


def export_site(store: Store, folder: Path) -> int:
    """Writes the site; its size in bytes. Pages open without a server and ask nothing of any.

    Raises CrossproofError if the folder holds something else, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or _foreign(folder)):
        raise CrossproofError(f"{folder} holds something that is no exported site: give another.")
    make_folder(folder / "data")
    index = static_file("index.html").decode()
    pages = {
        "index.html": index.replace(
            'name="source" content="server"', 'name="source" content="files"'
        ),
        "app.js": static_file("app.js").decode(),
        "app.css": static_file("app.css").decode(),
    }
    for name, text in pages.items():
        write_text(folder / name, text)
    for number in range(len(store.dictionaries)):
        _export_dictionary(store, number, folder / "data" / str(number))
    manifest = store.manifest.shown() | {"live": False, "chunk": CHUNK}
    _write(folder / "data", "manifest", manifest)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _foreign(folder: Path) -> bool:
    return any(folder.iterdir()) and not (folder / "data" / "manifest.js").exists()


def _export_dictionary(store: Store, number: int, folder: Path) -> None:
    make_folder(folder)
    name = str(number)
    for kind in ("latent", "neuron"):
        pages = store.packed_pages(number, PAGES[kind])
        for at, group in groupby(pages, lambda each: each[0] // CHUNK):
            _write(folder, f"{kind}-{at}", _unpacked(group), name)
    _write(folder, "map-0", {0: store.page(number, "map", 0)}, name)
    _write(folder, "latents", store.table(number, LATENTS), name)
    _write(folder, "texts", store.texts(number), name)
    pairs = store.table(number, PAIRS, MOST_PAIRS)
    _export_pairs(store, number, folder, pairs)


def _export_pairs(store: Store, number: int, folder: Path, table: dict[str, Any]) -> None:
    """The table of pairs, and the pages of those in it; the index says which file has which."""
    columns, latents = table["columns"], store.dictionaries[number].latents
    h, k = columns.index("h"), columns.index("k")
    chosen = {row[h] * latents + row[k] for row in table["rows"]}
    described = columns.index("described")
    index: dict[int, int] = {}
    pages = (each for each in store.packed_pages(number, PAGES["pair"]) if each[0] in chosen)
    for at, group in enumerate(_chunks(pages)):
        index |= dict.fromkeys((key for key, _ in group), at)
        _write(folder, f"pair-{at}", _unpacked(group), str(number))
    for row in table["rows"]:
        row[described] = row[h] * latents + row[k] in index
    _write(folder, "pairs", table, str(number))
    _write(folder, "pair-index", index, str(number))


def _chunks(pages: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    for _, group in groupby(enumerate(pages), lambda each: each[0] // CHUNK):
        yield [page for _, page in group]


def _unpacked(pages: Iterable[tuple[int, bytes]]) -> dict[int, Any]:
    return {number: json.loads(zlib.decompress(packed)) for number, packed in pages}


def _write(folder: Path, name: str, content: Any, below: str = "") -> None:
    """One file of data: a call with its name and its content, compressed."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    packed = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    full = f"{below}/{name}" if below else name
    write_text(folder / f"{name}.js", f"explorerData({json.dumps(full)},{json.dumps(packed)})\n")
