"""In a browser, at phone and desktop widths: nothing is wider than the page, figures are drawn."""

from __future__ import annotations

import html
import json
import re
import subprocess
from typing import Any

import browsers
import pytest
from reports import attribution, evaluation, examples, published

from crossproof.proof.attribution import AttributionResult
from crossproof.report import write_report

WIDTHS = (400, 1280)

# Each frame measures itself and tells the page around it, which waits for both.
PROBE = """<script>addEventListener("load", () => setTimeout(() => parent.postMessage({
  viewport: document.documentElement.clientWidth,
  width: document.documentElement.scrollWidth,
  plots: document.querySelectorAll(".plot").length,
  drawn: [...document.querySelectorAll(".plot .main-svg .cartesianlayer")]
    .filter((layer) => layer.getBoundingClientRect().width > 100).length,
  wide: [...document.querySelectorAll(".plot")].filter((plot) =>
    plot.querySelector(".main-svg").getBoundingClientRect().width > plot.clientWidth + 1).length,
  fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
}, "*"), 300));</script>"""
PAGE = """<!doctype html><pre id="out">[]</pre>
<script>const seen = [];
addEventListener("message", (event) => {{
  seen.push(event.data);
  document.getElementById("out").textContent = JSON.stringify(seen);
}});</script>{frames}"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What the report measures of itself at each width."""
    binary = browsers.chromium()
    folder = tmp_path_factory.mktemp("report")
    found = AttributionResult.from_json(attribution())
    report = write_report(folder, evaluation(shown=examples()), published(), attribution=found)
    text = report.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>")
    (folder / "probed.html").write_text(text, encoding="utf-8")
    frames = "".join(
        f'<iframe src="probed.html" style="border:0; width:{width}px; height:900px"></iframe>'
        for width in WIDTHS
    )
    (folder / "frames.html").write_text(PAGE.format(frames=frames), encoding="utf-8")
    finished = subprocess.run(
        [
            binary, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}", "--window-size=1800,1200",
            "--virtual-time-budget=10000", "--dump-dom", (folder / "frames.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="out">(.*?)</pre>', finished.stdout, re.DOTALL)
    assert found is not None, finished.stderr
    return {entry["viewport"]: entry for entry in json.loads(html.unescape(found[1]))}


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_page(measured: dict[int, dict[str, Any]], width: int) -> None:
    assert measured[width]["width"] <= width
    assert measured[width]["wide"] == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_is_drawn(measured: dict[int, dict[str, Any]], width: int) -> None:
    assert measured[width]["plots"] == measured[width]["drawn"] == 11


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_fetched(measured: dict[int, dict[str, Any]], width: int) -> None:
    assert [name for name in measured[width]["fetched"] if not name.startswith("data:")] == []
