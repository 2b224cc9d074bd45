"""Writes the tables of docs/certificates.md and docs/attribution.md from paper/data.

    python -m paper.scripts.certificates_tables

Each table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. What is certified is
rounded in the direction in which it holds, means over seeds too; what is measured, to nearest.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossproof.tables import at_least, at_most, percent
from paper.drawing.words import shown, table

DOCS, DATA = Path("docs"), Path("paper/data")


def read(name: str) -> Any:
    """A file of paper/data."""
    return json.loads((DATA / f"{name}.json").read_text())


def objectives() -> str:
    """Certified accuracy by setting and training objective."""
    body, low = [], at_least(3)
    for setting, results in read("certified-objectives")["settings"].items():
        for name, row in results["objectives"].items():
            lead = results["lead_of_certified"].get(name)
            body.append(
                [
                    f"{setting} (H {results['latents']}, k {results['k']}, "
                    f"{results['steps']} steps)",
                    name + (f" {row['strength']:g}" if row["strength"] else ""),
                    shown(row["verified"]["accuracy"], low),
                    low(row["verified"]["share_of_model"]["mean"]),
                    at_most(3)(row["verified"]["ce"]["mean"]),
                    low(row["additive"]["accuracy"]["mean"]),
                    low(row["dominant"]["accuracy"]["mean"]),
                    f"{row['fvu']['mean']:.4f}",
                    f"{row['l0']['mean']:.2f}",
                    "" if lead is None else shown(lead),
                ]
            )
    head = ["setting", "objective", "verified accuracy", "share of the model's", "verified CE"]
    head += ["T2.2 unsigned", "T1 alone", "FVU", "L0", "lead of R + I"]
    return table(head, body)


def modular() -> str:
    """Certified accuracy by how, and how far, the networks were trained; means over seeds."""
    body, low = [], at_least(4)
    for p in (53, 113):
        points: dict[tuple[float, int], list[dict[str, Any]]] = {}
        for curve in read(f"certified-modular-{p}")["curves"]:
            for point in curve["points"]:
                points.setdefault((curve["recipe"]["purity"], point["step"]), []).append(point)
        for (purity, step), results in sorted(points.items()):
            certified = [point["certified_accuracy"] for point in results]
            savings = [pt["brute_force_operations"] / pt["verifier_operations"] for pt in results]
            counts = [len(point["frequencies"]) for point in results]
            body.append(
                [
                    str(p),
                    f"{purity:g}",
                    f"{step:,}",
                    f"{statistics.median(pt['impurity']['median'] for pt in results):.1e}",
                    f"{statistics.median(pt['output_impurity']['median'] for pt in results):.1e}",
                    f"{min(counts)}–{max(counts)}",
                    f"{statistics.mean(point['accuracy'] for point in results):.4f}",
                    f"{low(statistics.mean(certified))} ({low(min(certified))}–"
                    f"{low(max(certified))})",
                    f"{statistics.mean(point['ce'] for point in results):.3f}",
                    at_most(3)(statistics.mean(point["certified_ce"] for point in results)),
                    f"{min(savings):.1f}–{max(savings):.1f}x",
                ]
            )
    head = ["p", "purity", "step", "impurity read", "written", "frequencies", "accuracy"]
    head += ["certified (least–most)", "CE", "certified CE", "fewer operations"]
    return table(head, body)


def continuum() -> str:
    """Share of the Monte-Carlo accuracy certified, by dictionary and bounds; means over seeds."""
    body = []
    labels = ["all", "interval, additive", "additive", "interval", "linear"]
    for content in (read("certified-continuum-20k"), read("certified-continuum")):
        seeds = content["seeds"]
        for name in seeds[0]["dictionaries"]:
            results = [seed["dictionaries"][name] for seed in seeds]
            whole = [entry["all"] for entry in results]
            cells = [
                at_least(3)(statistics.mean(entry[x]["share"] for entry in results)) for x in labels
            ]
            masses = [statistics.mean(w["by_bound"]["additive"] for w in whole)]
            certified = statistics.mean(w["certified"] for w in whole)
            cells += [at_least(3)(certified), at_least(3)(masses[0])]
            cells += [f"{statistics.mean(w['operations'] for w in whole) / 1e6:.1f}M"]
            fvu = statistics.mean(entry["fvu"] for entry in results)
            body.append([f"{content['nodes']:,}", name, f"{fvu:.4f}", *cells])
    head = ["boxes", "dictionary", "FVU", *(f"share: {x}" for x in labels), "certified (all)"]
    return table([*head, "mass by additive", "verifier's operations"], body)


def attention() -> str:
    """Certified accuracy of the largest of four tokens, and what it takes; least to most."""
    seeds = read("certified-attention")["seeds"]
    proofs = {"every sequence": [seed["proofs"]["sequences"] for seed in seeds]}
    for grain in ("class", "query", "label"):
        proofs[f"grain {grain}"] = [seed["proofs"][grain] for seed in seeds]
    for name in seeds[0]["dictionaries"]:
        for grain in ("class", "query", "label"):
            rows = [seed["dictionaries"][name]["proofs"][grain] for seed in seeds]
            proofs[f"grain {grain}, dictionary {name}"] = rows
    body = []
    for name, rows in proofs.items():
        shares = [
            row["right"] / true["right"]
            for row, true in zip(rows, proofs["every sequence"], strict=True)
        ]
        savings = [row["brute_force"] / row["operations"] for row in rows]
        body.append(
            [
                name,
                *(at_least(4)(row["accuracy"]) for row in rows),
                f"{at_least(3)(min(shares))}–{at_least(3)(max(shares))}",
                f"{max(row['operations'] for row in rows) / 1e6:,.1f}M",
                f"{min(savings):,.1f}x",
            ]
        )
    head = ["proof", *(f"seed {seed['seed']}" for seed in seeds), "share of the truth"]
    return table([*head, "operations", "fewer than brute force"], body)


def groups() -> str:
    """Certified accuracy of multiplication in groups; least to most of the seeds."""
    body = []
    for name in ("S4", "A5", "S5"):
        content = read(f"certified-group-{name}")
        for purity in sorted({network["purity"] for network in content["networks"]}):
            networks = [n for n in content["networks"] if n["purity"] == purity]
            best = [max(n["searched"], key=_worth) for n in networks]
            thirds = [
                max((c["accuracy"] for c in n["searched"]
                     if 3 * c["operations"] <= c["brute_force"]), default=0.0)
                for n in networks
            ]  # fmt: skip
            savings = [c["brute_force"] / c["operations"] for c in best]
            low = at_least(4)
            body.append(
                [
                    f"{name} ({content['order']})",
                    f"{purity:g}",
                    f"{statistics.median(n['impurity'] for n in networks):.1e}",
                    f"{min(n['accuracy'] for n in networks):.4f}",
                    ", ".join(low(c["accuracy"]) for c in best),
                    ", ".join(str(c["atoms"]) for c in best),
                    f"{min(savings):.2f}–{max(savings):.2f}x",
                    ", ".join(low(third) for third in thirds),
                ]
            )
    head = ["group", "purity", "impurity written", "accuracy", "certified, a seed each", "atoms"]
    return table([*head, "fewer operations", "certified at a third"], body)


def _worth(certificate: dict[str, Any]) -> tuple[float, int]:
    return certificate["accuracy"], -certificate["operations"]


def _upper(loss: float) -> str:
    """Two decimals, from 100 on none, rounded up."""
    return at_most(0 if loss >= 100 else 2)(loss)


def chain() -> str:
    """The claimed loss, the bound on the model's, and where it is lost, by chain."""
    body = []
    for name, run in read("attribution")["runs"].items():
        loss, known = run["loss"], run["baselines"]
        least = min(known["unigram_entropy"], known["log_classes"])
        for label, results in run["chains"].items():
            verdict = "vacuous" if results["vacuous"] else "not vacuous"
            body.append(
                [
                    f"{name}: {label}",
                    shown(loss["true"], 2),
                    shown(loss["claimed"], 2),
                    f"{shown(results['loss_bound'], _upper)}, {verdict} (from {least:.2f})",
                    f"{results['vacuous_tokens']['mean']:.1%}",
                    results["mean_first_vacuous"] or "never",
                ]
            )
    head = ["chain", "model's loss", "claimed loss", "bound on the model's", "vacuous tokens"]
    return table([*head, "first vacuous at"], body)


def last_block() -> str:
    """Certified-unchanged shares of the last block of the bundled model."""
    runs = read("attribution")["runs"]
    body = []
    for reference, variants in next(iter(runs.values()))["last_block"].items():
        for variant in variants:
            cells = [f"{variant}, against {reference}"]
            for run in runs.values():
                results = run["last_block"][reference][variant]
                certified = results["certified"]
                ceiling = results["ceiling"]
                cells += [
                    shown(certified, at_least(1, percent=True)),
                    "" if ceiling is None else f"{ceiling['mean']:.1%}",
                    f"{results['unchanged']['mean']:.1%}",
                    f"{results['median_bound']:.1f} / {results['median_error']:.1f}",
                    f"{results['terms']:,.0f}",
                ]
            body.append(cells)
    head = ["last MLP becomes"]
    for name in runs:
        head += [f"{name}: certified", "ceiling", "true", "bound / error", "terms"]
    return table(head, body)


def _dictionaries() -> dict[str, dict[str, Any]]:
    """Those of the bundled model, by the words that head their columns."""
    rows = read("certified-text")["dictionaries"]
    several = len({row["crosscoder"] for row in rows}) > 1
    return {
        f"{row['crosscoder']}, seed {row['seed']}" if several else f"seed {row['seed']}": row
        for row in rows
    }


def contexts() -> str:
    """What is certified of the bundled model's last MLPs at listed contexts, by dictionary."""
    columns = _dictionaries()
    head, body = ["replaced", "m"], []
    for name in columns:
        head += [f"{name}: kept ≥", "true", "|Δloss| ≤"]
    for rows in zip(*(column["contexts"] for column in columns.values()), strict=True):
        cells = ["last MLP" if rows[0]["mlps"] == 1 else "last two", str(rows[0]["keep"])]
        for row in rows:
            cells += [
                at_least(2, percent=True)(row["kept"] / row["predictions"]),
                percent(row["measured_kept"]),
                at_most(4)(row["loss_change"]),
            ]
        body.append(cells)
    return table(head, body)


def statistical() -> str:
    """Bounds on what dictionaries of the bundled model cost on held-out text, by dictionary."""
    columns = _dictionaries()
    head, body = ["statistical", "bounded"], []
    for name in columns:
        head += [f"{name}: ≤", "measured"]
    for rows in zip(*(column["statistical"] for column in columns.values()), strict=True):
        cells = [rows[0]["treatment"], rows[0]["quantity"]]
        for row in rows:
            empty = " (vacuous)" if row["vacuous"] else ""
            cells += [at_most(4)(row["bound"]) + empty, f"{row['measured']:.4f}"]
        body.append(cells)
    return table(head, body)


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        *(objectives, modular, continuum, attention, groups, chain, last_block),
        *(contexts, statistical),
    )
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
