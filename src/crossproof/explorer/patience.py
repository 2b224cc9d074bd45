"""Connections that are closed if no request arrives on them in time."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 15.0
"""From a connection, or a request's first byte, to the end of its headers."""


class PatientOnce(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, whose requests must begin and arrive in time.

    uvicorn itself waits for ever, and as many silent connections as it allows would keep every
    reader out. Headers are limited in size by h11; bodies and answers by `access` and `server`.
    """

    _waits: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no longer."""
        self._rest()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Waits on if this was not the end of a request's headers."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._rest()

    def _wait(self) -> None:
        if self._waits is None:
            self._waits = self.loop.call_later(SECONDS, self.transport.close)

    def _rest(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None
