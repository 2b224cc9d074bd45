"""Fourier structure of latents on a modular-addition network, beside dictionaries of no training.

A latent reads a function of (a, b): its activation at "=". And it writes a function of c: its
decoder vector behind the block, as the output layer reads it. Either may be one frequency's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.lm import Hookpoints, LanguageModel, Unembedding
from paper.toys.fourier import class_shares, pair_shares, power
from paper.toys.modular_network import EQUALS_AT, all_pairs

OWN = 0.5
"""A frequency is a latent's own if it has this share of the latent's variance, or more."""
KEY = 0.03
"""A frequency is key if it has this share of the output layer's power; even shares are 1/56."""
MLP_IN, RESID_POST = "blocks.0.mlp.hook_in", "blocks.0.hook_resid_post"
START, RANDOM = "start of training", "random directions"
HOOKPOINTS = ("blocks.0.hook_resid_mid", MLP_IN, RESID_POST)
"""The others of a one-layer network are constant at "="."""


@dataclass(frozen=True, eq=False)
class ModularNetwork:
    """What a network that adds modulo p has at "=" on all pairs, and what its output layer reads.

    The output layer's last norm is taken apart from its division, which is no linear map.
    """

    model: LanguageModel
    hookpoints: Hookpoints
    x: Float[Tensor, "pairs P D"]
    output: Float[Tensor, "p D"]

    @classmethod
    def of(cls, model: LanguageModel) -> ModularNetwork:
        """Runs the model, whose tokens are the numbers and "=", on all pairs."""
        hookpoints = model.hookpoints(HOOKPOINTS)
        p = model.vocab_size - 1
        x = model.activations(all_pairs(p), hookpoints.names)[:, EQUALS_AT]
        last = Unembedding.of(model)
        return cls(model, hookpoints, x, last.norm.directions(last.weight)[:p])

    def tables(self, activations: Float[Tensor, "pairs L"]) -> Float[Tensor, "L p p"]:
        """Functions of (a, b), from activations on all pairs."""
        p = len(self.output)
        return activations.T.reshape(-1, p, p)

    @cached_property
    def key_frequencies(self) -> list[int]:
        """The frequencies that the output layer reads."""
        own = power(self.output).sum(1)
        return [int(k) + 1 for k in (own / own.sum() > KEY).nonzero()[:, 0]]

    def neurons(self) -> FourierStructure:
        """Of the MLP's own neurons, for comparison."""
        mlp = self.model.mlp(0)
        active = mlp.neurons(self.x[:, self.hookpoints.index(MLP_IN)])
        return self.structure(active, mlp.W_out)

    def latents(self, crosscoder: Crosscoder) -> FourierStructure:
        """Of the latents of a crosscoder on `hookpoints`."""
        decoder = crosscoder.decoder_vectors(self.hookpoints.index(RESID_POST))
        return self.structure(crosscoder.encode(self.x).dense(), decoder.detach())

    def structure(
        self, activations: Float[Tensor, "pairs L"], vectors: Float[Tensor, "L D"]
    ) -> FourierStructure:
        """Of anything that is active on pairs and writes vectors; what is never active is out."""
        live = activations.ne(0).any(0)
        read = pair_shares(self.tables(activations[:, live]))
        written = class_shares(vectors[live].double() @ self.output.T)
        return FourierStructure(read, written)

    def untrained(self, crosscoder: Crosscoder, seed: int) -> dict[str, Crosscoder]:
        """Dictionaries as wide and as sparse as `crosscoder`, without training.

        random: Gaussian directions; start: the activations of spread-out tokens, as training
        starts. Both keep the k largest pre-activations of centred inputs.
        """
        config = CrosscoderConfig(crosscoder.n_latents, "topk", crosscoder.config.k)
        start = Crosscoder(config, self.hookpoints, self.model.d_model)
        start.initialise(self.x, seed)
        random = Crosscoder(config, self.hookpoints, self.model.d_model)
        random.load_state_dict(start.state_dict())
        noise = torch.randn(random.W_dec.shape, generator=torch.Generator().manual_seed(seed))
        directions = nn.functional.normalize(noise.flatten(1)).view_as(noise)
        with torch.no_grad():
            random.W_dec.copy_(directions)
            random.W_enc.copy_(directions)
            random.b_enc.copy_(-directions.flatten(1) @ random.b_dec.flatten())
        return {START: start, RANDOM: random}


@dataclass(frozen=True, eq=False)
class FourierStructure:
    """Shares of variance at each frequency, of live latents: over (a, b), and over c."""

    read: Float[Tensor, "L frequencies"]
    written: Float[Tensor, "L frequencies"]

    def describe(self, keys: list[int]) -> dict[str, Any]:
        """The top share of latents on average and by quantiles, and how many keys are owned."""
        top, frequency = self.read.max(1)
        owned = {int(k) + 1 for k in frequency[top >= OWN]}
        quantiles = torch.linspace(0, 1, 21, dtype=top.dtype)
        return {
            "live": len(top),
            "read_top": top.mean().item(),
            "written_top": self.written.max(1).values.mean().item(),
            "read_own": (top >= OWN).double().mean().item(),
            "keys_owned": len(owned & set(keys)),
            "read_quantiles": top.quantile(quantiles).tolist(),
            "read_by_frequency": self.read.mean(0).tolist(),
        }
