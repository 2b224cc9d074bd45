"""Two models as one: hookpoints, blocks, activations and losses are those of the two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import N_BLOCKS, random_tokens, save_model, tuned_gpt_neo
from transformers import PreTrainedModel

from crossproof.activations import Harvest
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel, ModelPair, load_model


@pytest.fixture(scope="module")
def pair(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> ModelPair:
    tuned = save_model(tmp_path_factory.mktemp("pair") / "tuned", tuned_gpt_neo)
    found = load_model(f"{model_folders['gpt-neo']},{tuned}")
    assert isinstance(found, ModelPair)
    return found


def test_a_pair_names_both_models_and_hashes(pair: ModelPair) -> None:
    base, diff = pair.models
    assert pair.weights_hash == f"{base.weights_hash},{diff.weights_hash}"
    assert pair.name == f"{base.name},{diff.name}"
    assert base.weights_hash != diff.weights_hash


def test_hookpoints_stand_side_by_side_with_their_parts(pair: ModelPair) -> None:
    found, single = pair.hookpoints(), pair.models[0].hookpoints()
    assert found.names == tuple(p + n for p in ("base/", "diff/") for n in single.names)
    assert found.mlp_blocks == tuple(range(2 * N_BLOCKS))
    for block in range(2 * N_BLOCKS):
        prefix, own = ("base/", block) if block < N_BLOCKS else ("diff/", block - N_BLOCKS)
        place = found.blocks[block].mlp_in
        assert place is not None
        assert found.names[place] == f"{prefix}blocks.{own}.mlp.hook_in"
        mid = found.blocks[block].resid_mid
        assert mid is not None
        assert found.names[mid] == f"{prefix}blocks.{own}.hook_resid_mid"


def test_patterns_select_in_both_models_or_in_one(pair: ModelPair) -> None:
    both = pair.hookpoints(["blocks.*.mlp.hook_in"])
    assert len(both) == 2 * N_BLOCKS
    one = pair.hookpoints(["diff/blocks.0.mlp.hook_in"])
    assert one.names == ("diff/blocks.0.mlp.hook_in",)
    assert one.mlp_blocks == (N_BLOCKS,)
    with pytest.raises(CrossproofError, match="either model"):
        pair.hookpoints(["base/blocks.9.mlp.hook_in"])
    with pytest.raises(CrossproofError, match="No hookpoints"):
        pair.hookpoints([])


def test_a_joint_harvest_equals_two_separate_ones(pair: ModelPair) -> None:
    tokens = random_tokens(12, 10)
    joint = Harvest(pair, tokens, pair.hookpoints(), 16, buffer_batches=2, seed=3)
    separate = [
        Harvest(model, tokens, model.hookpoints(), 16, buffer_batches=2, seed=3)
        for model in pair.models
    ]
    for step in (0, 1, 5):
        expected = torch.cat([harvest.batch(step) for harvest in separate], dim=1)
        assert torch.equal(joint.batch(step), expected)


def test_hookpoints_may_be_read_in_any_order_and_by_block_number(pair: ModelPair) -> None:
    tokens = random_tokens(2, 8)
    names = ["diff/blocks.1.mlp.hook_in", "base/blocks.0.hook_resid_mid"]
    found = pair.activations(tokens, names)
    for place, (model, name) in enumerate(
        [(pair.models[1], "blocks.1.mlp.hook_in"), (pair.models[0], "blocks.0.hook_resid_mid")]
    ):
        assert torch.equal(found[:, :, place], model.activations(tokens, [name])[:, :, 0])
    by_number = pair.activations(tokens, [f"blocks.{N_BLOCKS + 1}.mlp.hook_in"])
    assert torch.equal(by_number[:, :, 0], found[:, :, 0])


def test_every_block_has_the_mlp_and_attention_of_its_model(pair: ModelPair) -> None:
    for number, model in enumerate(pair.models):
        for block in range(N_BLOCKS):
            joint = number * N_BLOCKS + block
            assert torch.equal(pair.mlp(joint).W_in, model.mlp(block).W_in)
            assert pair.attention(joint) is model.attention(block)
    for wrong in (-1, 2 * N_BLOCKS):
        with pytest.raises(CrossproofError, match="there is no block"):
            pair.mlp(wrong)


def test_a_patch_changes_the_loss_of_its_own_model_only(pair: ModelPair) -> None:
    tokens = random_tokens(3, 8)
    base, diff = pair.models
    own = (base.token_losses(tokens), diff.token_losses(tokens))
    assert torch.allclose(pair.token_losses(tokens), (own[0] + own[1]) / 2)
    zeros = torch.zeros(3, 8, pair.d_model)
    patched = pair.token_losses(tokens, {"diff/blocks.0.mlp.hook_out": zeros})
    theirs = diff.token_losses(tokens, {"blocks.0.mlp.hook_out": zeros})
    assert torch.allclose(patched, (own[0] + theirs) / 2)
    both = pair.log_probabilities(tokens, {"diff/blocks.0.mlp.hook_out": zeros})
    assert torch.equal(both[:1], base.log_probabilities(tokens))
    assert not torch.allclose(both[1:], diff.log_probabilities(tokens))


def test_two_models_have_no_common_logits(pair: ModelPair) -> None:
    with pytest.raises(CrossproofError, match="no common logits"):
        pair.logits(random_tokens(1, 4))


@pytest.mark.parametrize("name", ["base/blocks.7.mlp.hook_in", "nonsense", "blocks.x.mlp.hook_in"])
def test_an_unknown_hookpoint_is_named(pair: ModelPair, name: str) -> None:
    with pytest.raises(CrossproofError, match="no hookpoint"):
        pair.activations(random_tokens(1, 4), [name])


def test_models_of_other_widths_or_vocabularies_are_refused(
    gpt_neo: LanguageModel, tmp_path: Path
) -> None:
    def changed(**changes: int) -> PreTrainedModel:
        model = tuned_gpt_neo()
        return type(model)(type(model.config)(**{**model.config.to_dict(), **changes}))

    wide = load_model(str(save_model(tmp_path / "wide", lambda: changed(hidden_size=32))))
    with pytest.raises(CrossproofError, match="their width is 16 and 32"):
        ModelPair(gpt_neo, wide)
    words = load_model(str(save_model(tmp_path / "words", lambda: changed(vocab_size=80))))
    with pytest.raises(CrossproofError, match="vocabulary size is 64 and 80"):
        ModelPair(gpt_neo, words)
