"""A local HTTP server that speaks the chat-completions protocol, well or badly, as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One response: an answer, or a status, headers and a raw body."""

    text: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    hang: float = 0.0
    """Seconds before anything is sent."""

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return json.dumps({"error": {"message": self.text or "no", "code": None}}).encode()
        message = {"role": "assistant", "content": self.text}
        return json.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "stub",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
            }
        ).encode()


Script = Callable[[int, dict[str, Any]], Reply]
"""From the number of the request, counted from 0, and its JSON body to the response."""


class Stub:
    """The running server: its address and what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.stopped = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub.lock:
                    number = len(stub.requests)
                    stub.requests.append(body)
                    stub.keys.append(self.headers.get("Authorization", ""))
                reply = stub.script(number, body)
                stub.stopped.wait(reply.hang)
                content = reply.content()
                try:
                    self.send_response(reply.status)
                    headers = {"Content-Type": "application/json"} | reply.headers
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client has given up, as it should

            def log_message(self, *arguments: object) -> None:
                pass

        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@contextmanager
def stub(script: Script) -> Iterator[Stub]:
    """The server, for as long as the context lasts."""
    running = Stub(script)
    thread = threading.Thread(target=running.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.stopped.set()
        running.server.shutdown()
        running.server.server_close()
        thread.join()


def always(*texts: str) -> Script:
    """Answers with the texts in turn; the last one again and again."""
    return lambda number, _body: Reply(texts[min(number, len(texts) - 1)])
