"""Stable codes of error messages: each has a section of docs/errors.md that says what to do.

A code names a kind of cause. It is that of the module which raises, by the longest entry of
`RAISED_IN` that leads to it; where one module has several causes, the error names its own.
"""

from __future__ import annotations

__all__ = ("ADDRESS", "PLUGIN", "RAISED_IN", "code_of_module")

ADDRESS = "https://github.com/crossproof/crossproof/blob/main/docs/errors.md"

PLUGIN = "CP-PLUGIN"
"""Of errors raised outside the package, as by an objective that a user registers."""

RAISED_IN = {
    "activations": "CP-TEXT",
    "activations.beginning": "CP-OUT",
    "activations.columns": "CP-TEXT-FILE",
    "activations.config": "CP-OPTION",
    "activations.documents": "CP-TEXT-FILE",
    "activations.harvest": "CP-TEXT-SHORT",
    "activations.massive": "CP-NOT-FINITE",
    "activations.packed": "CP-TEXT",
    "activations.rows": "CP-TOKENIZER",
    "activations.store": "CP-STORE",
    "activations.tables": "CP-TEXT-FILE",
    "activations.token_rows": "CP-TOKENIZER",
    "auditing": "CP-AUDIT",
    "auditing.config": "CP-OPTION",
    "auditing.texts": "CP-TEXT",
    "cli": "CP-COMMAND",
    "clusters": "CP-CLUSTERS",
    "clusters.builtin_judges": "CP-PACKAGE",
    "clusters.llm": "CP-ENDPOINT",
    "clusters.settings": "CP-OPTION",
    "commands": "CP-OPTION",
    "crosscoder": "CP-ARGUMENT",
    "crosscoder.encode": "CP-DEVICE",
    "crosscoder.folders": "CP-RUN",
    "crosscoder.formats": "CP-FORMAT",
    "crosscoder.formats.fitting": "CP-FITS-NOT",
    "crosscoder.formats.heads": "CP-FITS-NOT",
    "crosscoder.formats.hooks": "CP-FITS-NOT",
    "crosscoder.formats.hub": "CP-HUB",
    "crosscoder.formats.joining": "CP-JOIN",
    "crosscoder.formats.published": "CP-HUB",
    "crosscoder.formats.writers": "CP-EXPORT",
    "crosscoder.hub": "CP-HUB",
    "crosscoder.side_by_side": "CP-JOIN",
    "crosscoder.store": "CP-CROSSCODER",
    "evaluation": "CP-ARGUMENT",
    "evaluation.evaluating": "CP-TEXT-SHORT",
    "evaluation.measurement": "CP-VERSION",
    "evaluation.pair_sums": "CP-TEXT-SHORT",
    "evaluation.results": "CP-VERSION",
    "evaluation.summary": "CP-TEXT-SHORT",
    "explorer": "CP-EXPLORER",
    "explorer.exporting": "CP-OUT",
    "explorer.format": "CP-VERSION",
    "extras": "CP-PACKAGE",
    "files": "CP-FILE",
    "interactions": "CP-ARGUMENT",
    "interactions.config": "CP-OPTION",
    "interactions.views": "CP-NO-MLP",
    "kernels": "CP-ARGUMENT",
    "lm": "CP-MODEL",
    "lm.activation": "CP-ARCHITECTURE",
    "lm.adapters": "CP-ADAPTER",
    "lm.attention_reading": "CP-ARCHITECTURE",
    "lm.heads": "CP-ARCHITECTURE",
    "lm.hookpoints": "CP-HOOKPOINT",
    "lm.mixture": "CP-ARCHITECTURE",
    "lm.mlp_reading": "CP-ARCHITECTURE",
    "lm.model": "CP-HOOKPOINT",
    "lm.pair": "CP-PAIR",
    "lm.stream": "CP-JOIN",
    "lm.structure": "CP-ARCHITECTURE",
    "lm.tracing": "CP-ARCHITECTURE",
    "lm.unembedding": "CP-ARCHITECTURE",
    "lm.weights": "CP-WEIGHTS",
    "proof": "CP-PROOF",
    "proof.attribution": "CP-ATTRIBUTION",
    "proof.certificate": "CP-CERTIFICATE",
    "proof.certificate.provers": "CP-PROOF",
    "proof.certificate.proving": "CP-PROOF",
    "proof.certificate.text_options": "CP-OPTION",
    "registry": "CP-NAME",
    "report": "CP-FILE",
    "result": "CP-FILE",
    "rounding": "CP-ARGUMENT",
    "tables": "CP-ARGUMENT",
    "testing": "CP-PLUGIN",
    "training": "CP-OPTION",
    "training.checkpoint": "CP-RESUME",
    "training.distributed": "CP-PROCESSES",
    "training.result": "CP-ARGUMENT",
    "training.run": "CP-RUN",
    "training.run_folder": "CP-OTHER-MODEL",
    "training.stored": "CP-STORE",
    "training.specs": "CP-NO-MLP",
    "training.starting": "CP-START",
    "training.trainer": "CP-NOT-FINITE",
}
"""A module or folder of the package: the code of what it raises."""


def code_of_module(name: str) -> str:
    """The code of what a module raises, by its dotted name; `PLUGIN` for modules of others."""
    package, _, inside = name.partition(".")
    while package == "crossproof" and inside:
        if inside in RAISED_IN:
            return RAISED_IN[inside]
        inside = inside.rpartition(".")[0]
    return PLUGIN
