"""Checks that every objective, sparsity rule and format must pass, ours and yours.

In the manner of scikit-learn's estimator checks: each function takes one implementation, tries it
on small random problems, and raises AssertionError with what is wrong.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.crosscoder import Crosscoder, CrosscoderConfig, SparseLatents
from crossproof.crosscoder.formats.registry import FORMATS, DictionaryFormat
from crossproof.crosscoder.rules import SPARSITY
from crossproof.crosscoder.sparsity import Sparsity
from crossproof.errors import CrossproofError
from crossproof.lm import Activation, Hookpoints, MLPWeights, Norm
from crossproof.training import OBJECTIVES, Objective, Step, TargetMLP, TextStep, penalties

__all__ = ("check_format", "check_objective", "check_sparsity")

WIDTH, NEURONS, LATENTS, K, TOKENS, MLPS = 6, 10, 20, 4, 24, 2
NUDGE = 1e-6
"""Of finite differences in float64: their error is of order NUDGE² + 1e-16 / NUDGE, relative."""
CLOSE = 1e-5
"""Far above that error, and above the rounding of sums in another order."""


def check_objective(name: str) -> None:
    """Checks a registered objective, with each of its options: a pure, differentiable scalar.

    On plain and gated MLPs in float64: the value is a finite scalar of at least zero; twice the
    same; the same in any order of the tokens; its gradient is that of finite differences; the step
    is left as it was; no random numbers are drawn; all stays finite where no latent is active.
    """
    settings: list[dict[str, float | str]] = [{name: 1.0}]
    for key, option in OBJECTIVES.get(name).spelled().items():
        settings += [{name: 1.0, key: value} for value in option.values[1:]]
    for setting in settings:
        for gated in (False, True):
            _check_term(Objective(setting), _Problem(gated))


def _check_term(objective: Objective, problem: _Problem) -> None:
    label = f"{objective!r}, {'gated' if problem.gated else 'plain'} MLPs"
    state, before = torch.get_rng_state(), problem.fingerprint()
    for part in problem.parts(objective):
        shape = list(part.shape)
        assert not shape, f"{label}: the value has shape {shape}, not that of a mean"
    value = problem.value(objective)
    assert bool(value.isfinite()), f"{label}: the value is {value.item()}"
    assert value.item() >= 0, f"{label}: the value {value.item()} is negative"
    assert torch.equal(problem.value(objective), value), f"{label}: twice asked, it differs"
    assert torch.equal(torch.get_rng_state(), state), f"{label}: it draws random numbers"
    _check_gradient(objective, problem, label)
    assert torch.equal(problem.fingerprint(), before), f"{label}: it changes the step's tensors"
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(5))
    shuffled = problem.value(objective, order)
    close = torch.isclose(shuffled, value, rtol=CLOSE, atol=CLOSE**2)
    assert bool(close), f"{label}: {shuffled.item()} in another order of tokens, not {value.item()}"
    with torch.no_grad():
        problem.crosscoder.b_enc.fill_(-1e9)
    silent, gradients = problem.gradients(objective)
    finite = [bool(t.isfinite().all()) for t in (silent, *gradients)]
    assert all(finite), f"{label}: not finite where no latent is active"


def _check_gradient(objective: Objective, problem: _Problem, label: str) -> None:
    _, gradients = problem.gradients(objective)
    generator = torch.Generator().manual_seed(3)
    for parameter, gradient in zip(problem.parameters, gradients, strict=True):
        assert bool(gradient.isfinite().all()), f"{label}: the gradient is not finite"
        along = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(along, alpha=sign * NUDGE)
                ends.append(problem.value(objective).item())
                parameter.add_(along, alpha=-sign * NUDGE)
        slope, claimed = (ends[0] - ends[1]) / (2 * NUDGE), float((gradient * along).sum())
        size = max(abs(slope), abs(claimed), 1e-3)
        assert abs(slope - claimed) <= 10 * CLOSE * size, (
            f"{label}: the gradient says {claimed:.6g}, finite differences {slope:.6g}"
        )


class _Problem:
    """A random crosscoder at the inputs of random MLPs, and a batch of activations."""

    def __init__(self, gated: bool) -> None:
        self.gated = gated
        generator = torch.Generator().manual_seed(1)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        names = [f"blocks.{block}.mlp.hook_in" for block in range(MLPS)]
        config = CrosscoderConfig(LATENTS, "topk", K)
        hookpoints = Hookpoints.from_names(names, MLPS)
        self.crosscoder = Crosscoder(config, hookpoints, WIDTH).double()
        self.parameters = [p for n, p in self.crosscoder.named_parameters() if n != "W_enc"]
        with torch.no_grad():
            for parameter in self.crosscoder.parameters():
                parameter.copy_(0.4 * draw(*parameter.shape))
        activation = Activation.SILU if gated else Activation.GELU_TANH
        self.targets = []
        for index in range(MLPS):
            weights = draw(WIDTH, NEURONS), draw(NEURONS), draw(NEURONS, WIDTH), draw(WIDTH)
            gate = (draw(WIDTH, NEURONS), draw(NEURONS)) if gated else (None, None)
            mlp = MLPWeights(*weights, activation, *gate)
            second = Norm(1 + 0.3 * draw(WIDTH), draw(WIDTH), 1e-5, centred=True) if index else None
            self.targets.append(TargetMLP.build(index, mlp, seed=1, second=second))
        self.x = draw(TOKENS, MLPS, WIDTH)

    def step(self, order: Tensor | None = None) -> Step:
        """A training step on the tokens, in some order."""
        x = self.x if order is None else self.x[order]
        encoding = self.crosscoder.encode_training(x)
        return Step.build(self.crosscoder, encoding, x, self.targets)

    def value(self, objective: Objective, order: Tensor | None = None) -> Tensor:
        """The objective's one term, as the trainer adds it up."""
        step = self.step(order)
        ((_, _, value),) = penalties(objective, step, _texts(step))
        return value

    def parts(self, objective: Objective) -> list[Tensor]:
        """What the term itself returns, for each MLP or once."""
        term, step = OBJECTIVES.get(next(iter(objective.strengths()))), self.step()
        asked: Sequence[Any] = [step]
        if term.per != "step":
            asked = step.blocks if term.per == "mlp" else _texts(step)
        return [term.function()(each, **objective.options(term)) for each in asked]

    def gradients(self, objective: Objective) -> tuple[Tensor, list[Tensor]]:
        """The value and its gradient for each parameter; zero where none flows."""
        value = self.value(objective)
        if not value.requires_grad:
            return value, [torch.zeros_like(parameter) for parameter in self.parameters]
        made = torch.autograd.grad(
            value, self.parameters, allow_unused=True, materialize_grads=True
        )
        return value.detach(), list(made)

    def fingerprint(self) -> Tensor:
        """Sums of all that a term must leave as it is."""
        tensors = [self.x, *self.crosscoder.parameters()]
        tensors += [target.mlp.W_in for target in self.targets]
        return torch.stack([tensor.detach().abs().sum() for tensor in tensors])


def _texts(step: Step) -> list[TextStep]:
    """The step's MLPs as if a model read on from their outputs: what it predicts is their size."""
    return [TextStep(block, block.relative_error) for block in step.blocks]


def check_sparsity(name: str, config: CrosscoderConfig | None = None) -> None:
    """Checks a registered sparsity rule, built for `config` (by default 20 latents, k = 4).

    Entries are those of the pre-activations, in order; activations are finite, at least zero and
    differentiable; inference looks at each token alone, changes nothing and gives no latent to a
    token whose pre-activations are all negative; a saved state restores the rule.
    """
    config = replace(config or CrosscoderConfig(LATENTS, k=K), sparsity=name)
    rule = SPARSITY.get(name)(config)
    assert isinstance(rule, nn.Module), f"{name}: not a torch.nn.Module"
    assert isinstance(rule, Sparsity), f"{name}: lacks select or activate"
    generator = torch.Generator().manual_seed(2)
    for dtype in (torch.float32, torch.float64):
        rule = rule.to(dtype)
        pre = torch.randn(TOKENS, config.n_latents, generator=generator).to(dtype)
        twin = copy.deepcopy(rule)
        _check_entries(name, rule, pre, training=True)
        same = _active(twin, pre, training=True)
        again = _active(copy.deepcopy(twin), pre, training=False)
        assert torch.equal(again, _active(twin, pre)), f"{name}: the same state differs"
        assert bool(same.isfinite().all()), f"{name}: activations are not finite"
        _check_entries(name, rule, pre, training=False)
        _check_inference(name, rule, pre)
    restored = SPARSITY.get(name)(config).to(torch.float64)
    restored.load_state_dict(rule.state_dict())
    equal = torch.equal(_active(restored, pre), _active(rule, pre))
    assert equal, f"{name}: state_dict does not hold all that inference needs"


def _active(rule: Sparsity, pre: Float[Tensor, "B H"], training: bool = False) -> Tensor:
    return rule.activate(rule.select(pre, training=training)).dense().detach()


def _check_entries(name: str, rule: Sparsity, pre: Float[Tensor, "B H"], training: bool) -> None:
    entries = rule.select(pre, training=training)
    assert entries.n_tokens == len(pre), f"{name}: {entries.n_tokens} tokens of {len(pre)}"
    assert entries.n_latents == pre.shape[1], f"{name}: {entries.n_latents} latents"
    where = entries.token_index, entries.indices
    assert torch.equal(entries.values, pre[where]), f"{name}: values are not pre-activations"
    key = where[0] * pre.shape[1] + where[1]
    assert bool((key.diff() > 0).all()), f"{name}: latents do not ascend within a token"
    leaves = SparseLatents(
        entries.offsets, entries.indices, entries.values.clone().requires_grad_(), pre.shape[1]
    )
    latents = rule.activate(leaves)
    assert torch.equal(latents.indices, entries.indices), f"{name}: activate moves entries"
    assert latents.values.dtype == pre.dtype, f"{name}: activations are {latents.values.dtype}"
    negative = not _signed(rule) and bool((latents.values < 0).any())
    assert not negative, f"{name}: an activation is negative"
    assert latents.values.requires_grad, f"{name}: no gradient reaches the pre-activations"
    (gradient,) = torch.autograd.grad(latents.values.sum(), leaves.values)
    assert bool(gradient.isfinite().all()), f"{name}: the gradient is not finite"
    if pre.dtype == torch.float64:
        nudged = leaves.with_values(entries.values + NUDGE)
        slope = (rule.activate(nudged).values - latents.values).detach() / NUDGE
        assert torch.allclose(slope, gradient, rtol=1e-3, atol=1e-3), (
            f"{name}: the gradient of activations is not that of finite differences"
        )


def _check_inference(name: str, rule: Sparsity, pre: Float[Tensor, "B H"]) -> None:
    assert isinstance(rule, nn.Module)
    before = copy.deepcopy(rule.state_dict())
    whole = _active(rule, pre)
    alone = torch.cat([_active(rule, row[None]) for row in pre])
    assert torch.equal(alone, whole), f"{name}: in inference a token depends on others"
    after = rule.state_dict()
    kept = all(torch.equal(before[key], after[key]) for key in before)
    assert kept, f"{name}: inference changes the rule's state"
    silent = _active(rule, -pre.abs() - 1)
    active = not _signed(rule) and bool(silent.any())
    assert not active, f"{name}: negative pre-activations become active"


def _signed(rule: Sparsity) -> bool:
    """Whether the rule says that its latents may be negative."""
    return getattr(rule, "signed", False) is True


def check_format(name: str, path: Path) -> None:
    """Checks a registered format on a save of its library.

    It recognises the save and nothing else, reads the same finite float32 dictionaries every time,
    writes nothing, and meets damage with a CrossproofError.
    """
    reader = FORMATS.get(name)
    assert isinstance(reader, DictionaryFormat), f"{name}: lacks recognise or read"
    before = _listing(path)
    assert reader.recognise(path), f"{name}: does not recognise {path.name}"
    dictionaries = reader.read(path)
    assert dictionaries, f"{name}: reads nothing from {path.name}"
    for first, second in zip(dictionaries, reader.read(path), strict=True):
        for part in ("W_enc", "W_dec", "b_enc", "b_dec"):
            tensor = getattr(first, part)
            assert tensor.dtype == torch.float32, f"{name}: {part} is {tensor.dtype}"
            assert tensor.device.type == "cpu", f"{name}: {part} is on {tensor.device}"
            assert torch.equal(tensor, getattr(second, part)), f"{name}: {part} differs when reread"
    assert _listing(path) == before, f"{name}: reading changes {path.name}"
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "empty").mkdir()
        (Path(place) / "notes.txt").write_text("no dictionary")
        for other in ("empty", "notes.txt", "missing"):
            assert not reader.recognise(Path(place) / other), f"{name}: recognises {other}"
        for damaged in _damaged(path, Path(place)):
            _check_refused(name, reader, damaged)


def _check_refused(name: str, reader: DictionaryFormat, path: Path) -> None:
    """A damaged save is an error of ours or, where the damage does not matter, none at all."""
    try:
        reader.read(path)
    except CrossproofError:
        return
    except Exception as error:
        raise AssertionError(f"{name}: damage ends in {type(error).__name__}: {error}") from error


def _damaged(path: Path, place: Path) -> Iterator[Path]:
    """Copies of a save, each with one file cut in half."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for number, file in enumerate(files):
        target = place / str(number) / path.name
        if path.is_file():
            target.parent.mkdir()
            shutil.copy(path, target)
        else:
            shutil.copytree(path, target)
        victim = target if path.is_file() else target / file.relative_to(path)
        victim.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        yield target


def _listing(path: Path) -> list[tuple[str, int]]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return [(str(file), file.stat().st_mtime_ns) for file in files]
