"""What a language model is asked, and how its answers are read; None for what cannot be read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGH"
LONGEST = 300
"""Characters of an explanation."""


@dataclass(frozen=True)
class LLMPrompt:
    """One request."""

    system: str
    user: str
    answer_tokens: int
    """Room for the answer."""


EXPLAIN = (
    "You study one unit of a language model. You are shown pieces of text in which the unit is "
    "active; the token at which it is strongest stands between « and ». Say in one line of at "
    "most 20 words what makes the unit active: the words, meanings or positions that the pieces "
    "share. Answer with that line alone, behind 'Explanation:'."
)
JUDGE = (
    "Several units of a language model form a group. You are shown some members of the group, and "
    "then candidates, exactly one of which is a further member. Decide which candidate fits the "
    "members best. Answer with the candidate's letter alone, behind 'Answer:'."
)
DETECT = (
    "You are given a description of what makes a unit of a language model active, and numbered "
    "pieces of text. Decide for each piece whether the unit is active anywhere in it. Answer with "
    "one line behind 'Answer:': for each piece, in order, 1 for active or 0 for not active, "
    "separated by commas."
)


def explain_prompt(contexts: Sequence[str]) -> LLMPrompt:
    """Asks for an explanation of marked contexts."""
    return LLMPrompt(EXPLAIN, "\n".join(f"- {text}" for text in contexts), 80)


def judge_prompt(shown: Sequence[Sequence[str]], options: Sequence[Sequence[str]]) -> LLMPrompt:
    """Asks which option belongs to the shown members."""
    members = "\n".join(f"Member {i}:\n{_indented(item)}" for i, item in enumerate(shown, 1))
    candidates = "\n".join(
        f"Candidate {letter}:\n{_indented(item)}"
        for letter, item in zip(LETTERS, options, strict=False)
    )
    return LLMPrompt(JUDGE, f"{members}\n\n{candidates}", 16)


def detect_prompt(explanation: str, windows: Sequence[str]) -> LLMPrompt:
    """Asks in which windows the explained latent is active."""
    pieces = "\n".join(f"{i}. {text}" for i, text in enumerate(windows, 1))
    return LLMPrompt(DETECT, f"Description: {explanation}\n\n{pieces}", 8 + 4 * len(windows))


def read_explanation(answer: str) -> str | None:
    """The explanation on one line."""
    text = answer.rsplit("Explanation:", 1)[-1].strip()
    line = text.splitlines()[0].strip().strip("\"'") if text else ""
    return line if 0 < len(line) <= LONGEST else None


def read_choice(answer: str, options: int = 5) -> int | None:
    """The one letter that is answered; None for none or several."""
    text = answer.rsplit("Answer:", 1)[-1]
    letters = set(re.findall(rf"\b([{LETTERS[:options]}])\b", text))
    return LETTERS.index(letters.pop()) if len(letters) == 1 else None


def read_decisions(answer: str, count: int) -> list[bool] | None:
    """As many decisions as were asked for, or None."""
    text = answer.rsplit("Answer:", 1)[-1].strip().strip("[]")
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != count or any(part not in ("0", "1") for part in parts):
        return None
    return [part == "1" for part in parts]


def _indented(item: Sequence[str]) -> str:
    return "\n".join(f"  {text}" for text in item)
