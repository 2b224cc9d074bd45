"""What trains language models: the fast forward pass, optimisers, schedule, batches."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from rounding import close
from tiny_models import ARCHITECTURES, VOCABULARY, random_tokens
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from crossproof.errors import CrossproofError
from models import pretraining


def neo(activation: str = "relu", tied: bool = True, local: bool = False) -> GPTNeoForCausalLM:
    """Two blocks with weights far from their initial values."""
    torch.manual_seed(0)
    model = GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=16,
            hidden_size=8,
            num_layers=2,
            attention_types=[[["local" if local else "global"], 2]],
            window_size=2,
            num_heads=2,
            intermediate_size=24,
            activation_function=activation,
            tie_word_embeddings=tied,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(("activation", "tied"), [("relu", False), ("gelu_new", True)])
def test_the_lean_forward_pass_is_the_librarys(activation: str, tied: bool) -> None:
    model, tokens = neo(activation, tied), random_tokens(3, 12)
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        rounding = close(8 * 24, expected, torch.float32)  # the longest sums are over 24 neurons
        torch.testing.assert_close(pretraining.lean_logits(model, tokens), expected, **rounding)
        last = pretraining.lean_logits(model, tokens, last_only=True)
        torch.testing.assert_close(last, expected[:, -1:], **rounding)
        torch.testing.assert_close(pretraining.fast_logits(model, tokens), expected, **rounding)
    pretraining.check_lean_logits(model, tokens)


def test_a_model_that_the_lean_pass_does_not_follow_is_refused() -> None:
    with pytest.raises(CrossproofError, match="lean forward pass"):
        pretraining.check_lean_logits(neo(local=True), random_tokens(2, 12))


@pytest.mark.parametrize("kind", ["gpt-neo", "gpt-neox", "llama"])
def test_muon_gets_the_blocks_matrices_and_adam_the_rest(kind: str) -> None:
    model = ARCHITECTURES[kind]()
    muon, adam = pretraining.optimisers(model, 0.02, 0.003)
    names = {id(p): n for n, p in model.named_parameters()}
    hidden, others = (
        [names[id(p)] for g in o.param_groups for p in g["params"]] for o in (muon, adam)
    )
    assert sorted(hidden + others) == sorted(names.values())
    assert all("weight" in n and "norm" not in n and "ln" not in n for n in hidden)
    assert not any("emb" in n or "wte" in n or "wpe" in n or "lm_head" in n for n in hidden)
    blocks = len({n.split(".")[2] for n in hidden})
    assert len(hidden) == blocks * {"gpt-neo": 6, "gpt-neox": 4, "llama": 7}[kind]


def test_a_pytorch_without_muon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(CrossproofError, match=r"PyTorch 2\.9"):
        pretraining.optimisers(neo(), 0.02, 0.003)


def test_an_update_uses_the_factor_of_the_initial_rate() -> None:
    """A second update at half the rate starts from the initial one, not from the first's."""
    model = neo()
    opts = pretraining.optimisers(model, 0.02, 0.004)
    for factor in (0.5, 0.25):
        before = [p.detach().clone() for p in model.parameters()]
        pretraining.update(
            model, opts, pretraining.next_token_loss(model, random_tokens(4, 8)), factor
        )
        assert [o.param_groups[0]["lr"] for o in opts] == [0.02 * factor, 0.004 * factor]
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert all(p.grad is None for p in model.parameters())


def test_the_schedule_warms_up_and_falls_to_two_percent() -> None:
    values = [pretraining.schedule(step, 1000) for step in range(1001)]
    assert values[0] == pytest.approx(0.01)
    assert values[:100] == sorted(values[:100])
    assert values[100:] == sorted(values[100:], reverse=True)
    assert values[-1] == pytest.approx(0.02)


def test_every_epoch_has_every_row_once_in_a_new_order() -> None:
    rows = torch.arange(12)[:, None].repeat(1, 3)
    batches = [batch[:, 0] for batch in islice(pretraining.shuffled(rows, 4, seed=1), 6)]
    epochs = torch.cat(batches).view(2, 12)
    assert epochs.sort(dim=1).values.equal(torch.arange(12).expand(2, 12))
    assert not epochs[0].equal(epochs[1])
    again = torch.cat([batch[:, 0] for batch in islice(pretraining.shuffled(rows, 4, seed=1), 6)])
    assert again.equal(epochs.flatten())
    long = next(pretraining.shuffled(rows, 30, seed=1))
    assert torch.bincount(long[:, 0]).max() <= 3


def test_held_out_loss_is_the_mean_over_windows() -> None:
    model, tokens = neo(), random_tokens(40, 10)
    with torch.no_grad():
        expected = model(input_ids=tokens, labels=tokens).loss.item()
    assert pretraining.held_out_loss(model, tokens) == pytest.approx(expected, rel=1e-5)
