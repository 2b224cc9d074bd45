"""The report needs no network, says what results.json says, and copes with what is missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import plotly.offline
import pytest
from reports import evaluation, examples, published, results, run

from crossproof.commands.parsing import parse
from crossproof.commands.train import Train
from crossproof.errors import CrossproofError
from crossproof.evaluation import RunEvaluation
from crossproof.evaluation.views_note import views_note
from crossproof.report import write_report
from crossproof.report.origin import command
from crossproof.report.runs import runs_of
from crossproof.report.words import comparison, headline
from crossproof.tables import Estimate, number, percent
from crossproof.training.config import RECIPES


class Page(HTMLParser):
    """Elements with their attributes, the visible text, the scripts and all ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag
            self.scripts += [""] if tag == "script" else []

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.text += data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [str(a[name]) for t, a in self.elements if t == tag and name in a]


@pytest.fixture(autouse=True)
def light_plotly(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Most tests look at our own part of the page, not at 5 MB of plotly.js."""
    if "whole_page" not in request.node.name:
        monkeypatch.setattr("crossproof.report.page.get_plotlyjs", lambda: "/* plotly.js */")


def page(folder: Path, content: dict[str, Any], *more: Any) -> Page:
    shown, *others = more or ({},)
    path = write_report(folder, evaluation(content, shown), *others)
    return Page(path.read_text(encoding="utf-8"))


def figures(found: Page) -> dict[str, Any]:
    return json.loads(found.scripts[0])


def test_whole_page_is_self_contained(tmp_path: Path) -> None:
    path = write_report(tmp_path, evaluation(shown=examples()), published())
    assert path == tmp_path / "report.html"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    found = Page(path.read_text(encoding="utf-8"))
    assert found.scripts[1].strip() == plotly.offline.get_plotlyjs().strip()
    assert len(found.scripts) == 3
    links = [str(v) for _, a in found.elements for k, v in a.items() if k in ("src", "href")]
    assert links == ["data:,"]
    ours = path.read_text(encoding="utf-8").replace(plotly.offline.get_plotlyjs(), "")
    assert not re.search(r"https?://|url\(|@import", ours)


def test_every_number_of_the_table_is_in_the_results(tmp_path: Path) -> None:
    content = results()
    found = page(tmp_path, content)
    shown = [float(value) for value in found.attributes("data", "value")]
    ends = [float(v) for side in ("low", "high") for v in found.attributes("span", f"data-{side}")]
    plain, penalised = content["runs"].values()
    expected, expected_ends = [], []
    for figures_of in (plain, penalised):
        for mids in figures_of["phi"].values():
            for phi in mids.values():
                expected.append(phi["mean"])
                expected_ends += phi["ci"]
        for name, interval in figures_of["intervals"].items():
            expected.append(figures_of[name])
            expected_ends += interval
        expected.append(figures_of["dead"])
        expected += [v for at in figures_of["by_hookpoint"].values() for v in at.values()]
        headline_phi = [figures_of["phi"][scheme]["exact_mid"] for scheme in CARD_SCHEMES]
        expected += [phi["mean"] for phi in headline_phi] + [figures_of["fvu"]]
        expected_ends += [end for phi in headline_phi for end in phi["ci"]]
        expected_ends += figures_of["intervals"]["fvu"]
    assert sorted(shown) == sorted(expected)
    assert sorted(ends) == sorted(expected_ends)
    for value in shown:
        assert number(value) in found.text or percent(value) in found.text


CARD_SCHEMES = ("keep-largest", "none")


def test_figures_show_the_results(tmp_path: Path) -> None:
    content = results()
    drawn = figures(page(tmp_path, content, {}, published()))
    assert {key.rsplit("-", 1)[0] for key in drawn} >= {"plot-fidelity", "plot-block", "plot-share"}
    phi = content["runs"]["penalised"]["phi"]
    bars = {
        (trace["name"], trace["meta"]): trace
        for trace in drawn["plot-fidelity-0"]["data"]
        if trace["type"] == "bar"
    }
    assert len(bars) == 4
    assert bars["penalised", "exact_mid"]["visible"] is True
    assert bars["penalised", "reconstructed_mid"]["visible"] is False
    shown = bars["penalised", "exact_mid"]["x"]
    assert shown == [entry["exact_mid"]["mean"] for entry in phi.values()]
    for block in range(2):
        traces = drawn[f"plot-block-{block}"]["data"]
        own = next(t for t in traces if (t["name"], t["meta"]) == ("penalised", "exact_mid"))
        assert own["x"] == [entry["exact_mid"]["by_block"][block] for entry in phi.values()]
    points = {t["name"]: t for t in drawn["plot-trade-off-0"]["data"] if "name" in t}
    assert points["penalised"]["x"] == [phi["none"]["exact_mid"]["mean"]]
    assert points["penalised"]["y"] == [phi["keep-largest"]["exact_mid"]["mean"]]
    assert len(points["interaction"]["x"]) == 4
    line = next(t for t in drawn["plot-trade-off-0"]["data"] if t["mode"] == "lines")
    assert line["y"] == pytest.approx([0.305, 0.405])  # means over the two seeds


def test_markup_in_text_is_escaped(tmp_path: Path) -> None:
    nasty = '</script><img src="http://example.org/x.png" onerror="alert(1)">'
    content = results()
    content["runs"] = {nasty: content["runs"]["penalised"]}
    content["model"] = nasty
    shown = {nasty: examples(nasty)["penalised"]}
    sweep = published()
    sweep["points"][0]["objective"] = sweep["note"] = nasty
    found = page(tmp_path, content, shown, sweep)
    assert not [tag for tag, _ in found.elements if tag == "img"]
    assert found.text.count(nasty) > 5
    assert nasty in {trace.get("name") for trace in figures(found)["plot-fidelity-0"]["data"]}


def test_contexts_are_readable(tmp_path: Path) -> None:
    found = page(tmp_path, results(), examples())
    assert "Once upon↵ <b>Lily</b> long" in found.text
    hot = [a for t, a in found.elements if t == "span" and "hot" in str(a.get("class"))]
    assert hot[0]["style"] == "--a: 0.25"
    assert hot[2] == {"class": "hot peak", "style": "--a: 1.0", "title": "2.000"}


def test_one_run_alone(tmp_path: Path) -> None:
    content = results()
    del content["runs"]["unpenalised"]
    found = page(tmp_path, content)
    assert "One crosscoder" in found.text
    assert "up from" not in found.text
    assert "plot-trade-off-0" not in figures(found)
    assert "plot-fidelity-0" in figures(found)


def test_dictionaries_of_different_hookpoints_are_not_compared(tmp_path: Path) -> None:
    content = results()
    content["runs"]["penalised"]["by_hookpoint"]["fvu"] = {"blocks.0.hook_attn_out": 0.5}
    text = page(tmp_path, content).text
    assert "Two dictionaries of different hookpoints of “bundled”" in text
    assert "Two crosscoders trained on activations of “bundled”" in text
    assert "“penalised”: Keeping only the largest latent" in text
    assert "up from" not in text
    assert "goes from" not in text


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    content = results()
    for figures_of in content["runs"].values():
        for phi in figures_of["phi"].values():
            del phi["reconstructed_mid"]
        for name in ("ce_recovered", "kl_recovered"):
            del figures_of[name], figures_of["intervals"][name], figures_of["by_hookpoint"][name]
    found = page(tmp_path, content)
    assert "CE recovered" not in found.text
    assert "reconstructed resid_mid" not in found.text
    assert not [a for t, a in found.elements if t == "input"]


def test_no_mlp_inputs(tmp_path: Path) -> None:
    kept = ("objective", "sequences", "tokens", "l0", "fvu", "dead", "by_hookpoint")
    whole = run("l1 3", keep=0, every=0, fvu=0.2)
    alone = {name: whole[name] for name in kept} | {"intervals": {"fvu": [0.1, 0.3]}}
    alone |= {"blocks": [], "phi": {scheme: {} for scheme in whole["phi"]}, "by_block": {}}
    content = {"schema": 1, "runs": {"an SAE": alone}}
    found = page(tmp_path, content)
    assert "No MLP was measured that reads this crosscoder" in found.text
    assert "leaves 20% of the variance unexplained" in found.text
    assert list(figures(found)) == ["plot-fvu-0"]
    content["runs"]["another"] = alone
    assert "from 0.200 to 0.200" in page(tmp_path, content).text


def upstream(content: dict[str, Any]) -> dict[str, Any]:
    """The same runs as of a dictionary of the residual stream."""
    where = (
        "residual stream blocks.0.hook_resid_pre, at the denominator of blocks.{}.hook_resid_mid"
    )
    for figures_of in content["runs"].values():
        figures_of["views"] = {str(b): where.format(b) for b in figures_of["blocks"]}
        for phi in figures_of["phi"].values():
            phi["mean_rest"] = phi.pop("reconstructed_mid")
        all_latents = figures_of["phi"]["none"]["exact_mid"]
        figures_of["phi"]["none"]["exact_mid"] = all_latents | {"mean": 1.0, "ci": [1.0, 1.0]}
    return content


def test_a_dictionary_of_the_stream_is_not_praised_for_the_rest_of_the_stream(
    tmp_path: Path,
) -> None:
    found = page(tmp_path, upstream(results()), {}, published())
    assert "Φ, all latents, mean rest" in found.text
    assert (
        "all latents kept and the rest of the stream at its mean, Φ goes from 0.790" in found.text
    )
    assert "of what all do" not in found.text
    assert "plot-trade-off-0" not in figures(found)
    assert "keep the MLP whole by construction" in found.text
    assert "by construction" not in page(tmp_path, results()).text
    del (alone := upstream(results()))["runs"]["unpenalised"]
    assert "the rest of the stream at its mean it is 0.800" in page(tmp_path, alone).text


def test_the_page_says_which_view_was_used(tmp_path: Path) -> None:
    where = (
        "The MLPs of blocks 0, 1 read the latents in the residual stream blocks.0.hook_resid_pre"
    )
    content = upstream(results())
    assert page(tmp_path, content).text.count(where) == 1
    content["runs"]["penalised"]["views"] = {"0": "MLP input blocks.0.mlp.hook_in"}
    found = page(tmp_path, content)
    assert f"unpenalised: {where}" in found.text
    assert "penalised: The MLP of block 0 reads the latents at its own input." in found.text
    assert found.text.count("Denominators of norms are those of the model’s own run.") == 1
    content["runs"]["penalised"] |= {"views": {}, "unread": "No MLP reads what it writes."}
    assert "penalised: No MLP reads what it writes." in page(tmp_path, content).text
    assert "reads the latents" not in page(tmp_path, results()).text


def test_many_hookpoints_of_the_stream_are_named_by_their_ends() -> None:
    names = [f"blocks.{b}.hook_attn_out" for b in range(4)]
    views = {
        str(b): f"residual stream {', '.join(names[: b + 1])}, at the denominator of x"
        for b in range(4)
    }
    note = views_note({"one": views, "other": views})
    assert "block 1 reads the latents in the residual stream blocks.0.hook_attn_out and bl" in note
    assert "block 3 reads the latents in the residual stream blocks.0.hook_attn_out to blo" in note
    assert views_note({"one": {}, "other": {}}) == ""
    inputs = {str(b): f"MLP input blocks.{b}.mlp.hook_in" for b in range(2)}
    assert (
        views_note({"one": inputs})
        == "The MLPs of blocks 0, 1 read the latents at their own inputs."
    )
    told = views_note({"one": inputs, "other": views, "third": inputs})
    assert told.startswith("one, third: The MLPs of blocks 0, 1 read")
    assert told.count("read the latents at") == 1
    assert "other: The MLP of block 0 reads" in told
    place = "residual stream blocks.0.hook_resid_post"
    bare = {"1": f"{place}, which blocks.1.mlp.hook_in holds without a norm"}
    routed = {
        "1": f"{place}, at the denominator of x, experts as the model's own run routes tokens"
    }
    for seen, more in (
        (bare, ""),
        (routed, "Denominators of norms are those of the model’s own run. "),
    ):
        note = views_note({"one": seen})
        assert note.startswith(
            f"The MLP of block 1 reads the latents in the {place}. {more}".strip()
        )
        assert note.endswith("routes a token to, at its weights.") == (seen is routed)


def test_fidelity_by_latents_kept_is_drawn_beside_its_table(tmp_path: Path) -> None:
    content = results()
    means = (0.2, float("nan"), 0.9)
    phi = [{"mean": m, "ci": [m - 0.1, m + 0.1], "by_block": [m, m]} for m in means]
    curve = {"sequences": 8, "kept": [1, 2, 3.5], "phi": phi, "area": phi[0]}
    content["runs"]["penalised"]["keep_curve"] = curve
    found = page(tmp_path, content)
    (line,) = figures(found)["plot-keep-0"]["data"]
    assert (line["name"], line["x"], line["y"]) == ("penalised", [1, 3.5], [0.2, 0.9])
    assert line["error_y"]["array"] == pytest.approx([0.1, 0.1])
    assert figures(found)["plot-keep-0"]["layout"]["xaxis"]["tickvals"] == [1, 2, 4]
    told = next(a["aria-label"] for _, a in found.elements if a.get("id") == "plot-keep-0")
    assert (
        told == "Φ by latents kept. penalised: 1 largest 0.200 [0.100, 0.300], all, 3.5 0.900 "
        "[0.800, 1.000]."
    )
    assert found.text.count("1 largest") == 1
    assert "plot-keep-0" not in figures(page(tmp_path, results()))


def test_undefined_figures_are_dashes(tmp_path: Path) -> None:
    content = results()
    content["runs"]["penalised"]["phi"]["none"]["exact_mid"]["mean"] = float("nan")
    content["runs"]["penalised"]["phi"]["none"]["exact_mid"]["by_block"] = [float("nan"), 0.5]
    content["runs"]["penalised"]["fvu"] = float("nan")
    found = page(tmp_path, content)
    told = " ".join(str(a.get("aria-label")) for _, a in found.elements)
    assert not re.search(r"\bnan\b", found.text + found.scripts[0] + told, re.IGNORECASE)
    assert "–" in found.text


@pytest.mark.parametrize(
    ("keep", "every", "words", "not_words"),
    [
        (0.66, 0.90, "keeps 66% of the MLPs’ work, up from 26%", "but"),
        (0.46, 0.47, "up from 26%, but all latents together keep 47%, down from 89%", "help"),
        (0.27, 0.90, "No clear effect", "up from"),
        (0.10, 0.90, "It did not help", "up from"),
    ],
)
def test_the_headline_follows_the_numbers(
    keep: float, every: float, words: str, not_words: str
) -> None:
    content = results()
    content["runs"]["penalised"] |= {"phi": run("x", keep, every, 0.2)["phi"]}
    line = headline(*runs_of(evaluation(content)))
    assert words in line
    assert not_words not in line


def test_a_ratio_bought_with_the_reconstruction_is_called_that() -> None:
    content = results()
    content["runs"]["penalised"] |= {"phi": run("x", 0.35, 0.38, 0.2)["phi"]}
    sentences = " ".join(comparison(*runs_of(evaluation(content))))
    assert "One latent does 92% of what all do, against 29%, but more because all do" in sentences
    assert "that is what it costs the full reconstruction" in sentences
    assert "(−0.510)" in sentences


def test_runs_without_overlap() -> None:
    assert Estimate(1.0, (0.9, 1.1)).overlaps(Estimate(1.2, (1.05, 1.3)))
    assert not Estimate(1.0, (0.9, 1.1)).overlaps(Estimate(1.2, (1.15, 1.3)))
    assert not Estimate(1.0).overlaps(Estimate(1.1, (1.05, 1.2)))


def test_the_unpenalised_run_comes_first() -> None:
    content = results()
    content["runs"] = dict(reversed(content["runs"].items()))
    assert [r.name for r in runs_of(evaluation(content))] == ["unpenalised", "penalised"]


def test_the_command_makes_the_same_configuration() -> None:
    content = results()
    assert command(evaluation(content)) == "crossproof demo --seed 0"
    training = content["runs"]["penalised"]["training"]
    training |= {"seed": 3, "steps": 70, "hookpoints": ["blocks.*.mlp.hook_in"], "baseline": False}
    training["crosscoder"] |= {"sparsity": "topk", "k": 9}
    terms = {"interaction": 250.0, "interaction_weights": "output_norm"}
    training["objective"] = {**training["objective"], **terms}
    words = command(evaluation(content))
    assert words is not None
    arguments = [word.strip("'") for word in words.split()]
    assert arguments[:4] == ["crossproof", "train", "--recipe", "demo"]
    default = Train(Path("unused"), config=RECIPES["demo"])
    config = parse(Train, "train", arguments[2:], default).config
    assert (config.seed, config.steps, config.baseline) == (3, 70, False)
    assert config.hookpoints == ("blocks.*.mlp.hook_in",)
    assert (config.crosscoder.sparsity, config.crosscoder.k) == ("topk", 9)
    assert config.objective.interaction_weights == "output_norm"
    assert config.objective.strengths()["interaction"] == 250.0


def test_a_foreign_run_has_no_command(tmp_path: Path) -> None:
    content = results()
    for figures_of in content["runs"].values():
        figures_of["training"] = {"lr": 1e-4}
    assert command(evaluation(content)) is None
    assert not [t for t, _ in page(tmp_path, content).elements if t == "pre"]


def test_bad_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="no runs"):
        evaluation({"schema": 1, "runs": {}})
    with pytest.raises(CrossproofError, match="schema 2"):
        evaluation(results() | {"schema": 2})
    (tmp_path / "file").write_text("")
    with pytest.raises(CrossproofError, match="Cannot write"):
        write_report(tmp_path / "file", evaluation())


def test_labels_and_headings(tmp_path: Path) -> None:
    found = page(tmp_path, results(), examples(), published())
    plots = [a for t, a in found.elements if a.get("class") == "plot"]
    assert len(plots) == len(figures(found))
    assert all(a["role"] == "img" and a["aria-label"] for a in plots)
    levels = [int(t[1]) for t, _ in found.elements if re.fullmatch("h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_results_come_as_text_and_as_a_frame() -> None:
    result = evaluation()
    assert "Keep only the largest" in repr(result)
    assert "0.660 [0.649, 0.672]" in repr(result.runs["penalised"])
    pandas = pytest.importorskip("pandas")
    frame = result.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc[("Reconstruction", "FVU, all hookpoints"), "penalised"] == 0.157
    low = frame.loc[("Reconstruction", "FVU, all hookpoints"), "penalised low"]
    assert low == pytest.approx(0.157 * 0.98)


def test_what_is_not_defined_is_null_with_a_reason_and_what_is_not_measured_is_absent(
    tmp_path: Path,
) -> None:
    content = results()
    content["runs"]["penalised"]["fvu"] = float("nan")
    del content["runs"]["penalised"]["l0"]
    evaluation(content).save(tmp_path / "results.json")
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["runs"]["penalised"]["fvu"] is None
    assert saved["missing"] == {"runs/penalised/fvu": "not defined (0/0)"}
    assert "l0" not in saved["runs"]["penalised"]
    again = RunEvaluation.load(tmp_path / "results.json")
    assert again.runs["penalised"].figure("fvu") is None
    assert again.runs["penalised"].figure("l0") is None
    assert again.to_json() == saved
