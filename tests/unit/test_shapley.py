"""Shapley–Taylor indices against their definition, another implementation and their axioms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from dictionaries import F64, Case, random_case
from differences import dense_delta
from reference import DenseMLP, DenseView
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.interactions import (
    Game,
    ShapleyTaylor,
    absolute_sums,
    neuron_game,
    output_game,
    second_difference_sums,
    shapley_taylor,
)
from crossproof.lm import Activation


def definition(v: Callable[[frozenset[int]], float], m: int) -> np.ndarray:
    """φ_ij as it is written, one coalition at a time."""
    out = np.zeros((m, m))
    for i, j in itertools.combinations(range(m), 2):
        others = [p for p in range(m) if p not in (i, j)]
        for size in range(m - 1):
            for chosen in itertools.combinations(others, size):
                S = frozenset(chosen)
                delta = v(S | {i, j}) - v(S | {i}) - v(S | {j}) + v(S)
                out[i, j] += 2 / m * delta / math.comb(m - 1, size)
    return out + out.T


def random_game(m: int, seed: int, coordinates: int = 0) -> Game:
    """A smooth value with interactions of every order."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(m, 7, generator=generator, dtype=F64)
    out = torch.randn(7, max(coordinates, 1), generator=generator, dtype=F64)

    def value(coalitions: Tensor) -> Tensor:
        values = torch.nn.functional.gelu(coalitions.double() @ W - 0.3) @ out
        return values if coordinates else values[:, 0]

    return Game(torch.arange(m) * 10, value, f"random game {seed}")


def one(game: Game, m: int) -> Callable[[frozenset[int]], float]:
    def v(coalition: frozenset[int]) -> float:
        present = torch.zeros(1, m, dtype=torch.bool)
        present[0, list(coalition)] = True
        return game.value(present).item()

    return v


@pytest.mark.parametrize("m", [2, 3, 4, 7])
def test_exact_indices_equal_the_definition(m: int) -> None:
    game = random_game(m, m)
    result = shapley_taylor(game)
    v = one(game, m)
    np.testing.assert_allclose(result.matrix.numpy(), definition(v, m), atol=1e-9)
    expected = [v(frozenset({i})) - v(frozenset()) for i in range(m)]
    np.testing.assert_allclose(result.first.numpy(), expected, atol=1e-9)
    assert result.matrix.abs().max() > 0.01
    assert (result.exact, result.coalitions, result.seed) == (True, 2**m, None)
    assert result.players.tolist() == list(range(0, 10 * m, 10))
    assert result.value == f"random game {m}"
    assert result.index == "Shapley-Taylor, order 2"
    assert "decoder bias" in result.baseline


def test_exact_indices_equal_shapiqs() -> None:
    from shapiq.game_theory.exact import ExactComputer

    game = random_game(9, 0)
    theirs = ExactComputer(lambda c: game.value(torch.from_numpy(c)).numpy(), 9)("STII", 2)
    ours = shapley_taylor(game)
    np.testing.assert_allclose(ours.matrix.numpy(), theirs.get_n_order_values(2), atol=1e-9)
    np.testing.assert_allclose(ours.first.numpy(), theirs.get_n_order_values(1), atol=1e-9)


def test_they_are_not_banzhaf_or_shapley_interactions() -> None:
    """A product of three players: STII gives each pair 1/3, Shapley's and Banzhaf's index 1/2."""
    triple = Game(torch.arange(3), lambda c: c.all(1).double(), "product")
    np.testing.assert_allclose(shapley_taylor(triple).matrix, (1 - np.eye(3)) / 3, atol=1e-12)


@pytest.mark.parametrize("m", [1, 2, 5, 12])
def test_indices_share_out_the_whole_value(m: int) -> None:
    game = random_game(m, m + 1)
    result, v = shapley_taylor(game), one(game, m)
    total = result.first.sum() + result.matrix.sum() / 2
    assert total.item() == pytest.approx(v(frozenset(range(m))) - v(frozenset()), abs=1e-9)
    assert torch.equal(result.matrix, result.matrix.T)
    assert (result.matrix.diagonal() == 0).all()


def test_a_player_that_only_adds_has_no_interactions() -> None:
    game = random_game(5, 3)

    def with_dummy(coalitions: Tensor) -> Tensor:
        return game.value(coalitions[:, :5]) + 2.5 * coalitions[:, 5].double()

    result = shapley_taylor(Game(torch.arange(6), with_dummy, "one player adds"))
    assert result.matrix[5].abs().max() < 1e-12
    assert result.first[5].item() == pytest.approx(2.5)
    assert result.matrix[:5, :5].abs().max() > 0.1


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    game = random_game(6, 8)
    whole = shapley_taylor(game)
    monkeypatch.setattr("crossproof.interactions.shapley._COALITIONS", 7)
    torch.testing.assert_close(shapley_taylor(game).matrix, whole.matrix)


def test_estimates_come_near_the_exact_indices_and_nearer_with_more_coalitions() -> None:
    game = random_game(14, 5)
    exact = shapley_taylor(game, exact_players=14)
    assert exact.exact

    def error(budget: int) -> float:
        gaps = []
        for seed in range(3):
            estimate = shapley_taylor(game, budget, seed)
            assert (estimate.exact, estimate.coalitions) == (False, budget)
            assert estimate.seed == seed
            gaps.append((estimate.matrix - exact.matrix).abs().max().item())
            torch.testing.assert_close(estimate.first, exact.first)
        return sum(gaps) / 3

    largest = exact.matrix.abs().max().item()
    assert error(4000) < 0.15 * largest
    assert error(4000) < error(400) / 2


def test_estimates_of_games_with_pairs_only_are_exact() -> None:
    m, generator = 13, torch.Generator().manual_seed(0)
    upper = torch.randn(m, m, generator=generator, dtype=F64).triu(1)
    linear = torch.randn(m, generator=generator, dtype=F64)

    def value(coalitions: Tensor) -> Tensor:
        c = coalitions.double()
        return c @ linear + ((c @ upper) * c).sum(1)

    estimate = shapley_taylor(Game(torch.arange(m), value, "pairs"), budget=300)
    assert not estimate.exact
    torch.testing.assert_close(estimate.matrix, upper + upper.T, rtol=0, atol=1e-9)


def test_the_part_that_is_left_of_the_fit_is_weighed_and_not_dropped() -> None:
    """Averaged over many draws, an estimate has no error to speak of; the fit alone has one."""
    m = 8
    triple = Game(torch.arange(m), lambda c: c[:, :3].all(1).double(), "product of three")
    exact = shapley_taylor(triple).matrix
    draws = [shapley_taylor(triple, 120, seed, exact_players=4).matrix for seed in range(40)]
    mean = torch.stack(draws).mean(0)
    assert (mean - exact).abs().max() < 0.02
    assert exact[0, 1] > 0.3


def test_one_seed_gives_one_estimate() -> None:
    game = random_game(13, 2)
    first, again, other = (shapley_taylor(game, 400, seed) for seed in (1, 1, 2))
    assert torch.equal(first.matrix, again.matrix)
    assert not torch.equal(first.matrix, other.matrix)


def test_a_budget_for_all_coalitions_makes_it_exact() -> None:
    game = random_game(6, 1)
    result = shapley_taylor(game, budget=64, exact_players=4)
    assert result.exact
    torch.testing.assert_close(result.matrix, shapley_taylor(game).matrix)


def test_a_game_of_several_coordinates_gets_norms_over_them() -> None:
    game = random_game(5, 4, coordinates=3)
    result = shapley_taylor(game)
    parts = [
        shapley_taylor(replace(game, value=lambda c, d=d: game.value(c)[:, d])) for d in range(3)
    ]
    squares = sum(part.matrix**2 for part in parts)
    torch.testing.assert_close(result.matrix, squares.sqrt())
    torch.testing.assert_close(result.first, sum(part.first**2 for part in parts).sqrt())
    assert (result.matrix >= 0).all()
    single = shapley_taylor(random_game(5, 4, coordinates=1))
    torch.testing.assert_close(single.matrix, shapley_taylor(random_game(5, 4)).matrix.abs())


def busiest(case: Case) -> int:
    return int((case.activations != 0).sum(1).argmax())


@pytest.mark.parametrize("gated", [False, True])
def test_games_of_an_mlp_have_its_values(gated: bool) -> None:
    case = random_case(3, gated=gated)
    token, mlp = busiest(case), DenseMLP(case.mlp)
    direction = torch.randn(5, dtype=F64, generator=torch.Generator().manual_seed(1))
    neuron, whole, along = (
        neuron_game(case.view, case.latents, token, 4),
        output_game(case.view, case.latents, token),
        output_game(case.view, case.latents, token, direction),
    )
    players = neuron.players
    assert players.tolist() == case.activations[token].nonzero()[:, 0].tolist()
    coalitions = torch.rand(20, len(players), generator=torch.Generator().manual_seed(0)) < 0.5
    for row in range(20):
        present = torch.zeros(9, dtype=F64)
        present[players] = coalitions[row].double()
        output = mlp(case.bias + (present * case.activations[token]) @ case.decoder)
        torch.testing.assert_close(whole.value(coalitions)[row], output)
        torch.testing.assert_close(along.value(coalitions)[row], output @ direction)
    picked, none = torch.eye(12, dtype=F64)[:, 4:9], torch.zeros(5, dtype=F64)
    only = replace(case.mlp, W_out=picked, b_out=none)
    out = output_game(replace(case, mlp=only).view, case.latents, token)
    torch.testing.assert_close(neuron.value(coalitions), out.value(coalitions)[:, 0])


@pytest.mark.parametrize("gated", [False, True])
def test_two_players_interact_by_their_second_difference(gated: bool) -> None:
    case = random_case(5, gated=gated)
    pair = torch.tensor([[4, 6]])
    case.activations[3] = 0
    case.activations[3, [4, 6]] = torch.tensor([0.7, 1.3], dtype=F64)
    delta = dense_delta(case, 3, 4, 6, "alone")
    for neuron in range(12):
        phi = shapley_taylor(neuron_game(case.view, case.latents, 3, neuron)).matrix[0, 1]
        torch.testing.assert_close(phi, delta[neuron])
    whole = shapley_taylor(output_game(case.view, case.latents, 3))
    sums = second_difference_sums(case.view, case.latents.rows(3, 4), pair)
    torch.testing.assert_close(whole.matrix[0, 1], sums.output[0])
    assert whole.matrix[0, 1] > 0.01


def test_pairs_share_out_the_error_of_the_additive_model() -> None:
    """T2.2's E: what MLP(x̂) differs by from the sum of its latents' curves."""
    case = random_case(6, Activation.GELU)
    token = busiest(case)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    gap = (case.mlp(case.x_hat) - dense.additive_output())[token]
    for d in range(5):
        axis = torch.eye(5, dtype=F64)[d]
        result = shapley_taylor(output_game(case.view, case.latents, token, axis))
        torch.testing.assert_close(result.matrix.sum() / 2, gap[d])
    assert gap.abs().max() > 0.1


def test_absolute_values_come_before_sums() -> None:
    def result(players: list[int], phi: float) -> ShapleyTaylor:
        m = len(players)
        matrix = phi * (1 - torch.eye(m, dtype=F64))
        first = torch.zeros(m, dtype=F64)
        return ShapleyTaylor(torch.tensor(players), matrix, first, "v", "b", 4, True, None)

    results = [result([2, 5], 1.0), result([2, 5], -1.0), result([1, 2, 5], 0.25), result([7], 1.0)]
    pairs = torch.tensor([[5, 2], [1, 5], [0, 7], [2, 5]])
    sums = absolute_sums(results, pairs, 8)
    assert sums.total.tolist() == [2.25, 0.25, 0.0, 2.25]
    assert sums.tokens.tolist() == [3, 1, 0, 3]
    assert torch.equal(sums.pairs, pairs)
    with pytest.raises(CrossproofError, match="different values cannot be added up: 'v' and 'w'"):
        absolute_sums([*results, replace(results[0], value="w")], pairs, 8)
    with pytest.raises(CrossproofError, match="Latent 7"):
        absolute_sums(results, pairs, 7)


def test_too_many_players_need_a_budget_that_suffices() -> None:
    with pytest.raises(CrossproofError, match=r"13 latents are active, and .* exact up to 12"):
        shapley_taylor(random_game(13, 0))
    with pytest.raises(CrossproofError, match=r"budget of 183 .* 13 players; give 184 or more"):
        shapley_taylor(random_game(13, 0), budget=183)
    assert shapley_taylor(random_game(13, 0), budget=184).coalitions == 184


def test_bad_games_are_refused() -> None:
    case = random_case(0)
    with pytest.raises(CrossproofError, match="'neuron 0' has no players"):
        shapley_taylor(neuron_game(case.view, case.latents, 0, 0))
    with pytest.raises(CrossproofError, match="neurons 0 to 11"):
        neuron_game(case.view, case.latents, 2, 12)
    with pytest.raises(CrossproofError, match="tokens 0 to 7"):
        output_game(case.view, case.latents, 8)
    broken = case.latents.with_values(case.latents.values * float("inf"))
    with pytest.raises(CrossproofError, match="NaN or infinite"):
        output_game(case.view, broken, 2)
    odd = Game(torch.arange(2), lambda c: c.double()[:, 0] / 0, "nothing over nothing")
    with pytest.raises(CrossproofError, match="'nothing over nothing' is NaN or infinite"):
        shapley_taylor(odd)
