"""A server that answers as the Hugging Face Hub does, for what downloads and uploads ask of it.

Repositories are folders below `root`; one with a file `.gated` or `.private` is refused. Large
files (by suffix) are served as the Hub serves them: a redirect to another address, which knows
ranges. `breaks` makes the next downloads of a file end early, as a lost connection does. Uploads
need the token `TOKEN`: small files come inside the commit, large ones to the other address before.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_writes"
LARGE = (".safetensors", ".npz", ".pt", ".pth", ".bin")


@dataclass
class HubServer:
    """What the server has and has been asked."""

    root: Path
    address: str = ""
    elsewhere: str = ""
    """Another host's address, to which large files are redirected."""
    asked: list[str] = field(default_factory=list)
    """Method, path and, if there was one, range of every request."""
    breaks: dict[str, int] = field(default_factory=dict)
    """By file name: how many of its next downloads break off half way."""
    stored: dict[str, bytes] = field(default_factory=dict)
    """Large files that were uploaded, by SHA-256."""

    def repository(self, name: str) -> Path:
        """The folder of a repository, made if need be."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def downloads(self) -> list[str]:
        """The names of the files whose content was asked for, in order."""
        got = [line.split() for line in self.asked if line.startswith("GET ")]
        paths = [urlsplit(parts[1]).path for parts in got]
        return [p.rpartition("/")[2] for p in paths if p.startswith("/cdn/") or "/resolve/" in p]


@contextmanager
def serving(root: Path) -> Iterator[HubServer]:
    """The server, while the block lasts."""
    hub = HubServer(root)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address, hub.elsewhere = (
        f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost")
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = f"{self.command} {self.path} {self.headers.get('Range', '')}".strip()
        self.hub.asked.append(asked)
        path = unquote(urlsplit(self.path).path).strip("/")
        if path.startswith("api/models/"):
            self._info(path.removeprefix("api/models/"))
        elif path.startswith("cdn/"):
            self._content(self.hub.root / path.removeprefix("cdn/"))
        else:
            repository, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            if self._refused(repository, revision):
                return
            self._file(repository, name)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"POST {self.path}")
        if path == "api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._say(401, "")
        elif path == "api/repos/create":
            given = json.loads(body)
            name = "/".join(filter(None, (given.get("organization") or "me", given["name"])))
            there = (self.hub.root / name).exists()
            self.hub.repository(name)
            self._json({"url": f"{self.hub.address}/{name}"}, 409 if there else 200)
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = {True: "lfs", False: "regular"}
            told = [
                {"path": f["path"], "uploadMode": modes[f["path"].endswith(LARGE)]} for f in files
            ]
            self._json({"files": [{**f, "shouldIgnore": False, "oid": None} for f in told]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for each in objects:
                href = f"{self.hub.elsewhere}/upload/{each['oid']}"
                each["actions"] = {"upload": {"href": href}}
            self._json({"transfer": "basic", "objects": objects})
        else:
            self._commit(path.removeprefix("api/models/").partition("/commit/")[0], body)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.stored[oid] = content
        self._body(200, b"", {})

    def _commit(self, repository: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                continue
            large = line["key"] == "lfsFile"
            content = self.hub.stored[value["oid"]] if large else base64.b64decode(value["content"])
            path = self.hub.repository(repository) / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        url = f"{self.hub.address}/{repository}/commit/{COMMIT}"
        self._json({"success": True, "commitUrl": url, "commitOid": COMMIT})

    def _refused(self, repository: str, revision: str) -> bool:
        folder = self.hub.root / repository
        if not folder.is_dir() or (folder / ".private").exists():
            self._say(401, "RepoNotFound")
        elif (folder / ".gated").exists():
            self._say(403, "GatedRepo")
        elif revision not in ("", "main", COMMIT):
            self._say(404, "RevisionNotFound")
        else:
            return False
        return True

    def _info(self, path: str) -> None:
        repository, tree, revision = path.partition("/tree/")
        if not tree:
            repository, _, revision = path.partition("/revision/")
        if self._refused(repository, revision):
            return
        if tree:
            self._json(list(self._entries(self.hub.root / repository)))
            return
        folder = self.hub.root / repository
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        siblings = [{"rfilename": name} for name in names]
        content = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
        more: dict[str, Any] = {"private": False, "tags": [], "downloads": 0, "likes": 0}
        self._body(200, json.dumps(content | more).encode(), {"Content-Type": "application/json"})

    def _entries(self, folder: Path) -> Iterator[dict[str, Any]]:
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            content, name = path.read_bytes(), path.relative_to(folder).as_posix()
            oid = hashlib.sha256(content).hexdigest()
            entry = {"type": "file", "path": name, "size": len(content), "oid": oid}
            lfs = {"oid": oid, "size": len(content), "pointerSize": 130}
            yield entry | ({"lfs": lfs} if name.endswith(LARGE) else {})

    def _file(self, repository: str, name: str) -> None:
        path = self.hub.root / repository / name
        if not path.is_file():
            self._say(404, "EntryNotFound")
            return
        content = path.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        if not name.endswith(LARGE):
            self._body(200, content, headers)
            return
        headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content))}
        headers["Location"] = f"{self.hub.elsewhere}/cdn/{repository}/{name}"
        self._body(302, b"", headers)

    def _content(self, path: Path) -> None:
        content, start = path.read_bytes(), 0
        asked = self.headers.get("Range")
        if asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
        rest = content[start:]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        left = self.hub.breaks.get(path.name, 0)
        if self.command == "GET" and left > 0:
            self.hub.breaks[path.name] = left - 1
            self._head(206 if asked else 200, len(rest), headers)
            self.wfile.write(rest[: len(rest) // 2])
            self.close_connection = True
            return
        self._body(206 if asked else 200, rest, headers)

    def _say(self, status: int, code: str) -> None:
        self._body(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _body(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: Any, status: int = 200) -> None:
        self._body(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""
