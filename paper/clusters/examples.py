"""Clusters to print, chosen by a rule and not by hand."""

from __future__ import annotations

from typing import Any

from crossproof.clusters import Algorithm, PreparedCrosscoder, describe, partition, similarity

LEAST = 3
MEMBERS = 4
RULE = (
    f"Of all clusters of {LEAST} or more latents, in order of the interaction inside them a token, "
    f"evenly spaced ranks from first to last; of each, the {MEMBERS} members of lowest number."
)


def examples(
    half: PreparedCrosscoder,
    name: str,
    algorithm: Algorithm = "affinity",
    seed: int = 0,
    count: int = 10,
) -> list[dict[str, Any]]:
    """Clusters by one similarity that `RULE` picks, as plain values."""
    found = partition(similarity(name, half.evidence, half.latents), algorithm, seed)
    rows = [row for row in describe(half, found) if len(row.latents) >= LEAST]
    last = len(rows) - 1
    ranks = sorted({round(i * last / max(count - 1, 1)) for i in range(count)}) if rows else []
    return [
        {
            "rank": rank + 1,
            "of": len(rows),
            "latents": list(rows[rank].latents),
            "share": rows[rank].share,
            "block": str(rows[rank].block),
            "explanations": {
                str(latent): half.texts.explanation("shown", latent).text
                for latent in rows[rank].latents[:MEMBERS]
            },
        }
        for rank in ranks
    ]
