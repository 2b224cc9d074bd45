"""What later commands have left in a run folder, for its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossproof.files import read_json


def stored(path: Path, weights_hash: str) -> dict[str, Any] | None:
    """The content of a JSON file; None if there is none or it is about other weights."""
    if not path.exists():
        return None
    content = read_json(path)
    return content if content.get("model_hash") == weights_hash else None
