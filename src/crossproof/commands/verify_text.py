"""`crossproof verify` of certificates about language models: which model, dictionary and text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from crossproof.errors import CrossproofError
from crossproof.training.config import Precision

if TYPE_CHECKING:
    from crossproof.crosscoder.model import Crosscoder
    from crossproof.lm import LanguageModel
    from crossproof.proof.certificate.verifier.verdict import Verdict


@dataclass(frozen=True)
class TextSubject:
    """Of certificates about a language model: yours, to run it again."""

    model: str | None = None
    """Your model: with --dictionary it runs again, on a random share of --text (a statistical
    certificate) or at the contexts that a certificate lists."""
    dictionary: Path | None = None
    """The folder of your crosscoder."""
    dtype: Precision = "float32"
    """In which the model runs: that of the certificate, whose weights are others in another."""
    device: str = "cpu"
    """cpu, or any other device PyTorch knows."""
    text: str | None = None
    """Of a statistical certificate: your text."""
    recheck: float = 0.05
    """The share of its documents that is computed again; 16 at least."""

    def load(self, text: bool) -> tuple[LanguageModel, Crosscoder]:
        """Model and dictionary; CrossproofError unless all is given that is needed."""
        if self.model is None or self.dictionary is None or (text and self.text is None):
            raise CrossproofError(
                "To run the model again give all of --model, --dictionary and, for a statistical "
                "certificate, --text: what is saved depends on each."
            )
        if not 0 <= self.recheck <= 1:
            raise CrossproofError(f"--recheck is {self.recheck}: give a share from 0 to 1.")
        from crossproof.crosscoder.model import load_crosscoder
        from crossproof.lm import load_model

        model = load_model(self.model, self.device, self.dtype)
        return model, load_crosscoder(self.dictionary)[0].to(model.device)

    @property
    def given(self) -> bool:
        """Whether anything of yours is to be compared."""
        return any(each is not None for each in (self.model, self.dictionary, self.text))


def compared(results: Mapping[Path, Verdict], subject: TextSubject) -> dict[Path, Verdict]:
    """The same once yours has been run again for certificates about language models."""
    from crossproof.proof.certificate.contexts import compare_contexts
    from crossproof.proof.certificate.result_contexts import ContextsResult
    from crossproof.proof.certificate.result_statistical import StatisticalResult
    from crossproof.proof.certificate.statistical import recompute

    kinds = [isinstance(result, StatisticalResult) for result in results.values()]
    model, crosscoder = subject.load(text=any(kinds))
    again = dict(results)
    for folder, result in results.items():
        if isinstance(result, StatisticalResult):
            assert subject.text is not None  # `load` looked
            share = recompute(folder, model, crosscoder, subject.text, subject.recheck)
            yours: tuple[str, ...] = ("model", "dictionary", "text")
            again[folder] = replace(result, recomputed=share, pinned=yours)
        elif isinstance(result, ContextsResult):
            others = compare_contexts(folder, model, crosscoder)
            again[folder] = replace(result, recomputed=others, pinned=("model", "dictionary"))
    return again
