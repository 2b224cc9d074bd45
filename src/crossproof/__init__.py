"""crossproof: measure, penalise and certify interactions between a crosscoder's latents."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossproof.activations import Harvest as Harvest
    from crossproof.activations import read_sequences as read_sequences
    from crossproof.activations import scored_positions as scored_positions
    from crossproof.crosscoder import Crosscoder as Crosscoder
    from crossproof.crosscoder import CrosscoderConfig as CrosscoderConfig
    from crossproof.crosscoder import SparseLatents as SparseLatents
    from crossproof.crosscoder.formats import import_dictionaries as import_dictionaries
    from crossproof.crosscoder.formats import import_dictionary as import_dictionary
    from crossproof.errors import CrossproofError as CrossproofError
    from crossproof.evaluation import EvaluationOptions as EvaluationOptions
    from crossproof.evaluation import evaluate as evaluate
    from crossproof.interactions import Interactions as Interactions
    from crossproof.interactions import MLPDictionary as MLPDictionary
    from crossproof.interactions import additive_interaction as additive_interaction
    from crossproof.interactions import dominant_share as dominant_share
    from crossproof.interactions import interaction as interaction
    from crossproof.interactions import measure_interactions as measure_interactions
    from crossproof.interactions import residual as residual
    from crossproof.lm import Hookpoints as Hookpoints
    from crossproof.lm import LanguageModel as LanguageModel
    from crossproof.lm import MLPWeights as MLPWeights
    from crossproof.lm import load_model as load_model
    from crossproof.measurement import measure as measure
    from crossproof.training.objectives import Objective as Objective
    from crossproof.training.trainer import Optimisation as Optimisation
    from crossproof.training.trainer import Trainer as Trainer

# Names are imported when they are first used: `crossproof --help` need not wait for torch.
_WHERE = {
    "Crosscoder": "crosscoder",
    "CrosscoderConfig": "crosscoder",
    "CrossproofError": "errors",
    "EvaluationOptions": "evaluation",
    "Harvest": "activations",
    "Hookpoints": "lm",
    "Interactions": "interactions",
    "LanguageModel": "lm",
    "MLPDictionary": "interactions",
    "MLPWeights": "lm",
    "Objective": "training.objectives",
    "Optimisation": "training.trainer",
    "SparseLatents": "crosscoder",
    "Trainer": "training.trainer",
    "additive_interaction": "interactions",
    "dominant_share": "interactions",
    "evaluate": "evaluation",
    "import_dictionaries": "crosscoder.formats",
    "import_dictionary": "crosscoder.formats",
    "interaction": "interactions",
    "load_model": "lm",
    "measure": "measurement",
    "measure_interactions": "interactions",
    "read_sequences": "activations",
    "residual": "interactions",
    "scored_positions": "activations",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'crossproof' has no attribute '{name}'")
    return getattr(importlib.import_module(f"crossproof.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
