"""Every built-in implementation passes the checks that we give to others; broken ones fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from golden_formats import FIXTURES
from torch import Tensor, nn

from crossproof.crosscoder import SPARSITY, CrosscoderConfig, register_sparsity
from crossproof.crosscoder.formats.importing import find_dictionaries
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.sparsity import ReLU
from crossproof.errors import CrossproofError
from crossproof.registry import Registry
from crossproof.testing import check_format, check_objective, check_sparsity
from crossproof.training import OBJECTIVES, BlockStep, Objective, register_objective


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name: str) -> None:
    check_objective(name)


@pytest.mark.parametrize("name", SPARSITY)
def test_sparsity_rules(name: str) -> None:
    check_sparsity(name)


def test_groups_of_topk() -> None:
    check_sparsity("topk", CrosscoderConfig(20, k=2, groups=5))


@pytest.mark.parametrize("folder", sorted(FIXTURES.iterdir()), ids=lambda path: path.name)
def test_formats(folder: Path) -> None:
    ((name, path), *_) = find_dictionaries(folder / "dictionary")
    check_format(name, path)


BROKEN: dict[str, tuple[Callable[[BlockStep], Tensor], str]] = {
    "negative": (lambda block: -block.relative_error(block.x_hat), "is negative"),
    "vector": (lambda block: block.x_hat.pow(2).sum(1), "not that of a mean"),
    "noise": (lambda block: block.x_hat.pow(2).mean() + torch.rand(()), "twice asked"),
    "first": (lambda block: block.x_hat[0].pow(2).sum(), "another order"),
    "detached": (
        lambda block: (block.x_hat * block.x_hat.detach()).sum().square(),
        "finite differences",
    ),
    "empty": (lambda block: 1 / block.latents.values.sum(), "no latent is active"),
}


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    term, message = BROKEN[request.param]
    register_objective(request.param, term, "Broken on purpose.")
    yield request.param, message
    OBJECTIVES.remove(request.param)


def test_a_broken_objective_is_found(broken: tuple[str, str]) -> None:
    name, message = broken
    with pytest.raises(AssertionError, match=message):
        check_objective(name)


class Centred(ReLU):
    """Looks at the whole batch in inference too."""

    def select(self, pre: Tensor, training: bool = False) -> SparseLatents:
        mask = pre > pre.mean()
        return SparseLatents.from_dense(torch.where(mask, pre, 0))


class Signed(ReLU):
    """Lets negative values pass."""

    def select(self, pre: Tensor, training: bool = False) -> SparseLatents:
        return SparseLatents.from_dense(pre)

    def activate(self, entries: SparseLatents) -> SparseLatents:
        return entries.with_values(2 * entries.values)


@pytest.mark.parametrize(
    ("rule", "message"), [(Centred, "depends on others"), (Signed, "negative"), (nn.ReLU, "lacks")]
)
def test_a_broken_rule_is_found(rule: type[nn.Module], message: str) -> None:
    register_sparsity("broken", lambda config: rule())
    try:
        with pytest.raises(AssertionError, match=message):
            check_sparsity("broken")
    finally:
        SPARSITY.remove("broken")


def test_a_registry_names_what_is_near_and_refuses_two_of_a_name() -> None:
    with pytest.raises(CrossproofError, match=r"no objective 'interacton'.*Nearest: interaction"):
        Objective(interacton=1.0)
    with pytest.raises(CrossproofError, match="another objective called 'l1'"):
        register_objective("l1", lambda step: step.x.sum(), "Mine.")
    with pytest.raises(CrossproofError, match="choose one of uniform, output_norm"):
        Objective(interaction_weights="mine")
    with pytest.raises(CrossproofError, match="give a number"):
        Objective(l1="much")


def test_an_objective_is_a_value() -> None:
    one, other = Objective(l1=0.5, interaction=2), Objective({"interaction": 2.0, "l1": 0.5})
    assert one == other
    assert hash(one) == hash(other)
    assert list(one) == ["interaction", "l1"]  # the order in which the loss adds up
    assert one.keep_largest == 0.0
    assert one.interaction_weights == "uniform"
    with pytest.raises(TypeError, match="cannot be changed"):
        one["l1"] = 3.0


def test_older_names_are_read_and_missing_plugins_are_no_error() -> None:
    stored = Objective.stored({"transition": 3.0, "share": 1.0, "l0": 0.0, "of_a_plugin": 2.0})
    assert stored == {"keep_largest": 3.0, "dominant_share": 1.0, "of_a_plugin": 2.0}


def test_entry_points_are_loaded_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("theirs", "math:e", "g"), EntryPoint("missing", "no_such.module:x", "g")]
    monkeypatch.setattr("crossproof.registry.entry_points", lambda group: points)
    registry: Registry[float] = Registry("number", "g")
    registry.register("ours", "math:pi")
    assert registry.names() == ("ours", "theirs", "missing")
    assert registry.package("missing") == "no_such"
    assert (registry.get("ours"), registry.get("theirs")) == (math.pi, math.e)
    with pytest.raises(ModuleNotFoundError):
        registry.get("missing")
