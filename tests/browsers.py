"""The browser that tests drive: skipped where it is missing, a failure where it is required."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

REQUIRED = os.environ.get("CROSSPROOF_BROWSER") == "required"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_AXE = Path(__file__).parents[1] / "explorer" / "node_modules" / "axe-core" / "axe.min.js"


def chromium() -> str:
    """Where Chromium is; without it the test ends."""
    known = next(filter(None, map(shutil.which, _NAMES)), None)
    return known or missing("no chromium on this machine: install it")


def playwright() -> Any:
    """The package that drives it; without it the test ends."""
    try:
        return importlib.import_module("playwright.sync_api")
    except ModuleNotFoundError:
        missing("no playwright in this environment: install it")


def axe() -> str | None:
    """The script that checks a page's accessibility, where `npm ci` has been run in explorer/."""
    if not _AXE.exists():
        return missing("no axe-core: run `npm ci` in explorer/") if REQUIRED else None
    return _AXE.read_text(encoding="utf-8")


def missing(what: str) -> NoReturn:
    """Ends the test."""
    if REQUIRED:
        pytest.fail(what)
    pytest.skip(what)
