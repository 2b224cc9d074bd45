"""Writes the tables of docs/certificates.md and docs/attribution.md from docs/data.

    python paper/scripts/certificates_tables.py

Each table stands between `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DOCS = Path("docs")
DATA = DOCS / "data"


def rows(head: Sequence[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in body)])


def read(name: str) -> Any:
    """A file of docs/data."""
    return json.loads((DATA / f"{name}.json").read_text())


def figure(of: dict[str, Any], digits: int = 3) -> str:
    """Mean, and its interval where there is one."""
    if of["ci"] is None:
        return f"{of['mean']:.{digits}f}"
    low, high = of["ci"]
    return f"{of['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def objectives() -> str:
    """Certified accuracy by setting and training objective."""
    body = []
    for setting, found in read("certified-objectives")["settings"].items():
        for name, row in found["objectives"].items():
            lead = found["lead_of_certified"].get(name)
            body.append(
                [
                    f"{setting} (H {found['latents']}, k {found['k']}, {found['steps']} steps)",
                    name + (f" {row['strength']:g}" if row["strength"] else ""),
                    figure(row["verified"]["accuracy"]),
                    f"{row['verified']['share_of_model']['mean']:.3f}",
                    f"{row['verified']['ce']['mean']:.3f}",
                    f"{row['additive']['accuracy']['mean']:.3f}",
                    f"{row['dominant']['accuracy']['mean']:.3f}",
                    f"{row['fvu']['mean']:.4f}",
                    f"{row['l0']['mean']:.2f}",
                    "" if lead is None else figure(lead),
                ]
            )
    head = ["setting", "objective", "verified accuracy", "share of the model's", "verified CE"]
    head += ["T2.2 unsigned", "T1 alone", "FVU", "L0", "lead of R + I"]
    return rows(head, body)


def modular() -> str:
    """Certified accuracy by how, and how far, the networks were trained; means over seeds."""
    body = []
    for p in (53, 113):
        points: dict[tuple[float, int], list[dict[str, Any]]] = {}
        for curve in read(f"certified-modular-{p}")["curves"]:
            for point in curve["points"]:
                points.setdefault((curve["recipe"]["purity"], point["step"]), []).append(point)
        for (purity, step), found in sorted(points.items()):
            certified = [point["certified_accuracy"] for point in found]
            savings = [pt["brute_force_operations"] / pt["verifier_operations"] for pt in found]
            counts = [len(point["frequencies"]) for point in found]
            body.append(
                [
                    str(p),
                    f"{purity:g}",
                    f"{step:,}",
                    f"{statistics.median(pt['impurity']['median'] for pt in found):.1e}",
                    f"{statistics.median(pt['output_impurity']['median'] for pt in found):.1e}",
                    f"{min(counts)}–{max(counts)}",
                    f"{statistics.mean(point['accuracy'] for point in found):.4f}",
                    f"{statistics.mean(certified):.4f} ({min(certified):.4f}–{max(certified):.4f})",
                    f"{statistics.mean(point['ce'] for point in found):.3f}",
                    f"{statistics.mean(point['certified_ce'] for point in found):.3f}",
                    f"{min(savings):.1f}–{max(savings):.1f}x",
                ]
            )
    head = ["p", "purity", "step", "impurity read", "written", "frequencies", "accuracy"]
    head += ["certified (least–most)", "CE", "certified CE", "fewer operations"]
    return rows(head, body)


def continuum() -> str:
    """Share of the Monte-Carlo accuracy certified, by dictionary and bounds; means over seeds."""
    body = []
    labels = ["all", "interval, additive", "additive", "interval", "linear"]
    for content in (read("certified-continuum-20k"), read("certified-continuum")):
        seeds = content["seeds"]
        for name in seeds[0]["dictionaries"]:
            found = [seed["dictionaries"][name] for seed in seeds]
            whole = [entry["all"] for entry in found]
            cells = [f"{statistics.mean(entry[x]['share'] for entry in found):.3f}" for x in labels]
            masses = [statistics.mean(w["by_bound"]["additive"] for w in whole)]
            cells += [f"{statistics.mean(w['certified'] for w in whole):.3f}", f"{masses[0]:.3f}"]
            cells += [f"{statistics.mean(w['operations'] for w in whole) / 1e6:.1f}M"]
            fvu = statistics.mean(entry["fvu"] for entry in found)
            body.append([f"{content['nodes']:,}", name, f"{fvu:.4f}", *cells])
    head = ["boxes", "dictionary", "FVU", *(f"share: {x}" for x in labels), "certified (all)"]
    return rows([*head, "mass by additive", "verifier's operations"], body)


def chain() -> str:
    """The claimed loss, the bound on the model's, and where it is lost, by chain."""
    body = []
    for name, run in read("attribution")["runs"].items():
        loss, known = run["loss"], run["baselines"]
        least = min(known["unigram_entropy"], known["log_classes"])
        for label, found in run["chains"].items():
            verdict = "vacuous" if found["vacuous"] else "not vacuous"
            body.append(
                [
                    f"{name}: {label}",
                    figure(loss["true"], 2),
                    figure(loss["claimed"], 2),
                    f"{figure(found['loss_bound'], 2)}, {verdict} (from {least:.2f})",
                    f"{found['vacuous_tokens']['mean']:.1%}",
                    found["mean_first_vacuous"] or "never",
                ]
            )
    head = ["chain", "model's loss", "claimed loss", "bound on the model's", "vacuous tokens"]
    return rows([*head, "first vacuous at"], body)


def last_block() -> str:
    """Certified-unchanged shares of the last block of the bundled model."""
    runs = read("attribution")["runs"]
    body = []
    for reference, variants in next(iter(runs.values()))["last_block"].items():
        for variant in variants:
            cells = [f"{variant}, against {reference}"]
            for run in runs.values():
                found = run["last_block"][reference][variant]
                certified = found["certified"]
                low, high = certified["ci"]
                ceiling = found["ceiling"]
                cells += [
                    f"{certified['mean']:.1%} [{low:.1%}, {high:.1%}]",
                    "" if ceiling is None else f"{ceiling['mean']:.1%}",
                    f"{found['unchanged']['mean']:.1%}",
                    f"{found['median_bound']:.1f} / {found['median_error']:.1f}",
                    f"{found['terms']:,.0f}",
                ]
            body.append(cells)
    head = ["last MLP becomes"]
    for name in runs:
        head += [f"{name}: certified", "ceiling", "true", "bound / error", "terms"]
    return rows(head, body)


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table for table in (objectives, modular, continuum, chain, last_block)
}


def fill(text: str) -> str:
    """The page with every marked table written anew."""

    def write(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{TABLES[match[2]]()}\n\n{match[3]}"

    pattern = r"(<!-- table: (\w+) -->).*?(<!-- end of table -->)"
    return re.sub(pattern, write, text, flags=re.DOTALL)


def main() -> None:
    """Fills both pages."""
    for page in (DOCS / "certificates.md", DOCS / "attribution.md"):
        page.write_text(fill(page.read_text()))


if __name__ == "__main__":
    main()
