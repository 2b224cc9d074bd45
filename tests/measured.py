"""A text and a dictionary to measure on tiny models, and equality of sums over pairs."""

from __future__ import annotations

import torch
from tiny_models import CONTEXT, D_MODEL, END, random_tokens
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.interactions import Interactions
from crossproof.lm import LanguageModel


def text(sequences: int = 14) -> Tensor:
    tokens = random_tokens(sequences, 12, seed=3)
    tokens[::3, 4] = END
    return tokens


def dictionary(model: LanguageModel, latents: int = 40, k: int = 5) -> Crosscoder:
    """Float64, so that codes do not depend on how sequences are batched."""
    hookpoints = model.hookpoints()
    crosscoder = Crosscoder(CrosscoderConfig(latents, "topk", k), hookpoints, D_MODEL)
    tokens = random_tokens(20, CONTEXT, seed=9)
    crosscoder.initialise(model.activations(tokens, hookpoints.names).flatten(0, 1), seed=0)
    return crosscoder.double()


def assert_equal(left: Interactions, right: Interactions) -> None:
    assert torch.equal(left.pairs, right.pairs)
    for name in ("tokens", "n_latents", "blocks", "gated"):
        assert getattr(left, name) == getattr(right, name)
    for name in ("coactive", "active", "owned"):
        assert torch.equal(getattr(left, name), getattr(right, name))
    for form in left.forms:
        ours, theirs = (m.matrix(form, normalise="sum") for m in (left, right))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
