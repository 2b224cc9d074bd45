"""Interval and affine bounds of the verifier beside auto_LiRPA's, box by box.

    python tools/compare_auto_lirpa.py write runs/lirpa.npz
    OTHER/bin/python tools/compare_auto_lirpa.py check runs/lirpa.npz

`write` trains the network of the task `continuum`, draws boxes of activations, and notes what the
verifier's bounds `interval` and `linear` say of every margin. `check` computes the same with
auto_LiRPA (IBP and CROWN) and needs nothing of crossproof: the last release of auto_LiRPA on PyPI,
0.3, wants a PyTorch of its time, so OTHER is an environment with

    pip install torch==1.13.1 "numpy<1.26" appdirs pyyaml packaging sortedcontainers tqdm
    pip install --no-deps auto_LiRPA==0.3
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

BOXES = 300
TOLERANCE = {"interval": 1e-10, "linear": 1e-7}
"""Both compute in float64, the verifier's bounds lowered by what rounding may have done; auto_LiRPA
widens every ReLU's interval to at least 1e-8 before it divides by it."""
METHODS = {"interval": "IBP", "linear": "CROWN"}


def draw(domain: Any, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Active sets and boxes in their ranges: half of any width, half narrow."""
    g = np.random.default_rng(seed)
    sets = g.integers(0, domain.n_sets, BOXES)
    active = domain.active_sets.numpy()[sets]
    low, high = domain.low.numpy()[active], domain.high.numpy()[active]
    width = np.where(np.arange(BOXES) % 2, 1.0, 0.1)[:, None] * g.random(low.shape)
    start = g.random(low.shape) * (1 - width)
    return sets, low + start * (high - low), low + (start + width) * (high - low)


def write(path: str) -> None:
    """The network folded to the active features of every box, and the verifier's bounds."""
    from crossproof.proof.certificate import Limits
    from crossproof.proof.certificate.provers.boxes import boxes_draft
    from crossproof.proof.certificate.provers.latents import generating_latents
    from crossproof.proof.certificate.verifier import boxes
    from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
    from crossproof.proof.certificate.verifier.enclosures import Boxes
    from crossproof.proof.certificate.writer import as_certificate
    from paper.tasks import TASKS, Plan, sparse

    plan = TASKS["continuum"]
    assert isinstance(plan, Plan)
    domain = sparse.make_domain(plan.network, 0)
    network = sparse.train(plan.network, domain, 0)
    draft = boxes_draft(network, domain, generating_latents(domain), nodes=1)
    prover = boxes.Prover(Arithmetic(), boxes.read(as_certificate(draft), Limits()))
    sets, low, high = draw(domain, 0)
    active = domain.active_sets.numpy()[sets]
    labels = np.arange(BOXES) % network.n_classes
    ours: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
    for i in range(BOXES):
        one = slice(i, i + 1)
        box = Boxes(sets[one], active[one], low[one], high[one], int(labels[i]))
        ours["interval"].append(prover.enclosures.interval(box).low[0])
        ours["linear"].append(prover.enclosures.linear(box).low[0])
    folded = network.double()
    bias = domain.bias.double()
    tensors = {
        "atoms": domain.decoder.double(),
        "W_in": folded.W_in,
        "b_in": folded.b_in + bias @ folded.W_in,
        "W_out": folded.W_out,
        "b_out": folded.b_out + bias @ folded.skip,
        "skip": folded.skip,
    }
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    arrays |= {name: np.array(rows) for name, rows in ours.items()}
    np.savez(path, active=active, low=low, high=high, labels=labels, **arrays)
    print(f"{BOXES} boxes, {len(arrays['b_in'])} neurons, {len(arrays['b_out'])} classes: {path}")


def check(path: str) -> None:
    """The largest differences; a non-zero exit if a bound is not auto_LiRPA's."""
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor
    from auto_LiRPA.perturbations import PerturbationLpNorm

    class Margins(torch.nn.Module):
        """Activations of one active set to the label's margins."""

        def __init__(self, data: Any, row: int) -> None:
            super().__init__()
            decoder, y = data["atoms"][data["active"][row]], int(data["labels"][row])
            against = np.eye(len(data["b_out"]))[:, [y]] - np.eye(len(data["b_out"]))
            self.first = _linear(decoder @ data["W_in"], data["b_in"])
            self.second = _linear(data["W_out"] @ against, data["b_out"] @ against)
            self.skip = _linear(decoder @ data["skip"] @ against, np.zeros(len(data["b_out"])))

        def forward(self, a: torch.Tensor) -> torch.Tensor:
            margins: torch.Tensor = self.second(torch.relu(self.first(a))) + self.skip(a)
            return margins

    def _linear(weight: np.ndarray, bias: np.ndarray) -> torch.nn.Linear:
        layer = torch.nn.Linear(*weight.shape).double()
        layer.weight.data = torch.from_numpy(weight.T.copy())
        layer.bias.data = torch.from_numpy(bias.copy())
        return layer

    data = dict(np.load(path))
    worst = dict.fromkeys(METHODS, 0.0)
    for row in range(len(data["low"])):
        low, high = (torch.from_numpy(data[end][row : row + 1]) for end in ("low", "high"))
        model = BoundedModule(Margins(data, row), low)
        box = BoundedTensor(low, PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high))
        for ours, theirs in METHODS.items():
            bound, _ = model.compute_bounds(x=(box,), method=theirs)
            gap = np.abs(bound[0].detach().numpy() - data[ours][row]).max()
            worst[ours] = max(worst[ours], float(gap))
    for ours, theirs in METHODS.items():
        print(f"{ours} against {theirs}: largest difference {worst[ours]:.1e}")
    if any(worst[ours] > TOLERANCE[ours] for ours in METHODS):
        sys.exit("The bounds differ.")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "check"):
        sys.exit("Say: compare_auto_lirpa.py write FILE.npz, or check FILE.npz.")
    {"write": write, "check": check}[sys.argv[1]](sys.argv[2])
