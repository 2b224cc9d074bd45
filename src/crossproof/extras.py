"""Packages that crossproof uses where they are installed and does without where not."""

from __future__ import annotations

import importlib
from typing import Any

from crossproof.errors import CrossproofError

__all__ = ("needed", "option_name")


def needed(module: str, extra: str, purpose: str) -> Any:
    """The module; CrossproofError that says what to install and for what, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CrossproofError(
            f"For {purpose} the package '{module}' is needed: pip install 'crossproof[{extra}]'."
        ) from error


def option_name(name: str) -> Any:
    """For `Annotated`: what the command line calls a setting, where there is a command line.

    Training and measuring in Python need no parser of options.
    """
    try:
        from tyro.conf import arg
    except ImportError:
        return name
    return arg(name=name)
