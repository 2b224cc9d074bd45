"""The networks and domains that certificates speak about."""

from __future__ import annotations

from dataclasses import replace

import certificates as small
import pytest
import torch

from crossproof.errors import CrossproofError


def test_logits_are_the_formula() -> None:
    network = small.random_network(3, 4, 2)
    x = torch.randn(5, 3, generator=small.draws(0), dtype=torch.float64)
    for row, logits in zip(x, network.logits(x), strict=True):
        hidden = [max((row @ network.W_in[:, n] + network.b_in[n]).item(), 0) for n in range(4)]
        for c in range(2):
            written = sum(hidden[n] * network.W_out[n, c] for n in range(4))
            expected = row @ network.skip[:, c] + written + network.b_out[c]
            torch.testing.assert_close(logits[c], expected)
    assert network.double().hash == network.hash


def test_pairs_come_row_by_row_with_their_sums() -> None:
    _, domain = small.modular(5, (1,), 3)
    inputs, labels = domain.inputs(), domain.labels()
    for a in range(5):
        for b in range(5):
            torch.testing.assert_close(inputs[5 * a + b], domain.left[a] + domain.right[b])
            assert labels[5 * a + b] == (a + b) % 5


def test_samples_stay_in_their_boxes_and_reach_every_set() -> None:
    _, domain = small.sparse(K=3)
    activations, labels = domain.sample(2000, small.draws(0))
    active = activations != 0
    assert (active.sum(dim=1) == 3).all()
    assert ((activations >= domain.low) & (activations <= domain.high))[active].all()
    assert len(torch.unique(active, dim=0)) == domain.n_sets == 10
    scores = activations @ domain.readout
    assert (scores.gather(1, labels[:, None])[:, 0] == scores.max(dim=1).values).all()
    torch.testing.assert_close(
        domain.inputs(activations), activations @ domain.decoder + domain.bias
    )


def test_what_cannot_be_certified_is_refused() -> None:
    network, domain = small.sparse()
    with pytest.raises(CrossproofError, match="b_in of the network holds NaN"):
        replace(network, b_in=network.b_in / 0)
    with pytest.raises(CrossproofError, match="low above high"):
        replace(domain, low=domain.high + 1)
    for wrong in ([[0, 0]], [[0, 5]], [[-1, 2]]):
        with pytest.raises(CrossproofError, match="different features between 0 and 4"):
            replace(domain, active_sets=torch.tensor(wrong))
