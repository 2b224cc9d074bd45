"""Optional packages, and what to say where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from crossproof.errors import CrossproofError


def optional(module: str, extra: str, purpose: str) -> ModuleType:
    """The module; CrossproofError with the pip command where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CrossproofError(
            f"{purpose} needs the package {module}: pip install 'crossproof[{extra}]'."
        ) from error
