"""Certificates of listed contexts on tiny models: what is reached, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tiny_models import CONTEXT, D_MODEL, END, random_tokens

from crossproof.commands import prove, verify
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, Provenance, save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel
from crossproof.proof.certificate import verifier as anything
from crossproof.proof.certificate.contexts import _compare_activations as compared
from crossproof.proof.certificate.contexts import compare_contexts, prove_contexts
from crossproof.proof.certificate.format import HEADER, TENSORS, Limits, part_of, tensors_hash
from crossproof.proof.certificate.format_contexts import PARTS, read_contexts
from crossproof.proof.certificate.result_contexts import contexts_table
from crossproof.proof.certificate.text_options import ContextOptions
from crossproof.proof.certificate.verifier.contexts import needs, verify_contexts
from crossproof.report.terminal import console


def dictionary(model: LanguageModel) -> Crosscoder:
    hookpoints = model.hookpoints(["blocks.*.mlp.hook_in"])
    crosscoder = Crosscoder(CrosscoderConfig(40, "topk", 4), hookpoints, D_MODEL)
    sample = model.activations(random_tokens(20, CONTEXT, seed=9), hookpoints.names)
    crosscoder.initialise(sample.flatten(0, 1), seed=0)
    return crosscoder


def tokens() -> torch.Tensor:
    rows = random_tokens(4, 12, seed=3)
    rows[1, [0, 5]] = END
    return rows


@pytest.fixture(scope="module")
def made(gpt_neo: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("contexts") / "certificate"
    prove_contexts(gpt_neo, dictionary(gpt_neo), tokens(), out, ContextOptions((0, 1, 40)))
    return out


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")


@pytest.mark.parametrize(
    "kind",
    [
        "llama",
        pytest.param("gpt2", marks=pytest.mark.slow),
        pytest.param("gpt-neox-sequential", marks=pytest.mark.slow),
    ],
)
def test_what_is_certified_is_what_the_model_does(
    kind: str, language_models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    model = language_models[kind]
    result = prove_contexts(
        model, dictionary(model), tokens(), tmp_path / "c", ContextOptions((0, 1, 3, 40))
    )
    assert result.holds
    assert len(result.bounds) == len(result.measured) == 8
    for bound, truth in zip(result.bounds, result.measured, strict=True):
        assert bound.at == (truth.mlps, truth.keep)
        assert bound.kept == pytest.approx(truth.kept * bound.predictions)  # no ties here
        assert bound.loss_change == pytest.approx(abs(truth.loss_change), abs=1e-5)
        assert bound.token_change >= bound.loss_change
    assert len({bound.kept for bound in result.bounds}) > 2  # treatments differ


def test_one_mlp_alone_needs_no_attention(
    gpt_neo: LanguageModel, made: Path, tmp_path: Path
) -> None:
    options = ContextOptions((0, 1, 40), (1,))
    result = prove_contexts(gpt_neo, dictionary(gpt_neo), tokens(), tmp_path / "c", options)
    both = verify_contexts(made)
    for alone, beside in zip(result.bounds, both.bounds, strict=False):
        assert alone.kept == beside.kept
        assert alone.loss_change == pytest.approx(beside.loss_change, abs=1e-5)
    assert not any("attention" in name for name in read_contexts(tmp_path / "c").tensors)


def test_from_the_command_line(
    gpt_neo: LanguageModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console, "_width", 200)  # rows are not broken
    run, text, out = tmp_path / "run", tmp_path / "text.npy", tmp_path / "certificate"
    np.save(text, random_tokens(60, 12, seed=5).numpy())
    about = Provenance(gpt_neo.name, gpt_neo.weights_hash, training={"imported": []})
    save_crosscoder(dictionary(gpt_neo), run, about)
    arguments = [str(run), "--kind", "contexts", "--out", str(out), "--text", str(text)]
    prove.run([*arguments, "--context", "12", "--sequences", "2", "--keep", "1", "2"], 0.0)
    printed = capsys.readouterr().out
    assert "last 2 MLPs, keep 2" in printed
    assert "of the 2 listed contexts; it says nothing about any other" in printed
    verify.run([str(out), "--model", gpt_neo.name, "--dictionary", str(run)], 0.0)
    printed = capsys.readouterr().out
    assert "compared with your model's: weights equal, streams within" in printed
    shutil.copytree(out, tmp_path / "other")
    verify.run([str(out), str(tmp_path / "other")], 0.0)
    assert "Certificates of listed contexts" in capsys.readouterr().out


def edited(folder: Path, to: Path, change: Callable[[Any, Any], None], rehash: bool = True) -> Path:
    header = json.loads((folder / HEADER).read_text())
    tensors = dict(load_file(folder / TENSORS))
    change(header, tensors)
    if rehash:
        wide = {n: t.astype(float if t.dtype.kind == "f" else int) for n, t in tensors.items()}
        header["hashes"] |= {part: tensors_hash(part_of(wide, part)) for part in PARTS}
    to.mkdir()
    (to / HEADER).write_text(json.dumps(header))
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, to / TENSORS)
    return to


def header_set(*path: str | int, value: Any) -> Callable[[Any, Any], None]:
    def change(header: Any, _: Any) -> None:
        for key in path[:-1]:
            header = header[key]
        header[path[-1]] = value

    return change


def tensor_put(name: str, at: tuple[int, ...], value: float) -> Callable[[Any, Any], None]:
    def change(_: Any, tensors: Any) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name][at] = value

    return change


def same_context(_: Any, tensors: Any) -> None:
    tensors["contexts.tokens"] = tensors["contexts.tokens"].copy()
    tensors["contexts.tokens"][2] = tensors["contexts.tokens"][0]


HOSTILE: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "a context twice": (same_context, "listed twice"),
    "a token out of range": (tensor_put("contexts.tokens", (0, 0), 64), "classes of the unemb"),
    "a latent out of range": (tensor_put("contexts.indices", (0,), 40), "latents of the dict"),
    "offsets that fall": (tensor_put("contexts.offsets", (1,), 10**6), "must rise"),
    "half scored": (tensor_put("contexts.scored", (0, 1), 2), "must be 0 or 1"),
    "less scored": (tensor_put("contexts.scored", (0, 1), 0), "must rise"),
    "a latent twice": (
        lambda h, t: t.update({"contexts.indices": t["contexts.indices"] * 0}), "a latent twice"),
    "NaN": (tensor_put("contexts.stream", (0, 0, 0), np.nan), "NaN"),
    "too small": (
        lambda h, t: t.update({"weights.mlp0.b_in": np.full(48, 1e-300)}), "nearer to 0"),
    "a foreign tensor": (lambda h, t: t.update({"more": np.ones(2)}), "may not hold 'more'"),
    "a missing tensor": (lambda h, t: t.pop("weights.final.unembedding"), "must hold"),
    "a wrong shape": (
        lambda h, t: t.update({"weights.mlp0.b_in": np.ones(3)}), "has shape"),
    "an unknown activation": (header_set("shape", "activations", 0, value="x"), "describes no end"),
    "no epsilon": (header_set("shape", "epsilons", "final", value=0.0), "describes no end"),
    "three MLPs": (header_set("shape", "mlps", value=3), "describes no end"),
    "a foreign shape": (header_set("shape", "x", value=3), "describes no end"),
    "a statement twice": (header_set("claim", "statements", 0, "keep", value=1), "twice"),
    "a negative change": (
        header_set("claim", "statements", 0, "loss_change", value=-1), "exactly the keys"),
    "a NaN word": (header_set("claim", "statements", 0, "kept", value="all"), "exactly the keys"),
    "an assumption less": (lambda h, t: h["assumptions"].pop(), "assumptions"),
    "a hash that is none": (header_set("model", value="mine"), "'model'"),
    "another kind": (header_set("kind", value="statistical"), "not 'contexts'"),
    "a hash of something else": (header_set("hashes", "task", value="0" * 64), "no others"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_as_the_format_says_is_refused_in_a_sentence(
    name: str, made: Path, tmp_path: Path
) -> None:
    change, said = HOSTILE[name]
    with pytest.raises(CrossproofError) as refused:
        verify_contexts(edited(made, tmp_path / "hostile", change))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_changed_numbers_do_not_belong_to_the_hash(made: Path, tmp_path: Path) -> None:
    for at, part in enumerate(PARTS):
        name = next(name for name in read_contexts(made).tensors if name.startswith(part + "."))

        def change(_: Any, tensors: Any, name: str = name) -> None:
            tensors[name] = tensors[name] + (1 if tensors[name].dtype.kind == "f" else 0)
            if tensors[name].dtype.kind != "f":
                tensors[name] = tensors[name].copy()
                tensors[name].flat[-1] = 1 - min(1, tensors[name].flat[-1])

        with pytest.raises(CrossproofError, match=r"do not belong together|must"):
            verify_contexts(edited(made, tmp_path / str(at), change, rehash=False))


@pytest.mark.parametrize("key", ["kept", "loss_change", "token_change"])
@pytest.mark.parametrize("at", [0, 4])
def test_a_claim_beyond_what_is_reached_is_not_verified(
    key: str, at: int, made: Path, tmp_path: Path
) -> None:
    step = 1 if key == "kept" else -1e-6

    def more(header: Any, _: Any) -> None:
        header["claim"]["statements"][at][key] += step

    result = verify_contexts(edited(made, tmp_path / "false", more))
    assert not result.holds
    assert "NOT verified" in result.verdict
    assert [bound.holds for bound in result.bounds].count(False) == 1
    assert "NOT verified" in repr(result)
    assert "NOT verified" in contexts_table({"a": result}).to_text()


def one_other_latent(_: Any, tensors: Any) -> None:
    indices = tensors["contexts.indices"].copy()
    first = set(indices[: tensors["contexts.offsets"][1]].tolist())
    indices[0] = min(set(range(40)) - first)
    tensors["contexts.indices"] = indices
    tensors["contexts.values"] = tensors["contexts.values"] * 1.1


def faint_stream(_: Any, tensors: Any) -> None:
    """Wrong by what is nothing beside the largest entry of another position."""
    stream = tensors["contexts.stream"].copy()
    stream[0, 0] *= 1e4
    stream[1, 1] += 0.5
    tensors["contexts.stream"] = stream


def test_saved_lies_are_found_out_by_the_reader(
    made: Path, gpt_neo: LanguageModel, tmp_path: Path
) -> None:
    crosscoder = dictionary(gpt_neo)
    again = compare_contexts(made, gpt_neo, crosscoder)
    assert again.others == 0
    assert max(again.stream, again.activation) < 1e-6
    held = read_contexts(made)
    lies = {
        "stream": (lambda h, t: t.update({"contexts.stream": t["contexts.stream"] * 1.01}),
                   "not the model's"),
        "weights": (tensor_put("weights.mlp1.W_out", (0, 0), 1.0), "is not that of your"),
        "atoms": (tensor_put("dictionary.mlp0.atoms", (3, 0), 1.0), "is not that of your"),
        "latents": (lambda h, t: t.update({"contexts.values": t["contexts.values"] * 1.1}),
                    "latents saved"),
        "other latents": (
            lambda h, t: t.update({"contexts.indices": 39 - t["contexts.indices"]}),
            "latents saved"),
        "one position's latents, and all activations": (one_other_latent, "latents saved"),
        "a position's stream, less than another's": (faint_stream, "not the model's"),
        "the norm": (header_set("shape", "epsilons", "final", value=1e-3), "another end"),
    }  # fmt: skip
    for name, (change, said) in lies.items():
        folder = edited(made, tmp_path / name, change)
        with pytest.raises(CrossproofError, match=said):
            compare_contexts(folder, gpt_neo, crosscoder)
    with torch.no_grad():
        crosscoder.b_enc += 0.1
    with pytest.raises(CrossproofError, match="about the dictionary"):
        compare_contexts(made, gpt_neo, crosscoder)
    assert held.hashes == read_contexts(made).hashes


def test_an_entry_that_is_a_thousand_times_the_others_hides_no_lie(made: Path) -> None:
    held = read_contexts(made)
    stream = held.tensors["contexts.stream"].copy()
    stream[..., 0] = 1e3 * np.abs(stream).max()
    ours = {**held.tensors, "contexts.stream": stream}
    wrong = stream.copy()
    wrong[1, 2, 3] += 1e-5 * stream[1, 2, 0]
    same, lying = (
        replace(held, tensors={**held.tensors, "contexts.stream": saved})
        for saved in (stream, wrong)
    )
    assert compared(same, ours).stream == 0
    with pytest.raises(CrossproofError, match="not the model's at these contexts"):
        compared(lying, ours)


def test_what_it_needs_is_limited_and_what_it_is_about_insisted_on(made: Path) -> None:
    memory, operations = needs(read_contexts(made))
    assert verify_contexts(made, limits=Limits(memory, operations)).operations == operations
    for limits in (Limits(memory=memory - 1), Limits(operations=operations - 1)):
        with pytest.raises(CrossproofError, match="the limit is"):
            verify_contexts(made, limits=limits)
    with pytest.raises(CrossproofError, match="speaks about the model"):
        verify_contexts(made, model="0" * 16)
    assert anything.verify(made, model=read_contexts(made).model).pinned == ("model",)
    with pytest.raises(CrossproofError, match="speaks about no text"):
        anything.verify(made, text="0" * 64)


def test_a_statement_about_nothing_is_vacuous(made: Path) -> None:
    result = replace(verify_contexts(made), model_loss=1.0)
    assert not result.claim_vacuous
    nothing = replace(
        result.bounds[0],
        claimed_kept=result.constant,
        claimed_loss_change=5.0,
        claimed_token_change=5.0,
    )
    assert result.constant > 0
    assert result.vacuous(nothing)
    assert not result.vacuous(replace(nothing, claimed_kept=result.constant + 1))
    assert not result.vacuous(replace(nothing, claimed_token_change=0.1))
    assert "says nothing" in replace(result, bounds=(nothing,)).verdict


def test_what_cannot_be_is_said_in_a_sentence(
    language_models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    model = language_models["gpt-neo"]
    lacking = model.hookpoints(["blocks.0.mlp.hook_in"])
    one = Crosscoder(CrosscoderConfig(40, "topk", 4), lacking, D_MODEL)
    with pytest.raises(CrossproofError, match=r"no decoder at blocks\.1\.mlp\.hook_in"):
        prove_contexts(model, one, tokens(), tmp_path / "c")
    for options in ((1, 1), (-1,), ()):
        with pytest.raises(CrossproofError, match="Give"):
            ContextOptions(options)
    parallel = language_models["gpt-neox"]
    with pytest.raises(CrossproofError, match="attention and MLP"):
        prove_contexts(parallel, dictionary(parallel), tokens(), tmp_path / "c")
