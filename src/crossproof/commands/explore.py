"""`crossproof explore`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from crossproof.commands.early import check_text, loading
from crossproof.commands.models import ModelOptions
from crossproof.commands.parsing import parse
from crossproof.crosscoder.folders import finished_crosscoders
from crossproof.errors import CrossproofError
from crossproof.extras import needed
from crossproof.interactions.config import mlps_of
from crossproof.working import working

if TYPE_CHECKING:
    from crossproof.explorer.sentences import Sentences
    from crossproof.explorer.store import Store


@dataclass(frozen=True)
class Explore:
    """Look at latents, neurons and their interactions in the browser.

    The first call reads text and builds RUN/explorer; one that was stopped goes on. Then it serves
    pages on this machine, or writes them as a site of files:

      crossproof explore runs/demo
      crossproof explore runs/demo --export site
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A folder written by `crossproof train` or `import`, or one that holds
    crosscoder.safetensors."""
    port: int = 8765
    """Port to serve on; 0 takes a free one."""
    host: str = "127.0.0.1"
    """Address to serve on. Any but this machine's own needs --open."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Serve to other machines: whoever has the link, which holds a secret word, can read."""
    export: Path | None = None
    """Write a site of files into this folder instead of serving."""
    rebuild: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Build the store again, even if there is one."""
    sentences: bool = True
    """Load the language model, so that sentences of one's own can be read."""
    language_model: ModelOptions = field(default_factory=ModelOptions)
    text: str | None = None
    """Text to build the store from; by default the run's own source."""
    split: Literal["held_out", "validation", "train"] = "held_out"
    tokens: float = 200_000.0
    """How many tokens of it (1e6 is a million); the whole split if it has fewer."""
    context: int | None = None
    """Tokens a sequence; by default as many as the run was trained on."""
    pair_tokens: float = 2e6
    """At how many of the tokens, spread evenly, interactions are measured."""
    detail_sequences: int = 256
    """Sequences that are read twice, for contexts of pairs and for neurons."""
    mlp: str | None = None
    """MLPs that read the dictionary: next (at or first behind what it writes), all, or blocks such
    as 3,4; by default those the run was trained for."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Builds the store where there is none, then exports or serves until Ctrl-C."""
    options: Explore = parse(Explore, "explore", arguments)
    if options.port > 65535:
        raise CrossproofError(f"--port is {options.port}: give a number from 0 to 65535.")
    if options.mlp:
        mlps_of(options.mlp)  # before anything is loaded
    finished_crosscoders(options.run)
    options.language_model.check()
    check_text(options.text)
    for package in ("duckdb", "starlette", "uvicorn"):
        needed(package, "explore", "`crossproof explore`")

    with loading():
        from crossproof.explorer.access import is_loopback
        from crossproof.explorer.exporting import check_site
        from crossproof.explorer.format import MANIFEST, STORE
        from crossproof.explorer.store import Store

    if not (is_loopback(options.host) or options.open):
        raise CrossproofError(
            f"{options.host} can be reached from other machines: add --open if that is meant."
        )
    if options.export is not None:
        check_site(options.export)  # before minutes of building
    if options.rebuild or not (options.run / STORE / MANIFEST).exists():
        _build(options)
    store = Store(options.run)
    if options.export is not None:
        _export(store, options.export)
        return
    _serve(options, store)


def _build(options: Explore) -> None:
    print(
        f"Building {options.run / 'explorer'} from {int(options.tokens):,} tokens of text at most "
        f"(--tokens), once: later calls use it.",
        flush=True,
    )
    with loading():
        from crossproof.activations.corpus import TextSlice, fitting_context
        from crossproof.explorer.builder import BuildOptions
        from crossproof.explorer.building import build_store
        from crossproof.report.terminal import evaluation_display, print_tables, say
        from crossproof.training.machine import keep_freed_memory, thread_setting

    thread_setting(options.threads)
    keep_freed_memory()
    model, config = options.language_model.load(options.run)
    context = fitting_context(options.context or config.context, model)
    source, count = options.text or config.text, int(options.tokens)
    text = TextSlice.of_tokens(source, options.split, count, context, config.rows)
    mlps = mlps_of(options.mlp) if options.mlp else mlps_of(config.penalise)
    pair_tokens = int(options.pair_tokens)
    settings = BuildOptions(options.detail_sequences, pair_tokens, mlps=mlps)
    with evaluation_display("building", "") as progress:
        manifest = build_store(model, options.run, text, settings, progress)
    print_tables(manifest.tables())
    say(f"Store: {options.run / 'explorer'}")


def _export(store: Store, folder: Path) -> None:
    from crossproof.explorer.exporting import export_site
    from crossproof.report.terminal import say

    with working("writing the site"):
        size = export_site(store, folder)
    say(f"Site: {folder / 'index.html'} ({size / 2**20:.1f} MiB)")
    say(f"Next: open {folder / 'index.html'}; the folder works from any disk or web server.")


def _serve(options: Explore, store: Store) -> None:
    from crossproof.explorer.access import is_loopback, new_token
    from crossproof.explorer.serving import serve

    sentences = _sentences(options, store) if options.sentences else None
    token = None if is_loopback(options.host) else new_token()
    serve(store, sentences, options.host, options.port, token)


def _sentences(options: Explore, store: Store) -> Sentences | None:
    """The readers of sentences; without them, and with a word why, where there can be none."""
    from crossproof.explorer.sentences import Sentences
    from crossproof.report.terminal import say
    from crossproof.training.run_folder import RunFolder

    try:
        model, config = options.language_model.load(options.run)
        crosscoders = RunFolder.open(options.run).crosscoders(model)
        chosen = [crosscoders[each.name] for each in store.dictionaries if each.name in crosscoders]
        if len(chosen) != len(store.dictionaries):
            raise CrossproofError("The run has other dictionaries than its store: add --rebuild.")
        return Sentences(model, chosen, mlps_of(options.mlp or config.penalise))
    except CrossproofError as error:
        say(f"No sentences can be read: {error}")
        return None
