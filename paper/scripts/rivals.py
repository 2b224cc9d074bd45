"""Other dictionaries around one MLP beside ours: same text, batches, steps and parameters.

    python -m paper.scripts.rivals --out runs/rivals.jsonl --blocks 1 --seeds 0 1 2
    python -m paper.scripts.rivals --out runs/rivals.jsonl --publish paper/data/rivals.json

A line a block, seed and rival, written when it is measured; what is there is not made again. The
text that figures are of is what no recipe was judged on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from crossproof.activations import Harvest, read_sequences
from crossproof.crosscoder import (
    Crosscoder,
    CrosscoderConfig,
    LatentGroup,
    Layout,
    encode_batches,
)
from crossproof.evaluation import EvaluationOptions, EvaluationResult, evaluate
from crossproof.files import write_json
from crossproof.lm import LanguageModel, MLPWeights, load_model
from crossproof.training import (
    DEMO,
    OBJECTIVES,
    Objective,
    Trainer,
    keep_freed_memory,
    register_objective,
)
from paper.rivals.jacobian import ActiveJacobian, JacobianPenalty, pair_layout

SAMPLE = 8
"""Batches from which dictionaries are initialised."""
OURS = {"keep_largest": 50.0, "all_latents": 12.5, "interaction": 1.25}
"""The demo's objective for one MLP instead of the mean over four."""
MEASURED = EvaluationOptions(schemes=("none", "keep-largest"), mids=("exact_mid",), resamples=200)


@dataclass(frozen=True)
class RivalSettings:
    """What is compared."""

    out: Path
    """A line a block, seed and rival (JSON)."""
    model: str = "bundled"
    text: str = "bundled"
    blocks: tuple[int, ...] = (1,)
    seeds: tuple[int, ...] = (0, 1, 2)
    names: tuple[str, ...] = ()
    """These rivals only; none: all."""
    latents: int = 512
    """Of each of two SAEs and of a crosscoder; a transcoder has twice as many, which are as many
    parameters."""
    k: int = 16
    """Active latents a token (of each of two SAEs)."""
    steps: int = 600
    batch_tokens: int = 512
    sequences: int = 16
    """Held-out ones."""
    threads: int = 1
    publish: Path | None = None
    """Write the lines to this JSON file, and train nothing."""


@dataclass(frozen=True)
class Rival:
    """A kind of dictionary around an MLP, and what it is trained for beside reconstruction."""

    layout: Callable[[int], Layout | None]
    objective: dict[str, float]
    """Strengths; of `jacobian` the original's λ, for errors that are means over dimensions."""
    sparsity: str = "topk"


def transcoder(skip: bool) -> Callable[[int], Layout]:
    """Latents that read the MLP's input and write its output."""
    return lambda latents: Layout(
        (LatentGroup(2 * latents, (0,), (1,)),), ((0, 1),) if skip else ()
    )


def joint(latents: int) -> None:
    """A crosscoder's layout is none."""


RIVALS: dict[str, Rival] = {
    "two SAEs": Rival(pair_layout, {}),
    "two SAEs, keep-largest": Rival(pair_layout, OURS),
    "JSAE, λ = 1": Rival(pair_layout, {"jacobian": 1.0}),
    "transcoder": Rival(transcoder(skip=False), {}),
    "skip transcoder": Rival(transcoder(skip=True), {}),
    "crosscoder": Rival(joint, {}),
    "crosscoder, keep-largest": Rival(joint, OURS),
    "JSAE, λ = 4": Rival(pair_layout, {"jacobian": 4.0}),
    "JSAE, λ = 0.25": Rival(pair_layout, {"jacobian": 0.25}),
    "JSAE, λ = 16": Rival(pair_layout, {"jacobian": 16.0}),
    "JumpReLU crosscoder": Rival(joint, {"l0": 2.0}, "jumprelu"),
}
"""In the order in which they are made. λ = 1 is what the original's rule, k² / 2 D, gives for the
bundled model."""


def build(rival: Rival, settings: RivalSettings, model: LanguageModel, block: int) -> Crosscoder:
    """The dictionary before training."""
    layout = rival.layout(settings.latents)
    latents = settings.latents if layout is None else layout.n_latents
    groups = 2 if rival.layout is pair_layout else 1
    config = CrosscoderConfig(latents, rival.sparsity, settings.k, groups)
    return Crosscoder(config, model.hookpoints(places(block)), model.d_model, layout)


def places(block: int) -> list[str]:
    """The MLP's input and its output."""
    return [f"blocks.{block}.mlp.hook_in", f"blocks.{block}.mlp.hook_out"]


def train(
    name: str, settings: RivalSettings, model: LanguageModel, block: int, batches: Sequence[Tensor]
) -> tuple[Crosscoder, float]:
    """The trained dictionary, and the seconds that its steps took."""
    rival, seed = RIVALS[name], torch.initial_seed()
    crosscoder, mlp = build(rival, settings, model, block), model.mlp(block)
    sample = torch.cat([*batches[:SAMPLE]])
    crosscoder.initialise(sample, seed)
    crosscoder.fit_gain(sample)
    strengths = dict(rival.objective)
    if "jacobian" in strengths:
        strength = strengths.pop("jacobian") * model.d_model
        strengths[jacobian_term(model, block)] = strength
    trainer = Trainer(
        crosscoder, {0: mlp}, Objective(strengths), DEMO.optimisation, settings.steps, seed
    )
    began = time.perf_counter()
    for batch in batches:
        trainer.step(batch)
    seconds = time.perf_counter() - began
    crosscoder.fold()
    return crosscoder.requires_grad_(False), seconds


def jacobian_term(model: LanguageModel, block: int) -> str:
    """The name of the registered penalty on the Jacobian of one MLP."""
    name = f"jacobian_{model.weights_hash[:8]}_{block}"
    if name not in OBJECTIVES:
        penalty = JacobianPenalty(model.mlp(block))
        register_objective(name, penalty, "mean |J| of active latents.", per="step")
    return name


def measured(
    model: LanguageModel, crosscoder: Crosscoder, block: int, sequences: Tensor
) -> dict[str, Any]:
    """The figures of one dictionary; those that its kind has not are left out."""
    # A transcoder has no decoder at the MLP's input, so the MLP does not read it.
    read = 0 in crosscoder.written
    options = MEASURED if read else replace(MEASURED, schemes=())
    result = evaluate(model, crosscoder, sequences, options)
    figures: dict[str, Any] = {
        "l0": result.l0,
        "dead": result.dead,
        "fvu": dict(result.by_hookpoint["fvu"]),
        "ce_recovered": dict(result.by_hookpoint["ce_recovered"]),
    }
    if read:
        both = {"interaction": result.interaction, "additive": result.additive_interaction}
        figures |= both | fidelities(result)
    if len(crosscoder.layout.groups) == 2:
        figures |= jacobian_figures(model, crosscoder, model.mlp(block), sequences)
    return figures


def fidelities(result: EvaluationResult) -> dict[str, Any]:
    """Φ of all latents, of the largest, and by the number that a neuron keeps."""
    if result.keep_curve is None:
        return {}
    curve = result.keep_curve
    return {
        "phi_all": result.phi["none"]["exact_mid"].mean,
        "phi_keep_largest": result.phi["keep-largest"]["exact_mid"].mean,
        "phi_keep": {f"{m:g}": p.mean for m, p in zip(curve.kept, curve.phi, strict=True)},
        "keep_area": curve.area.mean,
    }


def jacobian_figures(
    model: LanguageModel, crosscoder: Crosscoder, mlp: MLPWeights, sequences: Tensor
) -> dict[str, float]:
    """Mean |J|, the share beyond 0.01 and the edges of 90% of |J|."""
    means, shares, edges = [], [], []
    for batch in encode_batches(model, crosscoder, sequences, 2):
        jacobian = ActiveJacobian.of(crosscoder, mlp, batch.latents, batch.x[:, 0])
        means.append(float(jacobian.mean()))
        shares.append(jacobian.above())
        edges.append(jacobian.edges())
    found = {"jacobian": means, "jacobian_above": shares, "jacobian_edges": edges}
    return {name: sum(values) / len(values) for name, values in found.items()}


def main(settings: RivalSettings) -> None:
    """Trains, measures, and appends lines; or publishes them."""
    lines = settings.out.read_text().splitlines() if settings.out.exists() else []
    rows = [json.loads(line) for line in lines]
    if settings.publish is not None:
        return write_json(settings.publish, {"rows": rows})
    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    model = load_model(settings.model)
    text = settings.text, model, min(256, model.context)
    skip = DEMO.skipped if settings.text == "bundled" else 0
    held_out = read_sequences(*text, "held_out")[skip : skip + settings.sequences]
    corpus = read_sequences(*text, "train")
    size: dict[str, Any] = {"latents": settings.latents, "k": settings.k, "steps": settings.steps}
    size |= {"batch_tokens": settings.batch_tokens, "sequences": len(held_out)}
    size |= {"model": settings.model, "text": settings.text}
    done = {(row["block"], row["seed"], row["rival"]) for row in rows if row["size"] == size}
    for block in settings.blocks:
        for seed in settings.seeds:
            names = [n for n in settings.names or RIVALS if (block, seed, n) not in done]
            if not names:
                continue
            torch.manual_seed(seed)
            hookpoints = model.hookpoints(places(block))
            harvest = Harvest(model, corpus, hookpoints, settings.batch_tokens, seed=seed)
            batches = [harvest.batch(step) for step in range(settings.steps)]
            for name in names:
                crosscoder, seconds = train(name, settings, model, block, batches)
                figures = measured(model, crosscoder, block, held_out)
                head = {"block": block, "seed": seed, "rival": name, "size": size}
                row = head | {"seconds": round(seconds, 1)} | figures
                with settings.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"block {block}, seed {seed}: {name}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(tyro.cli(RivalSettings))
