"""What an evaluation of the bundled model costs, beside one that runs whole passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from crossproof.activations import read_sequences
from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.evaluation import Tally, patching, tally_sequences
from crossproof.lm import CleanPass, LanguageModel, load_model


class WholePasses(CleanPass):
    """What `CleanPass` gives, every pass run from the tokens on."""

    def token_losses(self, patch: Mapping[str, Tensor]) -> Tensor:
        return self.model.token_losses(self.tokens, patch)

    def divergences(self, patches: Iterable[Mapping[str, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        clean = self.model.log_probabilities(self.tokens)[0, :, :-1]
        targets, found = self.tokens[:, 1:, None].long(), []
        for patch in patches:
            other = self.model.log_probabilities(self.tokens, patch)[0, :, :-1]
            kl = (clean.exp() * (clean - other)).sum(-1)
            found.append((-other.gather(2, targets)[..., 0], kl))
        return found


def counted(
    model: LanguageModel, crosscoders: list[Crosscoder], tokens: Tensor, share: bool
) -> tuple[list[Tally], int, int]:
    """The sums, and the operations of the model's blocks and of all of the model."""
    tallies: list[Tally] = []
    with FlopCounterMode(display=False) as counter:
        for crosscoder in crosscoders:
            known = tallies[0].shared() if share and tallies else None
            tallies.append(tally_sequences(model, crosscoder, tokens, known=known))
    counts = counter.get_flop_counts()
    blocks = [f"GPTNeoForCausalLM.transformer.h.{block}" for block in range(model.n_blocks)]
    inside = sum(sum(counts[name].values()) for name in blocks)
    return tallies, inside, sum(counts["GPTNeoForCausalLM"].values())


@pytest.mark.slow
def test_figures_are_equal_for_fewer_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit; two crosscoders share what does not depend on them.

    Every patched pass ends in an unembedding of its own, which is a fifth of this model's pass, so
    the blocks' operations fall by more than the whole model's.
    """
    model = load_model()
    tokens = read_sequences("bundled", model, 16, "held_out")[:3]
    crosscoders = []
    for seed in range(2):
        crosscoder = Crosscoder(CrosscoderConfig(64, k=4), model.hookpoints(), model.d_model)
        sample = model.activations(tokens, model.hookpoints().names).flatten(0, 1)
        crosscoder.initialise(sample, seed=seed)
        crosscoders.append(crosscoder)
    tally_sequences(model, crosscoders[0], tokens)  # every start is tried once
    ours, blocks, whole = counted(model, crosscoders, tokens, share=True)
    monkeypatch.setattr(patching, "clean_pass", WholePasses)
    theirs, all_blocks, all_of_it = counted(model, crosscoders, tokens, share=False)
    for mine, others in zip(ours, theirs, strict=True):
        sums, expected = mine.joined(), others.joined()
        assert sums.keys() == expected.keys()
        assert all(np.array_equal(sums[name], expected[name]) for name in sums)
        assert torch.equal(torch.tensor(mine.kept[1][0]), torch.tensor(others.kept[1][0]))
    assert all_blocks > 2.5 * blocks, all_blocks / blocks
    assert all_of_it > 1.9 * whole, all_of_it / whole
