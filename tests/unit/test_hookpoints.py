from __future__ import annotations

import pytest

from crossproof.errors import CrossproofError
from crossproof.lm import BlockHookpoints, Hookpoints, LanguageModel
from crossproof.lm.hookpoints import resolve_hookpoints, standard_names


def test_standard_set_of_a_sequential_model(gpt_neo: LanguageModel) -> None:
    points = gpt_neo.hookpoints()
    assert points.names == (
        "blocks.0.hook_resid_pre",
        "blocks.0.attn.hook_in",
        "blocks.0.hook_resid_mid",
        "blocks.0.mlp.hook_in",
        "blocks.1.hook_resid_pre",
        "blocks.1.attn.hook_in",
        "blocks.1.hook_resid_mid",
        "blocks.1.mlp.hook_in",
        "blocks.1.hook_resid_post",
    )
    assert points.blocks == (
        BlockHookpoints(resid_pre=0, attn_in=1, resid_mid=2, mlp_in=3, resid_post=4),
        BlockHookpoints(resid_pre=4, attn_in=5, resid_mid=6, mlp_in=7, resid_post=8),
    )
    assert len(points) == 9
    assert points.mlp_blocks == (0, 1)


def test_parallel_attention_and_mlp_leave_no_resid_mid(
    language_models: dict[str, LanguageModel],
) -> None:
    points = language_models["gpt-neox"].hookpoints()
    assert not any("resid_mid" in name for name in points.names)
    assert [block.resid_mid for block in points.blocks] == [None, None]
    assert points.blocks[1] == BlockHookpoints(resid_pre=3, attn_in=4, mlp_in=5, resid_post=6)
    sequential = language_models["gpt-neox-sequential"].hookpoints()
    assert sequential.blocks[0].resid_mid == 2


def test_globs_and_names_come_back_in_forward_order(gpt_neo: LanguageModel) -> None:
    points = gpt_neo.hookpoints(
        ["blocks.1.hook_resid_post", "blocks.*.mlp.hook_in", "blocks.0.mlp.hook_in"]
    )
    assert points.names == (
        "blocks.0.mlp.hook_in",
        "blocks.1.mlp.hook_in",
        "blocks.1.hook_resid_post",
    )
    assert points.blocks[0] == BlockHookpoints(mlp_in=0)


def test_every_available_hookpoint_is_in_forward_order(gpt_neo: LanguageModel) -> None:
    available = gpt_neo.available_hookpoints()
    standard = [name for name in available if name in standard_names(gpt_neo.n_blocks)]
    assert standard == list(standard_names(gpt_neo.n_blocks))


@pytest.mark.parametrize("pattern", ["blocks.0.hook_resid_premid", "blocks.9.*resid_pre"])
def test_a_pattern_that_selects_nothing_suggests_the_nearest(
    gpt_neo: LanguageModel, pattern: str
) -> None:
    with pytest.raises(CrossproofError, match=r"Nearest: .*blocks\.\d\.hook_resid_pre"):
        gpt_neo.hookpoints(["blocks.0.mlp.hook_in", pattern])


def test_no_patterns_at_all_is_an_error() -> None:
    with pytest.raises(CrossproofError, match="name at least one"):
        resolve_hookpoints([], ["blocks.0.hook_resid_pre"], 1)


def test_index_suggests_the_nearest_name() -> None:
    points = Hookpoints.from_names(["blocks.0.mlp.hook_in", "blocks.0.hook_resid_post"], 1)
    assert points.index("blocks.0.hook_resid_post") == 1
    with pytest.raises(CrossproofError, match=r"blocks\.0\.mlp\.hook_in"):
        points.index("blocks.0.mlp.in")


def test_a_name_listed_twice_is_an_error() -> None:
    with pytest.raises(CrossproofError, match="twice"):
        Hookpoints.from_names(["blocks.0.mlp.hook_in", "blocks.0.mlp.hook_in"], 1)


def test_the_stream_between_blocks_serves_both_under_either_name() -> None:
    as_post = Hookpoints.from_names(["blocks.0.hook_resid_post"], 2)
    as_pre = Hookpoints.from_names(["blocks.1.hook_resid_pre"], 2)
    expected = (BlockHookpoints(resid_post=0), BlockHookpoints(resid_pre=0))
    assert as_post.blocks == as_pre.blocks == expected
    both = Hookpoints.from_names(["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"], 2)
    assert both.blocks == (BlockHookpoints(resid_post=0), BlockHookpoints(resid_pre=1))


def test_parts_only_where_a_decoder_is() -> None:
    names = "blocks.0.hook_resid_post", "blocks.0.mlp.hook_in", "blocks.1.mlp.hook_in"
    points = Hookpoints.from_names(names, 2).playing_parts_at({0, 2})
    assert points.names == names
    assert points.blocks == (BlockHookpoints(resid_post=0), BlockHookpoints(resid_pre=0, mlp_in=2))
    assert points.mlp_blocks == (1,)
