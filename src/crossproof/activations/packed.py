"""Files of tokens that are packed already: .safetensors with a tensor a split, or .npy."""

from __future__ import annotations

import os
import tokenize
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crossproof.activations.config import Split
from crossproof.activations.sources import DATASETS_PREFIX, LINES, TABLES
from crossproof.errors import CrossproofError, first_line
from crossproof.files import refuse_pointer

BUNDLED = "bundled"
SUFFIXES = ", ".join((*LINES, *TABLES, ".safetensors", ".npy"))
_DAMAGE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, tokenize.TokenError, zipfile.BadZipFile),
)
"""What numpy raises over damaged headers, which it takes for Python."""
_INTEGERS = (
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)


def existing(path: Path, source: str) -> Path:
    """The path; CrossproofError if there is no such file, or a pointer in its place."""
    if not os.path.isfile(path):  # False, too, for names that no file can have
        raise CrossproofError(
            f"There is no corpus '{source}'; give '{BUNDLED}', a file ({SUFFIXES}) or "
            f"'{DATASETS_PREFIX}NAME'."
        )
    refuse_pointer(path)
    return path


def from_safetensors(path: Path, split: Split) -> Tensor:
    """The tokens of a split, a list or rows of one length; CrossproofError if the file lacks it."""
    try:
        with safe_open(path, framework="pt") as packed:
            names = sorted(packed.keys())
            if split not in names:
                raise CrossproofError(
                    f"The token file '{path}' has no split '{split}', only "
                    f"{', '.join(names) or 'none'}."
                )
            return _tokens(packed.get_tensor(split), str(path))
    except SafetensorError as error:
        raise CrossproofError(
            f"The token file '{path}' is damaged: {error}", code="CP-TEXT-FILE"
        ) from error


def from_npy(path: Path) -> Tensor:
    """The tokens of an array; CrossproofError for any other, and for pickles."""
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)  # a false shape asks for nothing
    except _DAMAGE as error:
        reason = first_line(error)
        if "ickle" in reason or "Python objects" in reason:
            # what numpy advises would run whatever the file holds
            reason = "it is cut off, or holds pickled objects, which are never unpickled"
        raise CrossproofError(
            f"The token file '{path}' is damaged ({reason}): give an array of integers.",
            code="CP-TEXT-FILE",
        ) from error
    if not isinstance(tokens, np.ndarray):
        raise CrossproofError(
            f"The token file '{path}' is an archive (.npz): give one array.", code="CP-TEXT-FILE"
        )
    if tokens.dtype.kind not in "iu":
        raise CrossproofError(
            f"The token file '{path}' holds {tokens.dtype}, not integers.", code="CP-TEXT-FILE"
        )
    return _tokens(torch.from_numpy(tokens.astype(np.int64)), str(path))


def _tokens(tokens: Tensor, source: str) -> Tensor:
    if tokens.dtype not in _INTEGERS or tokens.dim() not in (1, 2):
        raise CrossproofError(
            f"The token file '{source}' must hold a list or a table of integers.",
            code="CP-TEXT-FILE",
        )
    return tokens
