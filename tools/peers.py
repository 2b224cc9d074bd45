"""Makes the environment in which SAELens, sparsify, dictionary_learning and others run.

    python tools/peers.py FOLDER

They want other versions of much that crossproof uses, so they have a place of their own.
circuit-tracer, Llamascopium and dictionary_learning contradict each other about versions of what
none of them uses here: the first two are installed without their dependencies.
`CROSSPROOF_PEERS=FOLDER` tells the slow tests of the exported dictionaries where it is.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

TOGETHER = (
    "torch==2.13.0",
    "sae-lens==6.54.12",
    "eai-sparsify==1.3.3",
    "dictionary-learning==0.1.0",
    "pyyaml",
    *("cattrs", "json-repair", "more-itertools", "pydantic-settings", "pymongo"),
)
ALONE = ("circuit-tracer==0.5.0", "llamascopium==2.0.0b34")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    venv.create(folder, with_pip=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *TOGETHER], check=True)
    subprocess.run([*install, "--no-deps", *ALONE], check=True)
    # Built for another torch where there is no GPU, and then nothing of transformers loads.
    subprocess.run([*install[:3], "uninstall", "--quiet", "--yes", "torchvision"], check=True)
    python = folder / "bin" / "python"
    print(f"The libraries are in {folder}. What is checked with them:")
    print(f"  CROSSPROOF_PEERS={folder} python -m pytest -m slow -k libraries tests/unit")
    print(f"  {python} -m tools.format_fixtures tests/data/formats  # writes them again")


if __name__ == "__main__":
    main()
