"""Error attribution: the proof's shape on a real language model, token by token.

As costly as running the model, hence no compact proof; it tells which step, which latents and
which neurons a proof would fail on (docs/attribution.md).
"""

from crossproof.proof.attribution.chain import Chain, Stage
from crossproof.proof.attribution.last_block import LastBlock, Verdict
from crossproof.proof.attribution.run import attribute_runs
from crossproof.proof.attribution.stream import Attribution, attribute

__all__ = [
    "Attribution",
    "Chain",
    "LastBlock",
    "Stage",
    "Verdict",
    "attribute",
    "attribute_runs",
]
