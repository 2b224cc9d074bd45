"""Random MLPs, dictionaries and codes for tests, all from explicit seeds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig, SparseLatents
from crossproof.crosscoder.layout import LatentGroup, Layout
from crossproof.interactions import MLPDictionary
from crossproof.lm import Activation, LanguageModel, MLPWeights, Rotary
from crossproof.lm.hookpoints import Hookpoints

F64 = torch.float64


def standard_rotary(dimension: int, base: float = 10_000.0) -> Rotary:
    """Frequencies base^(-2i/dimension) for `dimension` turning coordinates."""
    return Rotary(base ** (-torch.arange(0, dimension, 2, dtype=F64) / dimension))


def random_mlp(
    activation: Activation,
    gated: bool,
    generator: torch.Generator,
    width: int = 5,
    neurons: int = 12,
    dtype: torch.dtype = F64,
) -> MLPWeights:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64).to(dtype)

    gate = (draw(width, neurons), draw(neurons)) if gated else (None, None)
    plain = draw(width, neurons), draw(neurons), draw(neurons, width), draw(width)
    return MLPWeights(*plain, activation, *gate)


@dataclass(frozen=True, eq=False)
class Case:
    """A dictionary at one MLP, a dense code and the inputs it approximates."""

    mlp: MLPWeights
    decoder: Tensor
    bias: Tensor
    activations: Tensor
    x: Tensor

    @property
    def latents(self) -> SparseLatents:
        return SparseLatents.from_dense(self.activations)

    @property
    def view(self) -> MLPDictionary:
        return MLPDictionary.build(self.mlp, self.decoder, self.bias)

    @property
    def x_hat(self) -> Tensor:
        return self.activations @ self.decoder + self.bias


def random_case(
    seed: int,
    activation: Activation = Activation.GELU,
    gated: bool = False,
    scale: float = 1.0,
    error: float = 0.3,
    tokens: int = 8,
    latents: int = 9,
) -> Case:
    """A case with everything awkward in it.

    Token 0 has no active latent and token 1 a single one; neuron 0 is dead, latent 0 has none,
    latents 1 and 2 equal copies that tie wherever they lead.
    """
    generator = torch.Generator().manual_seed(seed)
    mlp = random_mlp(activation, gated, generator)
    mlp.W_in[:, 0] = 0
    mlp.b_in[0] = -50
    decoder = torch.randn(latents, mlp.d_model, generator=generator, dtype=F64)
    decoder[0] = 0
    decoder[2] = decoder[1]
    activations = scale * torch.rand(tokens, latents, generator=generator, dtype=F64)
    activations *= torch.rand(tokens, latents, generator=generator) < 0.5
    activations[:, 2] = activations[:, 1]
    activations[0] = 0
    activations[1, :-1] = 0
    activations[1, -1] = scale
    bias = torch.randn(mlp.d_model, generator=generator, dtype=F64)
    noise = torch.randn(tokens, mlp.d_model, generator=generator, dtype=F64)
    x = activations @ decoder + bias + error * noise
    return Case(mlp, decoder, bias, activations, x)


def mlp_hookpoints(blocks: int) -> Hookpoints:
    """Each block's MLP input and, last, the residual stream behind the last block."""
    names = [f"blocks.{i}.mlp.hook_in" for i in range(blocks)]
    return Hookpoints.from_names([*names, f"blocks.{blocks - 1}.hook_resid_post"], blocks)


def random_crosscoder(
    config: CrosscoderConfig,
    hookpoints: Hookpoints,
    width: int,
    seed: int = 0,
    dtype: torch.dtype = F64,
) -> Crosscoder:
    """Independent random encoder and decoder, biases and scales: nothing is tied or zero."""
    generator = torch.Generator().manual_seed(seed)
    crosscoder = Crosscoder(config, hookpoints, width).to(dtype)
    with torch.no_grad():
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            parameter = getattr(crosscoder, name)
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=F64))
        crosscoder.scale.copy_(0.5 + torch.rand(len(hookpoints), generator=generator, dtype=F64))
    return crosscoder


def random_batch(crosscoder: Crosscoder, tokens: int, seed: int = 1) -> Tensor:
    shape = (tokens, *crosscoder.b_dec.shape)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=F64).to(crosscoder.b_dec.dtype)


def random_kind(
    model: LanguageModel, names: list[str], layout: Layout, rule: str = "topk", seed: int = 0
) -> Crosscoder:
    generator = torch.Generator().manual_seed(seed)
    config = CrosscoderConfig(layout.n_latents, rule, 3)
    made = Crosscoder(config, model.hookpoints(names), model.d_model, layout).to(F64)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not name.startswith("sparsity"):
                noise = torch.randn(parameter.shape, generator=generator, dtype=F64)
                parameter.copy_(0.3 * noise)
        made.b_dec[[p for p in range(len(names)) if p not in layout.written]] = 0
        made.scale.copy_(0.5 + torch.rand(len(names), generator=generator, dtype=F64))
        if rule == "batch_topk":
            made.sparsity.threshold.fill_(0.3)
    return made


def dense(layout: Layout, weights: Tensor, side: str, n_places: int) -> Tensor:
    """W_enc ("enc") or W_dec ("dec") as [H, P, D], zero where a latent has no place."""
    rows, start = [], 0
    for group in layout.groups:
        places = group.reads if side == "enc" else group.writes
        own = weights[start : start + group.latents]
        whole = [
            own[:, places.index(p)] if p in places else torch.zeros_like(own[:, 0])
            for p in range(n_places)
        ]
        rows.append(torch.stack(whole, 1))
        start += group.latents
    return torch.cat(rows)


def random_transcoder(model: LanguageModel, block: int, skip: bool, rule: str) -> Crosscoder:
    names = [f"blocks.{block}.mlp.hook_in", f"blocks.{block}.hook_mlp_out"]
    layout = Layout((LatentGroup(9, (0,), (1,)),), ((0, 1),) if skip else ())
    return random_kind(model, names, layout, rule, block)
