"""Any OpenAI-compatible endpoint, with retries, a rate limit and answers kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from crossproof.clusters.prompts import LLMPrompt
from crossproof.errors import CrossproofError
from crossproof.extras import needed, option_name
from crossproof.files import write_json

Read = TypeVar("Read")

LONGEST_PAUSE = 60.0
"""Seconds that a server's retry-after is followed at most."""
CHARACTERS_A_TOKEN = 4
"""For estimates."""
AGAIN = "Your last answer could not be read. Keep exactly to the form that is asked for."
HINTS = {
    403: "this key may not use the model",
    404: "check --llm-url and --llm-model",
    429: "the account's quota is used up",
}


def _option(name: str) -> object:
    """How the command line spells a field."""
    return option_name(f"llm-{name}")


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and at what pace. The key is read from the environment when needed."""

    model: Annotated[str, _option("model")] = ""
    """The language model's name at the endpoint."""
    url: Annotated[str, _option("url")] = ""
    """Base URL of any OpenAI-compatible endpoint; by default OPENAI_BASE_URL, else OpenAI."""
    key_variable: Annotated[str, _option("key-variable")] = "OPENAI_API_KEY"
    """Environment variable that holds the key, which is never written anywhere; local servers may
    need none."""
    timeout: Annotated[float, _option("timeout")] = 60.0
    """Seconds a request may take."""
    retries: Annotated[int, _option("retries")] = 5
    """Further tries after a time-out, a lost connection, a refusal for the rate or a 5xx."""
    requests_per_minute: Annotated[float, _option("rate")] = 120.0
    """Requests a minute, at most."""
    parallel: Annotated[int, _option("parallel")] = 4
    """Requests under way at once."""
    price_in: float = 0.0
    """Price of a million prompt tokens, for the estimate that is printed before any request."""
    price_out: float = 0.0
    """Price of a million tokens of answers."""

    @property
    def address(self) -> str:
        """The base URL without a user's name and password."""
        url = self.url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        parts = urlsplit(url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


@dataclass(frozen=True)
class LLMCost:
    """What a set of prompts will take, at about four characters a token."""

    requests: int
    cached: int
    """Prompts whose answers are kept already; they are not asked again."""
    prompt_tokens: int
    answer_tokens: int
    """At most."""
    price: float | None
    """None where no prices are given."""

    def __str__(self) -> str:
        parts = f"{self.requests:,} requests ({self.cached:,} more are answered already), about "
        parts += f"{self.prompt_tokens:,} prompt and at most {self.answer_tokens:,} answer tokens"
        return parts if self.price is None else f"{parts}, at most {self.price:.2f}"


@dataclass(eq=False)
class LLM:
    """Asks prompts and reads answers; what has been answered once is never asked again.

    `answers` is the folder in which they are kept, a small file each, named by `key`; None keeps
    none. Raises CrossproofError if the endpoint's model is not named, or openai is not installed.
    """

    endpoint: Endpoint
    answers: Path | None = None
    sleep: Callable[[float], None] = time.sleep
    progress: Callable[[str, int, int], None] | None = None
    """Told what is being asked, prompts answered and their number."""
    spent: dict[str, int] = field(default_factory=lambda: {"prompt": 0, "answer": 0, "requests": 0})
    """Tokens as the endpoint counts them, and requests that were answered."""
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if not self.endpoint.model:
            raise CrossproofError("Name the endpoint's language model: --llm-model NAME.")
        pace = {"timeout": self.endpoint.timeout, "rate": self.endpoint.requests_per_minute}
        for option, value in pace.items():
            if not value > 0:
                raise CrossproofError(f"--llm-{option} is {value:g}: give a number above 0.")
        if self.endpoint.retries < 0:
            raise CrossproofError(f"--llm-retries is {self.endpoint.retries}: give 0 or more.")
        self._openai = needed("openai", "llm", "asking a language model")
        self._key = os.environ.get(self.endpoint.key_variable, "")
        self._client = self._openai.OpenAI(
            base_url=self.endpoint.url or os.environ.get("OPENAI_BASE_URL") or None,
            api_key=self._key or "none",
            timeout=self.endpoint.timeout,
            max_retries=0,  # here instead, so that waiting is in one place
        )

    def cost(self, prompts: Sequence[LLMPrompt]) -> LLMCost:
        """What asking these prompts will take."""
        distinct = list(dict.fromkeys(prompts))
        new = [prompt for prompt in distinct if self._kept(prompt) is None]
        size = sum(len(prompt.system) + len(prompt.user) for prompt in new) // CHARACTERS_A_TOKEN
        room = sum(prompt.answer_tokens for prompt in new)
        prices = self.endpoint.price_in, self.endpoint.price_out
        price = (size * prices[0] + room * prices[1]) / 1e6 if any(prices) else None
        return LLMCost(len(new), len(distinct) - len(new), size, room, price)

    def ask(
        self, prompts: Sequence[LLMPrompt], read: Callable[[str], Read | None], doing: str = ""
    ) -> list[Read | None]:
        """Answers as `read` understands them, in order; None where two tries gave none.

        Raises CrossproofError if the endpoint cannot be reached, refuses the key or the model, or
        still fails after all retries; answers that came before are kept.
        """
        done = 0
        distinct = list(dict.fromkeys(prompts))

        def one(prompt: LLMPrompt) -> Read | None:
            nonlocal done
            answer = self._answer(prompt, read)
            with self._lock:
                done += 1
                if self.progress is not None:
                    self.progress(doing, done, len(distinct))
            return answer

        with ThreadPoolExecutor(max(self.endpoint.parallel, 1)) as pool:
            futures = [pool.submit(one, prompt) for prompt in distinct]
            try:
                answers = {p: f.result() for p, f in zip(distinct, futures, strict=True)}
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [answers[prompt] for prompt in prompts]

    def key(self, prompt: LLMPrompt) -> str:
        """The hash under which an answer is kept: of address, model and prompt."""
        where = [self.endpoint.address, self.endpoint.model]
        content = [*where, prompt.system, prompt.user, prompt.answer_tokens]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _kept(self, prompt: LLMPrompt) -> str | None:
        """The answer that is kept; None if there is none or its file is damaged."""
        if self.answers is None:
            return None
        try:
            path = self.answers / f"{self.key(prompt)}.json"
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        answer = content.get("answer") if isinstance(content, dict) else None
        return answer if isinstance(answer, str) else None

    def _answer(self, prompt: LLMPrompt, read: Callable[[str], Read | None]) -> Read | None:
        kept = self._kept(prompt)
        if kept is not None and (result := read(kept)) is not None:
            return result
        for user in (prompt.user, f"{prompt.user}\n\n{AGAIN}"):
            answer = self._request(prompt.system, user, prompt.answer_tokens)
            result = read(answer) if answer is not None else None
            if result is not None:
                if self.answers is not None:
                    write_json(self.answers / f"{self.key(prompt)}.json", {"answer": answer})
                return result
        return None

    def _request(self, system: str, user: str, room: int) -> str | None:
        """The text of one answer; None if the endpoint's response is not one."""
        openai, trouble = self._openai, "it gave no reason"
        passing = openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        for attempt in range(self.endpoint.retries + 1):
            self._pace()
            try:
                return self._text(
                    self._client.chat.completions.create(
                        model=self.endpoint.model,
                        messages=messages,
                        temperature=0,
                        max_tokens=room,
                    )
                )
            except passing as error:
                if getattr(error, "code", None) == "insufficient_quota":
                    raise self._refused(error) from None
                trouble = self._redacted(str(error))
                if attempt < self.endpoint.retries:
                    self.sleep(_pause(error, attempt))
            except openai.APIStatusError as error:
                raise self._refused(error) from None
            except (openai.APIResponseValidationError, ValueError):
                return None  # not JSON
        raise CrossproofError(
            f"The endpoint {self.endpoint.address} cannot be reached or keeps failing ({trouble}) "
            f"after {self.endpoint.retries + 1} tries: check --llm-url and the network, then run "
            f"the command again; answers so far are kept."
        )

    def _text(self, response: Any) -> str | None:
        with contextlib.suppress(AttributeError, TypeError):
            usage = response.usage
            with self._lock:
                self.spent["requests"] += 1
                self.spent["prompt"] += usage.prompt_tokens or 0
                self.spent["answer"] += usage.completion_tokens or 0
        try:
            text = response.choices[0].message.content
        except (AttributeError, IndexError, TypeError):
            return None
        return text if isinstance(text, str) and text.strip() else None

    def _refused(self, error: Any) -> CrossproofError:
        status = int(error.status_code)
        key = f"put a valid key into the variable {self.endpoint.key_variable}"
        hint = key if status == 401 else HINTS.get(status, HINTS[404])
        reason = " ".join(self._redacted(str(error)).split())[:200]
        return CrossproofError(
            f"The endpoint {self.endpoint.address} refused the request ({status}: {reason}): "
            f"{hint}."
        )

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _pace(self) -> None:
        """Waits until the rate limit allows one more request."""
        gap = 60 / self.endpoint.requests_per_minute
        with self._lock:
            now = time.monotonic()
            wait, self._next = max(self._next - now, 0.0), max(self._next, now) + gap
        if wait > 0:
            self.sleep(wait)


def _pause(error: Any, attempt: int) -> float:
    """Seconds to wait: what the server asks for, or else 0.5, 1, 2, 4, ..."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    with contextlib.suppress(ValueError):
        return min(max(float(headers.get("retry-after") or ""), 0.0), LONGEST_PAUSE)
    return min(0.5 * 2.0**attempt, LONGEST_PAUSE)
