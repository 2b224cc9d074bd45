"""Loss gradients at hookpoints, and the metric made of them."""

from __future__ import annotations

import pytest
import torch

from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel
from crossproof.training.sensitivity import sensitivity_metrics


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(1, 64, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["gpt2", "gpt-neo", "gpt-neox", "llama"])
def test_gradients_predict_how_the_loss_changes(
    kind: str, language_models: dict[str, LanguageModel], tokens: torch.Tensor
) -> None:
    model = language_models[kind]
    names = [f"blocks.{block}.mlp.hook_out" for block in range(model.n_blocks)]
    gradients = model.loss_gradients(tokens, names)
    values = model.activations(tokens, names)
    generator = torch.Generator().manual_seed(1)
    for place, name in enumerate(names):
        direction = 1e-2 * torch.randn(values[:, :, place].shape, generator=generator)
        up, down = (
            model.token_losses(tokens, {name: values[:, :, place] + sign * direction})
            .double()
            .sum()
            for sign in (1, -1)
        )
        predicted = (gradients[:, :, place] * direction).double().sum() * 2
        assert torch.isclose(up - down, predicted, rtol=0.05, atol=2e-4)


def test_metric_is_the_mixture_of_identity_and_second_moment(
    gpt_neo: LanguageModel, tokens: torch.Tensor
) -> None:
    hookpoints = gpt_neo.hookpoints()
    metrics = sensitivity_metrics(gpt_neo, hookpoints, tokens, share=0.25)
    assert set(metrics) == {hookpoints.blocks[b].mlp_in for b in hookpoints.mlp_blocks}
    gradients = gpt_neo.loss_gradients(tokens, ["blocks.1.mlp.hook_out"])[:, :, 0].flatten(0, 1)
    moment = gradients.T @ gradients
    width = gpt_neo.d_model
    expected = 0.25 * moment * width / moment.trace() + 0.75 * torch.eye(width)
    factor = metrics[hookpoints.blocks[1].mlp_in]
    torch.testing.assert_close(factor @ factor.T, expected, rtol=1e-4, atol=1e-5)


def test_unknown_hookpoint_is_named(gpt_neo: LanguageModel, tokens: torch.Tensor) -> None:
    with pytest.raises(CrossproofError, match="hook_outt"):
        gpt_neo.loss_gradients(tokens, ["blocks.0.mlp.hook_outt"])
