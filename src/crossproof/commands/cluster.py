"""`crossproof cluster`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crossproof.clusters.judges import JUDGES, JudgeOptions, make_judge
from crossproof.clusters.llm import Endpoint
from crossproof.clusters.settings import (
    Algorithm,
    ClusterSettings,
    ExplainerName,
    JudgedText,
    LatentChoice,
    Material,
    check_measured,
)
from crossproof.commands.models import ModelOptions
from crossproof.commands.parsing import parse
from crossproof.errors import CrossproofError

JUDGE_HELP = (
    f"One of: {', '.join(JUDGES)}. embedding works offline (extra `embedding`), overlap (of "
    f"words) is the floor, llm asks an endpoint; other packages may bring more."
)


@dataclass(frozen=True)
class LLMOptions:
    """The endpoint of `--judge llm` and `--explainer llm`. Its key comes from the environment."""

    llm_model: str = ""
    """The language model's name at the endpoint."""
    llm_url: str = ""
    """Base URL of any OpenAI-compatible endpoint; by default OPENAI_BASE_URL, else OpenAI."""
    llm_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; it is never written anywhere."""
    llm_timeout: float = 60.0
    """Seconds a request may take."""
    llm_retries: int = 5
    """Further tries of a request that failed for the network, the rate or the server."""
    llm_rate: float = 120.0
    """Requests a minute, at most."""
    llm_parallel: int = 4
    """Requests under way at once."""
    price_in: float = 0.0
    """Price of a million prompt tokens, for the estimate that is printed before any request."""
    price_out: float = 0.0
    """Price of a million tokens of answers."""


@dataclass(frozen=True)
class Cluster:
    """Group a dictionary's latents by how they interact; explain and judge the groups.

    Needs the sums of `crossproof measure`. A judge is asked which of five latents belongs to a
    group; the same is asked about other similarities and about random groups (chance: 0.20):

      crossproof cluster runs/demo
      crossproof cluster runs/demo --similarity Q-normalised --algorithm spectral
      crossproof cluster runs/demo --judge llm --explainer llm --llm-model NAME --llm-url URL
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A folder written by `crossproof train` and measured by `crossproof measure`."""
    similarity: str = "I-normalised"
    """What groups latents: I, J, Q, second-differences, coactivation (each also with -normalised),
    phi, decoder-cosine or decoder-cosine-mlp-in; of gated MLPs AND instead of J."""
    against: tuple[str, ...] = ("coactivation-normalised", "phi", "decoder-cosine")
    """Similarities to compare it with."""
    algorithm: Algorithm = "affinity"
    """affinity (propagation, finds the number itself), agglomerative (average linkage), spectral.
    """
    clusters: int = 0
    """How many clusters (not for affinity); 0 is one for every six latents."""
    judge: Annotated[str, tyro.conf.arg(help=JUDGE_HELP, metavar="NAME")] = "embedding"
    explainer: ExplainerName = "data"
    """data (words that distinguish a latent, offline) or llm."""
    material: Material = "explanations"
    """What the judge sees of each latent: its explanation or its contexts."""
    seeds: int = 3
    """Of clustering, questions and random controls."""
    seed: int = 0
    """The first of them."""
    questions: int = 4
    """About each cluster, at most."""
    latents: int = 512
    """How many are clustered, at most."""
    min_tokens: int = 20
    """Measured tokens at which a latent must be active to be clustered."""
    max_frequency: float = 0.1
    """Latents active on a larger share of tokens are left out."""
    language_model: ModelOptions = field(default_factory=ModelOptions)
    text: str | None = None
    """Text to explain and judge on; by default the measured text's other sequences."""
    split: Literal["held_out", "validation", "train"] | None = None
    """By default the measured one."""
    tokens: float = 1e5
    """Tokens to explain and judge on."""
    embedding_model: str = ""
    """A sentence-transformers model or folder; by default the packaged all-MiniLM-L6-v2."""
    llm: LLMOptions = field(default_factory=LLMOptions)
    plugin: tuple[str, ...] = ()
    """Modules to import first: they register judges (docs/extending/judges.md)."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Clusters, prints tables, writes clusters/clusters.json and renews the run's report."""
    options: Cluster = parse(Cluster, "cluster", arguments)
    if not options.tokens >= 1:
        raise CrossproofError(f"--tokens is {options.tokens:g}: give at least 1.")
    check_measured(options.run)
    for module in options.plugin:
        load_plugin(module)
    answers = options.run / "clusters" / "answers"
    judging = JudgeOptions(options.embedding_model, endpoint(options.llm), answers)
    judge = make_judge(options.judge, judging)
    _ = options.explainer == "llm" and judging.llm  # raises if its name or package is missing
    # Imported late: what is missing is said before PyTorch is loaded.
    from crossproof.clusters.run import check_settings, cluster
    from crossproof.report import refresh_report
    from crossproof.report.terminal import console, evaluation_display
    from crossproof.training.machine import keep_freed_memory, thread_setting

    check_settings(settings(options))
    thread_setting(options.threads)
    keep_freed_memory()
    model, _ = options.language_model.load(options.run)
    with evaluation_display("", "done") as progress:
        result = cluster(
            model,
            options.run,
            settings(options),
            judging,
            judge,
            progress,
            console.print,
        )
    for table in result.tables():
        console.print(table.to_rich())
    print(f"Clusters: {options.run / 'clusters' / 'clusters.json'}")
    if (options.run / "results.json").exists():
        print(f"Report: {refresh_report(options.run)}")


def settings(options: Cluster) -> ClusterSettings:
    """The library's settings from the command's options."""
    return ClusterSettings(
        similarity=options.similarity,
        algorithm=options.algorithm,
        clusters=options.clusters,
        against=options.against,
        judge=options.judge,
        explainer=options.explainer,
        material=options.material,
        seeds=options.seeds,
        seed=options.seed,
        per_cluster=options.questions,
        choice=LatentChoice(options.latents, options.min_tokens, options.max_frequency),
        text=JudgedText(options.text or "", options.split, int(options.tokens)),
        embedding_model=options.embedding_model,
    )


def endpoint(options: LLMOptions) -> Endpoint:
    """The endpoint from the command's options."""
    return Endpoint(
        model=options.llm_model,
        url=options.llm_url,
        key_variable=options.llm_key_variable,
        timeout=options.llm_timeout,
        retries=options.llm_retries,
        requests_per_minute=options.llm_rate,
        parallel=options.llm_parallel,
        price_in=options.price_in,
        price_out=options.price_out,
    )


def load_plugin(module: str) -> None:
    """Imports a module that registers something; CrossproofError if there is none."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise CrossproofError(
            f"The plugin {module} cannot be imported ({error}): give a module on PYTHONPATH."
        ) from error
