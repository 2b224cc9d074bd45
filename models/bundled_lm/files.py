"""Writing a file so that no half-written one is ever seen under its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it to `path`."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    temporary.chmod(0o644)  # safetensors makes its files readable by their owner only
    os.replace(temporary, path)
