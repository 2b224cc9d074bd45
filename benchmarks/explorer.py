"""How fast the explorer answers from a large store: in a browser, and to many readers at once.

    python benchmarks/explorer.py --latents 65536 --readers 50 --seconds 60

The store is made up (words drawn by chance), of the size and shape of a real one. Needs Chromium
for the first half.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from _explorer_pages import in_browser, some_latents, told

CONTEXTS, TOKENS, PARTNERS = 18, 25, 24
HOOKPOINTS = [f"blocks.{b}.{n}" for b in range(4) for n in ("hook_resid_mid", "mlp.hook_in")]
WORDS = [f"{a}{b}{c}" for a in "bdfglmprst" for b in "aeiou" for c in "klmnrst"]


def context(rng: random.Random) -> dict[str, Any]:
    """A context of words drawn by chance."""
    values = [0.0] * TOKENS
    for at in rng.sample(range(TOKENS), 4):
        values[at] = round(rng.expovariate(0.5), 3)
    values[12] = 9.0
    return {
        "tokens": [" " + rng.choice(WORDS) for _ in range(TOKENS)],
        "values": [values],
        "peak": 12,
        "sequence": rng.randrange(40_000),
        "position": rng.randrange(256),
    }


POOL = [context(random.Random(seed)) for seed in range(2_000)]
"""Contexts that latents share, so that making the store takes little time."""


def latent_page(latent: int, latents: int, rng: random.Random) -> dict[str, Any]:
    """The page of one latent."""
    partner = {
        "block": 1, "coactive": 31, "per_token": 0.012,
        "per_coactive": {"I": 2.2, "J": 1.1, "Q": 1.9},
        "second_difference": 0.4, "described": False,
    }  # fmt: skip
    groups = ["top"] * 12 + [3, 3, 2, 2, 1, 1]
    texts = rng.sample(POOL, CONTEXTS)
    return {
        "latent": latent, "active": 1500, "tokens": 10_000_000, "frequency": rng.random() * 0.01,
        "mean": rng.random() * 5, "largest": 9.0, "interaction": rng.expovariate(1.0),
        "histogram": [[round(2 ** (at / 4), 3), rng.randrange(200)] for at in range(16)],
        "contexts": [
            {**text, "group": group} for text, group in zip(texts, groups, strict=True)
        ],
        "logits": {
            "hookpoint": HOOKPOINTS[-1],
            "promoted": [[" " + rng.choice(WORDS), rng.random()] for _ in range(10)],
            "suppressed": [[" " + rng.choice(WORDS), -rng.random()] for _ in range(10)],
        },
        "nearest": [[rng.randrange(latents), rng.random()] for _ in range(10)],
        "partners": [{"latent": rng.randrange(latents), **partner} for _ in range(PARTNERS)],
        "neurons": [
            {"block": 1, "neuron": rng.randrange(512), "number": 600, "share": rng.random()}
            for _ in range(12)
        ],
        "owned": {"0": 0.001, "1": 0.002, "2": 0.001, "3": 0.0005},
        "norms": [round(rng.random(), 3) for _ in HOOKPOINTS],
        "relative_norm": None, "cluster": None, "explanation": None,
        "at": [rng.random(), rng.random()],
    }  # fmt: skip


def latent_row(page: dict[str, Any]) -> dict[str, Any]:
    """Its row in the table."""
    names = ("latent", "active", "frequency", "mean", "largest", "interaction")
    tokens = page["contexts"][0]["tokens"]
    return {
        **{name: page[name] for name in names},
        "owned": 0.001, "partners": PARTNERS, "strongest": 0.012,
        "relative_norm": None, "cluster": None,
        "label": " · ".join(c["tokens"][12].strip() for c in page["contexts"][:4]),
        "explanation": None,
        "snippet": json.dumps(["".join(tokens[7:12]), tokens[12], "".join(tokens[13:16])]),
        "text": "\n".join("".join(c["tokens"]) for c in page["contexts"]),
        "x": page["at"][0], "y": page["at"][1],
    }  # fmt: skip


def make_store(run: Path, latents: int) -> None:
    """Writes a run folder with a store and nothing else."""
    place, rng = run / "explorer" / "0", random.Random(0)
    place.mkdir(parents=True)
    (run / "crosscoder.safetensors").write_bytes(b"")
    numbers = ("frequency", "mean", "largest", "interaction", "owned", "strongest")
    schema = pa.schema(
        [("latent", pa.int64()), ("active", pa.int64())]
        + [(name, pa.float64()) for name in numbers]
        + [("relative_norm", pa.float64()), ("partners", pa.int64()), ("cluster", pa.int64())]
        + [(name, pa.string()) for name in ("label", "explanation", "snippet", "text")]
        + [("x", pa.float32()), ("y", pa.float32())]
    )
    pages_schema = pa.schema([("number", pa.int64()), ("page", pa.binary())])
    rows: list[dict[str, Any]] = []
    with (
        pa.ipc.new_file(str(place / "latents.arrow"), schema) as table,
        pa.ipc.new_file(str(place / "latent-pages.arrow"), pages_schema) as pages,
    ):
        for start in range(0, latents, 64):
            made = [latent_page(at, latents, rng) for at in range(start, min(start + 64, latents))]
            packed = [
                {"number": p["latent"], "page": zlib.compress(json.dumps(p).encode(), 1)}
                for p in made
            ]
            pages.write_table(pa.Table.from_pylist(packed, schema=pages_schema))
            rows += map(latent_row, made)
            if len(rows) >= 16_384 or start + 64 >= latents:
                table.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows = []
    _write_rest(run, place, latents, pages_schema)


def _write_rest(run: Path, place: Path, latents: int, pages_schema: pa.Schema) -> None:
    pairs = pa.schema(
        [(name, pa.int64()) for name in ("h", "k", "coactive", "block")]
        + [(n, pa.float64()) for n in ("per_token", "i", "second", "q", "difference")]
        + [("described", pa.bool_())]
    )
    empty = {"pairs": pairs} | dict.fromkeys(("pair-pages", "neuron-pages", "map"), pages_schema)
    for name, schema in empty.items():
        with pa.ipc.new_file(str(place / f"{name}.arrow"), schema) as file:
            file.write_table(schema.empty_table())
    facts = {
        "name": "synthetic", "latents": latents, "dead": 0, "tokens": 10_000_000,
        "pair_tokens": 2_000_000, "detail_tokens": 65_536, "pairs": 0, "pairs_complete": False,
        "described": 0,
        "neurons": {"0": 512, "1": 512, "2": 512, "3": 512}, "forms": ["I", "J", "Q"],
        "gated": False, "views": {}, "hookpoints": HOOKPOINTS, "joint": False,
        "totals": {}, "logits": "",
        "unread": "",
    }  # fmt: skip
    store = run / "explorer"
    manifest = {
        "model": "synthetic", "model_hash": "0" * 16, "schema": 3, "dictionaries": [facts],
        "text": {"text": "none", "split": "held_out", "sequences": 1, "context": 256},
        "files": {
            path.relative_to(store).as_posix(): {
                "size": path.stat().st_size,
                "crc32": zlib.crc32(path.read_bytes()),
            }
            for path in place.iterdir()
        },
    }  # fmt: skip
    (store / "manifest.json").write_text(json.dumps(manifest))


def served(run: Path) -> tuple[subprocess.Popen[str], str]:
    """The server as its users start it, and its link."""
    command = [sys.executable, "-m", "crossproof", "explore", str(run), "--no-sentences"]
    server = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("Explorer: "):
            return server, line.split()[1]
    raise SystemExit("the server did not start")


def load(link: str, latents: int, readers: int, seconds: float) -> tuple[list[float], int]:
    """Milliseconds of every answer to readers who ask without a pause, and failed ones."""
    where, until = urlsplit(link), time.monotonic() + seconds
    took: list[list[float]] = [[] for _ in range(readers)]
    failed = [0] * readers

    def read(reader: int) -> None:
        rng = random.Random(reader)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        while time.monotonic() < until:
            path = f"/api/0/latent/{rng.randrange(latents)}"
            if rng.random() < 0.1:
                path = f"/api/0/rows/latents?sort=frequency&first={rng.randrange(latents)}&rows=100"
            began = time.perf_counter()
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                failed[reader] += answer.status != 200
            except OSError:
                failed[reader] += 1
                connection.close()
            took[reader].append(1000 * (time.perf_counter() - began))

    threads = [threading.Thread(target=read, args=(reader,)) for reader in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [each for listed in took for each in listed], sum(failed)


def main() -> None:
    """Makes the store, serves it and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=int, default=65_536)
    parser.add_argument("--pages", type=int, default=200, help="pages of latents that are opened")
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--run", type=Path, help="where the store is, or will be kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = options.run or Path(temporary) / "run"
        if not run.exists():
            make_store(run, options.latents)
        server, link = served(run)
        try:
            chosen = some_latents(link, options.latents, options.pages)
            for name, pages in in_browser(link, chosen):
                print(f"{name}: {told(pages)}", flush=True)
            times, failed = load(link, options.latents, options.readers, options.seconds)
            print(
                f"{options.readers} readers, {options.seconds:.0f} s: {len(times):,} answers, "
                f"{failed} failed, median {statistics.median(times):.0f} ms, 95% within "
                f"{sorted(times)[int(0.95 * len(times))]:.0f} ms; load of the machine "
                f"{os.getloadavg()[0]:.1f}"
            )
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
