"""`crossproof import` and the commands that follow it, on tiny models and in process."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import save_file

import crossproof.lm
from crossproof.cli import main
from crossproof.crosscoder import load_crosscoder
from crossproof.lm import LanguageModel

D, WIDTH = 16, 20


def save_saelens(
    folder: Path, hook: str, seed: int, out: str | None = None, kind: str = "jumprelu"
) -> None:
    """An SAE (or transcoder) in SAELens's layout, with random weights that fire often enough."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    tensors = {
        "W_enc": torch.randn(D, WIDTH, generator=generator),
        "W_dec": 0.2 * torch.randn(WIDTH, D, generator=generator),
        "b_enc": torch.randn(WIDTH, generator=generator),
        "b_dec": torch.randn(D, generator=generator),
    }
    if kind.startswith("jumprelu"):
        tensors["threshold"] = torch.rand(WIDTH, generator=generator)
    save_file(tensors, folder / "sae_weights.safetensors")
    metadata = {"model_name": "tiny", "hook_name": hook, "hook_name_out": out}
    config = {"architecture": kind, "d_in": D, "d_sae": WIDTH, "metadata": metadata}
    config |= {"apply_b_dec_to_input": False, "normalize_activations": "none"}
    (folder / "cfg.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, 63, (60, 40), generator=generator).tolist()
    path.write_text("\n\n".join(" ".join(f"w{i}" for i in row) for row in words))
    return path


@pytest.fixture(scope="module")
def chain(
    tmp_path_factory: pytest.TempPathFactory, model_folders: dict[str, Path], text: Path
) -> Path:
    """A run made of one SAE at every place that the chain of bounds needs."""
    root = tmp_path_factory.mktemp("chain")
    roles = ("hook_resid_pre", "hook_resid_mid", "ln2.hook_normalized")
    hooks = [f"blocks.{i}.{role}" for i in range(2) for role in roles]
    for seed, hook in enumerate([*hooks, "blocks.1.hook_resid_post"]):
        save_saelens(root / "saes" / hook, hook, seed)
    options = ["--model", str(model_folders["gpt-neo"]), "--text", str(text)]
    main(["import", str(root / "saes"), *options, "--join", "--out", str(root / "run")])
    return root / "run"


def test_one_sae_a_hookpoint_becomes_one_crosscoder(chain: Path) -> None:
    crosscoder, provenance = load_crosscoder(chain / "imported" / "crosscoder")
    assert crosscoder.n_latents == 7 * WIDTH
    assert crosscoder.hookpoints.mlp_blocks == (0, 1)
    assert crosscoder.hookpoints.names[2] == "blocks.0.mlp.hook_in"
    origins = provenance.training["imported"]
    assert origins[0]["hookpoints"] == ["blocks.0.hook_resid_mid"]
    assert {origin["format"] for origin in origins} == {"saelens"}
    assert origins[0]["config"]["metadata"]["model_name"] == "tiny"


def test_every_command_accepts_the_run(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--context", "16"]
    main(["evaluate", str(chain), "--sequences", "2", *common])
    results = json.loads((chain / "evaluation-held_out" / "results.json").read_text())
    run = results["runs"]["imported"]
    assert run["objective"] == "imported: saelens"
    assert "steps" not in results
    assert len(run["by_hookpoint"]["fvu"]) == 7
    assert "crossproof train" not in (chain / "evaluation-held_out" / "report.html").read_text()

    main(["measure", str(chain), "--tokens", "300", "--split", "train", *common])
    measured = json.loads((chain / "measure" / "measure.json").read_text())["runs"]["imported"]
    assert measured["blocks"] == [0, 1]
    assert measured["totals"]["I"]["mean"] > 0
    page = chain / "evaluation-held_out" / "report.html"
    assert "Latents that interact" in page.read_text()  # the page is renewed

    main(["attribute", str(chain), "--sequences", "2", *common])
    attributed = json.loads((chain / "attribution" / "attribution.json").read_text())
    assert attributed["runs"]["imported"]["objective"] == "imported: saelens"

    options = ["--judge", "overlap", "--tokens", "300", "--seeds", "1", "--min-tokens", "2"]
    main(["cluster", str(chain), *options, "--max-frequency", "1.0"])
    clustered = json.loads((chain / "clusters" / "clusters.json").read_text())["runs"]["imported"]
    assert clustered["views"] == {f"{b}": f"MLP input blocks.{b}.mlp.hook_in" for b in (0, 1)}
    out = capsys.readouterr().out
    assert "imported" in out
    assert "blocks 0, 1 read the latents at their own inputs" in " ".join(out.split())


def test_rows_that_begin_where_documents_do(
    tmp_path: Path, model_folders: dict[str, Path], text: Path
) -> None:
    save_saelens(tmp_path / "sae", "blocks.1.ln2.hook_normalized", 0)
    given = ["--model", str(model_folders["gpt-neo"]), "--text", str(text), "--rows", "documents"]
    main(["import", str(tmp_path / "sae"), *given, "--out", str(tmp_path / "run")])
    short = ["--context", "24", "--tokens", "60", "--no-attention", "--shapley-tokens", "0"]
    rows = {}
    for name, more in {"own": [], "packed": ["--rows", "packed"]}.items():
        out = tmp_path / name
        main(["measure", str(tmp_path / "run"), *short, *more, "--out", str(out)])
        content = json.loads((out / "measure.json").read_text())
        rows[name] = content["corpus"].get("rows", "packed")
        if name == "own":  # two documents of 40 words and more, behind the token that begins them
            assert content["runs"]["imported"]["tokens"] == 23 * content["corpus"]["sequences"]
    assert rows == {"own": "documents", "packed": "packed"}


def test_several_dictionaries_are_a_crosscoder_each(
    tmp_path: Path,
    model_folders: dict[str, Path],
    text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hooks = [f"blocks.{i}.ln2.hook_normalized" for i in range(2)]
    for seed, hook in enumerate([*hooks, "blocks.1.hook_resid_post"]):
        save_saelens(tmp_path / "saes" / f"sae_{seed}" / "width_20", hook, seed)
    model, run = ["--model", str(model_folders["gpt-neo"])], tmp_path / "run"
    main(["import", str(tmp_path / "saes"), *model, "--text", str(text), "--out", str(run)])
    names = [f"sae_{i}-width_20" for i in range(3)]
    assert sorted(path.name for path in run.iterdir()) == names
    common = [str(run), "--context", "16"]
    main(["evaluate", *common, "--sequences", "2"])
    results = json.loads((run / "evaluation-held_out" / "results.json").read_text())
    assert list(results["runs"]) == names
    main(["measure", *common, "--tokens", "300", "--split", "train"])
    measured = json.loads((run / "measure" / "measure.json").read_text())
    # No MLP follows the last stream's SAE; different blocks are not compared.
    assert [figures["blocks"] for figures in measured["runs"].values()] == [[0], [1]]
    assert measured["ratios"] == {}
    assert f"{names[2]} not measured: none of the MLPs reads it." in capsys.readouterr().out
    one = run / names[1] / "crosscoder"
    options = ["--sequences", "2", "--context", "16", "--parts", "last-block"]
    main(["attribute", str(one), *options])
    with pytest.raises(SystemExit, match=r"these are 3: leave it out, or --join"):
        main(["import", str(tmp_path / "saes"), *model, "--name", "a", "--out", str(run)])


def test_a_transcoder_is_evaluated_where_it_writes_and_not_measured(
    tmp_path: Path,
    model_folders: dict[str, Path],
    text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_saelens(
        tmp_path / "t", "blocks.1.ln2.hook_normalized", 0, "blocks.1.hook_mlp_out", "transcoder"
    )
    run, model = tmp_path / "run", str(model_folders["llama"])
    main(["import", str(tmp_path / "t"), "--model", model, "--out", str(run)])
    assert "No MLP reads what is written here" in capsys.readouterr().out
    options = [str(run), "--context", "16", "--text", str(text)]
    main(["evaluate", *options, "--sequences", "4"])
    results = json.loads((run / "evaluation-held_out" / "results.json").read_text())
    figures = results["runs"]["imported"]
    assert list(figures["by_hookpoint"]["fvu"]) == ["blocks.1.mlp.hook_out"]
    assert list(figures["by_hookpoint"]["ce_recovered"]) == ["blocks.1.mlp.hook_out"]
    with pytest.raises(SystemExit, match="MLP"):
        main(["measure", *options, "--tokens", "100"])


def test_later_commands_ask_for_a_text_if_import_got_none(
    tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    save_saelens(tmp_path / "s", "blocks.1.hook_resid_pre", 0)
    model, run = str(model_folders["gpt2"]), str(tmp_path / "run")
    main(["import", str(tmp_path / "s"), "--model", model, "--out", run])
    with pytest.raises(SystemExit, match=r"No text was given: add --text"):
        main(["evaluate", run, "--context", "16"])


def test_nothing_is_overwritten(
    tmp_path: Path, model_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    hook = "blocks.1.hook_resid_pre"
    for name in ("one", "two"):
        save_saelens(tmp_path / "saes" / name, hook, len(name))
    common = ["--model", str(model_folders["gpt2"]), "--out", str(tmp_path / "run")]
    main(["import", str(tmp_path / "saes" / "one"), *common, "--raw"])
    assert "does not say whether" not in capsys.readouterr().out
    config = tmp_path / "run" / "imported" / "crosscoder" / "config.json"
    before = config.read_bytes()
    with pytest.raises(SystemExit, match="imported already holds a crosscoder"):
        main(["import", str(tmp_path / "saes" / "two"), *common])
    assert config.read_bytes() == before
    (tmp_path / "run" / "two" / "crosscoder").mkdir(parents=True)  # a trained one of that name
    with pytest.raises(SystemExit, match="two already holds a crosscoder"):
        main(["import", str(tmp_path / "saes"), *common])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["imported", "two"]
    main(["import", str(tmp_path / "saes" / "two"), *common, "--name", "second"])
    assert "taken as trained on the raw stream" in capsys.readouterr().out


def test_bad_input_is_one_sentence(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    model = str(model_folders["gpt2"])
    for arguments, message in [
        ([str(tmp_path / "nowhere")], "There is no file or folder"),
        ([str(tmp_path)], "holds no dictionary that crossproof recognises"),
        ([], "Name at least one folder or file"),
        ([str(tmp_path), "--name", "a/b"], "plain name"),
        ([str(tmp_path), "--name", ".."], "plain name"),
        ([str(tmp_path), "--name", "a\nb"], "plain name"),
        ([str(tmp_path), "--name", "Explorer"], "give another --name"),
        ([str(tmp_path), "--name", "results.json"], "give another --name"),
        ([str(tmp_path), "--centred", "--raw"], "contradict each other"),
    ]:
        with pytest.raises(SystemExit, match=message):
            main(["import", *arguments, "--model", model, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_paths_are_looked_at_before_anything_is_loaded(tmp_path: Path) -> None:
    with (
        patch.object(crossproof.lm, "load_model", side_effect=AssertionError),
        pytest.raises(SystemExit, match="There is no file or folder"),
    ):
        main(["import", str(tmp_path / "x"), "--model", "bundled", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match=r"There is no model folder .x\.gguf."):
        main(["train", "--model", "x.gguf", "--out", str(tmp_path / "run")])


def test_the_model_must_be_the_one_given_at_import(
    chain: Path, language_models: dict[str, LanguageModel], model_folders: dict[str, Path]
) -> None:
    _, provenance = load_crosscoder(chain / "imported" / "crosscoder")
    assert provenance.weights_hash == language_models["gpt-neo"].weights_hash
    with pytest.raises(SystemExit, match="load the model it was trained on"):
        main(["measure", str(chain), "--model", str(model_folders["gpt2"]), "--context", "16"])
