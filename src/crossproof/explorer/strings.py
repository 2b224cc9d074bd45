"""Token ids as the strings that pages show, many contexts at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from crossproof.evaluation.contexts import token_strings


class TokenStrings:
    """`token_strings` of many contexts: one call of the tokenizer each where that is enough."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer
        self._first: dict[int, str] = {}
        self._later: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token as it reads in its place; `#id` without a tokenizer."""
        if self._tokenizer is None or len(ids) < 2:
            return token_strings(self._tokenizer, ids)
        strings = (self._alone(ids[0]), *map(self._behind, ids[1:]))
        return strings if "".join(strings) == self._decode(ids) else self._slowly(ids)

    def one(self, token: int) -> str:
        """The text of a token that is not the first."""
        return f"#{token}" if self._tokenizer is None else self._behind(token)

    def _slowly(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Characters spread over tokens, and whatever else a tokenizer makes of neighbours."""
        return token_strings(self._tokenizer, ids)

    def _alone(self, token: int) -> str:
        if token not in self._first:
            self._first[token] = self._decode([token])
        return self._first[token]

    def _behind(self, token: int) -> str:
        """As it reads behind an ordinary token: with its space, where the tokenizer has one."""
        if token not in self._later:
            text = self._decode([self._letter, token])
            start = self._alone(self._letter)
            inside = text.startswith(start)
            self._later[token] = text[len(start) :] if inside else self._alone(token)
        return self._later[token]

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
