"""Rows of tokens that stay on the disk until somebody asks for them."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.activations.config import RowKind, Split
from crossproof.activations.token_folder import TokenFolder
from crossproof.errors import CrossproofError

_AT_ONCE = 1 << 20
"""Tokens that are looked up together."""


class TokenRows:
    """Rows [S, T] of a split of a folder of tokens, which `rows[...]` reads as an int64 tensor.

    Packed rows are cut from the split's documents end to end, what is left over at their end
    dropped; with "documents" each row is the beginning of one, padded with the token that begins
    documents. Rows of the training split stand as in the text; those of the others in an order
    drawn once, so that the first of them, which are evaluated, are a sample of the whole text. Of
    `world` processes each may have every `world`-th row, from `rank` on. In memory are a few
    numbers a document and a row, never the tokens. Raises CrossproofError if the split has no row,
    or documents no token to pad with.
    """

    def __init__(
        self,
        folder: TokenFolder,
        split: Split,
        context: int,
        kind: RowKind = "packed",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.folder, self.split, self.context, self.kind = folder, split, context, kind
        if kind == "documents" and folder.start is None:
            raise CrossproofError(
                f"'{folder.about['model']}' has no BOS or EOS token to pad the documents of "
                f"{folder.name} with; use packed rows."
            )
        every = len(self._documents[0]) if kind == "documents" else self._tokens // context
        if every == 0:
            raise CrossproofError(
                f"The {split} split of {folder.name} has {self._tokens:,} tokens, too few for a "
                f"row of {context}: tokenise more documents, or choose a shorter context.",
                code="CP-TEXT-SHORT",
            )
        self._rows = (range(every) if split == "train" else drawn(every))[rank::world]

    def dealt(self, rank: int, world: int) -> TokenRows:
        """The share of one of several processes."""
        return TokenRows(self.folder, self.split, self.context, self.kind, rank, world)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens a row."""
        return len(self), self.context

    @property
    def device(self) -> torch.device:
        """Where what is read comes to lie."""
        return torch.device("cpu")

    @property
    def document_lengths(self) -> NDArray[np.int64]:
        """Tokens of each document that has a row, all of them."""
        return self._documents[1][self._which]

    @property
    def digest(self) -> str:
        """What tells these rows from others, but for the share that they are."""
        order = "" if self.split == "train" else " drawn"
        return f"{self.folder.digest} {self.split} {self.context} {self.kind}{order}"

    @property
    def _which(self) -> slice | NDArray[np.int64]:
        """Which of all rows these are, as arrays are asked."""
        rows = self._rows
        return slice(rows.start, None, rows.step) if isinstance(rows, range) else rows

    @cached_property
    def _tokens(self) -> int:
        return self.folder.tokens(self.split)

    @cached_property
    def _documents(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where documents begin and how long they are; empty ones, the start token alone, apart."""
        starts = np.concatenate([*self.folder.where(self.split, "starts")])
        lengths = np.diff(starts, append=self._tokens)
        return starts[lengths > 1], lengths[lengths > 1]

    def __getitem__(self, wanted: slice | Int[Tensor, " R"]) -> Int[Tensor, "R T"]:
        numbers = (
            np.arange(len(self))[wanted] if isinstance(wanted, slice) else wanted.cpu().numpy()
        )
        own = self._rows
        rows = own.start + own.step * numbers if isinstance(own, range) else own[numbers]
        tokens = torch.empty(len(rows), self.context, dtype=torch.int64)
        some = max(1, _AT_ONCE // self.context)
        for at in range(0, len(rows), some):
            tokens[at : at + some] = torch.from_numpy(self._read(rows[at : at + some]))
        return tokens

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        columns = np.arange(self.context)
        if self.kind == "packed":
            places = rows[:, None] * self.context + columns
            return self.folder.take(self.split, places.ravel()).reshape(places.shape)
        starts, lengths = (each[rows][:, None] for each in self._documents)
        inside = columns < lengths
        tokens = np.full(inside.shape, self.folder.start)
        tokens[inside] = self.folder.take(self.split, (starts + columns)[inside])
        return tokens

    def scored_counts(self, skip_first: int) -> Int[Tensor, " S"]:
        """How many positions of each row count: those behind the first that are not special.

        Known without the tokens: from where the special ones stand.
        """
        counts = self._lengths() - min(skip_first, self.context)
        for places in self.folder.where(self.split, "special"):
            rows, columns = self._located(places)
            left_out = (columns >= skip_first) & (columns < self.context) & (rows < len(counts))
            rows = rows[left_out]
            if len(rows):
                few = np.bincount(rows - rows[0])  # places ascend, and rows with them
                counts[rows[0] : rows[0] + len(few)] -= few
        return torch.from_numpy(counts.clip(0)[self._which].copy())

    def _lengths(self) -> NDArray[np.int64]:
        """Tokens of every row, padding apart."""
        if self.kind == "packed":
            return np.full(self._tokens // self.context, self.context)
        return self._documents[1].clip(max=self.context)

    def _located(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The row and the column of places in the split; no column of a row where there is none."""
        if self.kind == "packed":
            return places // self.context, places % self.context
        starts, lengths = self._documents
        rows = (np.searchsorted(starts, places, side="right") - 1).clip(0)
        columns = places - starts[rows]
        return rows, np.where((columns >= 0) & (columns < lengths[rows]), columns, self.context)


def drawn(rows: int) -> NDArray[np.int64]:
    """An order of so many rows, always the same."""
    return np.random.default_rng(0).permutation(rows)
