"""The command lines of the golden figures; as a script it runs them all (see golden_run)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import tiny_models
from golden_formats import FIXTURES
from golden_formats import GOLDEN as FORMATS
from golden_inputs import prompts, save_model, save_saelens, write_texts
from golden_run import THREADS, Flat, crossproof, flatten, read

from crossproof import verify
from paper.scripts import toy_network

EXAMPLES = Path(__file__).parents[1] / "examples" / "certificates"
Outputs = Iterator[tuple[str, Flat]]


def trained(run: Path, root: Path) -> Outputs:
    """What training leaves of each crosscoder."""
    for folder in sorted(run.glob("*/crosscoder")):
        name = folder.parent.name
        yield f"{name}-metrics", read(folder.parent / "metrics.jsonl", root)
        yield f"{name}-weights", read(folder / "crosscoder.safetensors", root)


def bundled(root: Path) -> Outputs:
    """The demo's recipe at a tiny size, and every command that follows it."""
    run, threads = root / "run", ("--threads", THREADS)
    crossproof(
        *("train", "--recipe", "demo", "--out", run, "--n-latents", 64, "--k", 8, "--steps", 12),
        *("--batch-tokens", 256, "--buffer-batches", 4, "--context", 32, "--log-every", 4),
        *("--evaluation-sequences", 6, *threads),
    )
    yield "train", read(run / "results.json", root)
    for name, content in trained(run, root):
        yield f"train-{name}", content
    config = run / "penalised" / "crosscoder" / "config.json"
    yield "train-config", read(config, root)
    # Sequences long and many enough that no resampled denominator is near zero.
    other = ("--split", "validation", "--sequences", 6, "--skip", 2, "--seed", 1)
    crossproof("evaluate", run, *other, "--context", 48, *threads)
    yield "evaluate", read(run / "evaluation-validation" / "results.json", root)
    short = ("--context", 16, *threads)
    crossproof("measure", run, "--tokens", 140, "--pairs", 2, *short)
    yield "measure", read(run / "measure" / "measure.json", root)
    sums = run / "measure" / "penalised" / "interactions.safetensors"
    yield "measure-sums", read(sums, root)
    alone = ("--no-attention", "--pairs", 1, "--tokens", 70, "--split", "train")
    against = ("--against", run / "unpenalised" / "crosscoder")
    crossproof(
        *("measure", run / "penalised" / "crosscoder", *alone, *against),
        *("--out", root / "compared", *short),
    )
    yield "measure-compared", read(root / "compared" / "measure.json", root)
    crossproof(
        *("cluster", run, "--judge", "overlap", "--explainer", "data", "--tokens", 1200),
        *(
            "--seeds",
            1,
            "--min-tokens",
            2,
            "--max-frequency",
            0.9,
            "--latents",
            24,
            "--questions",
            1,
            *threads,
        ),
        *("--against", "coactivation-normalised"),
    )
    yield "cluster", read(run / "clusters" / "clusters.json", root)
    out = root / "attribution"
    one = run / "penalised" / "crosscoder"
    crossproof("attribute", one, "--sequences", 2, "--top", 2, "--out", out, *short)
    yield "attribute", read(out / "attribution.json", root)
    (tokens,) = out.glob("*.safetensors")
    yield "attribute-tokens", read(tokens, root)


def llama(root: Path) -> Outputs:
    """Gated MLPs: every term of the objective, the commands, a transcoder and an SAE."""
    model = save_model(root / "llama", tiny_models.llama)
    text = write_texts(root / "text.txt", prompts(200, 0, 62, 40))
    run, given = root / "run", ("--model", model, "--text", text)
    short = ("--context", 16, "--threads", THREADS)
    crossproof(
        *("train", *given, "--out", run, "--n-latents", 48, "--k", 6, "--sparsity", "topk"),
        *("--steps", 6, "--batch-tokens", 128, "--buffer-batches", 2, "--log-every", 2),
        *("--interaction", 1, "--interaction-weights", "output_norm", "--keep-largest", 20),
        *(
            "--all-latents",
            5,
            "--certified",
            0.1,
            "--dominant-share",
            1,
            "--l1",
            0.01,
            "--mlp-in",
            1,
        ),
        *("--rotated", 1, "--evaluation-sequences", 6, *short),
    )
    yield "train", read(run / "results.json", root)
    for name, content in trained(run, root):
        yield f"train-{name}", content
    crossproof("evaluate", run, "--sequences", 12, "--split", "validation", *short)
    yield "evaluate", read(run / "evaluation-validation" / "results.json", root)
    crossproof("measure", run, "--tokens", 160, "--pairs", 2, *short)
    yield "measure", read(run / "measure" / "measure.json", root)
    yield "measure-sums", read(run / "measure" / "penalised" / "interactions.safetensors", root)
    last = ("--parts", "last-block", "--sequences", 2, "--top", 2)
    crossproof("attribute", run, *last, *short)
    yield "attribute", read(run / "attribution" / "attribution.json", root)
    dictionaries = {
        "sae": save_saelens(root / "sae", "blocks.1.ln2.hook_normalized", 0),
        "transcoder": save_saelens(
            root / "transcoder", "blocks.1.ln2.hook_normalized", 1, "blocks.1.hook_mlp_out"
        ),
    }
    for name, folder in dictionaries.items():
        out = root / f"{name}-run"
        crossproof("import", folder, *given, "--out", out, "--name", name)
        crossproof("evaluate", out, "--sequences", 4, *short)
        yield f"{name}-evaluate", read(out / "evaluation-held_out" / "results.json", root)
    crossproof("measure", root / "sae-run", "--tokens", 100, "--pairs", 1, *short)
    yield "sae-measure", read(root / "sae-run" / "measure" / "measure.json", root)


def neo(root: Path) -> Outputs:
    """Plain MLPs: the other sparsities, two models at once, and audits."""
    model = save_model(root / "neo", tiny_models.gpt_neo)
    tuned = save_model(root / "tuned", tiny_models.gpt_neo, seed=1)
    text = write_texts(root / "text.txt", prompts(200, 1, 62, 40))
    small = (
        *("--n-latents", 32, "--k", 4, "--steps", 6, "--batch-tokens", 64, "--context", 16),
        *("--buffer-batches", 2, "--log-every", 2, "--text", text, "--threads", THREADS),
    )
    sparsities = {
        "topk": ("--groups", 2),
        "relu": ("--l1", 0.1, "--keep-largest", 20),
        "jumprelu": ("--l0", 0.1, "--no-baseline"),
    }
    for name, options in sparsities.items():
        run = root / name
        crossproof(
            *("train", "--model", model, "--out", run, "--sparsity", name, "--no-evaluate"),
            *(*small, *options),
        )
        for part, content in trained(run, root):
            yield f"{name}-{part}", content
    pair = root / "pair"
    crossproof(
        *("train", "--model", f"{model},{tuned}", "--out", pair, *small),
        *("--evaluation-sequences", 4),
    )
    yield "pair-train", read(pair / "results.json", root)
    yield from audits(root, model)


def audits(root: Path, model: Path) -> Outputs:
    """An audit that trains its crosscoder, and one that is given it."""
    odd = [f"{text} w55 w56 w57 w58" for text in prompts(2, 2)]
    texts = (
        *("--trusted", write_texts(root / "trusted.txt", prompts(140, 3, length=24))),
        *("--suspect", write_texts(root / "suspect.txt", [*prompts(6, 4), *odd])),
        *("--shown", 1, "--threads", THREADS),
    )
    out, given = root / "audit", root / "audit-given"
    crossproof("audit", model, *texts, "--out", out, "--steps", 6, "--n-latents", 32)
    yield "audit", read(out / "audit.json", root)
    crossproof("audit", model, *texts, "--out", given, "--crosscoder", out / "crosscoder")
    yield "audit-given", read(given / "audit.json", root)


def formats(root: Path) -> Outputs:
    """One dictionary of each format, as it is after the import."""
    folders = {
        "gpt-neo": save_model(root / "neo", tiny_models.gpt_neo),
        "llama": save_model(root / "llama", tiny_models.llama),
    }
    imported: Flat = {}
    for name, fixture in sorted(FORMATS.items()):
        out, given = root / name, fixture.given
        hookpoints = () if given is None else ("--hookpoint", *given)
        crossproof(
            *("import", FIXTURES / name / "dictionary", "--model", folders[fixture.model]),
            *("--out", out, "--join", "--name", "given", *hookpoints),
        )
        for file in ("crosscoder.safetensors", "config.json"):
            content = read(out / "given" / "crosscoder" / file, root)
            imported |= {f"/{name}{path}": value for path, value in content.items()}
    yield "all", imported


def verdict(folder: Path) -> Flat:
    """What the verifier says, but for its time and the bytes, which depend on how they lie."""
    crossproof("verify", folder)
    said = verify(folder).to_json()
    left = {name: value for name, value in said.items() if name not in ("seconds", "bytes")}
    return {f"/verdict{path}": value for path, value in flatten(left)}


def verified(root: Path) -> Outputs:
    """The verdicts on the certificates that ship: points, pairs and boxes."""
    for folder in sorted(EXAMPLES.glob("*/certificate.json")):
        yield folder.parent.name, read(folder, root) | verdict(folder.parent)


def proved(root: Path) -> Outputs:
    """A certificate of each kind, of networks trained on the way."""
    kinds: dict[str, tuple[str, tuple[object, ...]]] = {
        "points": ("sparse", ("--points", 40)),
        "boxes": ("continuum", ("--kind", "boxes", "--nodes", 200, "--points", 40)),
        "pairs": ("modular-53", ("--blocks", 1)),
    }
    for kind, (task, options) in kinds.items():
        folder, network = root / kind, root / task
        toy_network.main(toy_network.ToyNetwork(task, network, quick=True))  # type: ignore[arg-type]
        if kind != "pairs":
            options = ("--dictionary", network / "dictionary", *options)
        crossproof("prove", network, *options, "--out", folder)
        yield kind, read(folder / "certificate.json", root) | verdict(folder)


FAMILIES: dict[str, Callable[[Path], Outputs]] = {
    family.__name__: family for family in (bundled, llama, neo, formats, verified, proved)
}


def run_all(root: Path, only: list[str]) -> dict[str, Flat]:
    """The outputs of every family, or of some, called FAMILY-OUTPUT."""
    outputs: dict[str, Flat] = {}
    for name in only or FAMILIES:
        (root / name).mkdir(parents=True)
        outputs |= {f"{name}-{part}": flat for part, flat in FAMILIES[name](root / name)}
    return outputs


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "outputs.json").write_text(json.dumps(run_all(folder, sys.argv[2:])))
