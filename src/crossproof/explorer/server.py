"""The explorer's server: the built pages, and the documents of one store as JSON."""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from crossproof.errors import CrossproofError
from crossproof.explorer.access import App, Guard, Tagged
from crossproof.explorer.format import LATENTS, PAIRS
from crossproof.explorer.sentences import MOST_WAITING, Sentences
from crossproof.explorer.store import RowsQuestion, Store
from crossproof.extras import needed

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

TABLES = {"latents": LATENTS, "pairs": PAIRS}
SECONDS = 30.0
"""Within which a request is answered."""
FILES = {"app.js": "text/javascript; charset=utf-8", "app.css": "text/css; charset=utf-8"}


def static_file(name: str) -> bytes:
    """A built file of the pages."""
    return files("crossproof.explorer").joinpath("static", name).read_bytes()


def index_page(manifest: Mapping[str, Any], source: str) -> str:
    """The page that a browser opens, with what the store holds in it.

    `source` is where documents come from: "server", or "files" beside the page.
    """
    told = json.dumps(manifest, allow_nan=False).replace("<", "\\u003c")
    page = static_file("index.html").decode().replace('content="server"', f'content="{source}"')
    return page.replace('id="manifest">null', f'id="manifest">{told}')


def application(store: Store, sentences: Sentences | None = None, token: str | None = None) -> App:
    """An ASGI application that reads one store; `sentences` where a language model is loaded.

    Raises CrossproofError if Starlette is not installed.
    """
    needed("starlette", "explore", "the explorer's server")
    from starlette.applications import Starlette
    from starlette.routing import Route

    desk = Desk(store, sentences)
    index = index_page(desk.told, "server").encode()
    contents = {"": (index, "text/html; charset=utf-8")}
    contents |= {name: (static_file(name), kind) for name, kind in FILES.items()}
    routes = [Route(f"/{n}", _file(*each), methods=["GET"]) for n, each in contents.items()]
    routes += [
        Route("/api/manifest", _json(desk.pages, desk.manifest), methods=["GET"]),
        Route("/api/{dictionary:int}/rows/{table}", _json(desk.pages, desk.rows), methods=["GET"]),
        Route("/api/{dictionary:int}/{kind}/{number:int}", desk.page, methods=["GET"]),
        Route("/api/{dictionary:int}/{what}", _json(desk.reading, desk.sentence), methods=["POST"]),
    ]
    tag = hashlib.sha256(b"".join(content for content, _ in contents.values()))
    tag.update(store.manifest.digest.encode())
    return Guard(Tagged(Starlette(routes=routes), f'"{tag.hexdigest()[:24]}"'), token)


class Desk:
    """Answers requests about one store."""

    def __init__(self, store: Store, sentences: Sentences | None) -> None:
        self.store, self.sentences = store, sentences
        self.pages = ThreadPoolExecutor(8, "explorer-pages")
        self.reading = ThreadPoolExecutor(2 * MOST_WAITING, "explorer-sentences")
        """A pool of their own: pages do not wait for sentences."""
        self.told = store.manifest.shown() | {"live": sentences is not None}

    def manifest(self, _: Request, __: bytes) -> Mapping[str, Any]:
        """What the store holds."""
        return self.told

    async def page(self, request: Request) -> Response:
        """A page as it lies in the store, still compressed: found in less than a millisecond."""
        parts = request.path_params
        try:
            at = self._dictionary(request)
            packed = self.store.packed_page(at, parts["kind"], parts["number"])
        except CrossproofError as error:
            return _failed(error, 404)
        return _compressed(packed, "application/json")

    def rows(self, request: Request, _: bytes) -> Mapping[str, Any]:
        """Rows of a table."""
        table = TABLES.get(request.path_params["table"])
        if table is None:
            raise CrossproofError(f"There is no such table: choose {', '.join(TABLES)}.")
        return self.store.rows(self._dictionary(request), table, _question(request.query_params))

    def sentence(self, request: Request, body: bytes) -> Mapping[str, Any]:
        """A sentence read, one of its tokens, or a token without some latents."""
        if self.sentences is None:
            raise CrossproofError("No language model is loaded here, so no sentence can be read.")
        given = _body(request, body)
        return self.sentences.answer(self._dictionary(request), request.path_params["what"], given)

    def _dictionary(self, request: Request) -> int:
        return self.store.number(int(request.path_params["dictionary"]))


def _file(content: bytes, kind: str) -> Callable[[Request], Any]:
    packed = zlib.compress(content, 9)

    async def endpoint(_: Request) -> Response:
        return _compressed(packed, kind)

    return endpoint


def _compressed(packed: bytes, kind: str) -> Response:
    """An answer of bytes that zlib has compressed; every browser reads them."""
    from starlette.responses import Response

    headers = {"content-encoding": "deflate", "cache-control": "no-cache"}
    return Response(packed, media_type=kind, headers=headers)


def _json(pool: Executor, answer: Callable[[Request, bytes], Mapping[str, Any]]) -> Any:
    """An endpoint that answers in time: the function's JSON, or its error as a sentence."""

    async def endpoint(request: Request) -> Response:
        from starlette.responses import JSONResponse

        body = await request.body()
        try:
            return JSONResponse(await _in_time(pool, answer, request, body))
        except CrossproofError as error:
            return _failed(error, 400)

    return endpoint


async def _in_time(pool: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives, in another thread; CrossproofError if it takes too long."""
    loop = asyncio.get_running_loop()
    try:
        return await asyncio.wait_for(loop.run_in_executor(pool, function, *arguments), SECONDS)
    except TimeoutError as error:
        raise CrossproofError("The server is too busy to answer this: try again.") from error


def _failed(error: CrossproofError, status: int) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": str(error)}, status)


def _question(given: Mapping[str, str]) -> RowsQuestion:
    """The question in an address. Raises CrossproofError for what is no number."""
    limits: dict[str, dict[str, float]] = {"least": {}, "most": {}}
    for name, value in given.items():
        side, point, column = name.partition(".")
        if point and side in limits and value:
            limits[side][column] = _number(name, value)
    return RowsQuestion(
        text=given.get("text", "")[:200],
        sort=given.get("sort", ""),
        descending="ascending" not in given,
        least=limits["least"],
        most=limits["most"],
        first=int(_number("first", given.get("first", "0"))),
        rows=int(_number("rows", given.get("rows", "100"))),
    )


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise CrossproofError(f"{name} is no number.") from error
    if not abs(number) < 1e300:
        raise CrossproofError(f"{name} is no number that can be compared.")
    return number


def _body(request: Request, body: bytes) -> Mapping[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise CrossproofError("A request about a sentence is JSON.")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CrossproofError("This request is no JSON.") from error
    if not isinstance(given, dict):
        raise CrossproofError("This request is no JSON object.")
    return given
