"""`crossproof tokenize`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from crossproof.commands.early import BUNDLED, check_model, check_text, loading
from crossproof.commands.parsing import parse
from crossproof.errors import CrossproofError, in_shell
from crossproof.working import while_it_lasts, working


@dataclass(frozen=True)
class Tokenize:
    """Turn a text of any size into a folder of tokens, which every command takes by --text.

      crossproof tokenize hf:HuggingFaceFW/fineweb,config=sample-10BT --model ./my-gpt2 --out tokens
      crossproof train --text tokens --model ./my-gpt2 --out runs/mine

    The folder is read from the disk as it is needed, however large, and split by documents: no
    document of the training split is in the others. Ctrl-C, a crash and a full disk cost one shard
    at most: the same command goes on where it stopped.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
    """A text as --text takes it: files, patterns, folders, hf:NAME, several with weights."""
    out: Path = tyro.MISSING
    """Folder to write."""
    model: str = "bundled"
    """The model whose tokenizer it is for; only that is read."""
    shard_tokens: int = 1 << 25
    """Tokens a file holds, about."""
    trust_remote_code: bool = False
    """Run the code that the model brings, if transformers does not know its kind."""


def run(arguments: Sequence[str], began: float) -> None:
    """Tokenises, or goes on tokenising."""
    options: Tokenize = parse(Tokenize, "tokenize", arguments)
    if options.source == BUNDLED:
        raise CrossproofError(
            f"The text '{BUNDLED}' is tokens already: every --text takes it as it is."
        )
    check_model(options.model)
    check_text(options.source)

    with loading():
        from crossproof.activations.tokenizing import tokenize_source
        from crossproof.lm.loading import load_vocabulary
        from crossproof.report.terminal import print_tables, say
        from crossproof.tables import Table

    with working("reading the tokenizer"):
        vocabulary = load_vocabulary(options.model, options.trust_remote_code)
    with _progress(options.source) as tell:
        index = tokenize_source(options.source, vocabulary, options.out, options.shard_tokens, tell)
    columns = ("documents", "tokens", "scored")
    rows = {
        split.replace("_", "-"): tuple(each[column] for column in columns)
        for split, each in index["splits"].items()
    }
    print_tables([Table.of(f"Tokens of {options.source}", columns, rows)])
    say(f"Tokens: {options.out}")
    given = f"--text {in_shell(options.out)} --model {in_shell(options.model)}"
    say(f"Next: `crossproof train {given} --out RUN` trains on them.")


@contextmanager
def _progress(source: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how much of the source's files has been read, and the time that is left; of sources
    whose size nobody knows, how much has been made of them."""
    from crossproof.activations.opening import BYTES_READ
    from crossproof.activations.tokenizing import size_of
    from crossproof.report.terminal import evaluation_display

    read: dict[str, int] = {}
    BYTES_READ.set(read)
    total = size_of(source)
    if total:
        with evaluation_display("tokenising", "bytes") as report:
            yield lambda documents, tokens: report(source, min(sum(read.values()), total), total)
        return
    made = (0, 0)

    def tell(documents: int, tokens: int) -> None:
        nonlocal made
        made = documents, tokens

    line = "tokenising: {:,} documents, {:,} tokens, {:.0f} s so far".format
    with while_it_lasts(lambda seconds: line(*made, seconds)):
        yield tell
