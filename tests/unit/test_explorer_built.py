"""The built pages in the package are those of the sources beside it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES, BUILT = ROOT / "explorer", ROOT / "src" / "crossproof" / "explorer" / "static"


def test_the_built_pages_are_of_these_sources() -> None:
    stated = json.loads((BUILT / "built-from.json").read_text())
    src = sorted(path.name for path in (SOURCES / "src").iterdir())
    names = ["build.mjs", "package-lock.json", "package.json"]
    names += [f"src/{name}" for name in src]
    names.append("tsconfig.json")
    sources = hashlib.sha256()
    for name in names:
        sources.update(name.encode() + b"\0" + (SOURCES / name).read_bytes() + b"\0")
    assert sources.hexdigest() == stated["sources"], "run `make explorer` and commit what it builds"
    built = hashlib.sha256()
    for name in ("app.css", "app.js", "index.html"):
        built.update((BUILT / name).read_bytes())
    assert built.hexdigest() == stated["built"], "run `make explorer` and commit what it builds"


def test_pages_ask_no_other_host() -> None:
    for name in ("app.css", "app.js", "index.html"):
        text = (BUILT / name).read_text()
        urls = [part.split('"')[0].split("'")[0].split("`")[0] for part in text.split("http")[1:]]
        addresses = {url for url in urls if url.startswith(("://", "s://"))}
        assert all(url.startswith("://www.w3.org/") for url in addresses), addresses
