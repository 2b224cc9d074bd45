"""`crossproof verify` of certificates about language models: which model, dictionary and text."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from crossproof.errors import CrossproofError
from crossproof.training.config import Precision
from crossproof.working import working

if TYPE_CHECKING:
    from crossproof.crosscoder.model import Crosscoder
    from crossproof.lm import LanguageModel
    from crossproof.proof.certificate.format import Limits
    from crossproof.proof.certificate.result_contexts import ContextsResult
    from crossproof.proof.certificate.result_statistical import StatisticalResult

R = TypeVar("R")


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


def report_text(folders: Mapping[Path, str], subject: TextSubject, limits: Limits) -> bool:
    """Prints what certificates about language models show, by kind; False if a claim is false."""
    from rich.console import Console

    from crossproof.proof.certificate.reading import printable
    from crossproof.proof.certificate.result_contexts import contexts_table
    from crossproof.proof.certificate.result_statistical import statistical_table
    from crossproof.proof.certificate.verifier.contexts import verify_contexts
    from crossproof.proof.certificate.verifier.statistical import verify_statistical

    with working("verifying"):
        statistical = {
            folder: verify_statistical(folder, limits=limits)
            for folder, kind in folders.items()
            if kind == "statistical"
        }
        contexts = {
            folder: verify_contexts(folder, limits=limits)
            for folder, kind in folders.items()
            if kind == "contexts"
        }
    if subject.given:
        model, crosscoder = subject.load(text=bool(statistical))
        with working("running the model again"):
            statistical = {
                f: _again(f, r, model, crosscoder, subject) for f, r in statistical.items()
            }
            contexts = {f: _compared(f, r, model, crosscoder) for f, r in contexts.items()}
    results: dict[Path, StatisticalResult | ContextsResult] = {**statistical, **contexts}
    first = next(iter(results.values()))
    tables = first.tables()
    if len(results) > 1:
        tables = [statistical_table(_named(statistical))] if statistical else []
        tables += [contexts_table(_named(contexts))] if contexts else []
    for table in tables:
        Console().print(table.to_rich())
    if len(results) == 1 and first.holds:
        print(first.verdict)
    false = [printable(str(folder)) for folder, result in results.items() if not result.holds]
    if false:
        print(f"crossproof: the claim of {', '.join(false)} is NOT verified.", file=sys.stderr)
    elif len(results) > 1 and statistical:
        print("All statistical claims are verified; they are no proofs about every input.")
    return not false


def _named(results: Mapping[Path, R]) -> dict[str, R]:
    return {str(folder): result for folder, result in results.items()}


def _again(
    folder: Path,
    result: StatisticalResult,
    model: LanguageModel,
    crosscoder: Crosscoder,
    subject: TextSubject,
) -> StatisticalResult:
    from crossproof.proof.certificate.statistical import recompute

    assert subject.text is not None  # `load` looked
    again = recompute(folder, model, crosscoder, subject.text, subject.recheck)
    return replace(result, recomputed=again, pinned=("model", "dictionary", "text"))


def _compared(
    folder: Path, result: ContextsResult, model: LanguageModel, crosscoder: Crosscoder
) -> ContextsResult:
    from crossproof.proof.certificate.contexts import compare_contexts

    compare_contexts(folder, model, crosscoder)
    return replace(result, recomputed=True, pinned=("model", "dictionary"))
