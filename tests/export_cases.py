"""Crosscoders that are exported in the tests: weights by a rule, so that every machine has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.formats import export
from crossproof.lm import Hookpoints

EXPORTS = Path(__file__).parent / "data" / "exports"
D, H, K, TOKENS, BLOCKS = 8, 12, 3, 10, 2
POST = ("blocks.1.hook_resid_post",)
MLP = ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")
SET = tuple(
    f"blocks.{i}.{role}" for i in range(BLOCKS) for role in ("hook_resid_mid", "mlp.hook_out")
)


def numbers(*shape: int, seed: int) -> Tensor:
    """Numbers between -1 and 1 that no library draws: exact in float32 on every machine."""
    at = torch.arange(torch.Size(shape).numel(), dtype=torch.int64)
    return (((at + 11 * seed) * 7919 + 13 * at * at) % 1021 - 510).float().view(shape) / 512


@dataclass(frozen=True)
class Case:
    """What is exported, and where it reads and writes, in the library's order."""

    build: Callable[[], Crosscoder]
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def x(self) -> Tensor:
        """[reads, T, D]."""
        return 2 * numbers(len(self.reads), TOKENS, D, seed=99)

    def at_hookpoints(self, crosscoder: Crosscoder) -> Tensor:
        """The same [T, P, D], zero where nothing is read."""
        x = torch.zeros(TOKENS, len(crosscoder.hookpoints), D)
        for place, values in zip(self.reads, self.x(), strict=True):
            x[:, crosscoder.hookpoints.index(place)] = values
        return x


def crosscoder(names: tuple[str, ...], rule: str, width: int = H, groups: int = 1) -> Crosscoder:
    config = CrosscoderConfig(width, rule, 1 if groups > 1 else K, groups)
    made = Crosscoder(config, Hookpoints.from_names(names, BLOCKS), D)
    with torch.no_grad():
        for seed, weights in enumerate((made.W_enc, made.W_dec, made.b_enc, made.b_dec)):
            weights.copy_(numbers(*weights.shape, seed=seed))
        made.scale.copy_(2.0 ** (torch.arange(len(names)) - 1))  # which saving folds
        for name, buffer in (*made.sparsity.named_buffers(), *made.sparsity.named_parameters()):
            value = torch.tensor([0.25, 0.5, 1.0, 0.125]).repeat(width)[:width]
            if name == "log_threshold":
                buffer.copy_(value.log())
            elif rule == "signed_jumprelu":
                buffer.copy_(value - 0.5)
            else:
                buffer.fill_(0.5)
    return made.eval()


def transcoder(rule: str, skip: bool = False, groups: int = 1) -> Crosscoder:
    made = crosscoder(MLP, rule, groups=groups)
    with torch.no_grad():
        made.W_enc[:, 1], made.W_dec[:, 0], made.b_dec[0] = 0, 0, 0
        if skip:
            made.add_skip(0, 1, numbers(D, D, seed=8))
    return made


def layers(rule: str, crossing: bool = False, skip: bool = False) -> Crosscoder:
    """A transcoder a layer as one crosscoder, or the cross-layer transcoder of both."""
    made = crosscoder(SET, rule, BLOCKS * H)
    reads, writes = torch.zeros_like(made.W_enc), torch.zeros_like(made.W_dec)
    for i in range(BLOCKS):
        rows = slice(i * H, (i + 1) * H)
        reads[rows, 2 * i] = 1
        writes[rows, 2 * i + 1 :: 2] = 1
        if not crossing:
            writes[rows, 2 * i + 2 :] = 0
    with torch.no_grad():
        made.W_enc.mul_(reads)
        made.W_dec.mul_(writes)
        made.b_dec[0::2] = 0
        for i in range(BLOCKS if skip else 0):
            made.add_skip(2 * i, 2 * i + 1, numbers(D, D, seed=8 + i))
    return made


def normalised() -> Crosscoder:
    made = crosscoder(POST, "topk")
    made.scale.fill_(1)
    made.token_scale.normalise("layer_norm")
    return made


SAE = POST, POST
THROUGH = MLP[:1], MLP[1:]
WHOLE = SET[0::2], SET[1::2]
CASES = {
    "saelens-relu": Case(lambda: crosscoder(POST, "relu"), *SAE),
    "saelens-jumprelu": Case(lambda: crosscoder(POST, "jumprelu"), *SAE),
    "saelens-batch_topk": Case(lambda: crosscoder(POST, "batch_topk"), *SAE),
    "saelens-topk": Case(lambda: crosscoder(POST, "topk"), *SAE),
    "saelens-abs_topk": Case(lambda: crosscoder(POST, "abs_topk"), *SAE),
    "saelens-layer_norm": Case(normalised, *SAE),
    "saelens-transcoder": Case(lambda: transcoder("relu"), *THROUGH),
    "saelens-jumprelu_skip_transcoder": Case(lambda: transcoder("jumprelu", True), *THROUGH),
    "dictionary_learning-relu": Case(lambda: crosscoder(POST, "relu"), *SAE),
    "dictionary_learning-jumprelu": Case(lambda: crosscoder(POST, "jumprelu"), *SAE),
    "dictionary_learning-batch_topk": Case(lambda: crosscoder(POST, "batch_topk"), *SAE),
    "dictionary_learning-topk": Case(lambda: crosscoder(POST, "topk"), *SAE),
    "sparsify-topk": Case(lambda: crosscoder(POST, "topk"), *SAE),
    "sparsify-groupmax": Case(lambda: crosscoder(POST, "topk", groups=4), *SAE),
    "sparsify-skip_transcoder": Case(lambda: transcoder("topk", True), *THROUGH),
    "circuit-tracer-relu": Case(lambda: layers("relu", skip=True), *WHOLE),
    "circuit-tracer-signed_jumprelu": Case(lambda: layers("signed_jumprelu"), *WHOLE),
    "circuit-tracer-cross_layer": Case(lambda: layers("jumprelu", crossing=True), *WHOLE),
}


def library(name: str) -> str:
    """The export format of a case."""
    return name.rpartition("-")[0]


def write(root: Path, name: str) -> None:
    """The case's exported dictionary, and what the library is to encode."""
    case = CASES[name]
    export(case.build(), root / name / "dictionary", library(name), "tiny")
    save_file({"x": case.x()}, root / name / "x.safetensors")
