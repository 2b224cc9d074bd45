"""Dictionaries of the Hugging Face Hub by name: `hf:REPO[@REVISION][:FOLDER]`, in its cache."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crossproof.errors import CrossproofError, nearest
from crossproof.lm.sources import GATED, reason

PREFIX = "hf:"
MOST = 40
"""Folders with dictionaries that are downloaded without being named one by one."""
_SPLIT = "params_layer_0.safetensors"
_CONFIGS = ("cfg.json", "config.json", "config.yaml", "hyperparams.json", "model_cfg.yaml")
_NEEDED = re.compile(
    r"activation_scaler\.json|sae_weights\.(safetensors|pt)|sae\.safetensors|ae\.pt"
    r"|model\.(safetensors|pt)|params\.(npz|safetensors)|(pruned|final)\.(safetensors|pt)"
    r"|layer_\d+\.safetensors|W_(enc|dec)_\d+\.safetensors"
)
"""Files that a format reads beside its configuration; not optimizers, statistics and the like."""
_NAME = re.compile(r"hf:(?://)?([^@:/]+(?:/[^@:/]+)?)(?:@([^:]+))?(?::(.*))?")


@dataclass(frozen=True)
class HubPlace:
    """A repository, or a folder or file of it, at a revision (the newest, if None)."""

    repository: str
    inside: str = ""
    revision: str | None = None

    @classmethod
    def of(cls, name: str) -> HubPlace:
        """Of `hf:REPO[@REVISION][:FOLDER]`; CrossproofError for anything else."""
        match = _NAME.fullmatch(name)
        if match is None or not match[1].isprintable():
            raise CrossproofError(
                f"{name!r} is no place of the Hub: write hf:OWNER/REPOSITORY, if need be with a "
                f"revision and a folder or file of it, hf:OWNER/REPOSITORY@REVISION:FOLDER."
            )
        return cls(match[1], (match[3] or "").strip("/"), match[2])

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repository}{revision}" + (f":{self.inside}" if self.inside else "")


def fetch(place: HubPlace) -> tuple[Path, HubPlace]:
    """Downloads what a format needs of `place`, or takes it from the cache; with the exact place.

    The place that is returned has the commit for a revision. Only files that are not in the cache
    are downloaded, and a download that was interrupted goes on where it stopped. Without a network
    the cache serves. Raises CrossproofError, with what to do, for a repository that is gated,
    private or not there, a revision or folder that it lacks, one that holds more than `MOST`
    dictionaries, and a network that fails.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        cached = _cached(place)
        if cached is None:
            raise CrossproofError(
                f"{place} is not in the cache, and the Hub may not be asked (HF_HUB_OFFLINE): "
                f"download it once with a network."
            )
        return cached
    with _answering(place):
        try:
            info = HfApi().model_info(place.repository, revision=place.revision)
        except _network_errors() as error:
            cached = None if isinstance(error, HfHubHTTPError) else _cached(place)
            if cached is None:
                raise
            return cached
    wanted = _wanted(place, [file.rfilename for file in info.siblings or []])
    with _answering(place):
        # By the name of the revision, not by its commit: so the cache knows it without a network.
        got = [hf_hub_download(place.repository, name, revision=place.revision) for name in wanted]
    roots = {file.removesuffix(name) for file, name in zip(got, wanted, strict=True)}
    root = Path(roots.pop())
    if roots or root.name != info.sha:
        raise CrossproofError(f"{place} changed while it was downloaded: run the same again.")
    return root / place.inside, HubPlace(place.repository, place.inside, info.sha)


def _cached(place: HubPlace) -> tuple[Path, HubPlace] | None:
    """What an earlier download has left in the cache, if it has."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(place.repository, revision=place.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    root = Path(found)
    return root / place.inside, HubPlace(place.repository, place.inside, root.name)


def _network_errors() -> tuple[type[Exception], ...]:
    """What the Hub's client raises: of the system, and of its HTTP library, whichever it has."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(b for b in HfHubHTTPError.__bases__ if issubclass(b, Exception)))


def _wanted(place: HubPlace, names: list[str]) -> list[str]:
    """The files to download: of a folder all that formats read, of a file it and configurations."""
    if place.inside in names:
        folder = place.inside.rpartition("/")[0]
        around = {folder, folder.removesuffix("checkpoints").rstrip("/")}
        beside = [f"{each}/{name}" if each else name for each in around for name in _CONFIGS]
        return [place.inside, *(name for name in beside if name in names)]
    prefix = f"{place.inside}/" if place.inside else ""
    below = [name for name in names if name.startswith(prefix)]
    weights = [name for name in below if _NEEDED.fullmatch(name.rpartition("/")[2])]
    folders = sorted({name.rpartition("/")[0].removesuffix("/checkpoints") for name in weights})
    configs = [name for name in below if name.rpartition("/")[2] in _CONFIGS]
    if not weights and any(name.endswith(_SPLIT) for name in below):
        raise CrossproofError(
            f"{place} is a crosscoder or cross-layer transcoder of Gemma Scope 2, a file a layer, "
            f"which whole would take hundreds of gigabytes: import SAEs or per-layer transcoders."
        )
    if not weights and not any(name == f"{prefix}config.yaml" for name in configs):
        known = sorted({name.rpartition("/")[0] for name in names if _is_weights(name)})
        raise CrossproofError(
            f"{place} holds no dictionary that crossproof recognises.{_folders(place, known)}"
        )
    if len(folders) > MOST:
        raise CrossproofError(
            f"{place} holds {len(folders)} dictionaries: name one folder of it, such as "
            f"{PREFIX}{place.repository}:{folders[0]}."
        )
    return weights + configs


def _is_weights(name: str) -> bool:
    return _NEEDED.fullmatch(name.rpartition("/")[2]) is not None


def _folders(place: HubPlace, known: list[str]) -> str:
    if not known:
        return " Choose a repository with dictionaries in a format that docs/importing.md lists."
    return nearest(place.inside, known) or f" It has {known[0]}."


@contextmanager
def _answering(place: HubPlace) -> Iterator[None]:
    """Turns what the Hub's client raises into one sentence."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        why, remedy = GATED
        raise CrossproofError(f"{place} cannot be downloaded ({why}); {remedy}.") from error
    except RevisionNotFoundError as error:
        raise CrossproofError(
            f"'{place.repository}' has no revision '{place.revision}': check it on its page."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CrossproofError(
            f"'{place.repository}' is no repository of the Hugging Face Hub that you can see; "
            f"check the name, and log in with `hf auth login` if it is private."
        ) from error
    except _network_errors() as error:
        raise CrossproofError(
            f"{place} cannot be downloaded now ({reason(error)}): check the network, and run the "
            f"same again; what is there already is kept."
        ) from error
    except (LookupError, TypeError, ValueError) as error:  # of the client, at what was answered
        raise CrossproofError(
            f"{place} cannot be downloaded: what answered is not as the Hub answers "
            f"({type(error).__name__}), or names files outside the repository; check HF_ENDPOINT, "
            f"and that no log-in page of the network stands between."
        ) from error
