"""Runs the server until it is stopped."""

from __future__ import annotations

import socket

from crossproof.errors import CrossproofError
from crossproof.explorer.sentences import Sentences
from crossproof.explorer.server import application
from crossproof.explorer.store import Store
from crossproof.extras import needed

READERS = 200
"""Connections at once; more are told to come again."""


def serve(
    store: Store,
    sentences: Sentences | None,
    host: str,
    port: int,
    token: str | None = None,
) -> None:
    """Serves a store until Ctrl-C, and prints the link.

    Raises CrossproofError if the address cannot be used, the store is damaged, or uvicorn is not
    installed.
    """
    uvicorn = needed("uvicorn", "explore", "the explorer's server")
    from crossproof.explorer.patience import PatientOnce

    app = application(store, sentences, token)
    store.open()
    listening = _listening(host, port)
    shown = f"[{host}]" if ":" in host else host
    link = f"http://{shown}:{listening.getsockname()[1]}/"
    print(f"Explorer: {link}" + ("" if token is None else f"?token={token}"), flush=True)
    print("Stop with Ctrl-C.", flush=True)
    settings = uvicorn.Config(
        app, http=PatientOnce, ws="none",
        log_level="warning", access_log=False, server_header=False,
        limit_concurrency=READERS, timeout_keep_alive=15, timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # the wish to stop
        pass
    finally:
        listening.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        kind = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # By its protocol asyncio knows a connection that is to send at once what it is given: of
        # two parts of an answer the second waited for the reader's word of the first, 40 ms.
        made = socket.socket(*kind[:3])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(kind[4])
        made.listen(128)
    except OSError as error:
        raise CrossproofError(
            f"Cannot serve on {host}, port {port} ({error.strerror}): give another --port."
        ) from error
    return made
