"""The examples of docs/extending run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crossproof.crosscoder import SPARSITY
from crossproof.crosscoder.formats import FORMATS
from crossproof.training import OBJECTIVES
from crossproof.training.sinks import SINKS, open_sinks

PAGES = Path(__file__).parents[2] / "docs" / "extending"


def example(page: str) -> str:
    """All Python blocks of a page in one piece."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.DOTALL))


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Registries are as before afterwards."""
    yield
    OBJECTIVES.remove("output_size")
    SPARSITY.remove("fixed_threshold")
    FORMATS.remove("plain_relu")


@pytest.mark.parametrize("page", ["objectives.md", "sparsity.md"])
def test_an_example_runs(page: str) -> None:
    exec(compile(example(page), page, "exec"), {})


def test_the_format_reads_its_own_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    shapes = {"enc": (6, 9), "enc_bias": (9,), "dec": (9, 6), "dec_bias": (6,)}
    tensors = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    (tmp_path / "my-sae").mkdir()
    save_file(tensors, tmp_path / "my-sae" / "sae.plain.safetensors")
    exec(compile(example("formats.md"), "formats.md", "exec"), {})


def test_a_plugin_brings_an_option(tmp_path: Path) -> None:
    source = example("objectives.md").partition("from crossproof.testing")[0]
    (tmp_path / "my_terms.py").write_text(source)

    def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "crossproof", "train", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert "--output-size FLOAT" in asked("--plugin", "my_terms", "--help").stdout
    refused = asked("--plugin=no_such_plugin", "--help")
    assert refused.returncode == 1
    assert "'no_such_plugin' cannot be imported" in refused.stderr


def test_a_sink_of_ones_own(tmp_path: Path) -> None:
    exec(compile(example("sinks.md"), "sinks.md", "exec"), {})
    try:
        (sink,) = open_sinks(["lines"], tmp_path, {}, 0)
        sink.write(3, {"penalised/loss": 0.5})
        sink.close()
    finally:
        SINKS.remove("lines")
    assert json.loads((tmp_path / "all.jsonl").read_text()) == {"step": 3, "penalised/loss": 0.5}
