"""The crosscoder of an audit: one that was finished before, or one trained on trusted texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from crossproof.activations.positions import scored_positions
from crossproof.auditing.config import AuditSettings
from crossproof.crosscoder.model import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.store import Provenance, save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel
from crossproof.training import distributed
from crossproof.training.config import DEMO, RunConfig, config_to_dict
from crossproof.training.run_folder import RunFolder
from crossproof.training.together import train_together


def opened(model: LanguageModel, folder: Path) -> Crosscoder:
    """The only dictionary of a folder. Raises CrossproofError if there are several."""
    run = RunFolder.open(folder)
    if len(run.names) > 1:
        raise CrossproofError(
            f"{folder} holds {len(run.names)} crosscoders: give one, such as "
            f"{run.folders[run.names[0]]}."
        )
    return run.crosscoders(model)[run.names[0]]


def trained(
    model: LanguageModel,
    rows: Int[Tensor, "S T"],
    source: str,
    settings: AuditSettings,
    output: Path | None,
    say: Callable[[str], None],
    tell: Callable[[int, int], None] | None,
) -> Crosscoder:
    """One trained on some of the trusted texts, by all processes together; written if there is a
    folder. `tell` gets steps done and their number, `say` a line now and then if there is none.
    Raises CrossproofError for too few tokens."""
    config = RunConfig(
        model=model.name,
        text=source,
        context=rows.shape[1],
        crosscoder=CrosscoderConfig(n_latents=settings.n_latents, k=16),
        optimisation=DEMO.optimisation,
        baseline=False,
        steps=settings.steps,
        batch_tokens=1024,
        seed=settings.seed,
    )
    # Short texts need few tokens a step; a batch may hold no more than there are.
    scored = int(scored_positions(rows, model.special_ids).sum())
    if scored < config.batch_tokens:
        raise CrossproofError(
            f"The trusted texts leave {scored} tokens to train a crosscoder on, fewer than one "
            f"batch of {config.batch_tokens}: give more text, or a finished --crosscoder."
        )
    say(f"training a crosscoder on {len(rows)} trusted texts ({scored:,} tokens)")
    crosscoder = train_together(model, rows, {"audit": config}, say, tell=tell)["audit"]
    if output is not None and distributed.rank() == 0:
        origin = Provenance(model.name, model.weights_hash, settings.seed, config_to_dict(config))
        save_crosscoder(crosscoder, output / "crosscoder", origin)
    crosscoder.fold()
    return crosscoder
