"""Do the measures of interaction rank the same pairs of latents alike?

    python -m paper.scripts.compare_measures runs/demo --out paper/data/measures.json

For each crosscoder of a run: I, J, Q, second differences (among the token's other latents),
Shapley-Taylor indices of the MLPs' output, and co-activation, of the same pairs at the same
held-out tokens, summed over blocks; Spearman's rank correlation between all of them, of the sums
over tokens (which co-activation drives) and of the means over tokens with both latents active.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from crossproof.activations import read_sequences
from crossproof.crosscoder import SparseLatents, encode_batches
from crossproof.files import write_json
from crossproof.interactions import (
    MLPDictionary,
    absolute_sums,
    input_dictionaries,
    measure_interactions,
    output_game,
    second_difference_sums,
    shapley_taylor,
)
from crossproof.lm import load_model
from crossproof.training import RunFolder
from paper.measuring.ranks import rank_correlations


@dataclass(frozen=True)
class MeasureComparison:
    """What is compared."""

    run: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("paper/data/measures.json")
    tokens: int = 600
    """Held-out tokens, drawn at random from 64 sequences that the run was not evaluated on."""
    skip: int = 512
    """Held-out sequences before those."""
    least: int = 5
    """Pairs active together on fewer of the tokens are left out."""
    pairs: int = 400
    """Drawn at random from the others."""
    budget: int = 1024
    """Coalitions of a Shapley-Taylor estimate (exact up to 12 players); of m players, at least
    2(m² + m + 2): twice what an estimate needs."""
    seed: int = 0
    threads: int = 2


def measures(
    latents: SparseLatents, views: dict[int, MLPDictionary], settings: MeasureComparison
) -> tuple[dict[str, Tensor], Tensor]:
    """Sums over tokens and blocks of every measure of the chosen pairs, and co-active tokens."""
    found = measure_interactions(latents, views)
    common = (found.coactive >= settings.least).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(settings.seed)
    rows = common[torch.randperm(len(common), generator=generator)[: settings.pairs]]
    pairs = found.pairs[rows]
    sums: dict[str, Tensor] = {
        form: found.pair_sums(form, normalise="sum")[rows] for form in found.forms
    }
    differences = [second_difference_sums(v, latents, pairs, "others") for v in views.values()]
    sums["second difference"] = torch.stack([d.neurons for d in differences]).sum(0)
    sums["second difference, output"] = torch.stack([d.output for d in differences]).sum(0)
    games = [
        [output_game(view, latents, token) for token in range(latents.n_tokens)]
        for view in views.values()
    ]
    indices = [
        absolute_sums(
            (
                shapley_taylor(game, _budget(len(game.players), settings.budget), settings.seed)
                for game in block
                if len(game.players) > 1
            ),
            pairs,
            latents.n_latents,
        )
        for block in games
    ]
    sums["Shapley-Taylor"] = torch.stack([index.total for index in indices]).sum(0)
    return sums, found.coactive[rows]


def _budget(players: int, budget: int) -> int:
    return max(budget, 2 * (players**2 + players + 2))


def correlations(named: dict[str, Tensor], seed: int) -> dict[str, Any]:
    """Spearman's ρ between all measures with intervals over resampled pairs."""
    table = rank_correlations(named, resamples=300, seed=seed)
    return {"rows": [asdict(row) for row in table.rows()]}


def main(settings: MeasureComparison) -> None:
    """Measures, correlates, writes the JSON file and prints the tables."""
    torch.set_num_threads(settings.threads)
    run = RunFolder.open(settings.run)
    model = load_model(run.provenance().model)
    sequences = read_sequences("bundled", model, model.context, "held_out")
    sequences = sequences[settings.skip : settings.skip + 64]
    content: dict[str, Any] = {"settings": {k: str(v) for k, v in asdict(settings).items()}}
    for name, crosscoder in run.crosscoders(model).items():
        code = next(encode_batches(model, crosscoder, sequences, len(sequences))).latents
        generator = torch.Generator().manual_seed(settings.seed)
        chosen = torch.randperm(code.n_tokens, generator=generator)[: settings.tokens]
        latents = SparseLatents.from_dense(code.dense()[chosen.sort().values])
        sums, together = measures(latents, input_dictionaries(model, crosscoder), settings)
        means = {key: values / together for key, values in sums.items()}
        content[name] = {
            "pairs": len(together),
            "sums": correlations(sums | {"co-activation": together.double()}, settings.seed),
            "means": correlations(means | {"co-activation": together.double()}, settings.seed),
            "totals": {key: float(values.sum()) for key, values in sums.items()},
        }
        for kind in ("sums", "means"):
            print(f"{name}, {kind} ({len(together)} pairs)")
            for row in content[name][kind]["rows"]:
                low, high = row["ci"]
                two = f"{row['left']:26s} {row['right']:26s}"
                print(f"  {two} {row['rho']:6.3f} [{low:.3f}, {high:.3f}]")
    write_json(settings.out, content)


if __name__ == "__main__":
    main(tyro.cli(MeasureComparison))
