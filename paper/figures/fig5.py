"""Figure 5: a head's attention scores before the softmax, in parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossproof.evaluation import PARTS
from paper.drawing.charts import Chart, Panel, Series
from paper.drawing.words import shown, size, table
from paper.figures import heads
from paper.measuring.experiment import Experiment
from paper.measuring.settings import FigureSettings
from paper.measuring.statistics import over_seeds

TITLE = "Figure 5: a head's scores before the softmax, in parts"


def compute(settings: FigureSettings) -> dict[str, Any]:
    """One head's pattern on one text in parts, and the parts' sizes over held-out text."""
    experiment = Experiment.open(settings)
    block, head = heads.chosen_head(experiment)
    examples = heads.examples(experiment, block, head)
    sizes = {
        name: {part: over_seeds(seeds, heads.by_block(part)).estimate() for part in PARTS}
        for name, seeds in heads.sums_of(experiment).items()
    }
    return {
        "setup": experiment.setup(),
        "tokens": heads.TOKENS,
        "block": block,
        "head": head,
        "examples": examples,
        "sizes": sizes,
    }


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """The head's pattern by each crosscoder, in parts, and the parts' sizes."""
    head = f"Block {numbers['block']}, head {numbers['head']}"
    patterns = {
        "main" if at == 0 else name: Chart(
            f"{head}, {name}: scores before the softmax, in parts",
            heads.pattern_panels(example),
            columns=3,
        )
        for at, (name, example) in enumerate(numbers["examples"].items())
    }
    return patterns | {"sizes": _sizes(numbers["sizes"])}


def _sizes(sizes: dict[str, Any]) -> Chart:
    series = []
    for name, parts in sizes.items():
        middle = [estimate["mean"] for estimate in parts.values()]
        low, high = ([estimate["ci"][end] for estimate in parts.values()] for end in (0, 1))
        labels = [heads.LABELS[part] for part in parts]
        series.append(Series(name, labels, middle, low, high, kind="bars"))
    label = "root mean square about a query's mean"
    return Chart("How much the parts differ among keys", [Panel("", "", label, series)], columns=1)


def words(numbers: Mapping[str, Any]) -> str:
    """The head, how well the parts add up, and the sizes of the parts."""
    examples, sizes = numbers["examples"], numbers["sizes"]
    error = max(example["error"] for example in examples.values())
    rows = [
        [heads.LABELS[part], *(shown(parts[part], 2) for parts in sizes.values())] for part in PARTS
    ]
    return "\n\n".join(
        [
            size(numbers["setup"]),
            f"Block {numbers['block']}, head {numbers['head']}: the head whose scores differ most "
            f"among keys, whatever the crosscoder. On this text the parts sum to the scores "
            f"within {error:.0e}.",
            f"Root mean square of each part about its mean over the query's keys (a softmax sees "
            f"nothing else), mean over blocks, first {numbers['tokens']} tokens of each sequence:",
            table(["part", *sizes], rows),
        ]
    )
