"""`crossproof import`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from crossproof.activations.config import RowKind
from crossproof.commands.early import check_model, check_text, loading
from crossproof.commands.parsing import parse
from crossproof.crosscoder.folders import OTHERS
from crossproof.crosscoder.formats.registry import FORMATS
from crossproof.errors import CrossproofError, in_shell
from crossproof.training.config import Precision
from crossproof.working import working


@dataclass(frozen=True)
class Import:
    """Turn dictionaries that another library saved into a run folder of crossproof.

    SAELens, sparsify, dictionary_learning, crosscode, Gemma Scope, circuit-tracer, Llama Scope;
    SAEs, transcoders and crosscoders; several become a crosscoder each, or one with --join:

      crossproof import my-sae --model gpt2 --text my.txt --out runs/mine
      crossproof import hf:EleutherAI/sae-pythia-70m-32k:layers.3 --model EleutherAI/pythia-70m \\
        --out runs/pythia
      crossproof import --release gemma-scope-2b-pt-res --id layer_20/width_16k/average_l0_71 \\
        --model google/gemma-2-2b --out runs/gemma
      crossproof measure runs/mine
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH")] = ()
    """Folders or files of dictionaries, a folder that holds several, or places of the Hugging
    Face Hub, hf:REPO[@REVISION][:FOLDER]. Several may be given."""
    release: str = ""
    """A release of SAELens's list (that of the package sae-lens, if it is installed); with --id."""
    id: tuple[str, ...] = ()
    """Which dictionaries of the --release."""
    model: str = tyro.MISSING
    """The language model they were trained on: `bundled`, a local Hugging Face folder, a Hub id."""
    out: Path = tyro.MISSING
    """The run folder to write."""
    hookpoint: tuple[str, ...] = ()
    """Where each dictionary reads and writes, if its files do not say: an SAE has one, a transcoder
    an input and an output, a crosscoder all in order. * stands for the dictionary's layer."""
    format: str | None = None
    """saelens, sparsify, dictionary_learning, crosscode, gemma_scope, circuit_tracer, llamascopium
    or another registered one; by default told from the files."""
    join: bool = False
    """Make one crosscoder of several dictionaries, the union of their latents: `attribute` and a
    reconstructed resid_mid need it, `measure` takes longer."""
    name: str = ""
    """The crosscoder's name in the run folder; by default `imported`. Of several that are not
    joined each is called after its own folder."""
    centred: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The residual stream was centred (TransformerLens's center_writing_weights), whatever the
    files say; those of old versions of SAELens say nothing."""
    raw: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The residual stream was the model's own, not centred."""
    scale: float | None = None
    """What activations are multiplied by before they are encoded, if the files do not say it."""
    dtype: Precision = "float32"
    """In which the language model runs, here and in later commands."""
    device: str = "cpu"
    """cpu, or any other device PyTorch knows."""
    trust_remote_code: bool = False
    """Run the code that the language model brings, if transformers does not know its kind."""
    text: str = ""
    """Text that later commands use unless they are given another; see `crossproof train --help`."""
    rows: RowKind = "packed"
    """How they cut it: from documents packed end to end, or each sequence the beginning of a
    document, as dictionaries may have been trained on."""


def run(arguments: Sequence[str], began: float) -> None:
    """Imports, writes RUN/NAME/crosscoder, and says what is there."""
    options: Import = parse(Import, "import", arguments)
    if bool(options.release) != bool(options.id):
        raise CrossproofError("--release and --id belong together: give both.")
    if not options.paths and not options.release:
        raise CrossproofError("Name at least one folder or file of a dictionary to import.")
    if options.scale is not None and not 0 < options.scale < float("inf"):
        raise CrossproofError(f"--scale is {options.scale}: give a number above 0.")
    if options.name and not _plain(options.name):
        raise CrossproofError(f"--name is {options.name!r}: give a plain name, without folders.")
    if options.centred and options.raw:
        raise CrossproofError("--centred and --raw contradict each other: give one.")
    if options.name or options.join:  # else the name is only known when all are read
        _check_new(options.out, [options.name or "imported"])
    if options.format is not None:
        FORMATS.check(options.format)
    _check_there(options.paths)
    check_model(options.model)
    check_text(options.text)

    with loading():
        from crossproof.crosscoder.store import save_crosscoder
        from crossproof.lm import load_model

    trusted = options.trust_remote_code
    with working("loading the language model"):
        model = load_model(options.model, options.device, options.dtype, trust_remote_code=trusted)
    with working("reading dictionaries"):
        made = _imported(options, model)
    _check_new(options.out, made)
    text = options.text or ("bundled" if options.model == "bundled" else "")
    for name, (crosscoder, provenance) in made.items():
        given = {"text": text, "rows": options.rows, "dtype": options.dtype}
        training = {**provenance.training, **given}
        folder = options.out / name / "crosscoder"
        save_crosscoder(crosscoder, folder, replace(provenance, training=training))
        for origin in training["imported"]:
            print(
                f"{origin['format']} {origin['architecture']}, {origin['latents']} latents: "
                f"{origin['path']} -> {', '.join(origin['hookpoints'])}"
            )
    print(f"Crosscoders: {', '.join(str(options.out / name / 'crosscoder') for name in made)}")
    run, behind = in_shell(options.out), "" if text else " --text TEXT"
    if any(_read(model, crosscoder) for crosscoder, _ in made.values()):
        print(f"Next: `crossproof measure {run}{behind}` shows which latents interact.")
        return
    print("No MLP reads what is written here: nothing to `measure`, and `evaluate` gives no Φ.")
    print(f"Next: `crossproof evaluate {run}{behind}` says how good they are.")


def _check_there(paths: Sequence[str]) -> None:
    """Raises CrossproofError for what can only be a path and is none; the Hub is not asked."""
    from crossproof.lm.sources import exists

    for path in paths:
        if not (exists(path) or path.startswith(("~", "hf:", "saelens:"))):
            raise CrossproofError(
                f"There is no file or folder {path}: check the path.", code="CP-FORMAT"
            )


def _imported(options: Import, model: Any) -> dict[str, tuple[Any, Any]]:
    """Crosscoder and provenance by name; several dictionaries are one with --join."""
    from crossproof.crosscoder.formats import import_dictionaries, import_dictionary
    from crossproof.crosscoder.formats.importing import ImportNotice

    centred = options.centred if options.centred or options.raw else None
    hookpoints = options.hookpoint or None
    paths = [*options.paths, *(f"saelens:{options.release}/{each}" for each in options.id)]
    given = paths, model, hookpoints, options.format, centred, options.scale
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always", ImportNotice)
        made = {"": import_dictionary(*given)} if options.join else import_dictionaries(*given)
    for notice in dict.fromkeys(str(each.message) for each in noticed):
        print(notice)
    if len(made) == 1:
        return {options.name or "imported": next(iter(made.values()))}
    if options.name:
        raise CrossproofError(
            f"--name names one crosscoder, and these are {len(made)}: leave it out, or --join them."
        )
    return made


def _read(model: Any, crosscoder: Any) -> bool:
    """Whether any MLP reads what the crosscoder writes."""
    from crossproof.interactions import reading_mlps

    return bool(reading_mlps(model, crosscoder.hookpoints, crosscoder.written, "next"))


def _plain(name: str) -> bool:
    return Path(name).name == name and name != ".." and name.isprintable()


def _check_new(out: Path, names: Iterable[str]) -> None:
    for name in names:
        if OTHERS.fullmatch(name):
            raise CrossproofError(
                f"A crosscoder cannot be called '{name}', as something else in a run folder is: "
                f"give another --name, or rename what is imported.",
                code="CP-OUT",
            )
        if (out / name / "crosscoder").exists():
            raise CrossproofError(
                f"{out / name} already holds a crosscoder: choose another --out or --name, or "
                f"remove it.",
                code="CP-OUT",
            )
