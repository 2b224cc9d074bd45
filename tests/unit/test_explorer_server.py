"""The explorer's server and store: who may ask, for what, and what a damaged store says."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from explorers import LATENTS, NAMES

from crossproof.crosscoder import load_crosscoder
from crossproof.errors import CrossproofError
from crossproof.explorer import access as access_module
from crossproof.explorer import server as server_module
from crossproof.explorer import serving as serving_module
from crossproof.explorer import store as store_module
from crossproof.explorer.access import MOST_BYTES, is_loopback
from crossproof.explorer.arrow import read_table, write_table
from crossproof.explorer.format import LATENTS as LATENT_TABLE
from crossproof.explorer.format import MANIFEST, PAGES, PAIRS, STORE, FileFacts, read_manifest
from crossproof.explorer.sentences import Sentences
from crossproof.explorer.server import application
from crossproof.explorer.store import RowsQuestion, Store
from crossproof.lm import LanguageModel

pytest.importorskip("duckdb")
TestClient: Any = pytest.importorskip("starlette.testclient").TestClient

HERE = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def run(explored: Path) -> Path:
    (explored / "secret.txt").write_text("secret")
    return explored


@pytest.fixture(scope="module")
def client(run: Path, gpt_neo: LanguageModel) -> Iterator[Any]:
    dictionaries = [load_crosscoder(run / name / "crosscoder")[0] for name in NAMES]
    app = application(Store(run), Sentences(gpt_neo, dictionaries))
    with TestClient(app, base_url=HERE) as found:
        yield found


def sentence(client: Any, what: str, **given: Any) -> Any:
    return client.post(f"/api/1/{what}", json=given)


def test_pages_and_rows_are_those_of_the_store(client: Any, run: Path) -> None:
    store = Store(run)
    manifest = client.get("/api/manifest").json()
    assert [each["name"] for each in manifest["dictionaries"]] == list(NAMES)
    assert "files" not in manifest
    assert client.get("/api/1/latent/3").json() == store.page(1, "latent", 3)
    answer = client.get("/api/1/rows/latents?sort=frequency&ascending=1&rows=5&least.active=2")
    question = RowsQuestion("", "frequency", False, {"active": 2.0}, {}, 0, 5)
    assert answer.json() == json.loads(json.dumps(store.rows(1, LATENT_TABLE, question)))
    assert len(answer.json()["rows"]) == 5


def test_words_are_found_in_contexts(client: Any, run: Path) -> None:
    page = Store(run).page(0, "latent", 1)
    word = page["contexts"][0]["tokens"][page["contexts"][0]["peak"]].strip()
    rows = client.get("/api/0/rows/latents", params={"text": word, "rows": 100}).json()
    assert 1 in [row[rows["columns"].index("latent")] for row in rows["rows"]]
    assert client.get("/api/0/rows/latents", params={"text": "no such words"}).json()["total"] == 0


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (f"/api/0/latent/{LATENTS}", "no latent"),
        (f"/api/0/latent/{10**30}", "no latent"),
        (f"/api/{10**30}/latent/0", "no dictionary"),
        ("/api/7/latent/0", "no dictionary"),
        ("/api/0/pair/0", "not among the pairs"),
        ("/api/0/secret/0", "no pages"),
        ("/api/0/rows/secret", "no such table"),
        ("/api/0/rows/latents?sort=text;--", "no column"),
        ("/api/0/rows/latents?least.label=1", "no column"),
        ("/api/0/rows/latents?least.active=nan", "no number"),
        ("/api/0/rows/latents?first=x", "no number"),
    ],
)
def test_what_is_not_there_is_a_sentence(client: Any, path: str, told: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert told in answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "/static/../../secret.txt",
     "/api/0/..%2f..%2fsecret.txt/0", "/data/manifest.js", "/app.js/../secret.txt"],
)  # fmt: skip
def test_no_path_leads_out(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (404, 405)
    assert "secret" not in answer.text


def test_every_answer_forbids_other_origins(client: Any) -> None:
    for path in ("/", "/app.js", "/api/manifest", "/api/0/latent/0", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_what_a_browser_has_already_is_not_sent_again(client: Any) -> None:
    first = client.get("/api/0/latent/3")
    tag = {"if-none-match": first.headers["etag"]}
    again = client.get("/api/0/latent/3", headers=tag)
    assert (again.status_code, again.content) == (304, b"")
    assert "default-src 'none'" in again.headers["content-security-policy"]
    assert client.get("/api/0/latent/3", headers={"if-none-match": '"other"'}).json()
    missing = client.get(f"/api/0/latent/{LATENTS}")
    assert "etag" not in missing.headers


def test_another_name_that_points_here_is_refused(run: Path) -> None:
    app = application(Store(run))
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8765", ""):
        answer = TestClient(app, base_url=HERE).get("/api/manifest", headers={"host": host})
        assert answer.status_code == 403
    for host in ("localhost:8765", "127.0.0.1", "[::1]:8765"):
        answer = TestClient(app, base_url=HERE).get("/api/manifest", headers={"host": host})
        assert answer.status_code == 200


def test_with_a_token_nothing_is_read_without_it(run: Path) -> None:
    client = TestClient(application(Store(run), token="word"), base_url="http://host:80")
    for path in ("/", "/api/manifest", "/app.js", "/?token=wrong", "/api/manifest?token="):
        assert client.get(path, follow_redirects=False).status_code == 403
    first = client.get("/?token=word", follow_redirects=False)
    assert first.status_code == 303
    assert "HttpOnly" in first.headers["set-cookie"]
    assert "SameSite=Strict" in first.headers["set-cookie"]
    assert client.get("/api/manifest").status_code == 200  # by the cookie


def test_other_pages_cannot_post(client: Any) -> None:
    answer = client.post(
        "/api/0/sentence", json={"text": "a b"}, headers={"origin": "https://evil.example"}
    )
    assert answer.status_code == 403


def test_large_and_odd_requests_are_refused(client: Any) -> None:
    large = client.post("/api/0/sentence", content=b"x" * (MOST_BYTES + 1))
    assert large.status_code == 413
    for body in (b"", b"[]", b"{", b"[" * 5000):
        headers = {"content-type": "application/json"}
        answer = client.post("/api/0/sentence", content=body, headers=headers)
        assert answer.status_code == 400
    assert sentence(client, "sentence", text=" ").status_code == 400
    assert sentence(client, "sentence", text="a " * 1500).status_code == 400
    assert sentence(client, "token", text="a b c", at="1").status_code == 400
    assert sentence(client, "token", text="a b c", at=99).status_code == 400
    assert sentence(client, "secret", text="a b c").status_code == 400


def test_a_search_that_never_ends_is_given_up(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "WHERE row IN (SELECT sum(range) FROM range(1000000000000) GROUP BY range % 7)"
    monkeypatch.setattr(store_module, "_query", lambda *_: (endless, ()))
    monkeypatch.setattr(store_module, "MOST_SECONDS", 0.2)
    began = time.monotonic()
    answer = TestClient(application(Store(run)), base_url=HERE).get("/api/0/rows/latents")
    assert time.monotonic() - began < 10
    assert answer.status_code == 400
    assert "takes too long" in answer.json()["error"]


def test_an_answer_that_hangs_is_given_up(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SECONDS", 0.2)
    hangs = threading.Event()
    monkeypatch.setattr(Store, "rows", lambda *_: hangs.wait(20))
    answer = TestClient(application(Store(run)), base_url=HERE).get("/api/0/rows/latents")
    hangs.set()
    assert answer.status_code == 400
    assert "too busy" in answer.json()["error"]


@pytest.fixture
def address(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Where a server listens that waits a fifth of a second for requests."""
    uvicorn = pytest.importorskip("uvicorn")
    from crossproof.explorer import patience

    monkeypatch.setattr(patience, "SECONDS", 0.2)
    monkeypatch.setattr(access_module, "BODY_SECONDS", 0.2)
    settings = {"port": 0, "log_level": "error", "http": patience.PatientOnce, "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(application(Store(run)), **settings))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join()


HEAD = b"POST /api/0/sentence HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n"


@pytest.mark.parametrize(
    ("begun", "answer"),
    [(b"", b""), (b"GET / HTTP/1.1\r\n", b""), (HEAD, b""), (HEAD + b"\r\n{", b"HTTP/1.1 408")],
)
def test_requests_that_never_arrive_are_given_up(
    address: tuple[str, int], begun: bytes, answer: bytes
) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(begun)
        assert connection.recv(12) == answer  # nothing: it was closed


def test_no_part_of_an_answer_waits_for_word_of_another() -> None:
    """Of a connection that is kept, the second of two parts waited 40 ms."""
    seen: list[int] = []

    async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        seen.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def ask() -> None:
        listening = serving_module._listening("127.0.0.1", 0)
        async with await asyncio.start_server(accepted, sock=listening):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            await reader.read()
            writer.close()

    asyncio.run(ask())
    assert seen == [1]


def test_a_request_that_comes_in_pieces_is_answered(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        for _ in range(2):  # on the same connection
            for part in (b"GET /api/manifest HTTP/1.1\r\n", b"host: 127.0.0.1\r\n\r\n"):
                connection.sendall(part)
                time.sleep(0.02)
            assert connection.recv(1 << 20).startswith(b"HTTP/1.1 200")


def test_a_sentence_and_its_tokens(client: Any) -> None:
    text = "w3 w4 w5 w6 w7"
    page = sentence(client, "sentence", text=text).json()
    scored = [at for at, token in enumerate(page["tokens"]) if token["scored"]]
    assert scored
    at = scored[-1]
    latents = page["tokens"][at]["latents"]
    token = sentence(client, "token", text=text, at=at).json()
    assert {each["block"] for each in token["neurons"]} == set(page["blocks"])
    same = sentence(client, "without", text=text, at=at, off=[]).json()
    assert same["divergence"] == 0
    assert all(before == now for _, before, now in same["next"])
    off = [latent for latent, _ in latents]
    changed = sentence(client, "without", text=text, at=at, off=off).json()
    assert changed["divergence"] > 0
    absent = next(h for h in range(LATENTS) if h not in off)
    still = sentence(client, "without", text=text, at=at, off=[absent, 10**9, -1]).json()
    assert still["divergence"] == pytest.approx(0, abs=1e-9)


def test_a_store_of_another_version_says_so(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run / STORE, copy / STORE)
    manifest = json.loads((copy / STORE / MANIFEST).read_text())
    (copy / STORE / MANIFEST).write_text(json.dumps(manifest | {"schema": 99}))
    with pytest.raises(CrossproofError, match=r"schema 99.*--rebuild"):
        Store(copy)


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest", "outside"])
def test_a_damaged_store_says_so(run: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run / STORE, copy / STORE)
    table, manifest = copy / STORE / "0" / PAIRS, copy / STORE / MANIFEST
    if damage == "cut":
        table.write_bytes(table.read_bytes()[:-9])
    elif damage == "gone":
        table.unlink()
    elif damage == "manifest":
        manifest.write_text(json.dumps({"schema": 1}))
    else:
        content = json.loads(manifest.read_text())
        content["files"]["../../secret"] = 6
        manifest.write_text(json.dumps(content))
    with pytest.raises(CrossproofError, match=r"damaged.*--rebuild"):
        read_manifest(copy)


def test_bytes_that_changed_say_so_when_they_are_read(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run / STORE, copy / STORE)
    path = copy / STORE / "0" / PAGES["latent"]
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(CrossproofError, match=r"damaged.*--rebuild"):
        Store(copy).page(0, "latent", 0)


@pytest.mark.parametrize("name", [LATENT_TABLE, PAIRS])
def test_one_changed_byte_of_a_table_says_so(run: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run / STORE, copy / STORE)
    path = copy / STORE / "0" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    answer = TestClient(application(Store(copy)), base_url=HERE).get(
        f"/api/0/rows/{name.removesuffix('.arrow')}"
    )
    assert answer.status_code == 400
    assert f"is damaged ({name})" in answer.json()["error"]


def test_a_table_without_a_column_says_so(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run / STORE, copy / STORE)
    path, manifest = copy / STORE / "0" / LATENT_TABLE, copy / STORE / MANIFEST
    table = read_table(path).drop_columns(["largest"])
    path.unlink()
    write_table(path, dict(zip(table.column_names, table.columns, strict=True)))
    content = json.loads(manifest.read_text())
    content["files"][f"0/{LATENT_TABLE}"] = asdict(FileFacts.of(path))
    manifest.write_text(json.dumps(content))
    with pytest.raises(CrossproofError, match=r"damaged.*--rebuild"):
        Store(copy).open()


def test_there_is_no_store_yet(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="crossproof explore"):
        Store(tmp_path)


def test_which_addresses_are_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.1.2", "::", "example.org", "")))
