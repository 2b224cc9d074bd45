"""The explorer in a browser: every page, from a server and from exported files."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from explorers import NAMES, K

from crossproof.crosscoder import load_crosscoder
from crossproof.explorer.exporting import export_site
from crossproof.explorer.format import PAIRS
from crossproof.explorer.notebook import Explorer
from crossproof.explorer.sentences import Sentences
from crossproof.explorer.server import application
from crossproof.explorer.store import Store
from crossproof.lm import LanguageModel

pytest.importorskip("duckdb")
uvicorn = pytest.importorskip("uvicorn")
playwright: Any = pytest.importorskip("playwright.sync_api")

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
AXE = Path(__file__).parents[2] / "explorer" / "node_modules" / "axe-core" / "axe.min.js"
HOSTILE = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>'
SENTENCE = "w3 w4 w5 w6 w7"

pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium on this machine: install it")


@pytest.fixture(scope="session")
def run(explored: Path) -> Path:
    return explored


@pytest.fixture(scope="session")
def described(run: Path) -> tuple[int, int]:
    """A pair with a page."""
    table = Store(run).table(0, PAIRS, 1)
    row = dict(zip(table["columns"], table["rows"][0], strict=True))
    return row["h"], row["k"]


@pytest.fixture(scope="session")
def site(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("exported") / "site"
    export_site(Store(run), folder)
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="session")
def server(run: Path, gpt_neo: LanguageModel) -> Iterator[str]:
    dictionaries = [load_crosscoder(run / name / "crosscoder")[0] for name in NAMES]
    app = application(Store(run), Sentences(gpt_neo, dictionaries))
    made = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    while not made.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{made.servers[0].sockets[0].getsockname()[1]}/"
    made.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that keeps what goes wrong, and which hosts it asks."""
    found = browser.new_page(viewport={"width": 1280, "height": 900})
    found.wrong = []
    found.asked = set()
    found.on("pageerror", lambda error: found.wrong.append(str(error)))
    found.on("console", lambda m: found.wrong.append(m.text) if m.type == "error" else None)
    found.on("request", lambda request: found.asked.add(request.url.partition("#")[0]))
    yield found
    found.close()


def addresses(pair: tuple[int, int]) -> dict[str, str]:
    """Every page: its address and its heading."""
    return {
        "/0/latents": "Latents",
        "/1/pairs?sort=q": "Pairs",
        "/1/latent/3": "Latent 3",
        f"/0/pair/{pair[0]}-{pair[1]}": f"Latent {pair[0]} and latent {pair[1]}",
        "/0/neuron/50": "Neuron 1.2",
        "/0/map": "Map",
        "/0/map?by=vectors&near=3": "Map",
        "/1/about": "penalised",
        "/0/sentence": "A sentence of your own",
    }


def opened(page: Any, base: str, address: str, heading: str) -> None:
    page.goto(f"{base}#{address}")
    page.wait_for_function("(h) => document.querySelector('h1')?.textContent === h", arg=heading)


def test_every_page_of_the_exported_site(page: Any, site: str, described: tuple[int, int]) -> None:
    for width in (400, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        for address, heading in addresses(described).items():
            opened(page, site, address, heading)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, address
            assert page.locator("[role=alert]").count() == 0, address
    assert page.wrong == []
    assert all(url.startswith(("file:", "data:")) for url in page.asked)


def test_searching_sorting_and_limits_in_the_address(page: Any, site: str, run: Path) -> None:
    answer = Store(run).page(0, "latent", 7)
    peak = answer["contexts"][0]
    word = peak["tokens"][peak["peak"]].strip()
    opened(page, site, f"/0/latents?text={word}&sort=latent&ascending=1", "Latents")
    page.wait_for_selector(".space .lead a")
    shown = [int(text) for text in page.locator(".space .lead a").all_text_contents()]
    assert 7 in shown
    assert shown == sorted(shown)
    opened(page, site, "/0/latents?least.active=100000", "Latents")
    page.wait_for_selector(".empty")
    opened(page, site, "/0/latents", "Latents")
    page.fill("input[type=search]", "11")
    page.wait_for_function("() => location.hash.includes('text=11')")


def test_figures_on_the_latent_page_are_the_documents(page: Any, site: str, run: Path) -> None:
    document = Store(run).page(1, "latent", 3)
    opened(page, site, "/1/latent/3", "Latent 3")
    rows = page.locator("table tbody tr")
    first = rows.nth(0).locator("th, td").all_text_contents()
    partner = max(document["partners"], key=lambda each: each["per_token"])
    assert first[0] == str(partner["latent"])
    assert float(first[1]) == pytest.approx(partner["per_token"], rel=5e-3)
    assert int(first[2]) == partner["coactive"]
    contexts = page.locator(".contexts li .excerpt").nth(0).text_content()
    assert contexts.strip() == "".join(document["contexts"][0]["tokens"]).strip()


def test_the_keyboard_opens_a_latent_and_the_way_back(page: Any, site: str) -> None:
    opened(page, site, "/0/latents", "Latents")
    page.wait_for_selector(".space .lead a")
    page.locator(".space .lead a").nth(0).focus()
    page.keyboard.press("ArrowDown")
    target = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h1:text-is('Latent {target}')")
    page.go_back()
    page.wait_for_selector("h1:text-is('Latents')")


@pytest.mark.slow
def test_every_page_of_the_server(page: Any, server: str, described: tuple[int, int]) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for address, heading in addresses(described).items():
            opened(page, server, address, heading)
            assert page.locator("[role=alert]").count() == 0, address
            if AXE.exists():
                page.evaluate(AXE.read_text())
                options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
                found = page.evaluate("(o) => axe.run(document, o)", options)
                told = [
                    (v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found["violations"]
                ]
                assert told == [], (scheme, address)
    assert page.wrong == []
    assert all(url.startswith((server, "data:")) for url in page.asked)


@pytest.mark.slow
def test_a_sentence_and_latents_switched_off(page: Any, server: str) -> None:
    opened(page, server, "/0/sentence", "A sentence of your own")
    page.fill("textarea", SENTENCE)
    page.click("button:text-is('Read')")
    page.wait_for_selector(".tokens button:not([disabled])")
    page.locator(".tokens button:not([disabled])").last.click()
    page.wait_for_selector(".checks input")
    page.wait_for_selector(".next .value")
    assert page.locator(".checks input").count() == K
    before = page.locator(".next .value").nth(0).text_content()
    page.locator(".checks input").nth(0).uncheck()
    page.wait_for_function("() => document.querySelector('.next .value').textContent.includes('→')")
    assert page.locator(".next .value").nth(0).text_content() != before
    assert page.locator(".plots figure").count() > 0
    again = page.url
    page.goto("about:blank")
    page.goto(again)  # the link reproduces the view
    page.wait_for_selector(".checks input:not(:checked)")
    assert page.wrong == []


@pytest.mark.slow
def test_two_dictionaries_side_by_side(page: Any, server: str) -> None:
    page.goto(f"{server}#/0/latent/3||/1/latent/3")
    page.wait_for_function("() => document.querySelectorAll('h1').length === 2")
    chosen = page.locator("select").evaluate_all("all => all.map(each => each.value)")
    assert chosen == ["0", "1"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.slow
def test_contexts_are_data_and_never_html(page: Any, run: Path, tmp_path: Path) -> None:
    """Tokens that would be HTML, that change directions, that are bytes, emoji or Arabic."""
    hostile = [HOSTILE, "\u202eright", "\u0000", "", "\u2028", "🙂", "مرحبا", "</script>", "\n"]
    folder = tmp_path / "site"
    export_site(Store(run), folder)
    explorer = Explorer(run)
    content = explorer.store.page(0, "latent", 3)
    for each in content["contexts"]:
        count = len(each["tokens"])
        each["tokens"] = [hostile[at % len(hostile)] for at in range(count)]
    content["explanation"] = HOSTILE
    content["logits"]["promoted"][0][0] = HOSTILE
    card = explorer.latent(3)
    from crossproof.explorer import notebook

    told = notebook._content(card.store, 0, "latent", 3) | {"page": content}
    (folder / "card.html").write_text(f"<!doctype html>{notebook._framed(told)}", encoding="utf-8")
    page.goto((folder / "card.html").as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("h1:text-is('Latent 3')").wait_for()
    assert frame.locator("img").count() == 0
    assert HOSTILE in frame.locator(".lead").text_content()
    inner = next(each for each in page.frames if each != page.main_frame)
    assert inner.evaluate("window.hurt === undefined")
    text = frame.locator(".excerpt").nth(0).text_content()
    assert "🙂" in text
    assert "مرحبا" in text
    assert "\\u202e" in text
    assert "\u202e" not in text


@pytest.mark.slow
def test_cards_in_a_notebook_are_the_pages(
    page: Any, run: Path, gpt_neo: LanguageModel, described: tuple[int, int], tmp_path: Path
) -> None:
    explorer = Explorer(run)
    cards = {
        "Latent 3": explorer.latent(3),
        "Latent {} and latent {}".format(*described): explorer.pair(*described),
        "Neuron 1.2": explorer.neuron(1, 2),
        "A sentence of your own": explorer.read(gpt_neo, SENTENCE)[-1],
    }
    for heading, card in cards.items():
        path = tmp_path / "card.html"
        path.write_text(f"<!doctype html>{card._repr_html_()}", encoding="utf-8")
        page.goto(path.as_uri())
        frame = page.frame_locator("iframe")
        frame.locator("h1").wait_for()
        assert frame.locator("h1").text_content() == heading
        assert frame.locator("[role=alert]").count() == 0
    assert page.wrong == []
