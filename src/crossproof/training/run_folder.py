"""Finding and reading a run folder: provenance without weights, crosscoders when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crossproof.crosscoder.folders import finished_crosscoders
from crossproof.crosscoder.model import Crosscoder, load_crosscoder
from crossproof.crosscoder.store import Provenance, read_provenance
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel
from crossproof.training.objective import Objective


@dataclass(frozen=True)
class RunFolder:
    """The finished crosscoders below a run folder, or the one that a crosscoder folder is."""

    path: Path
    folders: dict[str, Path]
    """Each crosscoder's own folder by its name; the unpenalised one first."""

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Errors as `finished_crosscoders`."""
        return cls(path, finished_crosscoders(path))

    @property
    def names(self) -> tuple[str, ...]:
        """The crosscoders' names."""
        return tuple(self.folders)

    def provenance(self, name: str | None = None) -> Provenance:
        """Where a crosscoder comes from (the first one, by default), without its weights."""
        return read_provenance(self.folders[name or self.names[0]])

    def crosscoder(self, name: str | None = None) -> Crosscoder:
        """A crosscoder (the first one, by default); errors as `load_crosscoder`."""
        return load_crosscoder(self.folders[name or self.names[0]])[0]

    def crosscoders(self, model: LanguageModel) -> dict[str, Crosscoder]:
        """All of them by name, on the model's device; CrossproofError if one explains another."""
        for name in self.names:
            check_model(model, self.provenance(name), self.path)
        return {name: self.crosscoder(name).to(model.device) for name in self.names}


def check_model(model: LanguageModel, provenance: Provenance, where: Path) -> None:
    """Raises CrossproofError if the crosscoder was trained on a model with other weights."""
    if model.weights_hash != provenance.weights_hash:
        raise CrossproofError(
            f"The crosscoder in {where} explains '{provenance.model}' (weights "
            f"{provenance.weights_hash}), not '{model.name}' (weights {model.weights_hash}): load "
            f"the model it was trained on."
        )


def objective_label(provenance: Provenance) -> str:
    """What a crosscoder was trained for, or which libraries' dictionaries it was imported from."""
    origins = provenance.training.get("imported", [])
    if origins:
        return "imported: " + ", ".join(sorted({str(origin["format"]) for origin in origins}))
    return Objective.stored(provenance.training.get("objective", {})).describe()
