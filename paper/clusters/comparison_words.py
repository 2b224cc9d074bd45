"""The comparison of similarities as Markdown, written from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crossproof.clusters import SIZES
from crossproof.tables import DASH
from crossproof.tables import signed as difference
from paper.drawing.words import shown, table

Figures = Mapping[str, Any]


def tables(figures: Figures) -> str:
    """What was chosen, the accuracies of the reported half, its differences, and sizes."""
    parts = [chosen(figures)]
    for material in figures["report"]:
        parts += [
            f"Judged on {material}; the reported half:",
            accuracies(figures, material),
            f"Differences, paired, judged on {material} by {figures['chosen_by']['judge']}:",
            differences(figures, material),
        ]
    material = figures["chosen_by"]["material"]
    return "\n\n".join([*parts, f"By cluster size, judged on {material}:", sizes(figures)])


def chosen(figures: Figures) -> str:
    """Which interaction and which baseline the choosing half picked, and their difference on the
    reported half."""
    by, picked = figures["chosen_by"], figures["chosen"]
    level = figures["choice"][by["material"]][by["judge"]]
    own = ", ".join(
        f"{kind} {name} ({figure(level[name]['clusters'])})" for kind, name in picked.items()
    )
    return (
        f"Chosen on {figures['latents']['choice']} latents (validation text): {own}. "
        f"Reported on {figures['latents']['report']} others: {verdict(figures)}"
    )


def verdict(figures: Figures) -> str:
    """Which baselines the chosen interaction is ahead of; only the paired interval says so.

    All of them are named: the one that was chosen may be the weakest on the reported half.
    """
    by, best = figures["chosen_by"], figures["chosen"]["interaction"]
    level = figures["report"][by["material"]][by["judge"]]
    told: dict[str, list[str]] = {"ahead of": [], "not told apart from": [], "behind": []}
    for name in (n for n, kind in figures["families"].items() if kind == "baseline"):
        found = gap(figures, best, name)
        low, high = found["ci"]
        which = "ahead of" if low > 0 else "behind" if high < 0 else "not told apart from"
        told[which].append(f"{name} ({signed(found)})")
    parts = [f"{which} {', '.join(names)}" for which, names in told.items() if names]
    return f"{best} {figure(level[best]['clusters'])} is {'; '.join(parts)} (paired differences)."


def gap(figures: Figures, one: str, other: str, material: str = "") -> Mapping[str, Any]:
    """The paired difference of two similarities on the reported half."""
    by = figures["chosen_by"]
    rows = figures["differences"][material or by["material"]][by["judge"]]
    found: Mapping[str, Any] = next(r for r in rows if (r["one"], r["other"]) == (one, other))
    return found


def accuracies(figures: Figures, material: str) -> str:
    """One row a similarity: sizes, stability, accuracy by each judge, and of both controls."""
    by_judge, keenest = figures["report"][material], figures["chosen_by"]["judge"]
    head = ["similarity", "clusters", "largest", "ARI seeds", "ARI halves"]
    head += [*reversed(by_judge), f"random ({keenest})", f"matched ({keenest})"]
    rows = []
    for name in figures["families"]:
        own = [summary[name] for summary in figures["similarities"]]
        row = [name, f"{_mean(s['clusters'] for s in own):.0f}"]
        row += [f"{max(max(s['largest']) for s in own)}"]
        row += [_index(own, "agreement_seeds"), _index(own, "agreement_halves")]
        row += [figure(by_judge[judge][name]["clusters"]) for judge in reversed(by_judge)]
        row += [figure(by_judge[keenest][name][c]) for c in ("random", "random, matched")]
        rows.append(row)
    return table(head, rows)


def differences(figures: Figures, material: str) -> str:
    """One row a pair of similarities."""
    rows = figures["differences"][material][figures["chosen_by"]["judge"]]
    return table(["", "minus", "difference"], [[r["one"], r["other"], signed(r)] for r in rows])


def sizes(figures: Figures) -> str:
    """Accuracy against cluster size, of every similarity."""
    by = figures["chosen_by"]
    rows = []
    for name, by_control in figures["report"][by["material"]][by["judge"]].items():
        found = {row["sizes"]: row for row in by_control["clusters"]["by_size"]}
        rows.append([name, *(figure(found.get(size)) for _, _, size in SIZES)])
    return table(["similarity", *(size for _, _, size in SIZES)], rows)


def listed(examples: Sequence[Mapping[str, Any]]) -> str:
    """Clusters that `examples.RULE` picked, an item each, with what its first members are about."""
    lines = []
    for row in examples:
        about = "; ".join(f"{latent}: {text}" for latent, text in row["explanations"].items())
        lines.append(
            f"* rank {row['rank']} of {row['of']}, {len(row['latents'])} latents, "
            f"{row['share']:.0%} of their interaction inside, most in block {row['block']}: {about}"
        )
    return "\n".join(lines)


def figure(entry: Mapping[str, Any] | None) -> str:
    """Mean and interval, or what of them there is."""
    return DASH if entry is None else shown(entry, 2)


def signed(entry: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    return shown(entry, difference)


def _index(summaries: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [s[key] for s in summaries if s[key] is not None]
    return f"{_mean(values):.2f}" if values else DASH


def _mean(values: Any) -> float:
    """Mean over crosscoders, of figures that may be lists over seeds."""
    flat = [x for value in values for x in (value if isinstance(value, list | tuple) else [value])]
    return float(sum(flat) / len(flat))
