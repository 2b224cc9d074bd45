"""Statistical certificates made of numbers, without a model, for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crossproof.proof.certificate.format_statistical import Statement, StatisticalCertificate
from crossproof.proof.certificate.statistical import claiming, write_statistical

NAMES = ("spliced", "keep-1")


def draft(documents: int = 40, seed: int = 0, **changes: Any) -> StatisticalCertificate:
    """Documents of 5 to 20 tokens; splicing costs 0.1 nats a token, keeping one latent 0.4."""
    draws = np.random.default_rng(seed)
    tokens = draws.integers(5, 21, documents)
    loss = tokens * draws.uniform(1.5, 2.5, documents)
    gaps = np.stack([draws.normal(each, 0.05, documents) for each in (0.1, 0.4)], 1)
    changed = draws.binomial(tokens[:, None], [0.1, 0.3])
    made = StatisticalCertificate(
        delta=0.05,
        low=-1.0,
        high=1.0,
        spliced=("blocks.0.mlp.hook_in",),
        mlps=(0, 1),
        statements=tuple(Statement(name, 1e30, 1e30, 1e30) for name in NAMES),
        digests=draws.integers(-(2**62), 2**62, (documents, 4)),
        tokens=tokens,
        loss=loss,
        treated_loss=loss[:, None] + tokens[:, None] * gaps,
        changed=changed,
        model="0123456789abcdef",
        dictionary="ab" * 32,
        text={"sha256": "", "split": "held_out", "skip": 0, "context": 32, "vocabulary": 64},
        task={"model": "toy"},
        cost={},
        bytes=0,
    )
    return replace(made, **changes)


def certificate(**changes: Any) -> StatisticalCertificate:
    """A certificate that claims what the verifier reaches."""
    return claiming(draft(**changes))


def written(folder: Path, **changes: Any) -> Path:
    """The same as a folder."""
    write_statistical(folder, certificate(**changes))
    return folder
