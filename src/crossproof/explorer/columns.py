"""Many alike documents as columns: small once compressed, and every printed digit stays.

A column of n values is one of: `k`, objects with the same keys, a column each; `l`, lists of these
lengths (one number if all are alike), and a column of what is in them; `c`, the same value n times;
`w`, strings by number in a list of words; `v`, the values themselves. `explorer/src/columns.ts`
reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_05UP, Context
from typing import Any

_FEW, _MANY = Context(5, rounding=ROUND_05UP), Context(6, rounding=ROUND_05UP)


def column(values: Sequence[Any], words: dict[str, int]) -> dict[str, Any]:
    """Values as a column; strings that are new are added to `words`."""
    first = values[0] if values else None
    if isinstance(first, dict) and _alike(values):
        return {"k": {key: column([value[key] for value in values], words) for key in first}}
    if values and all(isinstance(value, list) for value in values):
        lengths = [len(value) for value in values]
        inside = column([each for value in values for each in value], words)
        return {"l": lengths[0] if len(set(lengths)) == 1 else lengths, "of": inside}
    if values and all(type(value) is type(first) and value == first for value in values):
        return {"c": shortened(first)}
    if values and all(isinstance(value, str) for value in values):
        return {"w": [words.setdefault(value, len(words)) for value in values]}
    return {"v": [shortened(value) for value in values]}


def _alike(values: Sequence[Any]) -> bool:
    return all(isinstance(value, dict) and value.keys() == values[0].keys() for value in values)


def shortened(value: Any) -> Any:
    """A number with at least one digit more than pages print, other things as they are.

    Pages print three digits, from 100 on up to five. Rounding here never ends on a digit from which
    another rounding could go astray (`decimal.ROUND_05UP`), so that pages print the same of both.
    """
    if isinstance(value, float):
        digits = _MANY if 100 <= abs(value) < 1e5 else _FEW
        short = float(digits.create_decimal(repr(value)))  # what is short already stays
        return int(short) if short.is_integer() and abs(short) < 2**53 else short
    if isinstance(value, dict):
        return {key: shortened(each) for key, each in value.items()}
    return [shortened(each) for each in value] if isinstance(value, list) else value
