"""`crossproof audit`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from crossproof.auditing.config import AuditSettings, check_audit
from crossproof.commands.early import check_folder, check_model, check_text, loading
from crossproof.commands.parsing import parse
from crossproof.training.config import Precision
from crossproof.working import working


@dataclass(frozen=True)
class Audit(AuditSettings):
    """Rank suspect texts by how unusual the model's insides are on them.

    Detectors are fitted on trusted texts alone: on interactions of a crosscoder's latents, and on
    simpler things that they must beat. Texts are documents (`<|endoftext|>` parts those of a .txt
    file; a .jsonl file has a field "text"); give prompts without the model's answers.

      crossproof audit bundled --trusted clean.txt --suspect odd.txt
      crossproof audit gpt2 --trusted clean.txt --suspect odd.txt --crosscoder RUN/NAME/crosscoder

    Texts are scored in slices, which are kept until all are there: a command that was stopped goes
    on with the next when it is given again, and processes share them out under
    `torchrun --nproc-per-node 2 -m crossproof audit ...`.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = tyro.MISSING
    """The language model: `bundled`, a local Hugging Face folder, or a Hub id."""
    dtype: Precision = "float32"
    """In which it runs."""
    device: str = "cpu"
    """cpu, or any other device PyTorch knows."""
    trust_remote_code: bool = False
    """Run the code that it brings, if transformers does not know its kind."""
    trusted: str = tyro.MISSING
    """Texts known to be clean: a .txt or .jsonl file, hf:NAME, packed tokens, or `bundled`."""
    suspect: str = tyro.MISSING
    """Texts to be ranked: likewise."""
    crosscoder: Path | None = None
    """A crosscoder of this model; by default one is trained on part of the trusted texts."""
    out: Path = Path("runs/audit")
    """Folder for audit.json, report.html and the crosscoder, if one is trained."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Audits, writes audit.json and report.html, prints the ranked list."""
    options: Audit = parse(Audit, "audit", arguments)
    settings = AuditSettings(**{f.name: getattr(options, f.name) for f in fields(AuditSettings)})
    check_audit(settings)
    check_model(options.model)
    check_text(options.trusted)
    check_text(options.suspect)
    check_folder(options.crosscoder, "that of a crosscoder of this model")

    with loading():
        from crossproof.auditing.run import audit
        from crossproof.commands.finish import show
        from crossproof.files import make_folder
        from crossproof.lm import load_model
        from crossproof.report.audit import write_audit
        from crossproof.report.terminal import evaluation_display, say
        from crossproof.training import distributed
        from crossproof.training.machine import keep_freed_memory, thread_setting

    thread_setting(options.threads)
    keep_freed_memory()
    make_folder(options.out)
    texts, out = (options.trusted, options.suspect), options.out
    with distributed.process_group(patient=True):
        first, device = distributed.rank() == 0, distributed.local_device(options.device)
        code = options.trust_remote_code
        with working("loading the language model"):
            model = load_model(options.model, device, options.dtype, trust_remote_code=code)
        lines = say if first else (lambda _: None)
        with evaluation_display("", "done") if first else nullcontext(_nothing) as progress:
            result = audit(model, *texts, options.crosscoder, settings, out, lines, progress)
    if not first:
        return
    with working("writing the report"):
        page = write_audit(out, result)
    show(result, f"All scores: {out / 'audit.json'}", f"Report: {page}")
    say("Next: open the report, which colours the first texts token by token.")


def _nothing(_doing: str, _done: int, _total: int) -> None:
    """What processes show that are not the first."""
