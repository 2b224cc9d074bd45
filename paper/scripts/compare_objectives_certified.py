"""Which training objective gives dictionaries that prove most, by certified accuracy.

    python -m paper.scripts.compare_objectives_certified --out runs/certified

For every setting and seed: builds the task's domain and network, trains a dictionary for every
objective, and bounds accuracy and cross-entropy point by point. An objective's strength is the one
with the best certified accuracy on the validation sample of a seed that serves for nothing else;
the figures are those of other seeds, and those called `verified` are the certificate verifier's.
`OUT/runs.jsonl` gets a line a dictionary, and what is there already is not trained again;
`--publish` writes the summary with intervals over seeds.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.files import write_json
from crossproof.proof.bounds import Dictionary, Network, SparseDomain
from crossproof.proof.certificate import as_certificate, judge, points_draft
from crossproof.tables import DASH, fixed
from crossproof.tables import interval as written_interval
from crossproof.training import Objective
from paper.drawing.words import table
from paper.tasks import TASKS, DictionaryRecipe, Plan, held_out_seed, learn, sparse
from paper.toys.certified_margins import certify_sample

T_QUANTILE = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""97.5% quantile of Student's t with n - 1 degrees of freedom, by n."""
ENGINES = ("signed", "additive", "dominant", "verified")
"""verified: a `points` certificate, whose verifier takes the better of T1 and T2.2 margin by margin
and accounts for rounding; the others: `paper.toys.certified_margins`."""
ENGINE = "verified"
"""By whose certified accuracy strengths are chosen."""
OBJECTIVES: dict[str, list[Objective]] = {
    "none": [Objective()],
    "l1": [Objective(l1=s) for s in (0.03, 0.1, 0.3)],
    "interaction": [Objective(interaction=s) for s in (0.3, 1.0, 3.0)],
    "certified": [Objective(certified=s) for s in (0.03, 0.1, 0.3, 1.0)],
}


@dataclass(frozen=True)
class CertifiedComparison:
    """Trains and compares dictionaries."""

    out: Path = Path("runs/certified")
    settings: tuple[str, ...] = ("coactive", "independent", "overprovisioned")
    choosing_seed: int = 0
    """Runs every strength; its validation sample chooses one, its own figures are not reported."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """Run the strengths chosen; the figures are theirs."""
    most: int = 0
    """Stop after so many dictionaries, to be called again; 0 trains all."""
    points: int = 4000
    """Of the validation sample and of the test sample."""
    steps: int = 0
    """Of each dictionary; 0 leaves the task's own."""
    threads: int = 1
    publish: Path | None = None
    """Write the summary of what has been run to this JSON file, print tables, train nothing."""


SETTINGS: dict[str, tuple[str, int]] = {
    "coactive": ("coactive", 4),
    "independent": ("sparse", 2),
    "overprovisioned": ("sparse", 6),
}
"""Task, and the active latents a point of its dictionaries."""


@dataclass(frozen=True, eq=False)
class DrawnPoints:
    """Points drawn from a domain: activations of the true features, inputs, labels."""

    activations: Tensor
    x: Tensor
    labels: Tensor

    @classmethod
    def draw(cls, domain: SparseDomain, count: int, seed: int) -> DrawnPoints:
        """The same points for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        activations, labels = domain.sample(count, generator)
        return cls(activations, domain.inputs(activations), labels)


def figures(
    network: Network, dictionary: Dictionary, activations: Tensor, sample: DrawnPoints
) -> dict[str, Any]:
    """What is proved and measured with these activations of a dictionary."""
    x, x_hat = sample.x, dictionary.decode(activations)
    decoder, bias = dictionary.decoder, dictionary.bias
    certified = certify_sample(network, decoder, bias, activations, x, sample.labels)
    latents = SparseLatents.from_dense(activations)
    draft = points_draft(network, x, sample.labels, decoder, bias, latents)
    verdict = judge(as_certificate(draft))
    rebuilt = network.logits(x_hat) + (x - x_hat) @ network.skip
    right = [(logits.argmax(1) == sample.labels) for logits in (network.logits(x), rebuilt)]
    return {name: asdict(found) for name, found in certified.items()} | {
        "verified": {"accuracy": verdict.accuracy, "ce": verdict.cross_entropy or math.inf},
        "model": right[0].double().mean().item(),
        "reconstructed": right[1].double().mean().item(),
        "fvu": ((x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum()).item(),
        "l0": (activations > 0).sum(1).double().mean().item(),
        "dead": (activations <= 0).all(0).double().mean().item(),
    }


def variants(recipe: DictionaryRecipe) -> Iterator[tuple[str, float, DictionaryRecipe]]:
    """Objective, strength and recipe of every dictionary."""
    for name, objectives in OBJECTIVES.items():
        for objective in objectives:
            yield name, objective.strengths().get(name, 0.0), replace(recipe, objective=objective)


def run(setting: str, seed: int, options: CertifiedComparison, most: int) -> int:
    """Trains up to `most` dictionaries that a setting and seed lack; how many there were."""
    task, k = SETTINGS[setting]
    plan = TASKS[task]
    assert isinstance(plan, Plan)
    steps = options.steps or plan.dictionary.steps
    recipe = replace(plan.dictionary, steps=steps, k=k)
    lines = [row for row in read(options) if (row["setting"], row["steps"]) == (setting, steps)]
    done = {(row["seed"], row["objective"], row["strength"]) for row in lines}
    chosen = strengths([row for row in lines if row["seed"] == options.choosing_seed])
    wanted = [
        (name, strength, changed)
        for name, strength, changed in variants(recipe)
        if (seed, name, strength) not in done
        and (seed == options.choosing_seed or strength == chosen[name])
    ][:most]
    if not wanted:
        return 0
    domain = sparse.make_domain(plan.network, seed)
    network = trained(plan, domain, task, seed, options.out)
    samples = {
        "validation": DrawnPoints.draw(domain, options.points, held_out_seed(seed) + 1),
        "test": DrawnPoints.draw(domain, options.points, held_out_seed(seed) + 2),
    }

    def note(name: str, strength: float, found: dict[str, Any], began: float) -> None:
        line = {"setting": setting, "seed": seed, "steps": steps, "objective": name}
        line |= {"strength": strength, "latents": recipe.latents, "k": recipe.k}
        line |= {"seconds": round(time.perf_counter() - began, 1)} | found
        with (options.out / "runs.jsonl").open("a") as handle:
            handle.write(json.dumps(line) + "\n")
        test = found["test"]
        print(
            f"{setting:15s} seed {seed} {name:11s} {strength:<5g} "
            + "  ".join(f"{e} {test[e]['accuracy']:.3f}/{test[e]['ce']:.2f}" for e in ENGINES)
            + f"  model {test['model']:.3f}  FVU {test['fvu']:.4f}  L0 {test['l0']:.2f}",
            flush=True,
        )

    if (seed, "true", 0.0) not in done:
        true = Dictionary(domain.decoder, domain.bias, lambda x: x)  # its activations are known
        began = time.perf_counter()
        given = {n: figures(network, true, s.activations, s) for n, s in samples.items()}
        note("true", 0.0, given, began)
    for name, strength, changed in wanted:
        began = time.perf_counter()
        learned = Dictionary.of_crosscoder(learn(network, domain, changed, seed))
        given = {n: figures(network, learned, learned.encode(s.x), s) for n, s in samples.items()}
        note(name, strength, given, began)
    return len(wanted)


def trained(plan: Plan, domain: SparseDomain, task: str, seed: int, out: Path) -> Network:
    """The task's network, kept beside the figures."""
    path = out / f"{task}-{seed}.safetensors"
    if not path.exists():
        save_file(sparse.train(plan.network, domain, seed).tensors(), path)
    return Network(**load_file(path))


def read(options: CertifiedComparison) -> list[dict[str, Any]]:
    """Everything that has been run."""
    path = options.out / "runs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def strengths(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Of each objective, the strength with the highest certified accuracy on validation."""
    found: dict[str, float] = {}
    for name in {line["objective"] for line in lines}:
        own = [line for line in lines if line["objective"] == name]
        best = max(own, key=lambda line: float(line["validation"][ENGINE]["accuracy"]))
        found[name] = best["strength"]
    return found


def interval(values: list[float]) -> dict[str, Any]:
    """Mean over seeds and Student's 95% interval (none for a single seed)."""
    count, mean = len(values), sum(values) / len(values)
    if count < 2:
        return {"mean": mean, "ci": None, "seeds": values}
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1) / count)
    half = T_QUANTILE.get(count, 1.96) * spread
    return {"mean": mean, "ci": [mean - half, mean + half], "seeds": values}


def summarise(lines: list[dict[str, Any]], options: CertifiedComparison) -> dict[str, Any]:
    """Each objective at the strength chosen: intervals over seeds on the test sample."""
    rows: dict[str, Any] = {}
    chosen = strengths([line for line in lines if line["seed"] == options.choosing_seed])
    reported = [line for line in lines if line["seed"] in options.seeds]
    for name in ("none", "l1", "interaction", "certified", "true"):
        if name not in chosen:
            continue
        own = [x for x in reported if (x["objective"], x["strength"]) == (name, chosen[name])]
        missing = set(options.seeds) - {line["seed"] for line in own}
        if missing:
            sys.exit(
                f"--publish: {name} {chosen[name]:g} has not been run for seeds "
                f"{', '.join(map(str, sorted(missing)))}: run without --publish first."
            )
        tests = [line["test"] for line in sorted(own, key=lambda line: int(line["seed"]))]
        row: dict[str, Any] = {"strength": chosen[name]}
        for engine in ENGINES:
            row[engine] = {
                part: interval([test[engine][part] for test in tests])
                for part in ("accuracy", "ce")
            }
            shares = [test[engine]["accuracy"] / test["model"] for test in tests]
            row[engine]["share_of_model"] = interval(shares)
        for part in ("model", "reconstructed", "fvu", "l0", "dead"):
            row[part] = interval([test[part] for test in tests])
        rows[name] = row
    return rows


def lead(rows: dict[str, Any]) -> dict[str, Any]:
    """Certified accuracy of `certified` less that of each other row, seed by seed."""
    ours = rows["certified"][ENGINE]["accuracy"]["seeds"]
    return {
        name: interval([a - b for a, b in zip(ours, row[ENGINE]["accuracy"]["seeds"], strict=True)])
        for name, row in rows.items()
        if name != "certified"
    }


def summary_table(rows: dict[str, Any]) -> str:
    """The summary of a setting in Markdown: means over seeds, an interval where it matters."""
    head = ["objective", "strength", *(f"{e}: acc / CE" for e in ENGINES)]
    head += ["interval (" + ENGINE + ")", "share of model", "model", "FVU", "L0"]
    lines = []
    for name, row in rows.items():
        ci = row[ENGINE]["accuracy"]["ci"]
        cells = [name, f"{row['strength']:g}"]
        cells += [f"{row[e]['accuracy']['mean']:.3f} / {row[e]['ce']['mean']:.2f}" for e in ENGINES]
        cells += [DASH if ci is None else written_interval(ci[0], ci[1], fixed(3))]
        cells += [f"{row[ENGINE]['share_of_model']['mean']:.3f}", f"{row['model']['mean']:.3f}"]
        cells += [f"{row['fvu']['mean']:.4f}", f"{row['l0']['mean']:.2f}"]
        lines.append(cells)
    return table(head, lines)


def main(options: CertifiedComparison) -> None:
    """Trains what is missing, or publishes."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.publish is not None:
        seeds = {"choosing": options.choosing_seed, "reported": options.seeds}
        content: dict[str, Any] = {"points": options.points, "seeds": seeds, "settings": {}}
        for setting in options.settings:
            lines = [x for x in read(options) if x["setting"] == setting]
            rows = summarise(lines, options)
            if "certified" not in rows:
                sys.exit(f"--publish: nothing of {setting} has been run: do it without --publish.")
            content["settings"][setting] = {
                **{key: lines[0][key] for key in ("latents", "k", "steps")},
                "objectives": rows,
                "lead_of_certified": lead(rows),
            }
            print(f"\n{setting}\n\n{summary_table(rows)}")
        write_json(options.publish, content)
        return
    left = options.most or 10**6
    for setting in options.settings:
        for seed in (options.choosing_seed, *options.seeds):
            left -= run(setting, seed, options, left)
            if left <= 0:
                return


if __name__ == "__main__":
    main(tyro.cli(CertifiedComparison))
