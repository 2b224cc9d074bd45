"""Chats as documents: lists of messages, spelt by the tokenizer's own template."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crossproof.errors import CrossproofError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = list[dict[str, str]]
"""Messages, each with its role and content."""
Spell = Callable[[Chat], str]
"""What makes a document of a chat."""

KEYS = (("role", "content"), ("from", "value"))
"""How data sets call who speaks and what is said."""
_ROLES = {"human": "user", "gpt": "assistant"}


def chat_of(value: Any) -> Chat | None:
    """The messages, if a row holds a list of them and nothing else."""
    if not isinstance(value, list) or not value:
        return None
    for who, what in KEYS:
        if all(isinstance(m, dict) and _texts(m.get(who), m.get(what)) for m in value):
            return [{"role": _ROLES.get(m[who], m[who]), "content": m[what]} for m in value]
    return None


def _texts(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


def is_chat_type(kind: Any) -> bool:
    """Whether a type of pyarrow is a list of messages."""
    from pyarrow import types

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    if not any(is_kind(kind) for is_kind in lists) or not types.is_struct(kind.value_type):
        return False
    names = {kind.value_type.field(at).name for at in range(kind.value_type.num_fields)}
    return any(names >= {*keys} for keys in KEYS)


def chat_template(tokenizer: PreTrainedTokenizerBase) -> Spell:
    """Spells chats as the tokenizer's template has them, without the token that begins texts.

    That token is put before every document. The function raises CrossproofError where the
    tokenizer has no template, or the template refuses a chat.
    """
    from jinja2 import TemplateError

    def spell(messages: Chat) -> str:
        if not tokenizer.chat_template:
            raise CrossproofError(
                "The text holds chats, and the model's tokenizer has no chat template: give the "
                "model that was trained on chats, or a column of text.",
                code="CP-TOKENIZER",
            )
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
        except (TemplateError, ValueError, TypeError) as error:
            raise CrossproofError(
                f"The tokenizer's chat template refuses a chat ({first_line(error)}): mend or "
                f"remove it.",
                code="CP-TOKENIZER",
            ) from error
        return str(text).removeprefix(tokenizer.bos_token or "")

    return spell
