"""The half of `explorer.py` that opens pages in Chromium and looks at the clock."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass


def in_browser(link: str, latents: list[int]) -> Iterator[tuple[str, list[Opened]]]:
    """Pages opened until their heading and figures are there, by kind of page."""
    from playwright.sync_api import sync_playwright

    binary = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        first = []
        for visit in range(FIRST):
            page = browser.new_context().new_page()
            began = time.perf_counter()
            page.goto(link)
            page.wait_for_selector(".space .line .snippet")
            took = 1000 * (time.perf_counter() - began)
            first.append(Opened(visit, took, page.evaluate(ANSWERED, "/api/")))
            if visit + 1 < FIRST:
                page.context.close()
        yield "first page", first
        opened = []
        for latent in latents:
            took = page.evaluate(OPEN, latent)
            opened.append(Opened(latent, took, page.evaluate(ANSWERED, f"/latent/{latent}")))
        yield "latent page", opened
        browser.close()


@dataclass(frozen=True)
class Opened:
    """One page, and what it took, in milliseconds."""

    number: int
    took: float
    answered: float
    """Of these, until the server's answer was there."""


def told(pages: list[Opened]) -> str:
    """The middle, the end and the worst of them."""
    took = sorted(page.took for page in pages)
    at = max(range(len(pages)), key=lambda each: pages[each].took)
    worst = pages[at]
    return (
        f"{len(pages)} opened, median {statistics.median(took):.0f} ms, 95% within "
        f"{took[int(0.95 * (len(took) - 1))]:.0f} ms, the worst {worst.took:.0f} ms (number "
        f"{worst.number}, opened as the {at + 1}th, {worst.answered:.0f} ms of it until the answer "
        f"was there)"
    )


def some_latents(link: str, latents: int, count: int) -> list[int]:
    """Latents to open: half the most frequent ones, half by chance, in an order by chance."""
    with urllib.request.urlopen(
        f"{link}api/0/rows/latents?sort=frequency&rows={count // 2}"
    ) as got:
        answer = json.load(got)
    at, rng = answer["columns"].index("latent"), random.Random(1)
    chosen = [row[at] for row in answer["rows"]]
    chosen += rng.sample(range(latents), count - len(chosen))
    rng.shuffle(chosen)
    return chosen


FIRST = 20
"""Times that the first page is opened, each by a reader who has nothing of it yet."""

ANSWERED = """(part) => {
  const all = performance.getEntriesByType("resource");
  const answers = all.filter((each) => each.name.includes(part));
  performance.clearResourceTimings();
  return answers.length ? answers.at(-1).duration : 0;
}"""

OPEN = """(latent) => new Promise((done) => {
  const began = performance.now();
  const wait = () => {
    if (document.querySelector("h1")?.textContent === `Latent ${latent}`
        && document.querySelector(".contexts li") && document.querySelector("svg.chart"))
      return done(performance.now() - began);
    requestAnimationFrame(wait);
  };
  location.hash = `#/0/latent/${latent}`;
  wait();
})"""
