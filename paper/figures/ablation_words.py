"""The ablation's charts, tables and verdict, from its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

from crossproof.tables import signed
from paper.drawing.charts import Chart, Panel, Series
from paper.drawing.words import change as relative
from paper.drawing.words import shown, size, table
from paper.measuring.objectives import EXACT

AblationEntry = Mapping[str, Any]
KEEP, EVERY = "phi/keep-largest/exact_mid", "phi/none/exact_mid"
MEASURES = {"gradient": "equal gradient at the decoder", "fvu": "equal cost in FVU"}
NAMES = {
    "interaction": "interaction penalty",
    EXACT: "exact error",
    "rotated": "rotated neurons",
    "l1": "L1",
    "mlp_in": "extra weight at mlp_in",
    "smaller k": "smaller k",
}


def words(numbers: Mapping[str, Any]) -> str:
    """Verdict first, then the tables behind it."""
    parts = [size(numbers["setup"]), *verdict(numbers), _matching(numbers)]
    for reference, comparison in numbers["comparisons"].items():
        parts += [
            f"Gain of Φ keep-largest over no penalty; ratios are to no penalty. "
            f"{NAMES[reference].capitalize()} ({comparison['reference']['place']}) beside its "
            f"controls:",
            _comparison(reference, comparison, numbers["none"]),
        ]
    parts += ["How much of the exact error's gain comes with fewer interactions:", _parts(numbers)]
    return "\n\n".join(parts)


def headline(numbers: Mapping[str, Any]) -> str:
    """The table for a reader in a hurry: penalties, and controls at the exact error's cost."""
    exact = numbers["comparisons"][EXACT]
    paper = numbers["comparisons"]["interaction"]["reference"]
    rows = [("no penalty", numbers["none"]), ("exact error", exact["reference"])]
    rows += [("exact error + interaction/40", numbers["mixed"])]
    rows += [(f"interaction penalty at its best ({paper['place']})", paper)]
    rows += [(f"{NAMES[c]}, at the exact error's FVU", e) for c, e in exact["fvu"].items()]
    cells = []
    for name, entry in rows:
        figures = [shown(entry["figures"][figure]) for figure in (KEEP, EVERY, "fvu")]
        ratios = [shown(entry[key], 2) for key in ("interaction_ratio", "additive_ratio")]
        cells.append([name, *figures, *ratios])
    return table(["", "Φ keep-largest", "Φ all latents", "FVU", "I ×", "J ×"], cells)


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """Gains at equal magnitude, and every curve in the plane of FVU and Φ."""
    panels = []
    for reference, comparison in numbers["comparisons"].items():
        for measure, title in MEASURES.items():
            entries = {NAMES[reference]: comparison["reference"]}
            entries |= {NAMES[c]: entry for c, entry in comparison[measure].items()}
            panels.append(_gains(f"{NAMES[reference]}: {title}", entries))
    curves = [
        Series(
            NAMES[name],
            [e["figures"]["fvu"]["mean"] for e in entries],
            [e["figures"][KEEP]["mean"] for e in entries],
            [e["figures"][KEEP]["ci"][0] for e in entries],
            [e["figures"][KEEP]["ci"][1] for e in entries],
            labels=[e["place"] for e in entries],
        )
        for name, entries in numbers["curves"].items()
    ]
    exact = numbers["comparisons"][EXACT]["reference"]["figures"]
    point = Series(
        NAMES[EXACT],
        [exact["fvu"]["mean"]],
        [exact[KEEP]["mean"]],
        [exact[KEEP]["ci"][0]],
        [exact[KEEP]["ci"][1]],
        kind="points",
    )
    plane = Panel("", "FVU", "Φ keep-largest", [*curves, point], x_log=True)
    return {
        "main": Chart("Gain of Φ keep-largest over no penalty", panels),
        "curves": Chart("What each pressure buys, by its cost", [plane], 1, 4.5),
    }


def verdict(numbers: Mapping[str, Any]) -> list[str]:
    """The question's answer, in words that follow from the intervals."""
    comparisons = numbers["comparisons"]
    lines = [_against_controls(name, comparison) for name, comparison in comparisons.items()]
    return ["**Verdict.** " + lines[0], *lines[1:], _through(numbers)]


def _against_controls(reference: str, comparison: Mapping[str, Any]) -> str:
    gain = comparison["reference"]["gain"]
    text = f"The {NAMES[reference]} {_gains_words(gain)} ({shown(gain)} in Φ keep-largest)."
    for measure, title in MEASURES.items():
        controls = comparison[measure]
        ahead = [c for c, e in controls.items() if e["behind_reference"]["ci"][0] > 0]
        behind = [c for c, e in controls.items() if e["behind_reference"]["ci"][1] < 0]
        equal = [c for c in controls if c not in ahead and c not in behind]
        clauses = []
        if ahead:
            clauses.append(f"it gains more than {_list(ahead, controls)}")
        if equal:
            clauses.append(f"it cannot be told from {_list(equal, controls)}")
        if behind:
            clauses.append(f"it gains less than {_list(behind, controls)}")
        text += f" At {title}, {'; '.join(clauses)}."
    return text


def _gains_words(gain: AblationEntry) -> str:
    low, high = gain["ci"]
    return "gains" if low > 0 else "loses" if high < 0 else "neither gains nor loses, within noise"


def _list(names: list[str], controls: Mapping[str, Any]) -> str:
    each = []
    for name in names:
        missed = "" if controls[name]["reached"] else ", out of reach, nearest point"
        each.append(f"{NAMES[name]} ({signed(controls[name]['gain']['mean'])}{missed})")
    return ", ".join(each)


def _through(numbers: Mapping[str, Any]) -> str:
    lines = []
    for name, parts in numbers["parts"].items():
        text = f"Of the gain of {name} ({shown(parts['gain'])}),"
        for symbol in ("I", "J"):
            part = parts[symbol]
            change = part["change"]["mean"] - 1
            if not part["falls"]:
                text += f" none comes with a lower {symbol} (it changes by {relative(change)});"
                continue
            share = part["with_fewer"]["mean"] / parts["gain"]["mean"]
            text += (
                f" {share:.0%} ({shown(part['with_fewer'])}) is what the interaction penalty "
                f"gains where it lowers {symbol} as far ({relative(change)}), and the rest "
                f"({shown(part['without'])}) comes without;"
            )
        lines.append(text.removesuffix(";") + ".")
    return " ".join(lines)


def _matching(numbers: Mapping[str, Any]) -> str:
    norms = numbers["gradient_norms"]
    listed = ", ".join(f"{name} {value:.3g}" for name, value in norms.items())
    return (
        f"Magnitudes: gradient norms over the whole decoder of the unpenalised crosscoder, in "
        f"scaled space, on the first batch of the first seed ({listed}; at strength 1, "
        f"the exact error at its own strength). Places between trained strengths are linear "
        f"interpolations, found on validation text and applied to held-out figures. Smaller k has "
        f"no gradient. The interaction penalty's strength is the one with the best Φ keep-largest "
        f"on validation text."
    )


def _comparison(reference: str, comparison: Mapping[str, Any], none: AblationEntry) -> str:
    rows = [_row("no penalty", "", none), _row(NAMES[reference], "", comparison["reference"])]
    for measure, title in MEASURES.items():
        rows += [_row(NAMES[c], title, entry) for c, entry in comparison[measure].items()]
    head = ["", "equal", "where", "gain", "behind the reference by", "Φ keep-largest", "Φ all"]
    return table([*head, "FVU ×", "I ×", "J ×"], rows)


def _row(name: str, measure: str, entry: AblationEntry) -> list[str]:
    figures = entry["figures"]
    cells = [shown(entry["gain"]), shown(entry["behind_reference"])]
    cells += [shown(figures[KEEP]), shown(figures[EVERY])]
    cells += [shown(entry[key], 2) for key in ("fvu_ratio", "interaction_ratio", "additive_ratio")]
    return [name, measure, entry["place"], *cells]


def _parts(numbers: Mapping[str, Any]) -> str:
    rows = []
    for name, parts in numbers["parts"].items():
        for symbol in ("I", "J"):
            part = parts[symbol]
            cells = [shown(part["change"], 2), shown(parts["gain"])]
            cells += [shown(part["with_fewer"]), shown(part["without"]), part["place"]]
            rows.append([name, symbol, *cells])
    head = ["objective", "measure", "measure ×", "gain", "with fewer", "without"]
    return table([*head, "where the interaction penalty has the same"], rows)


def _gains(title: str, entries: Mapping[str, AblationEntry]) -> Panel:
    labels = [fill(name, 11) for name in entries]
    gains = [entry["gain"] for entry in entries.values()]
    low, high = ([gain["ci"][end] for gain in gains] for end in (0, 1))
    series = Series("", labels, [gain["mean"] for gain in gains], low, high, kind="bars")
    return Panel(title, "", "gain of Φ", [series])
