"""The attention view gives the model's own scores, probabilities and output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from dictionaries import standard_rotary
from rounding import close
from tiny_models import (
    ARCHITECTURES,
    CONTEXT,
    D_MODEL,
    IDS,
    N_BLOCKS,
    random_tokens,
    save_model,
)
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from crossproof.errors import CrossproofError
from crossproof.lm import AttentionWeights, LanguageModel, load_model
from crossproof.lm.attention_reading import check_attention

SHAPE = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": CONTEXT,
    **IDS,
}
GPT2_SHAPE = {"n_positions": CONTEXT, "n_embd": D_MODEL, "n_layer": N_BLOCKS, "n_head": 2, **IDS}
NEOX_SHAPE = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}


def llama_with(**rope: object) -> PreTrainedModel:
    rope = {"rope_theta": 100.0, **rope}
    return LlamaForCausalLM(LlamaConfig(rope_parameters=rope, attention_bias=True, **SHAPE))


MORE: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2-biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "mistral-window": lambda: MistralForCausalLM(MistralConfig(sliding_window=5, **SHAPE)),
    "llama-yarn": lambda: llama_with(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=8
    ),
    "gpt2-by-layer": lambda: GPT2LMHeadModel(
        GPT2Config(scale_attn_by_inverse_layer_idx=True, **GPT2_SHAPE)
    ),
    "neox-half": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 50.0,
                "partial_rotary_factor": 0.5,
            },
            use_parallel_residual=False,
            **{**NEOX_SHAPE, "num_attention_heads": 2},
        )
    ),
}
REFUSED: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "qwen3": (lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)), "normalises its queries and keys"),
    "gemma2": (
        lambda: Gemma2ForCausalLM(Gemma2Config(head_dim=4, **SHAPE)),
        "caps its scores",
    ),
    "llama-dynamic": (
        lambda: llama_with(rope_type="dynamic", factor=4.0),
        "angles that depend on the sequence's length",
    ),
    "gpt-j": (  # coordinates turn in other pairs
        lambda: GPTJForCausalLM(GPTJConfig(rotary_dim=4, **GPT2_SHAPE)),
        # depending on how the installed transformers holds its angles
        "(not of the usual bilinear form|rotary positions without fixed frequencies)",
    ),
    "bloom": (  # a bias on the scores
        lambda: BloomForCausalLM(BloomConfig(hidden_size=D_MODEL, n_layer=1, n_head=2, **IDS)),
        "not of the usual bilinear form",
    ),
}
ALL = {**ARCHITECTURES, **MORE}


@pytest.fixture(scope="module")
def folders(
    model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("attention")
    more = {kind: save_model(folder / kind, build, tokenizer=False) for kind, build in MORE.items()}
    return {**model_folders, **more}


@pytest.fixture(scope="module")
def models(
    language_models: dict[str, LanguageModel], folders: dict[str, Path]
) -> dict[str, LanguageModel]:
    return {**language_models, **{kind: load_model(str(folders[kind])) for kind in MORE}}


@dataclass(frozen=True)
class Own:
    """What Hugging Face's own code computes: by block, masked scores and probabilities."""

    scores: list[Tensor]
    patterns: list[Tensor]


@pytest.fixture(scope="module")
def own(folders: dict[str, Path]) -> dict[str, Own]:
    return {kind: own_attention(folders[kind]) for kind in ALL}


def own_attention(folder: Path) -> Own:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    scores: list[Tensor] = []
    softmax = torch.nn.functional.softmax

    def recording(values: Tensor, *args: object, **kwargs: object) -> Tensor:
        scores.append(values.detach())
        return softmax(values, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "softmax", recording)
        output = model(random_tokens(2, CONTEXT), output_attentions=True, use_cache=False)
    assert len(scores) == len(output.attentions)
    return Own(scores, list(output.attentions))


def read_and_written(model: LanguageModel, block: int) -> tuple[Tensor, Tensor]:
    names = [f"blocks.{block}.attn.hook_in", f"blocks.{block}.attn.hook_out"]
    return model.activations(random_tokens(2, CONTEXT), names).unbind(dim=2)


@pytest.mark.parametrize("block", range(N_BLOCKS))
@pytest.mark.parametrize("kind", ALL)
def test_scores_are_the_models_own(
    models: dict[str, LanguageModel], own: dict[str, Own], kind: str, block: int
) -> None:
    x, written = read_and_written(models[kind], block)
    view = models[kind].attention(block)
    scores, pattern = view.scores(x), own[kind].patterns[block]
    seen = own[kind].scores[block] > -1e30  # the model's own mask
    expected = view.mask(torch.arange(CONTEXT)).expand_as(seen)
    assert torch.equal(seen.expand_as(expected), expected)
    theirs = own[kind].scores[block][expected]
    # Products with W_Q, W_K, each other, W_V and W_O; a probability moves by less than its score.
    of_scores = close(4 * D_MODEL, theirs, torch.float32)
    of_output = close(4 * D_MODEL, (1 + theirs.abs().max()) * written, torch.float32)
    torch.testing.assert_close(scores[expected], theirs, **of_scores)
    probabilities = torch.where(expected, scores, -torch.inf).softmax(-1)
    torch.testing.assert_close(probabilities, pattern, **of_scores)
    torch.testing.assert_close(view.pattern(scores), pattern, **of_scores)
    torch.testing.assert_close(view.output(x, pattern), written, **of_output)
    torch.testing.assert_close(view(x), written, **of_output)


def test_the_models_differ_where_they_should(models: dict[str, LanguageModel]) -> None:
    views = {kind: model.attention(1) for kind, model in models.items()}
    assert [views[k].window for k in ("gpt-neo", "mistral-window", "gpt2")] == [8, 5, None]
    assert models["gpt-neo"].attention(0).window is None
    assert views["gpt-neo"].scale == 1
    assert views["gpt2"].scale == 8**-0.5
    assert views["gpt2-by-layer"].scale == 8**-0.5 / 2
    assert views["gpt2"].rotary is None
    turning = {k: v.rotary.dimension for k, v in views.items() if v.rotary is not None}
    assert turning["gpt-neox"] == 2
    assert turning["neox-half"] == turning["llama"] == 4
    assert views["llama-yarn"].rotary.scaling > 1
    assert [(v.n_heads, len(v.W_K)) for k, v in views.items() if k in ("gpt2", "llama")] == [
        (2, 2),
        (4, 2),
    ]
    assert (views["llama"].b_Q == 0).all()
    assert (views["qwen2-biases"].b_Q != 0).all()
    assert (views["qwen2-biases"].b_K != 0).all()
    assert (views["qwen2-biases"].b_O == 0).all()


def bilinear(view: AttentionWeights, head: int, offset: int) -> Tensor:
    """M of THEORY section 5 for keys `offset` positions before the query, [D+1, D+1].

    The last row and column are the biases: with x' = (x, 1) the score is scale · x'_q M x'_kᵀ.
    """
    group = view.group(head)
    q = torch.cat([view.W_Q[head], view.b_Q[head, None]])
    k = torch.cat([view.W_K[group], view.b_K[group, None]])
    zero = torch.zeros(len(q), dtype=torch.int64)
    return view.turn(q, zero + offset) @ view.turn(k, zero).T


@pytest.mark.parametrize("kind", ALL)
def test_the_bilinear_form_of_each_offset_gives_the_scores(
    models: dict[str, LanguageModel], kind: str
) -> None:
    view = models[kind].attention(1).to(dtype=torch.float64)
    x = torch.randn(9, D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    augmented = torch.cat([x, torch.ones(9, 1, dtype=torch.float64)], dim=1)
    positions = torch.tensor([0, 1, 2, 3, 5, 8, 13, 14, 30])
    scores = view.scores(x, positions)
    for head in range(view.n_heads):
        for q in range(9):
            for k in range(9):
                form = bilinear(view, head, int(positions[q] - positions[k]))
                score = view.scale * augmented[q] @ form @ augmented[k]
                torch.testing.assert_close(scores[head, q, k], score, atol=1e-9, rtol=1e-6)


def test_only_differences_of_positions_matter(models: dict[str, LanguageModel]) -> None:
    x = torch.randn(6, D_MODEL, generator=torch.Generator().manual_seed(0))
    for kind in ("llama", "gpt-neox", "gpt2"):
        view = models[kind].attention(0)
        places = torch.arange(6)
        scores = view.scores(x, places + 11)
        torch.testing.assert_close(scores, view.scores(x), atol=1e-4, rtol=1e-4)
        moved = (view.scores(x, 2 * places) - scores).abs().max()
        assert (moved > 1e-2) == (kind != "gpt2")


def test_standard_frequencies_are_the_models(models: dict[str, LanguageModel]) -> None:
    for kind, base in (("llama", 10_000.0), ("neox-half", 50.0), ("gpt-neox", 10_000.0)):
        rotary = models[kind].attention(0).rotary
        ours = standard_rotary(rotary.dimension, base)
        torch.testing.assert_close(ours.frequencies.float(), rotary.frequencies)


def test_half_precision_keeps_its_angles() -> None:
    rotary = standard_rotary(8)
    vectors = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    far = torch.tensor([3001])
    exact = rotary.rotate(vectors.double(), far)
    rotated = rotary.rotate(vectors.bfloat16(), far).double()
    torch.testing.assert_close(rotated, exact, **close(4, vectors, torch.bfloat16))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_ov_is_what_a_key_writes(models: dict[str, LanguageModel], kind: str) -> None:
    view = models[kind].attention(0).to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, D_MODEL, dtype=torch.float64, generator=generator)
    step = torch.randn(D_MODEL, dtype=torch.float64, generator=generator)
    for head in range(view.n_heads):
        pattern = torch.zeros(view.n_heads, 3, 3, dtype=torch.float64)
        pattern[head, 2, 1] = 0.7
        moved = x.clone()
        moved[1] += step
        change = view.output(moved, pattern) - view.output(x, pattern)
        torch.testing.assert_close(change[2], 0.7 * step @ view.ov(head))
        assert (change[:2] == 0).all()


def test_weights_are_views_of_the_models(models: dict[str, LanguageModel]) -> None:
    for kind in ("gpt2", "gpt-neox", "llama"):
        model = models[kind]
        storages = {p.untyped_storage().data_ptr() for p in model._bare.parameters()}
        view = model.attention(0)
        for weights in (view.W_Q, view.W_K, view.W_V, view.W_O):
            assert weights.untyped_storage().data_ptr() in storages
        assert model.attention(0) is view


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_view_cannot_reproduce_is_refused(tmp_path: Path, kind: str) -> None:
    build, reason = REFUSED[kind]
    model = load_model(str(save_model(tmp_path, build, tokenizer=False)))
    with pytest.raises(CrossproofError, match=f"block 0 of .*{reason}"):
        model.attention(0)


@pytest.mark.parametrize("kind", ["gpt-neo", "llama"])
def test_the_check_notices_every_wrong_part(models: dict[str, LanguageModel], kind: str) -> None:
    model = models[kind]
    view = model.attention(1)
    site = model._sites["blocks.1.attn.hook_in"]
    wrong = {
        "scale": replace(view, scale=1.01 * view.scale),
        "W_Q": replace(view, W_Q=view.W_Q.flip(0)),
        "W_K": replace(view, W_K=-view.W_K),
        "b_Q": replace(view, b_Q=view.b_Q + 0.1),
        "W_V": replace(view, W_V=view.W_V.flip(2)),
        "b_V": replace(view, b_V=view.b_V + 0.1),
        "W_O": replace(view, W_O=view.W_O.flip(0)),
        "b_O": replace(view, b_O=view.b_O + 0.1),
        "window": replace(view, window=7 if view.window == 8 else 8),
        "rotary": replace(view, rotary=standard_rotary(2) if view.rotary is None else None),
    }

    def noticed(changed: AttentionWeights) -> bool:
        try:
            check_attention(model._bare, site, changed, "here")
        except CrossproofError as error:
            return "The attention of here" in str(error)
        return False

    assert not noticed(view)
    for name, changed in wrong.items():
        assert noticed(changed), name


def test_the_check_leaves_the_model_as_it_was(folders: dict[str, Path]) -> None:
    model = load_model(str(folders["llama"]))
    tokens = random_tokens(1, 8)
    before, usual = model.logits(tokens), model._bare.config._attn_implementation
    model.attention(0)
    assert usual == "sdpa"
    assert model._bare.config._attn_implementation == usual
    assert torch.equal(model.logits(tokens), before)
    assert not any(module._forward_hooks for module in model._bare.modules())


def test_ranges_are_checked(models: dict[str, LanguageModel]) -> None:
    with pytest.raises(CrossproofError, match="blocks 0 to 1; there is no block 2"):
        models["gpt2"].attention(2)
    view = models["llama"].attention(0)
    for head in (-1, 4):
        for use in (view.group, view.ov):
            with pytest.raises(CrossproofError, match=f"heads 0 to 3; there is no head {head}"):
                use(head)
    assert [view.group(head) for head in range(4)] == [0, 0, 1, 1]
    with pytest.raises(CrossproofError, match="3 tokens but 2 positions"):
        view.scores(torch.zeros(3, D_MODEL), torch.arange(2))


def test_heads_must_share_evenly(models: dict[str, LanguageModel]) -> None:
    view: AttentionWeights = models["llama"].attention(0)
    with pytest.raises(CrossproofError, match="3 query heads cannot share 2"):
        replace(view, W_Q=view.W_Q[:3], b_Q=view.b_Q[:3], W_O=view.W_O[:3])
