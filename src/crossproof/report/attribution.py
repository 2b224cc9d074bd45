"""What `crossproof attribute` found, as the page shows it: tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from crossproof.proof.attribution.figures import AttributedRun, ReplacementFigures, mean_of
from crossproof.proof.attribution.result import AttributionResult, chain_tables, cost_table
from crossproof.report.runs import ShownRun, of_page
from crossproof.tables import Table, at_least, at_most, number

REFERENCES = {"model": "Against the model", "all latents": "Against all latents"}


@dataclass(frozen=True)
class AttributionSection:
    """The section's tables and words; `tables` is empty if only the last block was attributed."""

    tokens: str
    limit: str
    unbounded: str
    """A sentence on why attention could not be bounded, if so."""
    tables: tuple[Table, ...]
    breaks: tuple[str, ...]
    kept: tuple[str, ...]
    costs: dict[str, Table]


def attribution_section(
    result: AttributionResult | None, runs: Sequence[ShownRun]
) -> AttributionSection | None:
    """The section's content, or None where nothing was attributed."""
    shown = of_runs(result, runs)
    if shown is None:
        return None
    first = next(iter(shown.runs.values()))
    return AttributionSection(
        "every token" if first.tokens is None else f"each of {first.tokens:,} tokens",
        _limit(first),
        first.attention_unbounded_because,
        tuple(chain_tables(shown)) if shown.chained else (),
        tuple(_breaks(shown)),
        tuple(_kept(shown.runs)),
        {name: cost_table(shown, name) for name in shown.runs},
    )


def of_runs(result: AttributionResult | None, runs: Sequence[ShownRun]) -> AttributionResult | None:
    """The attribution of the page's runs, in their order; None if there is none."""
    shown = [] if result is None else of_page(result.runs, runs)
    if result is None or not shown:
        return None
    return replace(result, runs={run.name: figures for run, figures in shown})


def _limit(run: AttributedRun) -> str:
    entropy = run.baselines.unigram_entropy <= run.baselines.log_classes
    why = (
        "the frequencies of the next tokens alone predict as well"
        if entropy
        else "guessing evenly among all tokens does as well"
    )
    return f"From {number(run.vacuous_from)} nats on a bound is vacuous: {why}."


def _named(step: str) -> str:
    """`blocks.0 MLP moves` as `block 0, MLP moves`."""
    block, _, part = step.removeprefix("blocks.").partition(" ")
    return f"block {block}, {part}" if block.isdecimal() else step


def _breaks(result: AttributionResult) -> Iterator[str]:
    chain = result.best_chain
    if chain is None:
        return
    for name, run in result.chained.items():
        yield f"“{name}”: {_broken(run, chain)}"
    if chain.endswith("measured"):
        yield (
            "This chain reads the model’s own attention outputs: what it says is true, and it is "
            "part of no compact proof."
        )


def _broken(run: AttributedRun, name: str) -> str:
    """Where one run's bound stops to say anything, and by how much that step exaggerates."""
    chain, limit, bounded = run.chains[name], number(run.vacuous_from), at_most(2)
    bound, first = bounded(mean_of(chain.loss_bound)), chain.mean_first_vacuous
    if first is None:
        return (
            f"the mean bound is {bound} nats, below {limit}: it says something. It is vacuous at "
            f"{mean_of(chain.vacuous_tokens):.1%} of the tokens."
        )
    if first == "claimed loss":
        assert run.loss is not None  # every run with chains has losses
        claimed = number(mean_of(run.loss.claimed))
        return f"the claim itself is vacuous, at {claimed} nats, so no bound can help."
    stage = next(stage for stage in chain.stages if stage.stage == first)
    alone, truth = run.restarted_at(stage), run.restarted_at(stage, truth=True)
    restarted = ""
    if alone is not None and truth is not None:
        restarted = (
            f" ({number(alone)} if the ball before it had the true radius; the output truly moves "
            f"by {number(truth)})"
        )
    return (
        f"the mean bound passes {limit} nats at “{_named(first)}” and ends at {bound}. That step "
        f"adds {number(mean_of(stage.adds))} to the radius{restarted}; "
        f"{stage.first_vacuous_here:.1%} of the tokens are lost there."
    )


def _kept(runs: Mapping[str, AttributedRun]) -> Iterator[str]:
    """The most that any variant certifies, a sentence a reference."""
    for reference, title in REFERENCES.items():
        variants_of = {name: run.last_block.get(reference) for name, run in runs.items()}
        texts = [_most(name, variants) for name, variants in variants_of.items() if variants]
        if texts:
            yield f"{title}, at most {'; '.join(texts)}."


def _most(name: str, variants: Mapping[str, ReplacementFigures]) -> str:
    variant = max(variants, key=lambda key: mean_of(variants[key].certified))
    best = variants[variant]
    return (
        f"{at_least(1, percent=True)(mean_of(best.certified))} of the predictions in “{name}” are "
        f"certified, where {mean_of(best.unchanged):.1%} truly stay ({variant}: {best.terms:,.0f} "
        "pairs)"
    )
