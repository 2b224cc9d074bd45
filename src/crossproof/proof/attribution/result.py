"""What `attribute` returns, attribution.json, and the tables that show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossproof.proof.attribution.figures import (
    AttributedRun,
    InteractionCosts,
    StageKind,
    mean_of,
)
from crossproof.result import Result
from crossproof.tables import Row, Table, at_least, at_most, fixed, number, percent

KINDS: dict[StageKind, str] = {"measured": "measured", "propagates": "ball", "code": "code"}
STEPS = (
    "Steps by block. restarted: its size if the ball before it had the true radius. lost: tokens "
    "whose bound becomes vacuous here. ball: bounds how far a layer moves within the ball; code: "
    "a function of latents, dictionary and weights."
)
CERTIFIED = (
    "certified: tokens whose prediction provably stays, with its 95% interval; true: those that "
    "stay. Ceilings, bounds and lengths of the proof are in attribution.json."
)

Runs = Mapping[str, AttributedRun]


@dataclass(frozen=True, repr=False)
class AttributionResult(Result):
    """What `crossproof attribute` found on the crosscoders of a run (attribution.json)."""

    schema: int
    model: str
    model_hash: str
    runs: dict[str, AttributedRun]
    attributed_on: dict[str, Any] = field(default_factory=dict)

    @property
    def chained(self) -> Runs:
        """The runs that have chains of bounds."""
        return {name: run for name, run in self.runs.items() if run.chains}

    @property
    def best_chain(self) -> str | None:
        """The chain with the least bound over all crosscoders; None where none has chains.

        Saturated bounds are equal but for rounding: then it is the first chain, so that
        crosscoders are compared on the same one.
        """
        every = [run.chains for run in self.chained.values()]
        if not every:
            return None

        def bound(chain: str) -> float:
            return sum(round(mean_of(chains[chain].loss_bound), 2) for chains in every)

        return min((chain for chain in every[0] if all(chain in c for c in every)), key=bound)

    def tables(self) -> Sequence[Table]:
        """Losses, bounds, radii, the steps of the best chain, the last block, the costs."""
        whole = chain_tables(self) if self.chained else []
        steps = [stage_table(self, name) for name in self.chained]
        last = [last_table(self, name) for name in self.runs]
        return [*whole, *steps, *last, *(cost_table(self, name) for name in self.runs)]


def chain_tables(result: AttributionResult) -> list[Table]:
    """Losses, bounds and radii of the runs that have chains."""
    return [_loss_table(result), _bound_table(result), _ball_table(result)]


def _loss_table(result: AttributionResult) -> Table:
    first = next(iter(result.chained.values()))
    entropy, classes = first.baselines.unigram_entropy, first.baselines.log_classes
    rows = [
        Row(name, (run.loss.true, run.loss.claimed))
        for name, run in result.chained.items()
        if run.loss is not None
    ]
    return Table(
        "Cross-entropy in nats, 95% intervals over sequences",
        ("the model's loss", "claimed loss"),
        tuple(rows),
        "crosscoder",
        "The claim decodes the last hookpoint. A bound is vacuous from "
        f"{first.vacuous_from:.3f} (entropy of the next tokens' frequencies {entropy:.3f}, "
        f"log V {classes:.3f}).",
    )


def _bound_table(result: AttributionResult) -> Table:
    rows = []
    for name, run in result.chained.items():
        for title, chain in run.chains.items():
            engine, attention = title.split(", attention ")
            first = (chain.mean_first_vacuous or "never").removeprefix("blocks.")
            says = "nothing" if chain.vacuous else "something"
            bound = chain.loss_bound.mean
            values = (engine, attention, bound, says, first, chain.vacuous_tokens.mean)
            rows.append(Row(name, values, style=(*[at_most(2)] * 5, percent)))
    headings = ("MLP", "attention", "bound", "says", "vacuous from", "lost")
    return Table("Bounds on the model's loss, nats", headings, tuple(rows), "crosscoder")


def _ball_table(result: AttributionResult) -> Table:
    chain = result.best_chain
    assert chain is not None  # of the runs that have chains
    rows = [
        Row(
            name,
            (
                run.chains[chain].stages[-1].radius,
                run.true_radius[-1],
                run.chains[chain].growth,
            ),
            style=(at_most(2), fixed(2), percent),
        )
        for name, run in result.chained.items()
    ]
    return Table(
        f"The ball around the decoded stream at the end: {chain}",
        ("proved radius", "true distance", "the ball's own growth"),
        tuple(rows),
        "crosscoder",
        "The ball's own growth: the share of the radius that bounds how far layers move in it.",
    )


def stage_table(result: AttributionResult, name: str) -> Table:
    """One crosscoder's steps in the best chain; those that add nothing are left out."""
    chain, run = result.best_chain, result.runs[name]
    assert chain is not None  # of the runs that have chains
    styles = (number, number, number, at_most(2), percent, number)
    rows = [
        Row(
            stage.short,
            (
                *(stage.adds.mean, run.restarted_at(stage), stage.radius),
                *(stage.loss_bound.mean, stage.first_vacuous_here, KINDS[stage.kind]),
            ),
            style=styles,
        )
        for stage in run.chains[chain].stages
        if mean_of(stage.adds) >= 1e-9
    ]
    headings = ("adds", "restarted", "radius", "bound", "lost", "which is")
    note = STEPS if name == list(result.chained)[-1] else ""
    return Table(f"{name}, step by step: {chain}", headings, tuple(rows), "step", note)


def last_table(result: AttributionResult, name: str) -> Table:
    """Certified and true shares of one crosscoder's last block, a row a simplified MLP."""
    blocks = result.runs[name].last_block
    rows = []
    for variant in dict.fromkeys(variant for block in blocks.values() for variant in block):
        shown = [block.get(variant) for block in blocks.values()]
        pairs = [(None, None) if f is None else (f.certified, f.unchanged.mean) for f in shown]
        values = tuple(value for pair in pairs for value in pair)
        rows.append(Row(variant, values, style=(at_least(1, percent=True), percent) * len(blocks)))
    headings = [h for reference in blocks for h in (f"against {reference}, certified", "true")]
    note = CERTIFIED if name == list(result.runs)[-1] else ""
    title = f"{name}, last block: top-1 predictions that stay"
    return Table(title, tuple(headings), tuple(rows), "MLP becomes", note)


def cost_table(result: AttributionResult, name: str) -> Table:
    """One crosscoder's costliest pairs, and beside each the neuron of the same rank."""
    costs = result.runs[name].costs
    rows = []
    for rank in range(max(len(costs.pairs), len(costs.neurons))):
        pair = costs.pairs[rank] if rank < len(costs.pairs) else None
        neuron = costs.neurons[rank] if rank < len(costs.neurons) else None
        label = "" if pair is None else " ".join(map(str, pair.latents))
        inside = "" if pair is None else ", ".join(map(str, pair.neurons[:3]))
        first = ("", "", "") if pair is None else (pair.per_token, pair.block, inside)
        second = ("", "") if neuron is None else (str(neuron), neuron.per_token)
        rows.append(Row(label, (*first, *second), style=fixed(3)))
    title = f"{name}: pairs and neurons that cost the proof most"
    headings = ("a token", "block", "its neurons", "neuron", "a token")
    return Table(title, headings, tuple(rows), "pair", _share_shown(costs))


def _share_shown(costs: InteractionCosts) -> str:
    if not costs.neurons or costs.per_token <= 0:
        return "No interaction is charged."
    share = sum(neuron.per_token for neuron in costs.neurons) / costs.per_token
    return (
        f"{number(costs.per_token)} a token in all; the {len(costs.neurons)} neurons carry "
        f"{share:.1%} of it. 3.47 is neuron 47 of block 3."
    )
