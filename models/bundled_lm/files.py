"""Files of the package: complete or absent, and readable by everyone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crossproof.files import atomic_file


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, which then becomes it."""
    with atomic_file(path) as temporary:
        write(temporary)
        temporary.chmod(0o644)  # safetensors makes its files readable by their owner only
