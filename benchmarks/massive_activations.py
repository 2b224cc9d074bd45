"""Norms by position, massive activations, and how a crosscoder's first steps go, on any model.

    python benchmarks/massive_activations.py --model FOLDER --text stories.txt --block 15

The tables of docs/massive-activations.md. Rows are packed, so that the first position of a row
holds any token. Training is of the three hookpoints around the block's MLP, without penalties;
`--steps 0` leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import tyro

import crossproof
from crossproof import CrosscoderConfig, LanguageModel, RunConfig
from crossproof.activations import massive_table, survey_norms
from crossproof.tables import Table, fixed

POSITIONS = (0, 1, 2, 3, 7, 15, 31, 63)


@dataclass
class MassiveBenchmark:
    """What to measure."""

    model: str = "bundled"
    """The bundled model, a model folder or a Hub id."""
    text: str = "bundled"
    """As `crossproof train` takes it."""
    block: int = 0
    """The block whose residual stream and MLP input are looked at."""
    rows: int = 20
    """Rows that norms are measured on."""
    context: int = 128
    """Tokens a row."""
    steps: int = 60
    """Training steps of each crosscoder."""
    n_latents: int = 1024
    """Latents of each crosscoder."""
    batch_tokens: int = 256
    """Tokens a step."""
    multiples: tuple[float, ...] = (0.0, 10.0)
    """Values of `--drop-outliers` to train with."""
    threads: int = 2
    """Threads that torch may use."""


def main(args: MassiveBenchmark) -> None:
    """Measures and prints the tables."""
    torch.set_num_threads(args.threads)
    model = crossproof.load_model(args.model)
    rows = crossproof.read_sequences(args.text, model, args.context)
    block = f"blocks.{args.block}"
    names = [f"{block}.hook_resid_mid", f"{block}.mlp.hook_in", f"{block}.hook_resid_post"]
    print(norms_by_position(model, rows[: args.rows], names).to_text(), end="\n\n")
    print(massive_table(survey_norms(model, rows, names).massive).to_text(), end="\n\n")
    if args.steps:
        print(training(model, rows, names, args).to_text())


def norms_by_position(model: LanguageModel, rows: torch.Tensor, names: list[str]) -> Table:
    """Median norm over rows at some positions, and of all positions behind the first."""
    norms = model.activations(rows, names).float().norm(dim=3)
    shown = [at for at in POSITIONS if at < rows.shape[1]]
    lines = {f"position {at}": norms[:, at].median(0).values.tolist() for at in shown}
    behind = norms[:, 1:].flatten(0, 1)
    lines["all behind the first, median"] = behind.median(0).values.tolist()
    lines["all behind the first, largest"] = behind.amax(0).tolist()
    return Table.of(f"Norms on {len(rows)} rows", names, lines, fixed(0))


def training(
    model: LanguageModel, rows: torch.Tensor, names: list[str], args: MassiveBenchmark
) -> Table:
    """The reconstruction error by step; a typical token's scaled energy is P·D."""
    columns = {}
    for multiple in args.multiples:
        config = RunConfig(
            hookpoints=tuple(names),
            context=args.context,
            crosscoder=CrosscoderConfig(args.n_latents, k=16),
            steps=args.steps,
            batch_tokens=args.batch_tokens,
            buffer_batches=15,
            log_every=max(1, args.steps // 6),
            drop_outliers=multiple,
        )
        result = crossproof.train(config, model=model, text=rows)
        lines = result.runs["unpenalised"].metrics
        columns[multiple] = {line.step: line.terms["reconstruction"] for line in lines}
    steps = {f"step {s}": [c[s] for c in columns.values()] for s in columns[args.multiples[0]]}
    title = f"Reconstruction error; a typical token's energy is {len(names) * model.d_model:,}"
    return Table.of(title, [f"--drop-outliers {m:g}" for m in columns], steps, fixed(0))


if __name__ == "__main__":
    main(tyro.cli(MassiveBenchmark))
