"""Who may ask a server: from this machine, or with the token of the link; and for how much."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs

COOKIE = "crossproof-explorer"
MOST_BYTES, BODY_SECONDS = 65_536, 15.0
"""Of a request's body, and within which it must arrive."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """A word that nobody guesses."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True, eq=False)
class Guard:
    """Lets requests through to an application, or answers them itself.

    Without a token only those that name this machine pass: a page elsewhere that has its name point
    here is refused. With one, a request brings it in its address once and in a cookie later.
    """

    app: App
    token: str | None = None
    headers: dict[str, str] = field(default_factory=lambda: dict(HEADERS))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        refused = self._refused(scope, given)
        if refused is not None:
            await _answer(send, *refused, self.headers)
            return
        if self.token is not None and self._in_address(scope):
            cookie = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            await _answer(send, 303, "", {**self.headers, "location": "./", "set-cookie": cookie})
            return
        try:
            body = await asyncio.wait_for(_body(receive), BODY_SECONDS)
        except TimeoutError:
            await _answer(
                send, 408, "This request did not arrive in time: try again.", self.headers
            )
            return
        if body is None:
            told = f"This request is larger than {MOST_BYTES:,} bytes: ask for less."
            await _answer(send, 413, told, self.headers)
            return
        await self.app(scope, _replayed(body), self._with_headers(send))

    def _refused(self, scope: Scope, given: dict[str, str]) -> tuple[int, str] | None:
        host = given.get("host", "")
        if self.token is None:
            if not is_loopback(_name_of(host)):
                return 403, "This server answers to this machine's own name only."
        elif not (self._in_address(scope) or self._in_cookie(given)):
            return 403, "The link's token is missing: open the link that crossproof printed."
        origin = given.get("origin")
        if scope["method"] == "POST" and origin is not None and origin.partition("://")[2] != host:
            return 403, "This request comes from another page."
        return None

    def _in_address(self, scope: Scope) -> bool:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        return any(self._same(each) for each in query.get("token", []))

    def _in_cookie(self, given: dict[str, str]) -> bool:
        cookies = SimpleCookie(given.get("cookie", ""))
        return COOKIE in cookies and self._same(cookies[COOKIE].value)

    def _same(self, word: str) -> bool:
        return self.token is not None and hmac.compare_digest(word.encode(), self.token.encode())

    def _with_headers(self, send: Send) -> Send:
        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in self.headers.items()]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        return sent


@dataclass(frozen=True, eq=False)
class Tagged:
    """Answers of one store never change: who has one already is told so, and nothing is read."""

    app: App
    tag: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        if (b"if-none-match", self.tag.encode()) in scope["headers"]:
            await send({"type": "http.response.start", "status": 304, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                message["headers"] = [*message["headers"], (b"etag", self.tag.encode())]
            await send(message)

        await self.app(scope, receive, sent)


def _name_of(host: str) -> str:
    """A Host header without its port."""
    return host.rpartition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0]


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None if it is too large."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        body = bytes(body + message.get("body", b""))
        if len(body) > MOST_BYTES:
            return None
        if not message.get("more_body"):
            return body


def _replayed(body: bytes) -> Receive:
    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _answer(send: Send, status: int, text: str, headers: dict[str, str]) -> None:
    content = text.encode()
    listed = [("content-type", "text/plain; charset=utf-8"), *headers.items()]
    encoded = [(name.encode(), value.encode()) for name, value in listed]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": content})
