"""Packages that crossproof uses where they are installed and does without where not."""

from __future__ import annotations

import importlib
from typing import Any

from crossproof.errors import CrossproofError

__all__ = ("needed",)


def needed(module: str, extra: str, purpose: str) -> Any:
    """The module; CrossproofError that says what to install and for what, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CrossproofError(
            f"For {purpose} the package '{module}' is needed: pip install 'crossproof[{extra}]'."
        ) from error
