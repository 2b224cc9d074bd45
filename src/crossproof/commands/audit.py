"""`crossproof audit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from crossproof.audit.config import AuditSettings
from crossproof.commands.parsing import parse
from crossproof.errors import CrossproofError


@dataclass(frozen=True)
class Audit(AuditSettings):
    """Rank suspect texts by how unusual the model's insides are on them.

    Detectors are fitted on trusted texts alone: on interactions of a crosscoder's latents, and on
    simpler things that they must beat. Texts are documents (`<|endoftext|>` parts those of a .txt
    file; a .jsonl file has a field "text"); give prompts without the model's answers.

      crossproof audit bundled --trusted clean.txt --suspect odd.txt
      crossproof audit ./my-model --trusted clean.jsonl --suspect odd.jsonl --crosscoder runs/mine
    """

    model: Annotated[str, tyro.conf.Positional] = tyro.MISSING
    """The language model: `bundled`, a local Hugging Face folder, or a Hub id."""
    trusted: str = tyro.MISSING
    """Texts known to be clean: a .txt or .jsonl file, hf:NAME, packed tokens, or `bundled`."""
    suspect: str = tyro.MISSING
    """Texts to be ranked: likewise."""
    out: Path = Path("runs/audit")
    """Folder for audit.json, report.html and the crosscoder, if one is trained."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Audits, prints the ranked list, writes audit.json and report.html."""
    options: Audit = parse(Audit, "audit", arguments)

    from crossproof.audit.run import audit
    from crossproof.lm import load_model
    from crossproof.report.audit import write_audit
    from crossproof.report.terminal import console
    from crossproof.report.terminal_audit import detectors_table, ranked_table
    from crossproof.training.machine import keep_freed_memory, thread_setting

    thread_setting(options.threads)
    keep_freed_memory()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrossproofError(
            f"Cannot write {options.out} ({error.strerror}): choose a writable folder."
        ) from error
    model = load_model(options.model)
    settings = AuditSettings(**{name: getattr(options, name) for name in _FIELDS})
    content = audit(model, settings, options.out, lambda line: print(line, flush=True))
    console.print(detectors_table(content))
    console.print(ranked_table(content))
    print(f"All scores: {options.out / 'audit.json'}")
    print(f"Report: {write_audit(options.out, content)}")


_FIELDS = tuple(AuditSettings.__dataclass_fields__)
