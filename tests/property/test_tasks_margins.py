"""Certified margins against running the network, and against loops over features."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from torch import Tensor

from crossproof.proof.bounds.network import Network
from paper.toys.certified_margins import ENGINES, certify_sample, contributions, margins

F64 = torch.float64
D, N, V, H, T = 4, 7, 3, 5, 9
SLACK = 1e-9


class Case:
    """A random network, dictionary and code; token 0 has no latent, token 1 has one."""

    def __init__(self, seed: int, scale: float, error: float) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=F64)

        self.network = Network(draw(D, N), draw(N), draw(N, V), draw(V), draw(D, V))
        self.decoder, self.bias = draw(H, D), draw(D)
        self.decoder[2] = self.decoder[1]
        codes = scale * torch.rand(T, H, generator=generator, dtype=F64)
        self.activations = codes * (torch.rand(T, H, generator=generator) < 0.6)
        self.activations[0] = 0
        self.activations[1, 1:] = 0
        self.x = self.activations @ self.decoder + self.bias + error * draw(T, D)
        self.labels = torch.randint(V, (T,), generator=generator)

    def bound(self, engine: str) -> Tensor:
        arguments = self.decoder, self.bias, self.activations, self.x
        abstract = ENGINES[engine](contributions(self.network, *arguments))
        return margins(self.network, self.x, self.labels, abstract)

    def truth(self) -> Tensor:
        logits = self.network.logits(self.x)
        margin = logits.gather(1, self.labels[:, None]) - logits
        return margin.scatter(1, self.labels[:, None], torch.inf)


cases = st.builds(
    Case,
    st.integers(0, 10_000),
    st.sampled_from([0.1, 1.0, 10.0]),
    st.sampled_from([0.0, 0.1, 2.0]),
)


def loop(case: Case, t: int, engine: str) -> list[float]:
    """The margins of one point, from the theorems, feature by feature."""
    net, label = case.network, int(case.labels[t])
    worst, values = [], []
    for n in range(N):
        w = net.W_in[:, n]
        beta = float(case.bias @ w + net.b_in[n])
        p = [float(case.activations[t, h] * (case.decoder[h] @ w)) for h in range(H)]
        p.sort(key=abs, reverse=True)
        z, rebuilt = float(case.x[t] @ w + net.b_in[n]), beta + sum(p)
        slope = 1.0 if max(z, rebuilt) > 0 else 0.0
        down = up = slope * abs(z - rebuilt)
        if engine == "dominant":
            values.append(max(beta + p[0], 0.0))
            slope = 1.0 if max(z, rebuilt, beta + p[0]) > 0 else 0.0
            down = up = slope * (abs(z - rebuilt) + abs(sum(p[1:])))
        else:
            values.append(max(beta, 0.0) + sum(max(beta + q, 0.0) - max(beta, 0.0) for q in p))
            low = beta + sum(min(q, 0.0) for q in p)
            high = beta + sum(max(q, 0.0) for q in p)
            swing = 1.0 if low < 0 < high else 0.0
            for k in range(1, H):
                before = sum(p[:k])
                charge = swing * min(abs(before), abs(p[k]))
                up += charge if engine == "additive" or before * p[k] > 0 else 0.0
                down += charge if engine == "additive" or before * p[k] <= 0 else 0.0
        worst.append((down, up))
    out = []
    for c in range(V):
        total = float((net.skip[:, label] - net.skip[:, c]) @ case.x[t])
        total += float(net.b_out[label] - net.b_out[c])
        for n in range(N):
            u = float(net.W_out[n, label] - net.W_out[n, c])
            down, up = worst[n]
            total += u * values[n] - (u * down if u > 0 else -u * up)
        out.append(math.inf if c == label else total)
    return out


@examples(60)
@given(case=cases)
@pytest.mark.parametrize("engine", list(ENGINES))
def test_margins_are_never_above_the_networks(engine: str, case: Case) -> None:
    assert (case.bound(engine) <= case.truth() + SLACK).all()


@examples(15)
@given(case=cases)
@pytest.mark.parametrize("engine", list(ENGINES))
def test_margins_are_the_theorems(engine: str, case: Case) -> None:
    expected = torch.tensor([loop(case, t, engine) for t in range(T)], dtype=F64)
    assert torch.allclose(case.bound(engine), expected, atol=1e-9, rtol=1e-9)


@examples(30)
@given(case=cases)
def test_signs_only_sharpen(case: Case) -> None:
    assert (case.bound("signed") >= case.bound("additive") - SLACK).all()


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_single_latent_without_residual_costs_nothing(engine: str) -> None:
    case = Case(3, 1.0, 0.0)
    assert torch.allclose(case.bound(engine)[:2], case.truth()[:2])


@pytest.mark.parametrize("engine", list(ENGINES))
def test_wrong_activations_can_only_loosen(engine: str) -> None:
    case = Case(4, 1.0, 0.1)
    case.activations = case.activations + 1.0
    assert (case.bound(engine) <= case.truth() + SLACK).all()
    assert (case.bound(engine) < case.truth() - 0.1).any()


def test_summary_counts_proved_points_and_bounds_cross_entropy() -> None:
    case = Case(5, 0.3, 0.05)
    case.labels = case.network.logits(case.x).argmax(1)
    arguments = case.decoder, case.bias, case.activations, case.x, case.labels
    found = certify_sample(case.network, *arguments)
    ce = torch.nn.functional.cross_entropy(case.network.logits(case.x), case.labels).item()
    for engine, certified in found.items():
        bound = case.bound(engine)
        assert certified.accuracy == (bound.amin(1) > 0).double().mean().item()
        expected = [math.log1p(sum(math.exp(-m) for m in row)) for row in bound.tolist()]
        assert abs(certified.ce - sum(expected) / T) < 1e-9
        assert certified.ce >= ce - SLACK
    assert found["additive"].accuracy > 0
