"""The certificates that ship with the repository: small, quick to verify, and true."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossproof.proof.certificate.result import VerificationResult
from crossproof.proof.certificate.verifier import verify

EXAMPLES = Path(__file__).parents[2] / "examples" / "certificates"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/certificate.json"))


@pytest.fixture(scope="module")
def verdicts() -> dict[str, VerificationResult]:
    began = time.process_time()
    found = {folder.name: verify(folder) for folder in FOLDERS}
    assert time.process_time() - began < 60
    return found


def test_every_example_is_verified_and_says_something(
    verdicts: dict[str, VerificationResult],
) -> None:
    attention = {"max-of-4", "max-of-4-latents"}
    assert set(verdicts) == attention | {
        "coactive", "continuum", "modular-113", "modular-53", "sparse",
    }  # fmt: skip
    for name, verdict in verdicts.items():
        assert verdict.holds, name
        assert not verdict.accuracy_vacuous, name


def test_modular_examples_are_compact_and_the_sparse_ones_keep_most(
    verdicts: dict[str, VerificationResult],
) -> None:
    for name in ("modular-53", "modular-113"):
        verdict = verdicts[name]
        assert verdict.accuracy >= 0.9
        assert verdict.brute_force is not None
        assert verdict.brute_force >= 3 * verdict.operations
    for name, saving in {"max-of-4": 500, "max-of-4-latents": 50}.items():
        verdict = verdicts[name]
        assert verdict.accuracy > 0.95
        assert verdict.brute_force is not None
        assert verdict.brute_force >= saving * verdict.operations
    assert verdicts["continuum"].accuracy > 0.85
    assert verdicts["coactive"].accuracy > 0.75


def test_examples_are_small_and_name_their_commands() -> None:
    files = [path for folder in FOLDERS for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < 2 * 2**20
    readme = (EXAMPLES / "README.md").read_text()
    for folder in FOLDERS:
        task = json.loads((folder / "certificate.json").read_text())["task"]
        assert f"toy_network {task['name']} " in readme
        assert f"crossproof prove runs/{task['name']} " in readme
        assert f"examples/certificates/{folder.name}\n" in readme


def test_the_verifier_runs_without_torch_and_without_the_prover() -> None:
    code = (
        "import sys\n"
        "from crossproof.proof.certificate.verifier import verify\n"
        f"assert verify({str(EXAMPLES / 'modular-53')!r}).holds\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'sklearn', 'scipy', 'jaxtyping'}\n"
        "own = [name for name in sys.modules if name.startswith('crossproof.proof.')]\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert all(n.startswith('crossproof.proof.certificate') for n in own), own\n"
        "assert not [n for n in own if 'provers' in n or 'writer' in n], own\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
