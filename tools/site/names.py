"""Which public names stand on which page of the Python reference."""

from __future__ import annotations

import importlib

GROUPS: dict[str, tuple[str, ...]] = {
    "Models and text": (
        *("load_model", "LanguageModel", "Hookpoints", "MLPWeights", "read_sequences"),
        *("TextSlice", "Harvest", "scored_positions"),
    ),
    "Dictionaries": (
        *("Crosscoder", "CrosscoderConfig", "Provenance", "SparseLatents"),
        *("import_dictionary", "import_dictionaries", "export", "spliced", "top_contexts"),
    ),
    "Training": ("train", "RunConfig", "Objective", "Optimisation", "Trainer", "TrainingResult"),
    "Evaluation": (
        *("evaluate", "EvaluationOptions", "EvaluationResult"),
        *("measure", "MeasureOptions", "MeasurementResult"),
    ),
    "Interactions": (
        *("MLPDictionary", "Interactions", "measure_interactions", "interaction"),
        *("additive_interaction", "residual", "dominant_share", "MLPPenalty"),
    ),
    "The explorer": ("Explorer", "show"),
    "Clusters and audits": ("cluster", "audit", "AuditSettings"),
    "Proofs": (
        *("prove", "ProverOptions", "ProofResult", "verify", "VerificationResult"),
        *("attribute", "AttributionResult"),
    ),
    "Extending": ("register_objective", "register_sparsity", "register_format", "register_sink"),
    "Errors": ("CrossproofError",),
}
"""Every name of `crossproof.__all__`, once (a test says so)."""


def defined_in(name: str) -> str:
    """The dotted path at which a public name is defined."""
    thing = getattr(importlib.import_module("crossproof"), name)
    return f"{thing.__module__}.{thing.__name__}"


def python_page(title: str, names: tuple[str, ...]) -> str:
    """Markdown with a block of mkdocstrings a name."""
    blocks = [
        f'<a id="{name.lower()}"></a>\n\n'
        f"::: {defined_in(name)}\n"
        f"    options:\n      heading: crossproof.{name}\n      toc_label: {name}\n"
        for name in names
    ]
    return f"# {title}\n\n" + "\n".join(blocks)
