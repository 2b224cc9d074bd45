"""`crossproof verify` of certificates about language models: which model, dictionary and text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from crossproof.errors import CrossproofError

if TYPE_CHECKING:
    from crossproof.proof.certificate.format import Limits
    from crossproof.proof.certificate.result_statistical import Recomputation


@dataclass(frozen=True)
class TextSubject:
    """Of certificates about a language model: yours, to run it again."""

    model: str | None = None
    """Of a statistical certificate: your model. With --dictionary and --text it runs again on a
    random share of the documents."""
    dictionary: Path | None = None
    """Of a statistical certificate: the folder of your crosscoder."""
    text: str | None = None
    """Of a statistical certificate: your text."""
    recheck: float = 0.05
    """The share of its documents that is computed again; 16 at least."""

    @property
    def given(self) -> bool:
        """Whether anything of yours is to be compared."""
        return any(each is not None for each in (self.model, self.dictionary, self.text))


def report_text(folders: Sequence[Path], subject: TextSubject, limits: Limits) -> bool:
    """Prints what certificates about language models show; False if a claim is not verified."""
    from rich.console import Console

    from crossproof.proof.certificate.reading import printable
    from crossproof.proof.certificate.result_statistical import statistical_table
    from crossproof.proof.certificate.verifier.statistical import verify_statistical

    results = {folder: verify_statistical(folder, limits=limits) for folder in folders}
    if subject.given:
        for folder, result in results.items():
            again, pinned = _again(folder, subject), ("model", "dictionary", "text")
            results[folder] = replace(result, recomputed=again, pinned=pinned)
    first = next(iter(results.values()))
    named = {str(folder): result for folder, result in results.items()}
    tables = first.tables() if len(results) == 1 else [statistical_table(named)]
    for table in tables:
        Console().print(table.to_rich())
    if len(results) == 1 and first.holds:
        print(first.verdict)
    false = [printable(str(folder)) for folder, result in results.items() if not result.holds]
    if false:
        print(
            f"crossproof: the statistical claim of {', '.join(false)} is NOT verified.",
            file=sys.stderr,
        )
    elif len(results) > 1:
        print("All statistical claims are verified; they are no proofs about every input.")
    return not false


def _again(folder: Path, subject: TextSubject) -> Recomputation:
    if subject.model is None or subject.dictionary is None or subject.text is None:
        raise CrossproofError(
            "To run the model again give all of --model, --dictionary and --text: what is saved "
            "of a document depends on each."
        )
    if not 0 <= subject.recheck <= 1:
        raise CrossproofError(f"--recheck is {subject.recheck}: give a share from 0 to 1.")
    from crossproof.crosscoder.model import load_crosscoder
    from crossproof.lm import load_model
    from crossproof.proof.certificate.statistical import recompute

    crosscoder, _ = load_crosscoder(subject.dictionary)
    return recompute(folder, load_model(subject.model), crosscoder, subject.text, subject.recheck)
