"""Every error has a code that stays, and every code a section of docs/errors.md."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from crossproof import cli, load_model, read_sequences
from crossproof.activations.tables import column_of
from crossproof.codes import ADDRESS, PLUGIN, RAISED_IN, code_of_module
from crossproof.errors import CrossproofError, with_code
from crossproof.extras import needed
from crossproof.files import read_json
from crossproof.proof.certificate.format import read_certificate
from crossproof.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "crossproof"
PAGE = (ROOT / "docs" / "errors.md").read_text()
SECTION = re.compile(r"^### (CP-\S+)\n\n\*\*Why\.\*\* \S.*\n\n\*\*What to do\.\*\* \S.*$", re.M)


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package by its dotted name."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), ast.parse(path.read_text())


@pytest.fixture(scope="module")
def used() -> set[str]:
    """Codes that some line of the package can raise."""
    codes: set[str] = set()
    for name, tree in modules():
        spelt = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        raises = any(
            isinstance(n, ast.Call) and getattr(n.func, "id", "").endswith("Error")
            for n in ast.walk(tree)
        )
        if name != "crossproof.codes":
            codes |= {s for s in spelt if isinstance(s, str) and re.fullmatch(r"CP-[A-Z-]+", s)}
        if raises:
            codes.add(code_of_module(name))
    return codes


def test_every_code_has_a_section_and_every_section_a_code(used: set[str]) -> None:
    sections = SECTION.findall(PAGE)
    assert len(sections) == len(set(sections)) == PAGE.count("\n### ")
    assert set(sections) == used | {PLUGIN}


def test_every_module_has_a_code_and_every_entry_a_module() -> None:
    names = {name.removeprefix("crossproof.") for name, _ in modules()}
    assert set(RAISED_IN) <= names
    assert all(RAISED_IN.values())
    for name, tree in modules():
        if "CrossproofError(" in ast.unparse(tree) and name != "crossproof.errors":
            assert code_of_module(name) != PLUGIN or name == "crossproof.testing", name


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("crossproof.activations.corpus", "CP-TEXT"),
        ("crossproof.activations.tables", "CP-TEXT-FILE"),
        ("crossproof.crosscoder.formats.saelens", "CP-FORMAT"),
        ("crossproof.proof.certificate.verifier.points", "CP-CERTIFICATE"),
        ("crossproof.lm.newly_made", "CP-MODEL"),
        ("somebody.activations", PLUGIN),
        ("crossproof", PLUGIN),
    ],
)
def test_the_longest_entry_decides(module: str, code: str) -> None:
    assert code_of_module(module) == code


def test_errors_carry_the_code_of_where_they_were_raised(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text("no json")
    bundled = load_model("bundled")
    tokens = torch.tensor([[0, bundled.vocab_size]])
    cases = {
        "CP-MODEL": lambda: load_model(str(tmp_path / "none")),
        "CP-TEXT": lambda: read_sequences(str(tmp_path / "none.txt"), bundled, context=8),
        "CP-TEXT-FILE": lambda: list(column_of(tmp_path / "text.jsonl", "text")),
        "CP-TOKENS": lambda: bundled.token_losses(tokens),
        "CP-PACKAGE": lambda: needed("no_such_package", "x", "nothing"),
        "CP-FILE": lambda: read_json(tmp_path / "none.json"),
        "CP-CERTIFICATE": lambda: read_certificate(tmp_path / "none"),
        "CP-RUN": lambda: RunFolder.open(tmp_path / "none"),
    }
    for code, act in cases.items():
        with pytest.raises(CrossproofError) as raised:
            act()
        assert raised.value.code == code
        assert code not in str(raised.value)  # the sentence is first, and the same everywhere


def test_codes_outside_the_package_and_given_ones() -> None:
    with pytest.raises(CrossproofError) as raised:
        raise CrossproofError("Mine.")
    assert raised.value.code == PLUGIN
    assert CrossproofError("Never raised.").code == PLUGIN
    given = CrossproofError("Given.", code="CP-MEMORY")
    for each in (given, copy.copy(given), pickle.loads(pickle.dumps(given))):
        assert (str(each), each.code) == ("Given.", "CP-MEMORY")


def test_the_command_line_ends_with_code_and_address(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["trian"])
    sentence = "crossproof: There is no command 'trian'; `crossproof --help` lists them."
    assert stopped.value.code == with_code(f"{sentence} Nearest: train.", "CP-COMMAND")
    assert str(stopped.value.code).endswith(f"[CP-COMMAND: {ADDRESS}#cp-command]")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verify", "--no-such-option"])
    assert stopped.value.code == 2
    assert f"[CP-COMMAND: {ADDRESS}#cp-command]" in capsys.readouterr().err
