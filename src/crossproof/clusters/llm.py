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
from typing import Any, TypeVar

from crossproof.clusters.config import Endpoint as Endpoint
from crossproof.clusters.extras import optional
from crossproof.clusters.prompts import Prompt
from crossproof.errors import CrossproofError
from crossproof.files import write_json

Read = TypeVar("Read")

LONGEST_PAUSE = 60.0
"""Seconds that a server's retry-after is followed at most."""
CHARACTERS_A_TOKEN = 4
"""For estimates."""
AGAIN = "Your last answer could not be read. Keep exactly to the form that is asked for."


@dataclass(frozen=True)
class Cost:
    """What a set of prompts will take, at about four characters a token."""

    requests: int
    cached: int
    """Prompts whose answers are on disk already; they are not asked again."""
    prompt_tokens: int
    answer_tokens: int
    """At most."""
    price: float | None
    """None where no prices are given."""

    def __str__(self) -> str:
        parts = f"{self.requests:,} requests ({self.cached:,} more are answered already), about "
        parts += f"{self.prompt_tokens:,} prompt and at most {self.answer_tokens:,} answer tokens"
        return parts if self.price is None else f"{parts}, at most {self.price:.2f}"


class Cache:
    """Answers by the hash of model and prompt, a small file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> str | None:
        """The answer, or None if it is not there or its file is damaged."""
        try:
            content = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        answer = content.get("answer") if isinstance(content, dict) else None
        return answer if isinstance(answer, str) else None

    def put(self, key: str, answer: str) -> None:
        """Writes one answer atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"{key}.json", {"answer": answer})


@dataclass(eq=False)
class LLM:
    """Asks prompts and reads answers; what has been answered once is never asked again."""

    endpoint: Endpoint
    cache: Cache
    sleep: Callable[[float], None] = time.sleep
    spent: dict[str, int] = field(default_factory=lambda: {"prompt": 0, "answer": 0, "requests": 0})
    """Tokens as the endpoint counts them, and requests that were answered."""
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if not self.endpoint.model:
            raise CrossproofError("Name the endpoint's language model: --llm-model NAME.")
        self._openai = optional("openai", "llm", "Asking a language model")
        self._key = os.environ.get(self.endpoint.key_variable, "")
        self._client = self._openai.OpenAI(
            base_url=self.endpoint.url or os.environ.get("OPENAI_BASE_URL") or None,
            api_key=self._key or "none",
            timeout=self.endpoint.timeout,
            max_retries=0,  # here instead, so that waiting is in one place
        )

    def cost(self, prompts: Sequence[Prompt]) -> Cost:
        """What asking these prompts will take."""
        distinct = list(dict.fromkeys(prompts))
        new = [prompt for prompt in distinct if self.cache.get(self.key(prompt)) is None]
        size = sum(len(prompt.system) + len(prompt.user) for prompt in new) // CHARACTERS_A_TOKEN
        answers = sum(prompt.answer_tokens for prompt in new)
        prices = self.endpoint.price_in, self.endpoint.price_out
        price = (size * prices[0] + answers * prices[1]) / 1e6 if any(prices) else None
        return Cost(len(new), len(distinct) - len(new), size, answers, price)

    def ask(
        self,
        prompts: Sequence[Prompt],
        read: Callable[[str], Read | None],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Read | None]:
        """Answers as `read` understands them, in order; None where two tries gave none.

        Raises CrossproofError if the endpoint cannot be reached, refuses the key or the model, or
        still fails after all retries; answers that came before are kept.
        """
        done = 0
        distinct = list(dict.fromkeys(prompts))

        def one(prompt: Prompt) -> Read | None:
            nonlocal done
            answer = self._answer(prompt, read)
            with self._lock:
                done += 1
                if progress is not None:
                    progress(done, len(distinct))
            return answer

        with ThreadPoolExecutor(max(self.endpoint.parallel, 1)) as pool:
            futures = [pool.submit(one, prompt) for prompt in distinct]
            try:
                found = {p: f.result() for p, f in zip(distinct, futures, strict=True)}
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [found[prompt] for prompt in prompts]

    def key(self, prompt: Prompt) -> str:
        """The hash under which an answer is kept: of address, model and prompt."""
        content = [
            self.endpoint.address,
            self.endpoint.model,
            prompt.system,
            prompt.user,
            prompt.answer_tokens,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _answer(self, prompt: Prompt, read: Callable[[str], Read | None]) -> Read | None:
        key = self.key(prompt)
        known = self.cache.get(key)
        if known is not None and (result := read(known)) is not None:
            return result
        for user in (prompt.user, f"{prompt.user}\n\n{AGAIN}"):
            answer = self._request(prompt.system, user, prompt.answer_tokens)
            result = read(answer) if answer is not None else None
            if result is not None and answer is not None:
                self.cache.put(key, answer)
                return result
        return None

    def _request(self, system: str, user: str, room: int) -> str | None:
        """The text of one answer; None if the endpoint's response is not one."""
        openai, trouble = self._openai, "it gave no reason"
        passing = openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError
        for attempt in range(self.endpoint.retries + 1):
            self._pace()
            try:
                return self._text(
                    self._client.chat.completions.create(
                        model=self.endpoint.model,
                        messages=[
                            {"role": "system", "content": system},
                            {"role": "user", "content": user},
                        ],
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
        status = error.status_code
        hint = {
            401: f"put a valid key into the variable {self.endpoint.key_variable}",
            403: "this key may not use the model",
            404: "check --llm-url and --llm-model",
            429: "the account's quota is used up",
        }.get(int(status), "check --llm-url and --llm-model")
        reason = " ".join(self._redacted(str(error)).split())[:200]
        return CrossproofError(
            f"The endpoint {self.endpoint.address} refused the request ({status}: {reason}): "
            f"{hint}."
        )

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _pace(self) -> None:
        """Waits until the rate limit allows one more request."""
        gap = 60 / max(self.endpoint.requests_per_minute, 1e-9)
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
