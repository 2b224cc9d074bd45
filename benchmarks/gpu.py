"""What a GPU makes of crossproof: parity with the CPU, then times and memory of every phase.

    python benchmarks/gpu.py                        (writes gpu.json and gpu.md)
    python benchmarks/gpu.py --device cpu --sizes tiny      (that it runs, anywhere)

Needs torch, triton, transformers, numpy, safetensors, jaxtyping and lazy_loader, nothing else. Size
A is a crosscoder of three hookpoints around one gated MLP of Gemma-2-2B, B one of 25 hookpoints and
all twelve MLPs of GPT-2; activations are random. What the card can do is measured on the spot, by a
large matrix product and a large copy: figures stand beside those, not beside a data sheet's.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig, SparseLatents
from crossproof.kernels import (
    dominant,
    dominant_backward,
    dominant_of_both,
    plain_pairs,
    row_products,
    weighted_rows,
)
from crossproof.lm import Activation, Hookpoints, MLPWeights
from crossproof.training import Objective, Optimisation, Trainer


@dataclass(frozen=True)
class Size:
    """A crosscoder and the MLPs that its penalties are about."""

    hookpoints: int
    width: int
    latents: int
    k: int
    tokens: int
    mlps: int
    neurons: int
    gated: bool


SIZES = {
    "A": Size(3, 2304, 65_536, 64, 4096, 1, 9216, True),
    "B": Size(25, 768, 24_576, 100, 4096, 12, 3072, False),
    "tiny": Size(3, 16, 64, 4, 32, 2, 40, True),
}
OBJECTIVES = {
    "unpenalised": Objective(),
    "interaction": Objective(interaction=100.0),
    "keep-largest, all latents": Objective(keep_largest=1000.0, all_latents=1000.0),
}


@dataclass(frozen=True)
class Row:
    """One measurement: milliseconds, and what was done in them."""

    size: str
    phase: str
    milliseconds: float
    operations: float = 0.0
    moved: float = 0.0
    peak_gib: float = 0.0


def main() -> None:
    """Parity, ceilings, phases, steps; then the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", nargs="+", default=["A", "B"], choices=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path())
    given = parser.parse_args()
    device = torch.device(given.device)
    about = machine(device)
    found = {name: error for name, error in parity(device)}
    small = device.type == "cpu"
    ceilings = measured_ceilings(device, 256 if small else 8192, given.rounds)
    rows: list[Row] = []
    for name in given.sizes:
        rows += phases(name, SIZES[name], device, given.rounds)
        rows += steps(name, SIZES[name], device, given.rounds)
    result = {"machine": about, "ceilings": ceilings, "parity": found}
    result["rows"] = [asdict(row) for row in rows]
    text = table(about, ceilings, found, rows)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (given.out / "gpu.md").write_text(text)
    print(text)
    if max(found.values()) > TOLERANCE:
        raise SystemExit("The device's figures are not the CPU's: see the table of parity.")


TOLERANCE = 1e-3
"""Of float32 sums of ten thousand terms in another order, relative to their size."""


def machine(device: torch.device) -> dict[str, str]:
    """The card and the versions of what runs on it."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    versions = {}
    for package in ("torch", "triton", "transformers", "crossproof"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "none"
    return {"card": card or device.type, "python": platform.python_version(), **versions}


# Parity


def parity(device: torch.device) -> Iterator[tuple[str, float]]:
    """The largest difference of each kernel and of a training run from the CPU's, relative."""
    latents, weights, beside = codes(200, 512, 24), normal(512, 700), normal(512, 700, seed=1)
    there = moved(latents, device)
    entries = latents.offsets, latents.indices, latents.values
    away = there.offsets, there.indices, there.values
    best, owner = dominant(*entries, weights)
    value, holder = dominant(*away, weights.to(device))
    yield "dominant", difference(value, best)
    yield "owners that differ", (holder.cpu() != owner).double().mean().item()
    second = dominant(*entries, weights, owner)[0]
    found = dominant(*away, weights.to(device), owner.to(device))[0]
    yield "runner-up", difference(found, second)
    both = dominant_of_both(*entries, weights, beside)
    found = dominant_of_both(*away, weights.to(device), beside.to(device))
    yield "owners by both paths that differ", (found.cpu() != both).double().mean().item()
    grad = normal(200, 700, seed=2)
    arguments = latents.indices, latents.values, weights, owner, grad
    expected = dominant_backward(*arguments, lambda: latents.transposed)
    arguments = tuple(tensor.to(device) for tensor in arguments)
    gradients = dominant_backward(*arguments, lambda: there.transposed)
    yield "gradient of activations", difference(gradients[0], expected[0])
    yield "gradient of virtual weights", difference(gradients[1], expected[1])
    left = normal(200, 700, seed=3)
    products = row_products(*entries[:2], left, weights)
    found = row_products(*away[:2], left.to(device), weights.to(device))
    yield "inner products", difference(found, products)
    expected, found = weighted_rows(*entries, weights), weighted_rows(*away, weights.to(device))
    yield "weighted sums", difference(found, expected)
    yield "pair sums", difference(*pair_sums(latents, weights, owner, device))
    yield "losses of 20 steps", difference(*(losses(at) for at in (device, torch.device("cpu"))))


def pair_sums(
    latents: SparseLatents, weights: Tensor, owner: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The five sums of every pair, on the device and on the CPU."""
    counts = latents.offsets.diff()
    starts = torch.nn.functional.pad((counts * (counts - 1) // 2).cumsum(0), (1, 0))
    norms, swings = normal(700, seed=4).abs(), normal(200, 700, seed=5).abs()
    own = latents.offsets, starts, latents.indices, latents.values, weights, owner, norms, swings
    expected = torch.empty(int(starts[-1]), 5, dtype=torch.float64)
    plain_pairs(*own, expected)
    found = torch.empty_like(expected, device=device)
    plain_pairs(*(tensor.to(device) for tensor in own), found)
    return found, expected


def losses(device: torch.device) -> Tensor:
    """Of 20 steps of a tiny crosscoder with all penalties of the recipes."""
    objective = Objective(interaction=1.0, keep_largest=1.0, all_latents=1.0)
    trainer = trainer_of(SIZES["tiny"], objective, device, bf16=False)
    start = trainer_of(SIZES["tiny"], objective, torch.device("cpu")).crosscoder
    trainer.crosscoder.load_state_dict(start.state_dict())  # devices draw numbers of their own
    batches = [batch_of(SIZES["tiny"], torch.device("cpu"), seed) for seed in range(20)]
    reports = [trainer.step(batch.to(device)) for batch in batches]
    return torch.stack([report.loss.detach() for report in reports])


# Times


def measured_ceilings(device: torch.device, n: int, rounds: int) -> dict[str, float]:
    """Operations a second of a matrix product in bf16 and TF32, bytes a second of a copy."""
    ceilings = {}
    for name, dtype in (("bf16 TFLOP/s", torch.bfloat16), ("float32 TFLOP/s", torch.float32)):
        left, right = normal(n, n).to(device, dtype), normal(n, n, seed=1).to(device, dtype)
        spent = timed(device, rounds, lambda left=left, right=right: left @ right)
        ceilings[name] = 2 * n**3 / spent / 1e9
    source = torch.empty(n * n, device=device)
    target = torch.empty_like(source)
    spent = timed(device, rounds, lambda: target.copy_(source))
    return ceilings | {"copied TB/s": 2 * 4 * n * n / spent / 1e9}


def phases(name: str, size: Size, device: torch.device, rounds: int) -> Iterator[Row]:
    """The parts of a step, each alone."""
    trainer = trainer_of(size, OBJECTIVES["unpenalised"], device)
    crosscoder, x = trainer.crosscoder, batch_of(size, device, 0)
    nnz = size.tokens * size.k
    reached, weights = nnz * size.neurons, size.latents * size.neurons
    x = x * crosscoder.scale[:, None]
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    with torch.no_grad(), half:
        encoding = crosscoder.encode_training(x)
        latents = encoding.latents
        products = 2.0 * size.tokens * size.hookpoints * size.width * size.latents
        bytes_read = 4.0 * size.tokens * size.latents
        yield row(name, "encode and select", device, rounds, lambda: crosscoder.encode_training(x),
                  products, bytes_read)  # fmt: skip
        rows = 4.0 * nnz * size.hookpoints * size.width
        yield row(name, "decode", device, rounds, lambda: crosscoder.decode_scaled(latents),
                  rows / 2, rows)  # fmt: skip
        mlp = mlp_of(size, device)
        decoder = crosscoder.W_dec[:, 0]
        G = product(decoder, mlp.W_in)
        yield row(name, "virtual weights of an MLP", device, rounds,
                  lambda: product(decoder, mlp.W_in),
                  2.0 * weights * size.width, 4.0 * weights)  # fmt: skip
        entries = latents.offsets, latents.indices, latents.values
        yield row(name, "dominant latents of an MLP", device, rounds,
                  lambda: dominant(*entries, G), 2.0 * reached, 4.0 * reached)  # fmt: skip
        _, owner = dominant(*entries, G)
        grad = torch.ones_like(G[: size.tokens])
        arguments = latents.indices, latents.values, G, owner, grad
        yield row(name, "their gradient", device, rounds,
                  lambda: dominant_backward(*arguments, lambda: latents.transposed),
                  2.0 * reached, 8.0 * reached)  # fmt: skip


def product(left: Tensor, right: Tensor) -> Tensor:
    """As a step forms it: in TF32 on a card, and not in bfloat16, in which only encoding is."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if left.is_cuda else before)
    with torch.autocast(left.device.type, enabled=False):
        found = left @ right
    torch.set_float32_matmul_precision(before)
    return found


def steps(name: str, size: Size, device: torch.device, rounds: int) -> Iterator[Row]:
    """Whole steps without the language model, of each objective."""
    for label, objective in OBJECTIVES.items():
        with freed(device):
            trainer, batch = trainer_of(size, objective, device), batch_of(size, device, 0)
            yield row(name, f"step, {label}", device, rounds, lambda: trainer.step(batch))  # noqa: B023
            trainer.check()
            del trainer, batch


@contextmanager
def freed(device: torch.device) -> Iterator[None]:
    """Memory of the block is given back after it."""
    yield
    if device.type == "cuda":
        torch.cuda.empty_cache()


def row(
    size: str, phase: str, device: torch.device, rounds: int, call: Callable[[], Any],
    operations: float = 0.0, moved: float = 0.0,
) -> Row:  # fmt: skip
    """Times a call."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    spent = timed(device, rounds, call)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return Row(size, phase, spent, operations, moved, peak)


def timed(device: torch.device, rounds: int, call: Callable[[], Any]) -> float:
    """Median milliseconds, after two calls that compile and warm up."""
    spent = []
    for number in range(rounds + 2):
        waited(device)
        began = time.perf_counter()
        call()
        waited(device)
        if number > 1:
            spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent)


def waited(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Inputs


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal, from the seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes(tokens: int, n_latents: int, k: int) -> SparseLatents:
    """k random latents a token."""
    scores = normal(tokens, n_latents, seed=9)
    values, indices = scores.topk(k, dim=1)
    return SparseLatents.from_rows(indices, values, n_latents)


def moved(latents: SparseLatents, device: torch.device) -> SparseLatents:
    """The same on a device."""
    parts = (t.to(device) for t in (latents.offsets, latents.indices, latents.values))
    return SparseLatents(*parts, latents.n_latents)


def mlp_of(size: Size, device: torch.device) -> MLPWeights:
    """Random weights."""
    gate = normal(size.width, size.neurons, seed=3) if size.gated else None
    activation = Activation.SILU if size.gated else Activation.GELU
    weights = MLPWeights(
        W_in=normal(size.width, size.neurons, seed=1) / size.width**0.5,
        b_in=torch.zeros(size.neurons),
        W_out=normal(size.neurons, size.width, seed=2) / size.neurons**0.5,
        b_out=torch.zeros(size.width),
        activation=activation,
        W_gate=None if gate is None else gate / size.width**0.5,
        b_gate=None if gate is None else torch.zeros(size.neurons),
    )
    return weights.to(device=device)


def trainer_of(
    size: Size, objective: Objective, device: torch.device, bf16: bool | None = None
) -> Trainer:
    """A crosscoder whose first hookpoints are the inputs of the MLPs; products in bf16 on GPUs."""
    bf16 = device.type == "cuda" if bf16 is None else bf16
    names = [f"blocks.{block}.mlp.hook_in" for block in range(size.hookpoints)]
    config = CrosscoderConfig(size.latents, "batch_topk", size.k)
    hookpoints = Hookpoints.from_names(names, size.hookpoints)
    with device:
        crosscoder = Crosscoder(config, hookpoints, size.width)
    with torch.no_grad():  # of unit length, more or less
        generator = torch.Generator(device).manual_seed(0)
        crosscoder.W_dec.normal_(generator=generator).div_((size.hookpoints * size.width) ** 0.5)
        crosscoder.W_enc.copy_(crosscoder.W_dec)
    mlps = {at: mlp_of(size, device) for at in range(size.mlps)}
    return Trainer(crosscoder, mlps, objective, Optimisation(bf16=bf16), 10_000)


def batch_of(size: Size, device: torch.device, seed: int) -> Tensor:
    """Random activations [B, P, D]."""
    return normal(size.tokens, size.hookpoints, size.width, seed=seed).to(device)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest, over the largest expected magnitude."""
    return float((found.cpu().double() - expected.cpu()).abs().max() / expected.abs().max())


def table(
    about: dict[str, str], ceilings: dict[str, float], found: dict[str, float], rows: list[Row]
) -> str:
    """What docs/performance.md shows."""
    lines = [", ".join(f"{key} {value}" for key, value in about.items()), ""]
    lines += [", ".join(f"{key} {value:.1f}" for key, value in ceilings.items()), ""]
    lines += ["| parity with the CPU | largest difference, relative |", "|---|---|"]
    lines += [f"| {name} | {error:.1e} |" for name, error in found.items()]
    lines += ["", "| size | phase | ms | TFLOP/s | TB/s | peak GiB |", "|---|---|---|---|---|---|"]
    for each in rows:
        speed = each.operations / each.milliseconds / 1e9
        bandwidth = each.moved / each.milliseconds / 1e9
        said = [f"{each.milliseconds:.2f}", f"{speed:.2f}", f"{bandwidth:.2f}"]
        lines.append(f"| {each.size} | {each.phase} | {' | '.join(said)} | {each.peak_gib:.1f} |")
    for name in dict.fromkeys(each.size for each in rows):
        spent = {r.phase: r.milliseconds for r in rows if r.size == name}
        whole = spent["step, unpenalised"]
        for label in list(OBJECTIVES)[1:]:
            over = spent[f"step, {label}"] / whole
            lines.append(f"\n{name}: {label} takes {over:.2f} times the unpenalised step.")
        lines.append(f"\n{name}: {SIZES[name].tokens / whole * 1000:,.0f} tokens a second.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
