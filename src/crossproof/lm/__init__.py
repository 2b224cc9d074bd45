"""Language models: loading, hookpoints, activations, and views of their MLPs and attentions."""

from crossproof.lm.activation import Activation
from crossproof.lm.attention import AttentionWeights, Rotary
from crossproof.lm.hookpoints import (
    BlockHookpoints,
    Hookpoints,
    resolve_hookpoints,
    standard_names,
)
from crossproof.lm.loading import load_model
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import ModelPair

__all__ = [
    "Activation",
    "AttentionWeights",
    "BlockHookpoints",
    "Hookpoints",
    "LanguageModel",
    "MLPWeights",
    "ModelPair",
    "Rotary",
    "load_model",
    "resolve_hookpoints",
    "standard_names",
]
