"""Top contexts are exact, one a sequence, and do not depend on how sequences are batched."""

from __future__ import annotations

import pytest
import torch
from tiny_models import END, random_tokens
from torch import Tensor

from crossproof.crosscoder.encode import encode_batches
from crossproof.crosscoder.model import Crosscoder, CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.evaluation import pick_latents, token_strings, top_contexts
from crossproof.lm import LanguageModel

LATENTS, K, LENGTH = 24, 4, 16


@pytest.fixture(scope="module")
def sequences() -> Tensor:
    """Ten sequences that start with the special token, one of them repeated."""
    tokens = random_tokens(10, LENGTH)
    tokens[:, 0] = END
    tokens[7] = tokens[3]
    return tokens


@pytest.fixture(scope="module")
def crosscoder(gpt_neo: LanguageModel, sequences: Tensor) -> Crosscoder:
    hookpoints = gpt_neo.hookpoints(["blocks.*.mlp.hook_in"])
    crosscoder = Crosscoder(CrosscoderConfig(LATENTS, "topk", K), hookpoints, gpt_neo.d_model)
    sample = gpt_neo.activations(sequences, hookpoints.names).flatten(0, 1)
    crosscoder.initialise(sample.clone(), seed=0)
    return crosscoder


def dense(model: LanguageModel, crosscoder: Crosscoder, sequences: Tensor) -> Tensor:
    """Activations [S, T, H] by the plainest route; 0 at the special token."""
    x = model.activations(sequences, crosscoder.hookpoints.names)
    activations = crosscoder.encode(x.flatten(0, 1).clone()).dense()
    return activations.view(*sequences.shape, -1) * (sequences != END)[..., None]


def test_contexts_are_the_strongest_peaks(
    gpt_neo: LanguageModel, crosscoder: Crosscoder, sequences: Tensor
) -> None:
    activations = dense(gpt_neo, crosscoder, sequences)
    latents = range(LATENTS)
    found = top_contexts(gpt_neo, crosscoder, sequences, latents, contexts=3, batch_sequences=4)
    for latent, example in zip(latents, found, strict=True):
        own = activations[..., latent]
        peaks = own.amax(1).sort(descending=True).values[:3]
        strongest = [c.activations[c.peak] for c in example.contexts]
        assert strongest == pytest.approx([p for p in peaks.tolist() if p > 0], rel=1e-5)
        assert all(max(c.activations) == c.activations[c.peak] for c in example.contexts)
        scored = int((sequences != END).sum())
        assert example.frequency == pytest.approx(int((own > 0).sum()) / scored)
        if example.frequency:
            assert example.mean_activation == pytest.approx(own[own > 0].mean().item(), rel=1e-5)


def test_batching_changes_nothing(
    gpt_neo: LanguageModel, crosscoder: Crosscoder, sequences: Tensor
) -> None:
    latents = list(range(LATENTS))
    one, three, ten = (
        top_contexts(gpt_neo, crosscoder, sequences, latents, batch_sequences=size)
        for size in (1, 3, 10)
    )
    for a, b, c in zip(one, three, ten, strict=True):
        places = [[(x.tokens, x.peak) for x in example.contexts] for example in (a, b, c)]
        assert places[0] == places[1] == places[2]
        assert a.frequency == b.frequency == c.frequency


def test_a_window_is_cut_at_the_ends_of_its_sequence(
    gpt_neo: LanguageModel, crosscoder: Crosscoder, sequences: Tensor
) -> None:
    wide = top_contexts(gpt_neo, crosscoder, sequences, range(LATENTS), window=LENGTH)
    narrow = top_contexts(gpt_neo, crosscoder, sequences, range(LATENTS), window=1)
    for a, b in zip(wide, narrow, strict=True):
        for whole, piece in zip(a.contexts, b.contexts, strict=True):
            assert len(whole.tokens) == len(whole.activations) == LENGTH
            assert "<end>" in whole.tokens[0]
            assert whole.activations[0] == 0  # the special token is not scored
            first = max(whole.peak - 1, 0)
            assert piece.activations == whole.activations[first : whole.peak + 2]
            assert piece.peak == whole.peak - first


def test_padding_behind_a_short_document_is_not_shown(
    gpt_neo: LanguageModel, crosscoder: Crosscoder, sequences: Tensor
) -> None:
    padded = sequences.clone()
    padded[:, 6:] = END
    for example in top_contexts(gpt_neo, crosscoder, padded, range(LATENTS), window=LENGTH):
        for context in example.contexts:
            assert len(context.tokens) == len(context.activations) == 7
            assert "<end>" in context.tokens[6]  # where the document ends is worth knowing
            assert context.peak < 6


def test_equal_peaks_rank_in_the_order_of_the_text(
    gpt_neo: LanguageModel, crosscoder: Crosscoder, sequences: Tensor
) -> None:
    twins = sequences[3:4].repeat(5, 1)
    twins[1:, -1] = torch.tensor([1, 2, 3, 4])  # after every peak but a last one
    found = top_contexts(gpt_neo, crosscoder, twins, range(LATENTS), contexts=2, window=LENGTH)
    early = [e for e in found if e.contexts and e.contexts[0].peak < LENGTH - 1]
    assert early
    for example in early:
        assert example.contexts[0].tokens[-1].strip() == f"w{int(twins[0, -1])}"
        assert example.contexts[1].tokens[-1].strip() == "w1"


def test_latents_are_picked_by_rule(
    gpt_neo: LanguageModel, crosscoder: Crosscoder, sequences: Tensor
) -> None:
    fired = (dense(gpt_neo, crosscoder, sequences) > 0).sum((0, 1))
    batches = list(encode_batches(gpt_neo, crosscoder, sequences, 3))
    picked = pick_latents(batches, LATENTS, count=4, min_tokens=5)
    assert len(set(picked)) == 4
    counts = [int(fired[latent]) for latent in picked]
    assert counts == sorted(counts, reverse=True)
    assert min(counts) >= 5
    eligible = int((fired >= 5).sum())
    everything = pick_latents(batches, LATENTS, count=1000, min_tokens=5)
    assert len(everything) == eligible
    assert picked == tuple(everything[(2 * i + 1) * eligible // 8] for i in range(4))
    assert pick_latents(batches, LATENTS, min_tokens=10_000) == ()


def test_an_unknown_latent_is_named(
    gpt_neo: LanguageModel, crosscoder: Crosscoder, sequences: Tensor
) -> None:
    with pytest.raises(CrossproofError, match=r"no latent 24.*latents 0 to 23"):
        top_contexts(gpt_neo, crosscoder, sequences, [3, LATENTS])


def test_token_strings_are_text_in_place(gpt_neo: LanguageModel) -> None:
    assert "".join(token_strings(gpt_neo.tokenizer, [5, 6, 7])) == "w5 w6 w7"
    assert token_strings(None, [5, 6]) == ("#5", "#6")


def test_byte_level_tokens_lose_their_markers() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    ids = tokenizer("a b\n’c")["input_ids"]
    strings = token_strings(tokenizer, ids)
    assert strings == ("a", " ", "b", "\n", "", "", "’", "c")
