"""What the writers of other libraries' formats share: files as values, and what to refuse."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.errors import CrossproofError

Content = str | Mapping[str, Tensor]
"""Of a file: text, or tensors by name."""


@dataclass(frozen=True, eq=False)
class Exported:
    """One dictionary's files, or a set's, in a folder below the one that is exported into."""

    folder: str
    files: Mapping[str, Content]


def refusal(dictionary: ForeignDictionary, library: str, why: str) -> CrossproofError:
    named = [str(hook) for hook in dictionary.hooks]
    few = named if len(named) <= 4 else [*named[:2], "…", named[-1]]
    hooks = ", ".join(few)
    return CrossproofError(f"{dictionary.source} cannot be exported to {library} ({hooks}): {why}.")


def ends(dictionary: ForeignDictionary, library: str) -> tuple[int, int]:
    """Where it reads and where it writes."""
    read = [p for p in range(len(dictionary.hooks)) if bool(dictionary.W_enc[:, p].any())]
    written = [
        p
        for p in range(len(dictionary.hooks))
        if bool(dictionary.W_dec[:, p].any() or dictionary.b_dec[p].any())
    ]
    if len(read) != 1 or len(written) != 1:
        raise refusal(
            dictionary,
            library,
            f"its latents read {len(read)} hookpoints and write {len(written)}, and a dictionary "
            f"there reads one and writes one (dictionary_learning has crosscoders of several)",
        )
    return read[0], written[0]


def check_rule(
    dictionary: ForeignDictionary, library: str, *known: str, groups: bool = False
) -> None:
    if dictionary.rule not in known:
        # Of batch_topk what comes here is the threshold that was learnt.
        became = " (as batch_topk is in inference)" if dictionary.rule == "jumprelu" else ""
        raise refusal(
            dictionary,
            library,
            f"its sparsity rule is {dictionary.rule}{became}, and such a dictionary has "
            f"{' or '.join(known)} there",
        )
    if dictionary.groups > 1 and not (groups and dictionary.k == 1):
        raise refusal(
            dictionary, library, f"it keeps {dictionary.k} latents of each of several groups"
        )


def check_beside(dictionary: ForeignDictionary, library: str, skips: bool = False) -> None:
    if dictionary.normalisation is not None:
        raise refusal(dictionary, library, "it normalises each token, which the library does not")
    if dictionary.skips and not skips:
        raise refusal(dictionary, library, "it has a linear skip, which is not saved there")


def skip_of(dictionary: ForeignDictionary) -> Tensor | None:
    """[D, D] from what is read to what is written."""
    return next(iter(dictionary.skips.values()), None)


def encoder_bias(dictionary: ForeignDictionary, place: int) -> Tensor:
    """b_enc of a library that encodes x - b_dec."""
    shift = dictionary.W_enc[:, place].double() @ dictionary.b_dec[place].double()
    return (dictionary.b_enc.double() + shift).float()


def in_folders(folders: Sequence[str], items: Sequence[Mapping[str, Content]]) -> list[Exported]:
    """One dictionary in the folder itself, several below it by name."""
    names = [""] if len(items) == 1 else list(folders)
    for name in names:
        if names.count(name) > 1:
            raise CrossproofError(
                f"Two dictionaries write {name}: export their crosscoders into folders apart."
            )
    return [Exported(name, files) for name, files in zip(names, items, strict=True)]


def block_of(hook: Any) -> tuple[int | None, str]:
    """The block of a hookpoint, None outside of blocks, and the rest of its name."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(hook))
    return (int(match[1]), match[2]) if match else (None, str(hook))
