"""Language models: loading, hookpoints, activations, and views of their MLPs."""

from crossproof.lm.activation import Activation
from crossproof.lm.hookpoints import (
    BlockHookpoints,
    Hookpoints,
    resolve_hookpoints,
    standard_names,
)
from crossproof.lm.loading import load_model
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.model import LanguageModel

__all__ = [
    "Activation",
    "BlockHookpoints",
    "Hookpoints",
    "LanguageModel",
    "MLPWeights",
    "load_model",
    "resolve_hookpoints",
    "standard_names",
]
