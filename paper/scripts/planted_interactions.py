"""Which measure of interaction finds pairs of features that are known to interact?

    python -m paper.scripts.planted_interactions --out paper/data/planted.json

Worlds, MLPs and kinds of pairs: paper/planted/world.py. Dictionaries: the true features with their
true activations (oracle), and learned ones, without and with a penalty; their latents are matched
to features by decoder vectors, and pairs of which a feature has no latent get no score. Average
precision of the pairs that meet among all pairs of features, with 95% intervals over pairs and
seeds. Ten minutes on one core.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import product
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
from paper.planted.scores import MOST, pair_scores
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
    steps: int = 400
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

    x: Float[Tensor, "B D"]
    """The MLP's inputs; tokens at which more than `MOST` latents are active are left out."""
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
        bias, error = torch.zeros(world.recipe.width), x - activations @ world.decoder
        latents = SparseLatents.from_dense(activations)
        return cls(*few(x, latents), world.decoder, bias, matching, fvu(x, error))

    @classmethod
    def learned(cls, world: World, crosscoder: Crosscoder, x: Tensor) -> Coded:
        """A trained crosscoder's."""
        latents, decoder = crosscoder.encode(x[:, None]), crosscoder.decoder_vectors(0)
        bias, error = crosscoder.decoder_bias(0), x - crosscoder.decode(latents)[:, 0]
        matching = Matching.of(world.decoder, decoder)
        return cls(*few(x, latents), decoder, bias, matching, fvu(x, error))


def few(x: Tensor, latents: SparseLatents) -> tuple[Tensor, SparseLatents]:
    """The tokens at which at most `MOST` latents are active."""
    tokens = (latents.offsets.diff() <= MOST).nonzero()[:, 0]
    return x[tokens], latents.take(tokens)


def fvu(x: Tensor, error: Tensor) -> float:
    """Fraction of variance unexplained."""
    return float(error.pow(2).sum() / (x - x.mean(0)).pow(2).sum())


def coded_worlds(
    scenario: str, settings: PlantedInteractions, seed: int
) -> dict[tuple[MLPKind, str], tuple[World, MLPWeights, Coded]]:
    """Every MLP and dictionary of a scenario and seed."""
    world = World.build(SCENARIOS[scenario], seed)
    activations, x = world.sample(settings.tokens, seed)
    oracle = Coded.oracle(world, activations, x)
    learned: dict[tuple[MLPKind, str], Coded] = {}
    for name, objective in OBJECTIVES.items():
        for kind in settings.mlps:
            if objective or kind == settings.mlps[0]:  # without a penalty it knows of no MLP
                mlp = world.mlp(kind, seed)
                crosscoder = learn(world, mlp, objective, settings, seed)
                dictionary = Coded.learned(world, crosscoder, x)
            learned[kind, name] = dictionary
    every = {(kind, "oracle"): oracle for kind in settings.mlps} | learned
    return {key: (world, world.mlp(key[0], seed), code) for key, code in every.items()}


def main(settings: PlantedInteractions) -> None:
    """Measures and writes the JSON file, again after each world."""
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    found: dict[tuple[str, ...], list[Recovery]] = defaultdict(list)
    codes: dict[tuple[str, ...], list[Coded]] = defaultdict(list)
    for seed, scenario in product(settings.seeds, settings.scenarios):
        for (kind, name), (world, mlp, code) in coded_worlds(scenario, settings, seed).items():
            codes[scenario, kind, name].append(code)
            for measure, recovery in recoveries(world, mlp, code, seed).items():
                found[scenario, kind, name, measure].append(recovery)
        seconds = time.perf_counter() - began
        print(f"seed {seed}, {scenario}: {seconds:.0f} s", flush=True)
        write_json(settings.out, _content(settings, found, codes, seconds))


def recoveries(world: World, mlp: MLPWeights, code: Coded, seed: int) -> dict[str, Recovery]:
    """What each measure makes of one dictionary."""
    view, unit = MLPDictionary.build(mlp, code.decoder, code.bias), normalize(code.decoder)
    scores, kinds = pair_scores(view, code.latents, code.x, unit @ unit.T), labels(world)
    features = {name: code.matching.of_features(matrix) for name, matrix in scores.items()}
    return {name: Recovery.of(matrix, kinds, seed) for name, matrix in features.items()}


def described(codes: list[Coded]) -> dict[str, Any]:
    """What the dictionaries of the seeds are like: FVU, L0, features without a latent."""
    return {
        "fvu": [round(code.fvu, 4) for code in codes],
        "l0": [round(code.latents.l0(), 3) for code in codes],
        "unmatched": [int((~code.matching.found).sum()) for code in codes],
    }


def _content(
    settings: PlantedInteractions,
    found: dict[tuple[str, ...], list[Recovery]],
    codes: dict[tuple[str, ...], list[Coded]],
    seconds: float,
) -> dict[str, Any]:
    shown = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
    names = "scenario", "mlp", "dictionary", "measure"
    return {
        "settings": shown | {"out": settings.out.name},
        "worlds": {name: asdict(SCENARIOS[name]) for name in settings.scenarios},
        "kinds": [*KINDS, "not planted"],
        "objectives": {name: dict(objective) for name, objective in OBJECTIVES.items()},
        "seconds": round(seconds),
        "dictionaries": [
            dict(zip(names[:3], key, strict=True)) | described(seeds)
            for key, seeds in codes.items()
        ],
        "rows": [
            dict(zip(names, key, strict=True)) | estimate(seeds) for key, seeds in found.items()
        ],
    }


if __name__ == "__main__":
    main(tyro.cli(PlantedInteractions))
