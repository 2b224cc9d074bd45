"""Token ids as the strings that pages show, many contexts at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from crossproof.evaluation.contexts import end_of_text, token_strings
from crossproof.lm.vocabulary import named_ids


class _Texts(dict[int, str]):
    """Texts of tokens, made when they are first asked for."""

    def __init__(self, make: Callable[[int], str]) -> None:
        self._make = make

    def __missing__(self, token: int) -> str:
        text = self[token] = self._make(token)
        return text


class TokenStrings:
    """`token_strings` of many contexts: one call of the tokenizer each where that is enough."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer
        self._special = named_ids(tokenizer)
        self._first = _Texts(lambda token: self._decode([token]))
        self._later = _Texts(self._behind)

    def __call__(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token as it reads in its place; `#id` without a tokenizer."""
        if self._tokenizer is None or len(ids) < 2:
            return token_strings(self._tokenizer, ids)
        strings = (self._first[ids[0]], *map(self._later.__getitem__, ids[1:]))
        return strings if "".join(strings) == self._decode(ids) else self._slowly(ids)

    def shown(self, ids: list[int]) -> list[int]:
        """Those that are not padding."""
        return ids[: end_of_text(ids, self._special)]

    def one(self, token: int) -> str:
        """The text of a token that is not the first."""
        return f"#{token}" if self._tokenizer is None else self._later[token]

    def _slowly(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Characters spread over tokens, and whatever else a tokenizer makes of neighbours."""
        return token_strings(self._tokenizer, ids)

    def _behind(self, token: int) -> str:
        """As it reads behind an ordinary token: with its space, where the tokenizer has one."""
        text = self._decode([self._letter, token])
        start = self._first[self._letter]
        return text[len(start) :] if text.startswith(start) else self._first[token]

    @cached_property
    def _letter(self) -> int:
        """A token that stands for an ordinary letter."""
        assert self._tokenizer is not None
        tokens: list[int] = self._tokenizer.encode("a", add_special_tokens=False)
        return tokens[0] if tokens else 0

    def _decode(self, ids: Sequence[int]) -> str:
        assert self._tokenizer is not None
        text = self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text
