"""Options are documented dataclasses; every command reads them the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tyro


def parse(kind: Any, command: str, arguments: Sequence[str], default: Any = None) -> Any:
    """Options of `kind` from the command line; nested options have flat names (`--steps`)."""
    defaults = {} if default is None else {"default": default}
    return tyro.cli(
        kind,
        args=list(arguments),
        prog=f"crossproof {command}",
        config=(tyro.conf.OmitArgPrefixes,),
        **defaults,
    )
