"""The training step on synthetic sparse data: no language model anywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from dictionaries import mlp_hookpoints, random_mlp
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.lm import Activation, MLPWeights
from crossproof.training.objectives import Objective
from crossproof.training.schedules import Schedule
from crossproof.training.trainer import Optimisation, Trainer

WIDTH, TRUE, LATENTS, K = 12, 16, 24, 3
HOOKPOINTS = mlp_hookpoints(2)
EVERYTHING = Objective(
    interaction=1.0,
    keep_largest=1.0,
    all_latents=1.0,
    certified=0.1,
    dominant_share=0.1,
    l1=0.01,
    mlp_in=0.1,
    rotated=0.1,
)


class SparseData:
    """x = Σ a_h d_h over few of the true directions, at all hookpoints at once."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        shape = TRUE, len(HOOKPOINTS), WIDTH
        self.decoder = torch.randn(shape, generator=self.generator)

    def batch(self, tokens: int = 128) -> Tensor:
        active = torch.rand(tokens, TRUE, generator=self.generator) < K / TRUE
        size = 0.5 + torch.rand(tokens, TRUE, generator=self.generator)
        return torch.einsum("bh,hpd->bpd", active * size, self.decoder)


def mlps() -> dict[int, MLPWeights]:
    generator = torch.Generator().manual_seed(7)
    shape = {"width": WIDTH, "neurons": 20, "dtype": torch.float32}
    return {
        p: random_mlp(activation, gated, generator, **shape)
        for p, activation, gated in [(0, Activation.GELU, False), (1, Activation.SILU, True)]
    }


def make(
    objective: Objective = Objective(),  # noqa: B008  (frozen)
    steps: int = 300,
    rule: Any = "batch_topk",
    **options: Any,
) -> Trainer:
    crosscoder = Crosscoder(CrosscoderConfig(LATENTS, rule, K), HOOKPOINTS, WIDTH)
    crosscoder.initialise(SparseData().batch(1000), seed=0)
    optimisation = replace(Optimisation(lr=5e-3, dead_after=2000), **options)
    return Trainer(crosscoder, mlps(), objective, optimisation, steps, seed=0)


def run(trainer: Trainer, steps: int, data: SparseData | None = None) -> list[dict[str, float]]:
    data = data or SparseData()
    reports = (trainer.step(data.batch()) for _ in range(steps))
    return [{name: value.item() for name, value in report.terms.items()} for report in reports]


def unexplained(crosscoder: Crosscoder) -> float:
    x = SparseData().batch(2000)
    x_hat = crosscoder.decode(crosscoder.encode(x)).detach()
    return ((x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum()).item()


@pytest.mark.parametrize(
    ("rule", "objective"),
    [
        ("batch_topk", Objective()),
        ("topk", Objective()),
        ("relu", Objective(l1=0.05)),
        ("jumprelu", Objective(l0=0.05)),
    ],
)
def test_sparse_data_is_reconstructed(rule: str, objective: Objective) -> None:
    trainer = make(objective, rule=rule)
    before = unexplained(trainer.crosscoder)
    reports = run(trainer, 300)
    after = unexplained(trainer.crosscoder)
    assert after < 0.15
    assert after < before / 2
    assert reports[-1]["reconstruction"] < reports[0]["reconstruction"] / 3


@pytest.mark.parametrize(
    "term",
    [
        "interaction",
        "keep_largest",
        *(
            pytest.param(t, marks=pytest.mark.slow)
            for t in ("certified", "dominant_share", "rotated")
        ),
    ],
)
def test_a_penalty_lowers_what_it_penalises(term: str) -> None:
    strength = {"keep_largest": 30.0, "dominant_share": 30.0}.get(term, 10.0)
    penalised = run(make(Objective(**{term: strength}), penalty_warmup=0.0), 150)
    watched = run(make(Objective(**{term: 1e-9}), penalty_warmup=0.0), 150)
    assert penalised[-1][term] < 0.8 * watched[-1][term]


def test_penalties_rise_over_their_warm_up() -> None:
    start = make(Objective(interaction=1000.0), penalty_warmup=0.5)
    plain = make(Objective(interaction=1e-30), penalty_warmup=0.5)
    batch = SparseData().batch()
    first, without = start.step(batch), plain.step(batch)
    ramp = (first.loss - without.loss) * (len(HOOKPOINTS) * WIDTH)
    expected = 1000 * first.terms["interaction"] / 150  # the first of 150 steps
    torch.testing.assert_close(ramp.detach(), expected, rtol=1e-3, atol=0)


def test_delayed_penalties_start_from_the_unpenalised_crosscoder() -> None:
    delayed = make(EVERYTHING, steps=40, penalty_delay=0.5, penalty_warmup=0.0)
    plain = make(steps=40)
    for trainer in (delayed, plain):
        run(trainer, 20)
    before = {k: v.clone() for k, v in delayed.state().items()}
    assert all(torch.equal(value, before[name]) for name, value in plain.state().items())
    for trainer in (delayed, plain):
        run(trainer, 1)
    assert not torch.equal(delayed.crosscoder.W_dec, plain.crosscoder.W_dec)


def plant_dead_latents(trainer: Trainer) -> Tensor:
    """Once the threshold is known, half of the latents get encoders too faint to reach it."""
    run(trainer, 20)
    planted = torch.arange(LATENTS) % 2 == 0
    with torch.no_grad():
        trainer.crosscoder.W_enc[planted] *= 0.02
        trainer.crosscoder.b_enc[planted] *= 0.02
    return planted


def alive(crosscoder: Crosscoder) -> Tensor:
    counts = torch.bincount(crosscoder.encode(SparseData().batch(2000)).indices, minlength=LATENTS)
    return counts > 0


def test_dead_latents_are_revived_and_stay_dead_without_the_request() -> None:
    survivors, errors = {}, {}
    for weight in (1 / 4, 0.0):
        trainer = make(revive_weight=weight, revive_bias_rate=0.0, dead_after=1000)
        planted = plant_dead_latents(trainer)
        assert not alive(trainer.crosscoder)[planted].any()
        run(trainer, 300)
        survivors[weight] = int(alive(trainer.crosscoder)[planted].sum())
        errors[weight] = unexplained(trainer.crosscoder)
    # Twelve latents are left for sixteen directions: four more are wanted.
    assert survivors[0.0] == 0
    assert survivors[1 / 4] >= 3
    assert errors[1 / 4] < 0.7 * errors[0.0]


def test_latents_that_fire_nowhere_are_lifted_until_they_do() -> None:
    """No gradient reaches a latent whose pre-activation is negative everywhere."""
    survivors = {}
    for lift in (Optimisation().revive_bias_rate, 0.0):
        trainer = make(revive_bias_rate=lift, dead_after=1000)
        run(trainer, 20)
        planted = torch.arange(LATENTS) % 2 == 0
        with torch.no_grad():
            trainer.crosscoder.b_enc[planted] -= 5
        run(trainer, 300)
        survivors[lift] = int(alive(trainer.crosscoder)[planted].sum())
    assert survivors.pop(0.0) <= 1
    assert survivors.popitem()[1] >= 3


def test_dead_latents_are_counted_after_their_tokens_of_silence() -> None:
    trainer = make(revive_weight=0.0, dead_after=500)
    planted = plant_dead_latents(trainer)
    dead = [int(trainer.step(SparseData(i).batch()).dead) for i in range(6)]
    assert dead[:3] == [0, 0, 0]  # 384 tokens of silence
    assert dead[3] >= int(planted.sum())  # 512
    assert (trainer.tokens_since_fired[planted] == 6 * 128).all()


@pytest.mark.parametrize(
    ("latents", "k", "tokens"), [(24, 3, 20_000), (1024, 16, 20_000), (4096, 16, 79_872)]
)
def test_latents_of_wide_dictionaries_may_be_silent_longer(
    latents: int, k: int, tokens: int
) -> None:
    """Each waits H / k tokens on average; what was asked for explicitly is kept to."""
    config = CrosscoderConfig(latents, "topk", k)
    with torch.device("meta"):
        crosscoder = Crosscoder(config, HOOKPOINTS, WIDTH)
    for asked, expected in ((0, tokens), (500, 500)):
        trainer = Trainer(crosscoder, {}, Objective(), Optimisation(dead_after=asked), 10)
        assert trainer.dead_after == expected


@pytest.mark.parametrize("rule", [pytest.param("topk", marks=pytest.mark.slow), "batch_topk"])
def test_tritons_programs_take_the_same_steps(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a plain and a gated MLP, all terms; float32 sums of some hundred terms."""
    pytest.importorskip("triton")
    terms = {}
    for path in ("torch", "triton"):
        monkeypatch.setenv("CROSSPROOF_KERNELS", path)
        trainer, data = make(EVERYTHING, rule=rule), SparseData()
        reports = [trainer.step(data.batch(12)) for _ in range(3)]
        terms[path] = {name: float(value) for name, value in reports[-1].terms.items()}
    for name, value in terms["torch"].items():
        assert terms["triton"][name] == pytest.approx(value, rel=1e-4), name


def test_a_batch_that_is_not_finite_changes_nothing_on_a_device_that_nobody_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU: steps go on, and `check` raises what the first of them met."""
    trainer, data = make(Objective(interaction=1.0)), SparseData()
    trainer.step(data.batch())
    before = {name: tensor.clone() for name, tensor in trainer.state().items() if name != "step"}
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "check", lambda *_: None)
        trainer.step(data.batch() * torch.nan)
    after = trainer.state()
    assert {
        name for name, tensor in before.items() if not torch.equal(tensor, after[name])
    } == set()
    with pytest.raises(CrossproofError, match="not finite at training step 1"):
        trainer.check()
    trainer.check()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_batch_is_refused_and_leaves_everything_as_it_was(bad: float) -> None:
    trainer = make(EVERYTHING)
    run(trainer, 3)
    before = trainer.state()
    batch = SparseData().batch()
    batch[:, 1, 4] = bad
    name = HOOKPOINTS.names[1]
    with pytest.raises(CrossproofError, match=rf"{name} in training step 3"):
        trainer.step(batch)
    assert_same_state(trainer.state(), before)
    assert torch.isfinite(trainer.step(SparseData().batch()).loss)


def test_an_exploded_loss_names_the_step() -> None:
    trainer = make()
    run(trainer, 2)
    with torch.no_grad():
        trainer.crosscoder.W_dec.mul_(1e30)
    with pytest.raises(CrossproofError, match=r"not finite at training step 2: lower the learning"):
        trainer.step(SparseData().batch())


def assert_same_state(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


@pytest.mark.parametrize("rule", ["batch_topk", "jumprelu"])
def test_a_resumed_run_has_the_same_bytes_and_so_has_a_second_one(rule: str) -> None:
    batches = [SparseData(i).batch() for i in range(10)]
    whole, second, begun, resumed = (
        make(EVERYTHING, steps=10, rule=rule, dead_after=300) for _ in range(4)
    )
    for batch in batches:
        whole.step(batch)
        second.step(batch)
    assert_same_state(whole.state(), second.state())
    for batch in batches[:5]:
        begun.step(batch)
    saved = begun.state()
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    resumed.load_state(saved)
    for batch in batches[5:]:
        resumed.step(batch)
    assert_same_state(resumed.state(), whole.state())
    assert_same_state(saved, kept)  # training on does not write into what was loaded


def test_state_of_another_size_is_refused() -> None:
    other = Crosscoder(CrosscoderConfig(LATENTS + 1, "batch_topk", K), HOOKPOINTS, WIDTH)
    wrong = Trainer(other, mlps(), Objective(), Optimisation(), 10).state()
    with pytest.raises(RuntimeError, match="size mismatch"):
        make().load_state(wrong)


def test_the_clipped_gradient_has_the_norm_asked_for() -> None:
    trainer = make(clip=1e-3)
    trainer.step(SparseData().batch())
    norms = [p.grad.norm() for p in trainer.crosscoder.parameters()]
    assert torch.stack(norms).norm() == pytest.approx(1e-3, rel=1e-4)


def test_bfloat16_trains_too() -> None:
    trainer = make(EVERYTHING, bf16=True)
    reports = run(trainer, 60)
    assert reports[-1]["reconstruction"] < reports[0]["reconstruction"] / 2


def test_the_schedule_rises_holds_and_falls() -> None:
    rate = Schedule(steps=100, warmup=0.1, decay=0.2)
    factors = [rate(i) for i in range(102)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:81] == [1.0] * 72
    assert factors[90] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.05)
    assert factors[100:] == [0.0, 0.0]
    assert [Schedule(10, 0.0, 0.0)(i) for i in (0, 9)] == [1.0, 1.0]
    late = Schedule(steps=10, warmup=0.2, decay=0.0, delay=0.5)
    assert [late(i) for i in (0, 4, 5, 6, 9)] == [0.0, 0.0, 0.5, 1.0, 1.0]
