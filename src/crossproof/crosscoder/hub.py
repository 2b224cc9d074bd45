"""Crosscoders as folders with a model card, on the disk and on the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from crossproof.crosscoder.folders import WEIGHTS, own_folder
from crossproof.crosscoder.layout import describe_kind
from crossproof.crosscoder.provenance import Provenance
from crossproof.crosscoder.store import (
    CARD,
    CONFIG,
    Stored,
    read_crosscoder,
    save_crosscoder,
)
from crossproof.errors import CrossproofError, first_line
from crossproof.files import write_text

Saved = TypeVar("Saved", bound="SavedOnHub")

HERE = "THIS-REPOSITORY"
"""Stands in a card for its own address, which a folder on the disk does not know."""


class SavedOnHub(Stored):
    """`from_pretrained`, `save_pretrained` and `push_to_hub`, as models of the Hub have them."""

    provenance: Provenance | None = None
    """Where the crosscoder comes from; None if it was never saved."""

    @classmethod
    def from_pretrained(
        cls: type[Saved], name_or_path: str | Path, revision: str | None = None
    ) -> Saved:
        """The crosscoder of a folder, or of a repository of the Hub by its id.

        A folder comes first; the network is asked only for a name that is no folder. Raises
        CrossproofError if there is none, or it is incomplete, damaged or of another format.
        """
        crosscoder, provenance = read_crosscoder(cls, _folder(name_or_path, revision))
        crosscoder.provenance = provenance
        return crosscoder

    def save_pretrained(
        self,
        folder: str | Path,
        provenance: Provenance | None = None,
        figures: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the folder that `from_pretrained` reads, with a model card (README.md).

        `provenance` defaults to that of the folder it was loaded from; `figures` (a name, a
        number or words) are put into the card. Raises CrossproofError if the model is unknown or
        the folder cannot be written.
        """
        origin = provenance or self.provenance
        if origin is None:
            raise CrossproofError(
                "Nothing says which model this crosscoder explains: give provenance=Provenance("
                "model.name, model.weights_hash)."
            )
        save_crosscoder(self, Path(folder), origin)
        write_text(Path(folder) / CARD, model_card(self, origin, figures or {}))

    def push_to_hub(
        self,
        repository: str,
        provenance: Provenance | None = None,
        figures: Mapping[str, Any] | None = None,
        private: bool = False,
        message: str = "A crosscoder of crossproof",
    ) -> str:
        """Uploads what `save_pretrained` writes to a model repository; returns its address.

        The repository is made if it does not exist; the Hub's own settings say who asks
        (`hf auth login`). Raises CrossproofError if it refuses or cannot be reached.
        """
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "crosscoder"
            self.save_pretrained(folder, provenance, figures)
            api = HfApi()
            try:
                url = api.create_repo(repository, private=private, exist_ok=True)
                card = (folder / CARD).read_text(encoding="utf-8")
                write_text(folder / CARD, card.replace(HERE, url.repo_id))
                api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message=message)
            except _hub_errors() as error:
                raise CrossproofError(
                    f"The Hub did not take '{repository}' ({first_line(error)}): check the name, "
                    f"your login (hf auth login), or the network."
                ) from error
        return str(url)


def _folder(name_or_path: str | Path, revision: str | None) -> Path:
    try:
        path = Path(name_or_path).expanduser()
        local = isinstance(name_or_path, Path) or name_or_path.startswith((".", "/", "~"))
        if local or path.exists():
            return own_folder(path)
    except (OSError, RuntimeError) as error:  # a name too long for a file, ~nobody
        raise CrossproofError(f"There is no folder '{name_or_path}': check the path.") from error
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        files = [CONFIG, WEIGHTS, CARD]
        return Path(snapshot_download(str(name_or_path), revision=revision, allow_patterns=files))
    except GatedRepoError as error:
        raise CrossproofError(
            f"'{name_or_path}' is gated: accept its conditions on its page of the Hub, and log in "
            f"(hf auth login)."
        ) from error
    except _hub_errors() as error:
        raise CrossproofError(
            f"'{name_or_path}' is neither a crosscoder's folder nor a repository that the Hugging "
            f"Face Hub can give now; check the name, or the network."
        ) from error


def _hub_errors() -> tuple[type[Exception], ...]:
    """What the Hub's client raises: its own errors, and those of its HTTP library, whichever."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    bases = [base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    return (HFValidationError, OSError, *bases)


def _what(crosscoder: Stored) -> str:
    """What the dictionary does, behind "a sparse dictionary"."""
    kind, count = describe_kind(crosscoder.layout), len(crosscoder.hookpoints.names)
    if kind == "crosscoder":
        return f"that reads and writes {count} hookpoints of one language model at once"
    read, written = len(crosscoder.layout.read), len(crosscoder.layout.written)
    places = f"{read} read, {written} written"
    return f"of one language model, of the kind {kind} (hookpoints: {places})"


def model_card(crosscoder: Stored, provenance: Provenance, figures: Mapping[str, Any]) -> str:
    """The README.md of a saved crosscoder: metadata, what it is, where from, figures, use."""
    config, names = crosscoder.config, crosscoder.hookpoints.names
    rule = config.sparsity + (f", k = {config.k}" if "topk" in config.sparsity else "")
    objective = provenance.training.get("objective") or {}
    terms = ", ".join(f"{name} {value}" for name, value in objective.items() if value)
    rows = {
        "language model": f"`{provenance.model}` (weights {provenance.weights_hash})",
        "latents": f"{config.n_latents:,} ({rule})",
        "hookpoints": ", ".join(f"`{name}`" for name in names),
        "width": f"{crosscoder.d_model:,}",
        "objective": terms or "reconstruction only",
        "trained on": str(provenance.training.get("text") or "not recorded"),
        "seed": str(provenance.seed),
        **{name: str(value) for name, value in figures.items()},
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    base = f"base_model: {provenance.model}\n" if "/" in provenance.model else ""
    return f"""---
library_name: crossproof
tags:
- crosscoder
- interpretability
{base}---

# A crosscoder of {provenance.model}

A sparse dictionary {_what(crosscoder)},
trained with [crossproof](https://pypi.org/project/crossproof/).

| | |
|---|---|
{table}

```python
import crossproof

crosscoder = crossproof.Crosscoder.from_pretrained("{HERE}")
latents = crosscoder.encode(x)  # x: raw activations [tokens, {len(names)}, {crosscoder.d_model}]
```
"""
