"""Which measure of interaction finds pairs of features that are known to interact?

    python -m paper.scripts.planted_interactions --out paper/data/planted.json

Worlds, MLPs and kinds of pairs: paper/planted/world.py. Dictionaries: the true features with their
true activations (oracle), and learned ones, without and with a penalty; their latents are matched to
features by decoder vectors, and pairs of which a feature has no latent get no score. Area under precision and recall of the pairs that meet among all pairs
of features, with 95% intervals over pairs and seeds. Minutes on one core.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from crossproof.crosscoder import Crosscoder, CrosscoderConfig, SparseLatents
from crossproof.files import write_json
from crossproof.interactions import MLPDictionary
from crossproof.lm import Hookpoints, MLPWeights
from crossproof.training import Objective, Optimisation, Trainer
from paper.planted.recovery import Matching, Recovery, estimate, labels
from paper.planted.scores import pair_scores
from paper.planted.world import KINDS, MLPS, SCENARIOS, MLPKind, World
from paper.tasks.dictionary import HOOKPOINT, SAMPLE

OBJECTIVES: dict[str, Objective] = {
    "unpenalised": Objective(),
    "keep-largest": Objective(keep_largest=10.0, all_latents=2.5),
}
"""Of learned dictionaries. Strengths are against a squared error summed over 48 dimensions, where
the bundled model's recipes have some hundred times as many."""


@dataclass(frozen=True)
class PlantedInteractions:
    """What is measured."""

    out: Path = Path("paper/data/planted.json")
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of worlds, MLPs, dictionaries and tokens."""
    scenarios: tuple[str, ...] = tuple(SCENARIOS)
    mlps: tuple[MLPKind, ...] = MLPS
    tokens: int = 1000
    """On which pairs are scored."""
    latents: int = 128
    """H of learned dictionaries."""
    k: int = 5
    """Active latents a token, on average."""
    steps: int = 600
    """Of their training."""
    batch: int = 512
    """Tokens a step, drawn afresh."""
    threads: int = 1


def learn(
    world: World, mlp: MLPWeights, objective: Objective, settings: PlantedInteractions, seed: int
) -> Crosscoder:
    """A dictionary of the MLP's input, trained on tokens that it is not measured on."""
    config = CrosscoderConfig(settings.latents, "batch_topk", settings.k)
    hookpoints = Hookpoints.from_names([HOOKPOINT], n_blocks=1)
    crosscoder = Crosscoder(config, hookpoints, world.recipe.width)
    start = 10_000_000 * (seed + 1)
    crosscoder.initialise(world.sample(SAMPLE, start)[1][:, None], seed)
    optimisation = Optimisation(lr=3e-3, decay=0.5)
    trainer = Trainer(crosscoder, {0: mlp}, objective, optimisation, settings.steps, seed)
    for step in range(settings.steps):
        trainer.step(world.sample(settings.batch, start + step + 1)[1][:, None])
    crosscoder.fold()
    return crosscoder.requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Coded:
    """A dictionary at work: its latents of the tokens, and which feature each stands for."""

    latents: SparseLatents
    decoder: Float[Tensor, "H D"]
    bias: Float[Tensor, " D"]
    matching: Matching
    fvu: float

    @classmethod
    def oracle(cls, world: World, activations: Tensor, x: Tensor) -> Coded:
        """The features themselves."""
        same = torch.arange(world.recipe.features)
        matching = Matching(same, torch.ones_like(same, dtype=torch.bool))
        latents, bias = SparseLatents.from_dense(activations), torch.zeros(world.recipe.width)
        error = x - activations @ world.decoder
        return cls(latents, world.decoder, bias, matching, _fvu(x, error))

    @classmethod
    def learned(cls, world: World, crosscoder: Crosscoder, x: Tensor) -> Coded:
        """A trained crosscoder's."""
        latents, decoder = crosscoder.encode(x[:, None]), crosscoder.decoder_vectors(0)
        error = x - crosscoder.decode(latents)[:, 0]
        matching = Matching.of(world.decoder, decoder)
        return cls(latents, decoder, crosscoder.decoder_bias(0), matching, _fvu(x, error))


def _fvu(x: Tensor, error: Tensor) -> float:
    return float(error.pow(2).sum() / (x - x.mean(0)).pow(2).sum())


def coded_worlds(
    scenario: str, settings: PlantedInteractions, seed: int
) -> dict[tuple[MLPKind, str], tuple[World, MLPWeights, Tensor, Coded]]:
    """Every MLP and dictionary of a scenario and seed."""
    world = World.build(SCENARIOS[scenario], seed)
    activations, x = world.sample(settings.tokens, seed)
    coded: dict[tuple[MLPKind, str], tuple[World, MLPWeights, Tensor, Coded]] = {}
    unpenalised: Coded | None = None
    for kind in settings.mlps:
        mlp = world.mlp(kind, seed)
        coded[kind, "oracle"] = world, mlp, x, Coded.oracle(world, activations, x)
        for name, objective in OBJECTIVES.items():
            if objective or unpenalised is None:
                crosscoder = learn(world, mlp, objective, settings, seed)
                dictionary = Coded.learned(world, crosscoder, x)
            if not objective:  # knows of no MLP: one for all
                dictionary = unpenalised = unpenalised or dictionary
            coded[kind, name] = world, mlp, x, dictionary
    return coded


def main(settings: PlantedInteractions) -> None:
    """Measures and writes the JSON file."""
    torch.set_num_threads(settings.threads)
    began, rows, facts = time.perf_counter(), [], []
    for scenario in settings.scenarios:
        found: dict[tuple[str, ...], list[Recovery]] = defaultdict(list)
        dictionaries: dict[tuple[str, str], list[Coded]] = defaultdict(list)
        for seed in settings.seeds:
            for (kind, name), (world, mlp, x, code) in coded_worlds(
                scenario, settings, seed
            ).items():
                view = MLPDictionary.build(mlp, code.decoder, code.bias)
                unit = normalize(code.decoder)
                scores = pair_scores(view, code.latents, x, unit @ unit.T)
                dictionaries[kind, name].append(code)
                for measure, matrix in scores.items():
                    recovery = Recovery.of(code.matching.of_features(matrix), labels(world), seed)
                    found[kind, name, measure].append(recovery)
            print(f"{scenario}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
        for (kind, name, measure), seeds in found.items():
            labelled = {"scenario": scenario, "mlp": kind, "dictionary": name, "measure": measure}
            rows.append(labelled | estimate(seeds))
        facts += [
            {"scenario": scenario, "mlp": kind, "dictionary": name} | described(codes)
            for (kind, name), codes in dictionaries.items()
        ]
        write_json(settings.out, _content(settings, rows, facts, time.perf_counter() - began))


def described(codes: list[Coded]) -> dict[str, Any]:
    """What the dictionaries of the seeds are like: FVU, L0, features without a latent."""
    return {
        "fvu": [round(code.fvu, 4) for code in codes],
        "l0": [round(code.latents.l0(), 3) for code in codes],
        "unmatched": [int((~code.matching.found).sum()) for code in codes],
    }


def _content(
    settings: PlantedInteractions,
    rows: list[dict[str, Any]],
    facts: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    shown = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
    return {
        "settings": shown | {"out": settings.out.name},
        "worlds": {name: asdict(SCENARIOS[name]) for name in settings.scenarios},
        "kinds": [*KINDS, "not planted"],
        "objectives": {name: dict(objective) for name, objective in OBJECTIVES.items()},
        "seconds": round(seconds),
        "dictionaries": facts,
        "rows": rows,
    }


if __name__ == "__main__":
    main(tyro.cli(PlantedInteractions))
