"""Writes docs/planted-interactions.md from the numbers of `planted_interactions`.

python -m paper.scripts.planted_page
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crossproof.tables import fixed
from paper.drawing.words import share, shown, table

ROOT = Path(__file__).parents[2]
DATA, PAGE = ROOT / "paper/data/planted.json", ROOT / "docs/planted-interactions.md"
TWO = fixed(2)

MEASURES = {
    "second difference, others": "second difference, among the token's others",
    "second difference, alone": "second difference, alone",
    "second difference, output": "second difference of the output",
    "Shapley-Taylor": "Shapley–Taylor",
    "Jacobian change": "change of one's Jacobian without the other",
    "J": "J (plain MLPs)",
    "Q": "Q",
    "I": "I",
    "AND": "AND (gated MLPs)",
    "Jacobian overlap": "overlap of the two's Jacobians",
    "Jaccard": "co-activation, Jaccard",
    "correlation": "co-activation, correlation",
    "decoder cosine": "cosine of decoder vectors",
}
"""Measures as the page calls them; NAME/mean is the mean over tokens with both active."""
SCENARIOS = {
    "even": "All kinds fire together equally often",
    "confounded": "Pairs that add up fire together six times as often",
    "shared": "Decoder vectors of pairs that add up point alike",
}
DICTIONARIES = {
    "oracle": "true features",
    "unpenalised": "learned, no penalty",
    "keep-largest": "learned, keep-largest penalty",
}
MLPS = ("relu", "gelu", "gated")

Rows = list[dict[str, Any]]


def page(content: dict[str, Any]) -> str:
    """The whole page."""
    rows: Rows = content["rows"]
    parts = [_opening(content), _verdict(rows), "## Every setting", _settings(content)]
    for scenario in content["worlds"]:
        if not _picked(rows, "I", scenario=scenario):
            continue
        parts.append(f"### {SCENARIOS[scenario]}")
        for dictionary, words in DICTIONARIES.items():
            parts += [f"{words.capitalize()}:", _details(rows, scenario, dictionary)]
    return "\n\n".join(parts) + "\n"


def _opening(content: dict[str, Any]) -> str:
    world = content["worlds"]["even"]
    pairs, seeds = world["pairs"], sorted({len(row["seeds"]) for row in content["rows"]})
    features = 6 * pairs + world["alone"]
    possible = features * (features - 1) // 2
    return f"""# Which number finds pairs that are known to interact?

<!-- written by paper/scripts/planted_page.py -->

In a language model nobody knows which features interact. Here it is known: {features} features \
in {world["width"]} dimensions, with noise, and an MLP of which every neuron was placed. {pairs} \
pairs of features **meet** in neurons that bend. {pairs} pairs go through neurons with the same \
weights, held where the activation is straight: they only **add up**. {pairs} pairs share no \
neuron and merely fire **together**. A measure scores all {possible:,} pairs; its average \
precision (the area under precision and recall) is 1 if the pairs that meet come first, and \
{pairs / possible:.3f} for a random order. {_over(seeds)}

`python -m paper.scripts.planted_interactions` measures all this (each of nine \
parts took up to a quarter of an hour on a busy core); \
`python -m paper.scripts.planted_page` writes this page."""


def _over(seeds: list[int]) -> str:
    """What means and intervals are over; scenarios differ where a run was cut short."""
    if seeds == [1]:
        return "One seed, with 95% intervals over pairs."
    number = " or ".join(map(str, seeds))
    return f"Means over {number} seeds, with 95% intervals over pairs and seeds."


def _picked(rows: Rows, measure: str, **wanted: str) -> Rows:
    return [
        row
        for row in rows
        if row["measure"] == measure and all(row[name] == value for name, value in wanted.items())
    ]


def _mean(rows: Rows) -> float:
    return sum(float(row["mean"]) for row in rows) / len(rows)


def _verdict(rows: Rows) -> str:
    def average(measure: str) -> str:
        return TWO(_mean(_picked(rows, measure)))

    def only_adding(scenario: str) -> str:
        chosen = _picked(rows, "I", scenario=scenario)
        return share(sum(sum(row["leading"][1:3]) for row in chosen) / len(chosen))

    confounded = "."
    if _picked(rows, "I", scenario="confounded"):
        confounded = f""", and \
{only_adding("confounded")} where those fire together more often than the pairs that meet."""
    head = ["measure", "sums over tokens", "worst setting", "means over co-active tokens"]
    body = [_summary(rows, measure, words) for measure, words in MEASURES.items()]
    return f"""## What to read

| question | number |
|---|---|
| Do these two latents interact, or do they only add up? | **second difference of the output**, \
mean over co-active tokens (`second_difference_sums`: `output` over `tokens`), or Shapley–Taylor |
| Which pairs among thousands are worth a second difference? | **J** (plain MLPs), **Q** \
(gated, or both), summed over tokens: upper bounds, from the pair table at once; they miss pairs \
that rarely fire together |
| What does keeping one latent per neuron lose? | **I**: it charges whatever shares a neuron, \
interaction or not |

**Our own I does not find interacting pairs**: {average("I")} on average over all settings, \
against {average("second difference, output/mean")} of second differences, {average("J")} of J and \
{average("Q")} of Q. It is made to bound what keeping one latent per neuron costs, and pairs that \
add up in a shared neuron cost as much: {only_adding("even")} of the pairs that it names first \
only add up{confounded} Co-activation ({average("Jaccard")}) names pairs that fire together, \
whatever the MLP does with them. The overlap of two latents' Jacobians \
({average("Jacobian overlap")}) sees a shared neuron as I does; the change of one's Jacobian when \
the other is taken away ({average("Jacobian change")}) is a second difference to first order. \
Means over co-active tokens rank bounds (I, J, Q) worse than sums: pairs that met by chance on a \
few tokens come to the top.

**Sums follow co-activation.** Where pairs that add up fire together six times as often, the small \
second differences that superposition gives them add up to more than those of pairs that meet: \
summed, the second difference of neurons is {average("second difference, others")} on average, as \
a mean over co-active tokens {average("second difference, others/mean")}; that of the output, \
where signs cancel, {average("second difference, output")} and \
{average("second difference, output/mean")}. What was planted is a bend, and second differences \
measure bends: that they lead was to be expected, and how much is left of it was not.

Means over all settings of the average precision, and the setting in which it is least:

{table(head, body)}"""


def _summary(rows: Rows, measure: str, words: str) -> list[str]:
    chosen = _picked(rows, measure)
    worst = min(chosen, key=lambda row: float(row["mean"]))
    means = _picked(rows, f"{measure}/mean")
    where = f"{worst['scenario']}, {DICTIONARIES[worst['dictionary']]}, {worst['mlp']}"
    return [
        words,
        TWO(_mean(chosen)),
        f"{TWO(worst['mean'])} ({where})",
        TWO(_mean(means)) if means else "–",
    ]


def _settings(content: dict[str, Any]) -> str:
    settings = content["settings"]
    body = [
        [
            f"{fact['scenario']}, {DICTIONARIES[fact['dictionary']]}",
            fact["mlp"],
            _listed(fact["fvu"], 3),
            _listed(fact["l0"], 1),
            ", ".join(map(str, fact["unmatched"])),
        ]
        for fact in content["dictionaries"]
    ]
    head = ["dictionary", "MLP", "FVU", "L0", "features without a latent"]
    return f"""Scores are of {settings["tokens"]:,} tokens. Learned dictionaries have \
{settings["latents"]} latents (BatchTopK, k = {settings["k"]}) and {settings["steps"]} steps of \
{settings["batch"]} tokens; a feature has a latent if their decoder vectors, matched one to one, \
have a cosine of 0.7 or more, and a pair with a feature that has none gets no score, which counts \
as missed. The dictionaries, a number a seed:

{table(head, body)}"""


def _listed(values: list[float], digits: int) -> str:
    return ", ".join(map(fixed(digits), values))


def _details(rows: Rows, scenario: str, dictionary: str) -> str:
    body = []
    for measure, words in MEASURES.items():
        for suffix, also in (("", ""), ("/mean", ", mean")):
            cells = []
            for mlp in MLPS:
                found = _picked(
                    rows, measure + suffix, scenario=scenario, dictionary=dictionary, mlp=mlp
                )
                cells.append(shown(found[0], TWO) if found else "–")
            if set(cells) != {"–"}:
                body.append([words + also, *cells])
    return table(["measure", *MLPS], body)


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(json.loads(DATA.read_text())))


if __name__ == "__main__":
    main()
