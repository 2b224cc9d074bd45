"""`Interactions`: which latents interact, where and how strongly, summed over any number of tokens.

Sums are exact, over all tokens, neurons and active latents, in float64. Only pairs of latents that
were active together at some token have entries: all other sums are zero by definition.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.files import atomic_folder, read_json, read_tensors

Form = Literal["I", "J", "AND", "Q"]
"""I(i,j), what theorem T1 charges for j where i is dominant (directed); of gated MLPs all that T3
charges, AND in it: j on the linear path with i on the gate, beside the dominant one, which is also
a form of its own. J, the additive form of I (plain MLPs; directed). Q, the symmetric pair form."""

Normalisation = Literal["sum", "mean", "coactive"]
"""sum: over all tokens; mean: the sum over the number of tokens; coactive: the sum over the number
of tokens at which both latents are active."""

PLAIN: tuple[Form, ...] = ("I", "J", "Q")
GATED: tuple[Form, ...] = ("I", "AND", "Q")
WITH_DIAGONAL: tuple[Form, ...] = ("I", "AND")
"""Of gated MLPs: their totals hold what a latent's gate times its own value is charged."""

SCHEMA = 2
"""1: I of gated MLPs was without AND."""
SUMS, FACTS_FILE = "interactions.safetensors", "interactions.json"
TENSORS = {name: name for name in ("pairs", "coactive", "active", "owned")} | {"diagonal": "own"}
"""Attributes, and the names of their tensors in the file."""
FACTS = ("n_latents", "blocks", "gated", "tokens")


@dataclass(frozen=True, eq=False)
class Interactions:
    """Sums over `tokens` tokens for the M pairs (h, k), h < k, of latents ever active together.

    `forward[form][l, m]` is form(h, k) in block `blocks[l]`, h being the dominant one or, of what
    AND is, on the gate; backward the same with h and k exchanged. Symmetric forms have no backward.
    """

    n_latents: int
    blocks: tuple[int, ...]
    gated: bool
    tokens: int
    pairs: Int[Tensor, "M 2"]
    coactive: Int[Tensor, " M"]
    """Tokens at which both latents of the pair are active."""
    active: Int[Tensor, " H"]
    """Tokens at which each latent is active."""
    owned: Int[Tensor, "L H"]
    """(Token, neuron) pairs at which each latent is the dominant one."""
    forward: dict[str, Float[Tensor, "L M"]]
    backward: dict[str, Float[Tensor, "L M"]]
    diagonal: Float[Tensor, "L H"]
    """AND of a latent with itself: its gate times its value where another latent is dominant."""

    def __repr__(self) -> str:
        """What was summed, not the sums."""
        kind = "gated" if self.gated else "plain"
        return (
            f"Interactions({len(self.pairs):,} pairs of {self.n_latents:,} latents in {kind} MLPs "
            f"of blocks {list(self.blocks)}, summed over {self.tokens:,} tokens)"
        )

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms that are measured on this kind of MLP."""
        return GATED if self.gated else PLAIN

    def total(self, form: Form, *, normalise: Literal["sum", "mean"]) -> Float[Tensor, " L"]:
        """The form summed over all pairs, of each block; that of I is I(x).

        Raises CrossproofError for a form that is not measured, or a mean over no tokens.
        """
        total = self._sums(form).sum(1)
        if form in self.backward:
            total = total + self.backward[form].sum(1)
        if self.gated and form in WITH_DIAGONAL:
            total = total + self.diagonal.sum(1)
        return self._scaled(total, normalise)

    def pair_sums(
        self, form: Form, *, normalise: Normalisation, block: int | None = None
    ) -> Float[Tensor, " M"]:
        """The symmetrised form of each pair, form(h,k) + form(k,h), in one block or all summed."""
        sums = self._of_block(self.forward, form, block)
        if form in self.backward:
            sums = sums + self._of_block(self.backward, form, block)
        return self._scaled(sums, normalise)

    def matrix(
        self,
        form: Form,
        *,
        normalise: Normalisation,
        block: int | None = None,
        symmetric: bool = False,
    ) -> Float[Tensor, "H H"]:
        """Dense form(i, j), row i dominant; `symmetric` adds the transpose of a directed form."""
        forward = self._scaled(self._of_block(self.forward, form, block), normalise)
        out = forward.new_zeros(self.n_latents, self.n_latents)
        h, k = self.pairs.unbind(1)
        out[h, k] = forward
        if form not in self.backward:
            out[k, h] = forward
            return out
        out[k, h] = self._scaled(self._of_block(self.backward, form, block), normalise)
        return out + out.T if symmetric else out

    def top_pairs(
        self, count: int, *, form: Form = "I", normalise: Normalisation, block: int | None = None
    ) -> Int[Tensor, " top"]:
        """Rows of `pairs` with the largest symmetrised sums, largest first, ties by row."""
        sums = self.pair_sums(form, normalise=normalise, block=block)
        order = torch.argsort(sums, descending=True, stable=True)
        return order[: min(count, int((sums > 0).sum()))]

    def strongest(
        self, count: int, *, form: Form = "I", block: int | None = None
    ) -> Int[Tensor, " top"]:
        """Latents by their summed form with all others, largest first, ties by index."""
        sums = self.pair_sums(form, normalise="sum", block=block)
        total = sums.new_zeros(self.n_latents)
        for side in self.pairs.to(torch.int64).unbind(1):
            total.index_add_(0, side, sums)
        order = torch.argsort(total, descending=True, stable=True)
        return order[: min(count, int((total > 0).sum()))]

    def cpu(self) -> Interactions:
        """The same sums on the CPU, to be kept, saved or described."""
        moved: dict[str, Any] = {name: getattr(self, name).cpu() for name in TENSORS}
        for side in ("forward", "backward"):
            moved[side] = {form: sums.cpu() for form, sums in getattr(self, side).items()}
        return replace(self, **moved)

    def save(self, folder: Path) -> None:
        """Writes interactions.json and interactions.safetensors into `folder`, atomically.

        Raises CrossproofError if the folder cannot be written.
        """
        tensors = {stored: getattr(self, name) for name, stored in TENSORS.items()}
        for side in ("forward", "backward"):
            tensors |= {f"{side}.{form}": sums for form, sums in getattr(self, side).items()}
        facts = {"schema": SCHEMA, **{name: getattr(self, name) for name in FACTS}}
        with atomic_folder(folder) as temporary:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, temporary / SUMS)
            (temporary / FACTS_FILE).write_text(json.dumps(facts) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Interactions:
        """What `save` wrote, in this version or an older one.

        Raises CrossproofError if it is missing, damaged or foreign.
        """
        facts, tensors = read_json(folder / FACTS_FILE), read_tensors(folder / SUMS)
        schema = facts.get("schema")
        if schema not in range(1, SCHEMA + 1) or not tensors.keys() >= set(TENSORS.values()):
            raise CrossproofError(
                f"{folder} holds no interactions of schema {SCHEMA} or older.", code="CP-VERSION"
            )
        sides: dict[str, dict[str, Tensor]] = {"forward": {}, "backward": {}}
        for name in tensors.keys() - set(TENSORS.values()):
            side, form = name.split(".")
            sides[side][form] = tensors[name]
        if schema == 1 and facts["gated"]:
            for sums in sides.values():
                sums["I"] = sums["I"] + sums["AND"]
        known: dict[str, Any] = {name: facts[name] for name in FACTS}
        known |= {name: tensors[stored] for name, stored in TENSORS.items()}
        return cls(**(known | {"blocks": tuple(facts["blocks"])} | sides))

    def _keys(self) -> Int[Tensor, " M"]:
        h, k = self.pairs.to(torch.int64).unbind(1)
        return h * self.n_latents + k

    def _sums(self, form: Form) -> Float[Tensor, "L M"]:
        if form not in self.forward:
            kind = "gated" if self.gated else "plain"
            raise CrossproofError(
                f"There is no form {form} of a {kind} MLP's interactions; choose "
                f"{', '.join(self.forms)}."
            )
        return self.forward[form]

    def _of_block(
        self, sums: dict[str, Float[Tensor, "L M"]], form: Form, block: int | None
    ) -> Float[Tensor, " M"]:
        self._sums(form)
        if block is None:
            return sums[form].sum(0)
        if block not in self.blocks:
            raise CrossproofError(
                f"Block {block} was not measured; choose from {', '.join(map(str, self.blocks))}."
            )
        return sums[form][self.blocks.index(block)]

    def _scaled(
        self, sums: Float[Tensor, "*any"], normalise: Normalisation
    ) -> Float[Tensor, "*any"]:
        if normalise == "sum":
            return sums
        if normalise == "coactive":
            return sums / self.coactive
        if self.tokens == 0:
            raise CrossproofError("No tokens were measured, so there is no mean over tokens.")
        return sums / self.tokens


def merge(parts: Iterable[Interactions]) -> Interactions:
    """The sums over the tokens of all parts: shards can be measured apart, in any order.

    Raises CrossproofError if there are no parts, or they are about different dictionaries.
    """
    known = list(parts)
    if not known:
        raise CrossproofError("There is nothing to merge: give at least one measurement.")
    first = known[0]
    for part in known[1:]:
        if (part.n_latents, part.blocks, part.gated) != (
            first.n_latents,
            first.blocks,
            first.gated,
        ):
            raise CrossproofError(
                f"Measurements of different dictionaries cannot be merged: {first.n_latents} "
                f"latents at blocks {first.blocks} and {part.n_latents} at {part.blocks}."
            )
    if len(known) == 1:
        return first
    keys, row = torch.unique(torch.cat([part._keys() for part in known]), return_inverse=True)
    rows = row.split([len(part.pairs) for part in known])

    def gathered(columns: Sequence[Tensor]) -> Tensor:
        shape = (*columns[0].shape[:-1], len(keys))
        out = torch.zeros(shape, dtype=columns[0].dtype, device=keys.device)
        for column, where in zip(columns, rows, strict=True):
            out[..., where] += column  # a part holds a pair once: no index repeats
        return out

    def added(columns: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(columns)).sum(0)

    return replace(
        first,
        tokens=sum(part.tokens for part in known),
        pairs=unpack(keys, first.n_latents),
        coactive=gathered([part.coactive for part in known]),
        active=added([part.active for part in known]),
        owned=added([part.owned for part in known]),
        diagonal=added([part.diagonal for part in known]),
        forward={f: gathered([part.forward[f] for part in known]) for f in first.forward},
        backward={f: gathered([part.backward[f] for part in known]) for f in first.backward},
    )


def unpack(keys: Int[Tensor, " M"], n_latents: int) -> Int[Tensor, "M 2"]:
    """Pairs (h, k) from their keys h·H + k."""
    return torch.stack([keys // n_latents, keys % n_latents], 1)


class Accumulator:
    """Adds measurements as they come; earlier ones are merged in powers of two.

    The cost of merging is then logarithmic in the number of measurements, and memory is that of
    the pairs found so far, not of the tokens seen.
    """

    def __init__(self) -> None:
        self._parts: list[Interactions] = []

    def add(self, part: Interactions) -> None:
        """Takes one more measurement."""
        self._parts.append(part)
        while len(self._parts) > 1 and len(self._parts[-2].pairs) <= 2 * len(self._parts[-1].pairs):
            self._parts.append(merge([self._parts.pop(-2), self._parts.pop(-1)]))

    def result(self) -> Interactions:
        """The sum of all. Raises CrossproofError if nothing was added."""
        self._parts = [merge(self._parts)]
        return self._parts[0]
