"""What a training step costs: ours against a plain dense one, with and without penalties.

    python benchmarks/step.py --threads 2
    python benchmarks/step.py --threads 2 --memory     (peak memory of each, in fresh processes)

`dense` is the step as one writes it in plain PyTorch: dense encoder and decoder, batch top-k by
one flat top-k, squared error, backward, fused Adam. `dense+penalty` adds the interaction penalty
computed densely, every token x neuron x latent contribution spelt out, in chunks of tokens that
fit into memory. The others are crossproof's Trainer. Times are medians over interleaved rounds.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.lm import Activation, Hookpoints, MLPWeights, standard_names
from crossproof.training import Objective, Optimisation, Trainer

OBJECTIVES = {
    "unpenalised": Objective(),
    "interaction": Objective(interaction=100.0),
    "keep_largest": Objective(keep_largest=1000.0, all_latents=1000.0),
}
VARIANTS = ("dense", *OBJECTIVES, "dense+penalty")
RATIOS = [
    ("unpenalised", "dense"),
    ("interaction", "unpenalised"),
    ("keep_largest", "unpenalised"),
    ("dense+penalty", "dense"),
]


@dataclass
class StepBenchmark:
    """What to measure."""

    latents: tuple[int, ...] = (4096, 1024)
    """Dictionary widths H."""
    width: int = 128
    """d_model D."""
    neurons: int = 512
    """MLP neurons N of each block."""
    blocks: int = 4
    """Blocks L; the crosscoder reads 4 L + 1 hookpoints."""
    k: int = 16
    """Active latents a token."""
    batch: int = 1024
    """Tokens a step."""
    threads: int = 2
    """Threads of PyTorch and of numba."""
    rounds: int = 7
    """Interleaved rounds; the median counts."""
    variants: tuple[str, ...] = VARIANTS
    """Which steps to time."""
    chunk_elements: int = 1 << 26
    """Contributions that the dense penalty holds at a time."""
    memory: bool = False
    """Print the peak memory of one step of each variant instead, each in its own process."""
    only_peak: bool = False
    """Print nothing but this process's peak memory in MiB (what --memory calls)."""


@dataclass(frozen=True, eq=False)
class StepProblem:
    """Random weights and activations of the size asked for."""

    args: StepBenchmark
    latents: int

    def crosscoder(self, sample: Tensor) -> Crosscoder:
        hookpoints = Hookpoints.from_names(standard_names(self.args.blocks), self.args.blocks)
        config = CrosscoderConfig(self.latents, "batch_topk", self.args.k)
        crosscoder = Crosscoder(config, hookpoints, self.args.width)
        crosscoder.initialise(sample, seed=0)
        return crosscoder

    def batch(self) -> Tensor:
        """Few directions, sparsely active, and noise."""
        args, generator = self.args, torch.Generator().manual_seed(1)
        places = 4 * args.blocks + 1
        directions = torch.randn(512, places, args.width, generator=generator)
        active = torch.rand(args.batch, 512, generator=generator) < args.k / 512
        size = torch.rand(args.batch, 512, generator=generator)
        noise = torch.randn(args.batch, places, args.width, generator=generator)
        return torch.einsum("bh,hpd->bpd", active * size, directions) + 0.1 * noise

    def mlps(self) -> dict[int, MLPWeights]:
        """By hookpoint: block i's MLP input is the fourth of its four."""
        D, N = self.args.width, self.args.neurons
        generator = torch.Generator().manual_seed(2)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator) / shape[0] ** 0.5

        return {
            4 * i + 3: MLPWeights(draw(D, N), draw(N), draw(N, D), draw(D), Activation.GELU_TANH)
            for i in range(self.args.blocks)
        }


def our_step(problem: StepProblem, objective: Objective) -> Callable[[], None]:
    batch = problem.batch()
    crosscoder = problem.crosscoder(batch)
    mlps = problem.mlps() if objective.strengths() else {}
    trainer = Trainer(crosscoder, mlps, objective, Optimisation(), steps=10**6)

    def step() -> None:
        trainer.step(batch)

    return step


def dense_step(problem: StepProblem, penalised: bool) -> Callable[[], None]:
    args, x = problem.args, problem.batch()
    start = problem.crosscoder(x)
    x = (x * start.scale[:, None]).flatten(1)
    W_enc, W_dec = (w.detach().flatten(1).requires_grad_() for w in (start.W_enc, start.W_dec))
    b_enc, b_dec = (b.detach().flatten().requires_grad_() for b in (start.b_enc, start.b_dec))
    parameters = [W_enc, W_dec, b_enc, b_dec]
    adam = torch.optim.Adam(parameters, lr=1e-3, betas=(0.9, 0.99), fused=True)
    mlps = {p: mlp.input_scaled(float(start.scale[p])) for p, mlp in problem.mlps().items()}

    def step() -> None:
        pre = F.relu(x @ W_enc.T + b_enc)
        top = pre.flatten().topk(args.k * len(x))
        code = torch.zeros_like(pre).flatten().scatter(0, top.indices, top.values).view_as(pre)
        loss = (code @ W_dec + b_dec - x).pow(2).sum(1).mean()
        if penalised:
            for p, mlp in mlps.items():
                decoder = W_dec[:, p * args.width : (p + 1) * args.width]
                loss = loss + dense_penalty(code, decoder @ mlp.W_in, args.chunk_elements) / len(
                    mlps
                )
        adam.zero_grad(set_to_none=True)
        (loss / x.shape[1]).backward()
        adam.step()

    return step


def dense_penalty(code: Tensor, G: Tensor, chunk_elements: int) -> Tensor:
    """Mean over token and neuron of Σ|p| - max|p|; its gradient is taken chunk by chunk."""
    leaves = code.detach().requires_grad_(), G.detach().requires_grad_()
    total = code.new_zeros(())
    for rows in leaves[0].split(max(1, chunk_elements // G.numel())):
        p = (rows[:, None] * leaves[1].T).abs()
        part = (p.sum(2) - p.amax(2)).sum() / (len(code) * G.shape[1])
        part.backward()
        total += part.detach()
    surrogate = (code * leaves[0].grad).sum() + (G * leaves[1].grad).sum()
    return total + surrogate - surrogate.detach()


def build(problem: StepProblem, variant: str) -> Callable[[], None]:
    if variant in OBJECTIVES:
        return our_step(problem, OBJECTIVES[variant])
    return dense_step(problem, penalised=variant == "dense+penalty")


def measure(problem: StepProblem) -> dict[str, float]:
    """Median seconds a step by variant."""
    steps = {variant: build(problem, variant) for variant in problem.args.variants}
    times: dict[str, list[float]] = {variant: [] for variant in steps}
    for turn in range(problem.args.rounds + 1):
        for variant, step in steps.items():
            start = time.perf_counter()
            step()
            if turn > 0:  # the first compiles and warms up
                times[variant].append(time.perf_counter() - start)
    return {variant: statistics.median(seconds) for variant, seconds in times.items()}


def peak_of(args: StepBenchmark, latents: int, variant: str) -> float:
    """Peak resident memory, in MiB, of a fresh process that makes two steps."""
    options = asdict(args) | {"latents": (latents,), "variants": (variant,), "rounds": 1}
    command = [sys.executable, __file__, "--only-peak"]
    for name, value in options.items():
        if name not in ("memory", "only_peak"):
            values = value if isinstance(value, tuple) else (value,)
            command += [f"--{name.replace('_', '-')}", *map(str, values)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main(args: StepBenchmark) -> None:
    """Measure and print times and ratios, or peak memory."""
    torch.set_num_threads(args.threads)
    for latents in args.latents:
        problem = StepProblem(args, latents)
        if args.only_peak:
            measure(problem)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            continue
        places = 4 * args.blocks + 1
        sizes = f"P={places} D={args.width} N={args.neurons} L={args.blocks} H={latents}"
        print(f"{sizes} k={args.k} batch={args.batch} threads={args.threads}")
        if args.memory:
            for variant in args.variants:
                print(f"  {variant:14s} {peak_of(args, latents, variant):9.0f} MiB")
            continue
        times = measure(problem)
        for variant, seconds in times.items():
            print(f"  {variant:14s} {1000 * seconds:9.1f} ms")
        for ours, other in RATIOS:
            if ours in times and other in times:
                print(f"  {ours} / {other} {times[ours] / times[other]:.3f}")


if __name__ == "__main__":
    main(tyro.cli(StepBenchmark, description=__doc__))
