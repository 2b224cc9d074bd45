"""Figure 3: how often a judge recognises a cluster's member, against the cluster's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crossproof.clusters import (
    CHANCE,
    SIZES,
    EmbeddingJudge,
    OverlapJudge,
    SentenceEmbedder,
    available,
)
from paper.clusters.comparison import ComparisonPlan, compare
from paper.clusters.comparison_words import accuracies, chosen, differences, gap, sizes
from paper.clusters.comparison_words import signed as shown_gap
from paper.clusters.examples import RULE, examples
from paper.clusters.subjects import setup_words, studies, variants
from paper.drawing.charts import Chart, Panel, Series
from paper.measuring.experiment import Experiment
from paper.measuring.settings import FigureSettings

TITLE = "Figure 3: accuracy of assignment to clusters, against cluster size"
NAMES = (
    *("I", "I-normalised", "J-normalised", "AND-normalised", "Q", "Q-normalised", "I-phi"),
    *("I-given-coactivation", "I-beyond-magnitudes", "I-from-magnitudes"),
    *("coactivation", "coactivation-normalised", "phi"),
    *("decoder-cosine", "decoder-cosine-mlp-in"),
)
MATCHED = "random, matched"


def compute(settings: FigureSettings) -> dict[str, Any]:
    """Every similarity and control by the embedding judge and by word overlap; ten clusters."""
    experiment = Experiment.open(settings)
    judges = (OverlapJudge(), EmbeddingJudge(SentenceEmbedder()))
    numbers: dict[str, Any] = {
        "setup": experiment.setup(),
        "how": setup_words(experiment),
        "variants": {},
    }
    for name, config in variants(experiment).items():
        own = studies(experiment, config)
        gated = own[0].report.evidence.interactions.gated
        names = [n for n in NAMES if n in available(gated)]
        plan = ComparisonPlan(names, judges, materials=("explanations",))
        numbers["variants"][name] = compare(own, plan, settings.say)
        best = numbers["variants"][name]["chosen"]["interaction"]
        numbers["examples"] = {"of": name, "by": best, "clusters": examples(own[0].report, best)}
    return numbers


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """A panel a variant."""
    panels = [panel(name, outcome) for name, outcome in numbers["variants"].items()]
    return {"main": Chart("Right one of five, by cluster size", panels, columns=1)}


def panel(name: str, outcome: Mapping[str, Any]) -> Panel:
    """Bars by size: what was chosen, decoder cosine, and random clusters of the first."""
    by = outcome["chosen_by"]
    level = outcome["report"][by["material"]][by["judge"]]
    picked = outcome["chosen"]
    lines = {
        f"interaction: {picked['interaction']}": (picked["interaction"], "clusters"),
        f"baseline: {picked['baseline']}": (picked["baseline"], "clusters"),
        "decoder-cosine": ("decoder-cosine", "clusters"),
        "random, same frequencies": (picked["interaction"], MATCHED),
    }
    series = [_bars(label, level[s][c]["by_size"]) for label, (s, c) in lines.items()]
    chance = Series("chance", [], [CHANCE], kind="level")
    return Panel(name, "latents in the cluster", "right", [*series, chance], y_range=(0, 1))


def _bars(label: str, rows: Sequence[Mapping[str, Any]]) -> Series:
    by_size = {row["sizes"]: row for row in rows}
    kept = [by_size[size] for _, _, size in SIZES if size in by_size]
    ends = [row["ci"] or (row["mean"], row["mean"]) for row in kept]
    return Series(
        label,
        [row["sizes"] for row in kept],
        [row["mean"] for row in kept],
        [low for low, _ in ends],
        [high for _, high in ends],
        kind="bars",
    )


def words(numbers: Mapping[str, Any]) -> str:
    """What was chosen, whether interaction is ahead, the tables, ten clusters."""
    parts = [str(numbers["how"])]
    for name, outcome in numbers["variants"].items():
        material = outcome["chosen_by"]["material"]
        parts += [
            f"**{name}.** {chosen(outcome)} {_beyond(outcome)}",
            accuracies(outcome, material),
        ]
        parts += ["Paired differences:", differences(outcome, material), "By size:", sizes(outcome)]
    return "\n\n".join([*parts, printed(numbers["examples"])])


def _beyond(outcome: Mapping[str, Any]) -> str:
    """What the pairs themselves add to co-activation and loudness."""
    own = gap(outcome, "I-normalised", "I-from-magnitudes")
    return (
        f"I-normalised minus what co-activation and one loudness a latent predict of it: "
        f"{shown_gap(own)}."
    )


def printed(outcome: Mapping[str, Any]) -> str:
    """Clusters with their members' explanations, as a list."""
    lines = [f"Ten clusters by {outcome['by']}, {outcome['of']}. {RULE}", ""]
    for row in outcome["clusters"]:
        told = "; ".join(f"{h}: {text}" for h, text in row["explanations"].items())
        lines.append(
            f"* rank {row['rank']} of {row['of']}, {len(row['latents'])} latents, "
            f"{row['share']:.0%} of their interaction inside, most in block {row['block']}: {told}"
        )
    return "\n".join(lines)
