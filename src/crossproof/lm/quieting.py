"""Silence while the loading libraries work: crossproof reports problems in its own words."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from transformers.utils import logging as transformers_logging

_bars: Any = transformers_logging  # its switches carry no types


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, warnings or log lines below errors; everything is restored at the end."""
    had_bars = _bars.is_progress_bar_enabled()
    verbosity, disabled = _bars.get_verbosity(), logging.root.manager.disable
    _bars.disable_progress_bar()
    _bars.set_verbosity_error()
    logging.disable(max(disabled, logging.WARNING))
    try:
        # Some bars heed no switch; panics of the Rust libraries do not come this way.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        _bars.set_verbosity(verbosity)
        if had_bars:
            _bars.enable_progress_bar()
