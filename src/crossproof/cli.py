"""The command line: finds the command, prints its errors. `crossproof --help` lists them."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from crossproof.commands.output import forgiving_output
from crossproof.errors import CrossproofError, first_line, nearest, printable, with_code

__all__ = ("main",)

COMMANDS = {
    "demo": "train two crosscoders on the bundled model and report what the penalty buys",
    "train": "train crosscoders on any model and text, with and without interaction penalties",
    "tokenize": "text of any size into a folder of tokens, which every --text takes",
    "harvest": "store the activations that trainings read, to train many times from them",
    "import": "turn a dictionary that another library saved into a run folder",
    "export": "write finished crosscoders in another library's format",
    "push": "put a finished crosscoder onto the Hugging Face Hub, with a model card",
    "evaluate": "reconstruction and fidelity of finished crosscoders on held-out text",
    "measure": "which latents interact: where, how strongly, on which texts",
    "cluster": "group latents by interaction, explain the groups, judge them beside controls",
    "explore": "look at latents, neurons and their interactions in the browser",
    "attribute": "which steps, pairs and neurons a proof about the model would fail at",
    "audit": "rank suspect texts by how unusual the model's insides are on them",
    "prove": "build a certificate of a small network's performance",
    "verify": "check a certificate, trusting nothing but the arithmetic",
}
"""Each is a module of `crossproof.commands` with `run(arguments, began)`."""

MODULES = {"import": "importing"}
"""Of commands whose names no module can have."""

USAGE = "\n".join(
    [
        "usage: crossproof COMMAND [OPTIONS]\n",
        *(f"  {name:10s} {text}" for name, text in COMMANDS.items()),
        "\n`crossproof COMMAND --help` explains every option of a command.",
        "`--plugin MODULE` imports a module of yours that registers objectives or the like.",
    ]
)


_MEMORY = re.compile("not enough memory|can't allocate memory|out of memory", re.IGNORECASE)
FAULT = "CP-FAULT"
"""The code of what is nobody else's fault."""
ISSUES = "https://github.com/crossproof/crossproof/issues"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exits 0; 1 with one sentence for bad input; 130 when stopped by Ctrl-C.

    What is printed can be lost without harm to what is done: a reader that had enough is no error
    (but of `verify`, which does nothing else), a full disk is one once all is done.
    """
    began = time.perf_counter()
    given = list(sys.argv[1:] if arguments is None else arguments)
    with forgiving_output() as lost:
        try:
            _run(given, began)
        except CrossproofError as error:
            _stop(str(error), error.code)
        except KeyboardInterrupt:
            print("crossproof: stopped.", file=sys.stderr)
            sys.exit(130)
        except Exception as error:  # whatever it is, a user gets a sentence
            _stop(*_unforeseen(error, given))
    if lost:
        sentence = (
            f"Standard output cannot be written ({lost[0].strerror}): files that the command "
            f"writes are complete, what it prints is lost; free the disk, and repeat it."
        )
        _stop(sentence, "CP-FILE")


def _stop(sentence: str, code: str) -> NoReturn:
    sys.exit(printable(with_code(f"crossproof: {sentence}", code)))


def _run(given: Sequence[str], began: float) -> None:
    if not given or given[0] in ("-h", "--help", "help"):
        print(USAGE)
        return
    if given[0] == "--version":
        print(_version())
        return
    if given[0] not in COMMANDS:
        if given[0] == "report":
            raise CrossproofError(
                "Reports are written by `demo`, `train` and `evaluate`, and renewed by what reads "
                "the run later: give `crossproof evaluate RUN`."
            )
        close = nearest(given[0], COMMANDS, 1)
        raise CrossproofError(
            f"There is no command '{given[0]}'; `crossproof --help` lists them.{close}"
        )
    parallel = "true" if given[0] == "tokenize" else "false"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", parallel)
    # Imported late: `--help` and typing errors should not wait for torch and transformers.
    rest = _import_plugins(given[1:])
    module = MODULES.get(given[0], given[0])
    importlib.import_module(f"crossproof.commands.{module}").run(rest, began)


def _version() -> str:
    try:
        return metadata.version("crossproof")
    except metadata.PackageNotFoundError:  # run from a folder, not installed
        return "of an unknown version"


def _unforeseen(error: Exception, given: Sequence[str]) -> tuple[str, str]:
    """A sentence about an error that no function foresaw, and its code; the rest goes into a file.

    Two kinds are nobody's fault: what the file system says of a path, and too little memory.
    """
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: '{error.filename}'; give another path, or free it.", "CP-FILE"
    if isinstance(error, ValueError) and "null byte" in str(error):
        return "A path holds a null byte, which no path can: give another.", "CP-FILE"
    if isinstance(error, MemoryError) or _MEMORY.search(str(error)):
        less = f"There is not enough memory ({first_line(error)}): ask for less at a time."
        return less, "CP-MEMORY"
    told = (
        f"crossproof {_version()}, Python {sys.version}, {platform.platform()}\n"
        f"{list(given)}\n\n{''.join(traceback.format_exception(error))}"
    )
    what = f"{type(error).__name__}: {first_line(error)}. This is a fault of crossproof's own"
    try:
        handle, log = tempfile.mkstemp(prefix="crossproof-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(told)
    except OSError as unwritable:
        return f"{what} (no log: {first_line(unwritable)}): please report it at {ISSUES}.", FAULT
    return f"{what}: please report it at {ISSUES}, with {log}.", FAULT


def _import_plugins(arguments: Sequence[str]) -> list[str]:
    """Imports the module after every --plugin, from the working folder too; returns the rest."""
    rest, words = [], iter(arguments)
    for word in words:
        option, equals, name = word.partition("=")
        if option != "--plugin":
            rest.append(word)
            continue
        name = name if equals else next(words, "")
        sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(name)
        except (ImportError, SyntaxError, ValueError) as error:
            raise CrossproofError(
                f"The plugin '{name}' cannot be imported ({error}): give the name of a module, "
                f"installed or in this folder.",
                code="CP-PLUGIN",
            ) from error
        finally:
            sys.path.pop(0)
    return rest
