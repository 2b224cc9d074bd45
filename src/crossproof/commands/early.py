"""What commands ask of the disk before they load anything that takes time."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from crossproof.activations.sources import DATASETS_PREFIX, DocumentSource
from crossproof.errors import CrossproofError
from crossproof.working import working

BUNDLED = "bundled"


def is_first() -> bool:
    """Whether this is the process that speaks, of those that `torchrun` started: asked before
    PyTorch is there to say it."""
    return os.environ.get("RANK", "0") == "0"


def loading() -> AbstractContextManager[None]:
    """Says that libraries are being loaded where that takes long: in a fresh installation, or on
    a busy disk, half a minute."""
    return working("loading libraries") if is_first() else nullcontext()


def check_text(source: str | None) -> None:
    """Raises CrossproofError for a text whose files are not there; the Hub is not asked."""
    for each in DocumentSource.parse_all(source or BUNDLED):
        if not (each.data_set or each.files or each.name == BUNDLED):
            raise CrossproofError(
                f"There is no text '{each}'; give '{BUNDLED}', a file, a pattern of files, a "
                f"folder, or '{DATASETS_PREFIX}NAME'.",
                code="CP-TEXT",
            )


def check_model(name: str | None) -> None:
    """Raises CrossproofError for a model's name that can only be a path, and is none."""
    from crossproof.lm.sources import Source, exists, is_path

    if name and is_path(name) and not exists(name) and not {"+", ","} & {*name}:
        Source.of(name)


def check_folder(folder: Path | None, holds: str) -> None:
    """Raises CrossproofError if there is no such folder; `holds` says what is looked for."""
    if folder is not None and not folder.is_dir():
        raise CrossproofError(f"There is no folder {folder}: give {holds}.", code="CP-FILE")
