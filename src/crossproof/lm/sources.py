"""Where a model's or an adapter's files are, and in one sentence what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    StrictDataclassError,
)

from crossproof.errors import CrossproofError
from crossproof.files import LFS

GGUF = ".gguf"
LONGEST_REASON = 300
GATED = (
    "it is gated",
    "accept its conditions on its page of the Hugging Face Hub, log in with `hf auth login` (or "
    "set HF_TOKEN), and try again",
)
"""Why, and what to do."""


@dataclass(frozen=True)
class Source:
    """The files of a language model: a folder or a repository of the Hub, or a GGUF file there."""

    name: str
    """As the user gave it."""
    repository: str
    """The folder's path, or the Hub id."""
    gguf: str | None = None
    """The name of the GGUF file in it."""

    @classmethod
    def of(cls, name: str) -> Source:
        """Raises CrossproofError for a path that is no model folder and no GGUF file."""
        path = local_path(name)
        if os.path.isdir(path):
            if not (path / "config.json").is_file():
                raise CrossproofError(_without_config(name, path))
            return cls(name, str(path))
        if name.lower().endswith(GGUF) and os.path.isfile(path):
            return cls(name, str(path.parent), path.name)
        if name.lower().endswith(GGUF) and name.count("/") > 1 and not is_path(name):
            repository, _, file = name.rpartition("/")
            return cls(name, repository, file)
        if is_path(name):
            raise CrossproofError(f"There is no model folder '{name}'; check the path.")
        return cls(name, name)

    @property
    def folder(self) -> Path | None:
        """The local folder, if it is one."""
        return Path(self.repository) if os.path.isdir(self.repository) else None

    @property
    def options(self) -> dict[str, str]:
        """What transformers' `from_pretrained` needs beside the repository."""
        return {"gguf_file": self.gguf} if self.gguf else {}

    def file(self, name: str) -> Path:
        """A file of the repository, downloaded if need be; CrossproofError if it cannot be had."""
        folder = self.folder
        return hub_file(self.repository, name, "model") if folder is None else folder / name


class Reading:
    """`with Reading(what, remedy):` around another library's reading of somebody's files.

    Whatever is raised inside becomes one CrossproofError, "`what` (reason); `remedy`." Libraries
    raise nearly anything over files that they did not expect: a KeyError for an unknown activation
    function, an AttributeError for an unknown dtype, a bare Exception for a newer tokenizer.
    """

    def __init__(self, what: str, remedy: str, folder: Path | None = None) -> None:
        self.what, self.remedy, self.folder = what, remedy, folder

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, CrossproofError | KeyboardInterrupt | SystemExit):
            return
        why, remedy = reason(error), self.remedy
        if isinstance(error, ImportError):
            remedy = "install what it asks for"
        pointers = sorted(lfs_pointers(self.folder)) if self.folder else []
        if pointers:
            why, remedy = f"{pointers[0]} is a Git LFS pointer", "run `git lfs pull` in its folder"
        if any(isinstance(cause, GatedRepoError) for cause in _causes(error)):
            why, remedy = GATED
        raise CrossproofError(f"{self.what} ({why}); {remedy}.") from error


def local_path(name: str) -> Path:
    """The path that a name stands for if it is one, with ~ expanded where there is such a home."""
    return Path(os.path.expanduser(name))


def exists(name: str) -> bool:
    """Whether a file or folder has this name; False, too, for names that no file can have."""
    return os.path.exists(local_path(name))


def is_path(name: str) -> bool:
    """Whether a name can only be meant as a path."""
    if name.lower().endswith(GGUF) and "/" not in name:  # of the Hub it is NAME/FILE.gguf
        return True
    return exists(name) or name.startswith((".", "/", "~")) or "\0" in name


def hub_file(repository: str, name: str, kind: str) -> Path:
    """A file of the Hub, downloaded or from its cache.

    Raises CrossproofError, with what to do, for a repository that is gated, private or not there,
    lacks the file, or cannot be reached.
    """
    try:
        return Path(hf_hub_download(repository, name))
    except GatedRepoError as error:
        why, remedy = GATED
        raise CrossproofError(
            f"'{repository}' cannot be downloaded ({why}); {remedy}.", code="CP-HUB"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CrossproofError(
            f"'{repository}' is neither a {kind} folder nor a {kind} of the Hugging Face Hub that "
            f"you can see; check the name, or the network, and log in with `hf auth login` if it "
            f"is private.",
            code="CP-HUB",
        ) from error
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise CrossproofError(
            f"'{repository}' is neither a {kind} folder nor a {kind} that the Hugging Face Hub can "
            f"give now; check the name, or the network.",
            code="CP-HUB",
        ) from error
    except EntryNotFoundError as error:
        raise CrossproofError(
            f"'{repository}' of the Hugging Face Hub holds no {name}; choose a repository in the "
            f"format of transformers, BASE+ADAPTER for an adapter, or NAME/FILE.gguf.",
            code="CP-HUB",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CrossproofError(
            f"The Hugging Face Hub cannot give the {kind} '{repository}' now ({reason(error)}); "
            f"try again later.",
            code="CP-HUB",
        ) from error


def lfs_pointers(folder: Path) -> Iterator[str]:
    """Names of the files in a folder that Git LFS has left for it to download."""
    for path in folder.iterdir():
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(LFS):
            yield path.name


def reason(error: BaseException) -> str:
    """What another library complained about, in one line; its type where it said next to nothing.

    Pickles that hold more than tensors are described in our own words: what libraries advise,
    to unpickle them all the same, runs whatever they hold.
    """
    if type(error).__name__ == "UnpicklingError":
        return "it is damaged, or a pickle of other things than tensors, which is never unpickled"
    said = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    line = (lines[-1 if isinstance(error, StrictDataclassError) else 0] if lines else "").rstrip(
        "."
    )
    if isinstance(error, KeyError | AttributeError | IndexError) or " " not in line:
        line = f"{type(error).__name__}: {line}".rstrip(": ")
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _without_config(name: str, path: Path) -> str:
    ggufs = sorted(each.name for each in path.iterdir() if each.name.lower().endswith(GGUF))
    if ggufs:
        return f"The folder '{name}' holds no config.json; give its GGUF file, '{name}/{ggufs[0]}'."
    return f"The folder '{name}' holds no config.json; give a folder saved by save_pretrained."
