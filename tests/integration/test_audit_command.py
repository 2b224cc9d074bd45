"""`crossproof audit` from texts to page, on a tiny model, and what it says of bad input."""

from __future__ import annotations

import io
import json
import random
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossproof.auditing.result import AuditResult
from crossproof.auditing.run import audit, chances, dealt
from crossproof.auditing.texts import encode_texts, read_texts
from crossproof.cli import main
from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.store import Provenance, save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel
from crossproof.report.audit import headline, sentences


def prompts(count: int, seed: int, words: range = range(1, 40)) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(f"w{draw.choice(words)}" for _ in range(12)) for _ in range(count)]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("\n<|endoftext|>\n".join(texts))
    return str(path)


@pytest.fixture(scope="module")
def audited(
    tmp_path_factory: pytest.TempPathFactory, model_folders: dict[str, Path]
) -> tuple[Path, dict[str, Any]]:
    """One audit, its crosscoder trained on the way: 4 of 24 suspects have words never trusted."""
    folder = tmp_path_factory.mktemp("audit")
    trusted = write(folder / "trusted.txt", prompts(300, 0))
    odd = [f"{text} w55 w56 w57 w58 w59 w60" for text in prompts(4, 2)]
    suspect = write(folder / "suspect.txt", [*prompts(20, 1), *odd])
    out = folder / "out"
    options = ["--trusted", trusted, "--suspect", suspect, "--out", str(out), "--shown", "3"]
    sizes = ["--steps", "20", "--n-latents", "48", "--detector", "latents mean"]
    with redirect_stdout(io.StringIO()) as said:
        main(["audit", str(model_folders["gpt-neo"]), *options, *sizes])
    assert "training: 20/20 done\n" in said.getvalue()
    content: dict[str, Any] = json.loads((out / "audit.json").read_text())
    return out, content


def test_the_planted_texts_come_first(audited: tuple[Path, dict[str, Any]]) -> None:
    _, content = audited
    by_rarity = sorted(content["texts"], key=lambda row: -row["score"]["rarity mean"])
    assert {row["place"] for row in by_rarity[:4]} == {20, 21, 22, 23}
    ranks = [row["chance"]["latents mean"] for row in content["texts"]]
    assert ranks == sorted(ranks)
    assert {row["place"] for row in content["texts"]} == set(range(24))
    assert content["detectors"]["rarity mean"]["flagged"] >= 4
    assert content["trusted"] == {"texts": 300, "cut": 0, "train": 180, "fit": 60, "calibrate": 60}


def test_the_page_has_every_text_and_detector_and_escapes_what_it_is_given(
    audited: tuple[Path, dict[str, Any]],
) -> None:
    out, content = audited
    page = (out / "report.html").read_text()
    assert headline(AuditResult.from_json(content)) in page
    assert all(name in page for name in content["detectors"])
    assert page.count('<section aria-label="Text ') == 3
    assert "src=" not in page
    assert "w55" in page


def test_a_finished_crosscoder_is_used_and_a_strange_one_refused(
    audited: tuple[Path, dict[str, Any]],
    model_folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, _ = audited
    texts = ["--trusted", write(tmp_path / "t.txt", prompts(60, 3))]
    texts += ["--suspect", write(tmp_path / "s.txt", prompts(5, 4))]
    texts += ["--out", str(tmp_path / "out")]
    given = ["--crosscoder", str(out / "crosscoder")]
    main(["audit", str(model_folders["gpt-neo"]), *texts, *given])
    assert "Most anomalous by" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert content["trusted"]["fit"] == content["trusted"]["calibrate"] == 30
    assert not (tmp_path / "out" / "crosscoder").exists()
    with pytest.raises(SystemExit, match=r"explains .* load the model it was trained on"):
        main(["audit", str(model_folders["gpt2"]), *texts, *given])


def test_gated_mlps_that_read_the_stream_are_audited_too(
    language_models: dict[str, LanguageModel], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = language_models["llama"]
    hookpoints = model.hookpoints(["blocks.1.hook_resid_pre"])
    crosscoder = Crosscoder(CrosscoderConfig(32, "topk", 5), hookpoints, model.d_model)
    crosscoder.initialise(torch.randn(64, 1, model.d_model), 0)
    origin = Provenance(model.name, model.weights_hash, 0, {})
    save_crosscoder(crosscoder, tmp_path / "cc", origin)
    texts = ["--trusted", write(tmp_path / "t.txt", prompts(50, 3))]
    texts += ["--suspect", write(tmp_path / "s.txt", prompts(5, 4))]
    texts += ["--out", str(tmp_path / "out"), "--crosscoder", str(tmp_path / "cc")]
    main(["audit", str(model_folders["llama"]), *texts])
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert "J max" not in content["detectors"]
    assert len(content["texts"]) == 5
    read = "residual stream blocks.1.hook_resid_pre, at the denominator of blocks.1.ln2.hook_in"
    assert content["views"] == {"1": read}
    told = "The MLP of block 1 reads the latents in the residual stream blocks.1.hook_resid_pre."
    assert told in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("trusted", "suspect", "more", "sentence"),
    [
        ([], ["w1 w2"], [], "holds no text"),
        (["w1 w2"] * 200, [], [], "holds no text"),
        (["w1 w2"] * 30, ["w1 w2"], [], "30 trusted texts, too few .* at least 100"),
        (["w1 w2"] * 120, ["w1 w2"], [], "to train a crosscoder on, fewer than one batch"),
        (["w1 w2"] * 120, ["w1"], ["--detector", "I maxim"], "no detector 'I maxim'"),
    ],
)
def test_bad_input_is_one_sentence(
    trusted: list[str],
    suspect: list[str],
    more: list[str],
    sentence: str,
    model_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    texts = ["--trusted", write(tmp_path / "t.txt", trusted)]
    texts += ["--suspect", write(tmp_path / "s.txt", suspect), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=sentence) as raised:
        main(["audit", str(model_folders["gpt-neo"]), *texts, *more])
    assert "\n" not in str(raised.value)


def test_missing_files_and_several_crosscoders(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = str(model_folders["gpt-neo"])
    suspect = write(tmp_path / "s.txt", ["w1"])
    with pytest.raises(SystemExit, match=r"There is no text 'nowhere.txt'"):
        main(["audit", model, "--trusted", "nowhere.txt", "--suspect", suspect])
    for name in ("a", "b"):
        hookpoints = _tiny(model_folders).hookpoints()
        crosscoder = Crosscoder(CrosscoderConfig(24), hookpoints, 16)
        save_crosscoder(crosscoder, tmp_path / name / "crosscoder", Provenance("m", "x", 0, {}))
    with pytest.raises(SystemExit, match="holds 2 crosscoders: give one, such as"):
        main(["audit", model, "--trusted", suspect, "--suspect", suspect,
              "--crosscoder", str(tmp_path), "--out", str(tmp_path / "o")])  # fmt: skip


def _tiny(model_folders: dict[str, Path]) -> LanguageModel:
    from crossproof.lm import load_model

    return load_model(str(model_folders["gpt-neo"]))


def test_texts_are_rows_behind_bos_and_padded(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    found = encode_texts(["w1 w2 w3", "w4"], gpt_neo)
    assert found.tokens.tolist() == [[0, 1, 2, 3], [0, 4, 0, 0]]
    assert encode_texts(["w1 w2 w3", "w4"], gpt_neo, 3).cut == 1
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "w1 w2 w3"}\n{"text": "w4"}\n')
    assert read_texts(str(path), gpt_neo).tokens.tolist() == found.tokens.tolist()
    with pytest.raises(CrossproofError, match="Text 2 is empty"):
        encode_texts(["w1", ""], gpt_neo)
    with pytest.raises(CrossproofError, match="no texts"):
        encode_texts([], gpt_neo)


def test_trusted_texts_are_dealt_out_once() -> None:
    rows = torch.arange(1000)[:, None]
    parts = dealt(rows, True, 0)
    every = torch.cat([parts.train, parts.fit, parts.calibrate])
    assert sorted(every[:, 0].tolist()) == list(range(1000))
    assert (len(parts.fit), len(parts.calibrate)) == (200, 200)
    assert not torch.equal(dealt(rows, True, 1).fit, parts.fit)
    assert len(dealt(rows, False, 0).fit) == 300


def test_the_chance_counts_the_text_itself() -> None:
    found = chances(np.array([1.0, 2.0, 3.0]), np.array([2.0, 9.0, 0.0]))
    assert found.tolist() == [0.75, 0.25, 1.0]


def test_words_say_when_a_simpler_detector_does_as_well(
    audited: tuple[Path, dict[str, Any]],
) -> None:
    _, content = audited

    def flagging(**counts: int) -> AuditResult:
        changed = json.loads(json.dumps(content))
        changed["settings"]["detector"] = "I pairs mean"
        for name, entry in changed["detectors"].items():
            entry["flagged"] = counts.get(name.replace(" ", "_"), 2)
        return AuditResult.from_json(changed)

    ahead = flagging(I_pairs_mean=9)
    assert not any("simpler" in line for line in sentences(ahead))
    assert headline(ahead) == "9 of 24 suspect texts stand out by “I pairs mean”: beyond chance"
    assert headline(flagging(I_pairs_mean=9, error_max=20)).endswith(
        "beyond chance; 20 by “error max”"
    )
    assert any("“loss mean”" in line for line in sentences(flagging(I_pairs_mean=9, loss_mean=9)))


def test_the_result_saves_and_loads_itself(
    audited: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, content = audited
    result = AuditResult.load(out / "audit.json")
    assert result.to_json() == content
    result.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (out / "audit.json").read_bytes()
    ranked = [row.label for row in result.tables()[0].rows]
    assert ranked == [str(text["place"] + 1) for text in content["texts"][:20]]
    assert "Most anomalous by “latents mean”" in repr(result)


def test_texts_and_crosscoders_in_memory_are_audited_as_those_in_files(
    audited: tuple[Path, dict[str, Any]], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    out, _ = audited
    model, texts, odd = _tiny(model_folders), prompts(60, 3), prompts(5, 4)
    crosscoder = Crosscoder.load(out / "crosscoder")
    ours = audit(model, texts, odd, crosscoder)
    sources = write(tmp_path / "t.txt", texts), write(tmp_path / "s.txt", odd)
    theirs = audit(model, *sources, out / "crosscoder")
    assert ours.texts == theirs.texts
    assert ours.settings.crosscoder == "given in memory"
