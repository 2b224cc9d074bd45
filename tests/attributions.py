"""Models in float64 and dictionaries made to order, for the tests of attribution."""

from __future__ import annotations

import copy

import torch
from tiny_models import CONTEXT, D_MODEL, END, random_tokens
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig, SparseLatents
from crossproof.lm import LanguageModel

LENGTH = 10


def in_double(model: LanguageModel) -> LanguageModel:
    """A copy whose only rounding is float64's, so that bounds can be compared with the truth."""
    found = copy.deepcopy(model)
    found._bare.double()
    found.dtype = torch.float64
    found._mlps.clear()
    found._attentions.clear()
    return found


def text(sequences: int = 4, seed: int = 3) -> Tensor:
    """Random tokens with special ones among them."""
    tokens = random_tokens(sequences, LENGTH, seed)
    tokens[::2, 0] = END
    tokens[1, 4] = END
    return tokens


def trained_looking(model: LanguageModel, k: int = 4, latents: int = 40) -> Crosscoder:
    """Initialised on the model's activations, untrained: large errors everywhere."""
    hookpoints = model.hookpoints()
    crosscoder = Crosscoder(CrosscoderConfig(latents, "topk", k), hookpoints, D_MODEL)
    tokens = random_tokens(20, CONTEXT, seed=9)
    crosscoder.initialise(model.activations(tokens, hookpoints.names).flatten(0, 1).float(), seed=0)
    return crosscoder.double()


class Lookup(Crosscoder):
    """Writes `decoded` [M, P, D] for the tokens whose activations are `keys` [M, P, D].

    Every token has `split` latents of its own, which share its reconstruction at random.
    """

    def __init__(self, model: LanguageModel, keys: Tensor, decoded: Tensor, split: int = 1) -> None:
        hookpoints = model.hookpoints()
        config = CrosscoderConfig(len(keys) * split, "topk", split)
        super().__init__(config, hookpoints, keys.shape[2])
        self.double()
        self.keys, self.split = keys, split
        generator = torch.Generator().manual_seed(5)
        shape = (len(keys), split, *keys.shape[1:])
        parts = torch.randn(shape, generator=generator, dtype=torch.float64)
        parts[:, -1] = decoded - parts[:, :-1].sum(1)
        with torch.no_grad():
            self.W_dec.copy_(parts.flatten(0, 1))

    def encode(self, x: Tensor) -> SparseLatents:
        rows = torch.cdist(x.flatten(1), self.keys.flatten(1)).argmin(1)
        indices = rows[:, None] * self.split + torch.arange(self.split)
        values = torch.ones(indices.shape, dtype=torch.float64)
        return SparseLatents.from_rows(indices, values, self.n_latents)


def everything(model: LanguageModel, tokens: Tensor) -> Tensor:
    """The model's values [S·T, P, D] at the standard hookpoints."""
    return model.activations(tokens, model.hookpoints().names).flatten(0, 1).clone()
