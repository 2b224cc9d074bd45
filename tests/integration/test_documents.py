"""Every code block of README and docs/ runs, in order, with small sizes.

A block that cannot run here has a comment before it that says why: `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import socket
import threading
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import plotly.io
import pytest
import torch
import uvicorn
from safetensors.torch import save_file

import crossproof
from crossproof.cli import COMMANDS, main
from crossproof.crosscoder import CrosscoderConfig
from crossproof.training.config import RECIPES

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    *sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if not {"decisions", "extending"} & {*path.parts} and "\n```" in path.read_text()
    ),
]
"""Those of docs/extending have tests of their own."""
QUICK = {"docs/errors.md", "docs/guide/install.md"}
DEMO = ["crossproof demo --out runs/demo"]
BEFORE = {
    "README.md": DEMO,
    "docs/attention.md": DEMO,
    "docs/clusters.md": DEMO,
    "docs/guide/explorer.md": DEMO,
}
"""What a page takes for granted."""
BLOCK = re.compile(r"(?:<!-- not run: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

TRAIN = "--steps 4 --batch-tokens 64 --buffer-batches 2 --n-latents 48 --k 4 --log-every 2"
SMALL = {
    "train": f"{TRAIN} --context 32 --evaluation-sequences 2 --checkpoint-every 4",
    "measure": "--tokens 2000 --context 32 --shapley-tokens 0 --pairs 2",
    "evaluate": "--sequences 2 --context 32",
    "attribute": "--sequences 2 --context 32",
    "cluster": "--judge overlap",
    "explore": "--tokens 2000 --detail-sequences 4 --port 0",
}
"""Options behind those of a command on a page."""
GROWN = " --n-latents 256"
"""Behind these of a training that takes all latents of several trained ones."""
NO_CODE = ("text", "toml")
SMALLER = {
    "context=256": "context=32",
    "context=128": "context=32",
    "[:64]": "[:4]",
    "[:16]": "[:4]",
}
"""Sizes in Python blocks."""


@dataclass(frozen=True)
class Block:
    """A fenced piece of a page."""

    page: str
    why_not: str | None
    """Why it does not run here."""
    language: str
    code: str

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block, continued ones joined, without comments."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line for each in lines if (line := each.partition(" #")[0].strip())]


def blocks(page: str) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    for match in BLOCK.finditer((ROOT / page).read_text()):
        yield Block(page, *match.groups())


@contextlib.contextmanager
def readers_that_leave() -> Iterator[None]:
    """In the block, a server answers one reader, who stops it then."""
    served = uvicorn.Server.run

    def run_once(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        host, port = sockets[0].getsockname()
        serving = threading.Thread(target=served, args=(server, sockets))
        serving.start()
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/", timeout=60) as answer:
                assert b"<html" in zlib.decompress(answer.read())
        finally:
            server.should_exit = True
            serving.join()

    with patch.object(uvicorn.Server, "run", run_once):
        yield


def run(block: Block, names: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    """Runs a block, commands in this process; each names what it wrote and what to do next."""
    if block.language == "python":
        code = block.code
        for usual, small in SMALLER.items():
            code = code.replace(usual, small)
        exec(compile(code, block.page, "exec"), names)
        return
    for command in block.commands:
        _, *words = shlex.split(command)
        asks = {"--help", "--resume"} & {*words}
        small = "" if asks else SMALL.get(words[0], "") + (GROWN if "--from" in words else "")
        ended = contextlib.suppress(SystemExit) if "--help" in asks else readers_that_leave()
        with ended:
            main([*words, *shlex.split(small)])
        said = capsys.readouterr().out.splitlines()
        if "--help" not in asks and words[0] != "--version":
            assert said[-1].startswith(("Next: ", "Stop with Ctrl-C")), said


def write_model_text_and_sae() -> None:
    """What pages call ./my-model, my.txt and ./my-sae, in the working folder."""
    bundled = Path(crossproof.__file__).parent / "lm" / "bundled"
    shutil.copytree(bundled, "my-model", ignore=shutil.ignore_patterns("corpus*", "README*"))
    model = crossproof.load_model("bundled")
    rows = crossproof.read_sequences("bundled", model, 256, split="train")[:80]
    stories = [model.tokenizer.decode(row, skip_special_tokens=True) for row in rows.tolist()]
    Path("my.txt").write_text("<|endoftext|>".join(stories))
    width, latents = model.d_model, 48
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "W_enc": torch.randn(width, latents, generator=generator),
        "W_dec": 0.2 * torch.randn(latents, width, generator=generator),
        "b_enc": torch.randn(latents, generator=generator),
        "b_dec": torch.randn(width, generator=generator),
        "threshold": torch.rand(latents, generator=generator),
    }
    Path("my-sae").mkdir()
    save_file(tensors, "my-sae/sae_weights.safetensors")
    config = {"architecture": "jumprelu", "d_in": width, "d_sae": latents}
    config |= {"metadata": {"model_name": "mine", "hook_name": "blocks.1.hook_resid_pre"}}
    config |= {"apply_b_dec_to_input": False, "normalize_activations": "none"}
    Path("my-sae/cfg.json").write_text(json.dumps(config))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    for block in blocks(page):
        if block.why_not is not None or block.language in NO_CODE:
            continue
        if block.language == "python":
            compile(block.code, page, "exec")
            continue
        assert block.language == "", block
        for command in block.commands:
            program, word, *_ = shlex.split(command)
            assert program == "crossproof", command
            assert word in COMMANDS or word == "--version", command
    fences = (ROOT / page).read_text().count("\n```")
    assert fences == 2 * len(list(blocks(page)))


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[] if p in QUICK else [pytest.mark.slow]) for p in PAGES]
)
def test_every_block_runs(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed = [b for b in blocks(page) if b.why_not is None and b.language not in NO_CODE]
    before = [Block(page, None, "", line) for line in BEFORE.get(page, ())]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plotly.io.renderers, "default", "")  # no browser opens
    tiny = replace(
        RECIPES["demo"],
        crosscoder=CrosscoderConfig(n_latents=48, k=4),
        **{"steps": 4, "batch_tokens": 64, "buffer_batches": 2, "context": 32, "log_every": 2},
        evaluation_sequences=2,
    )
    monkeypatch.setitem(RECIPES, "demo", tiny)
    if any("my-model" in block.code for block in listed):
        write_model_text_and_sae()
    names: dict[str, object] = {}
    for block in [*before, *listed]:
        run(block, names, capsys)
