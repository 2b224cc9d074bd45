"""What is evaluated, and how. Imports nothing that takes time: settings need no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from crossproof.interactions.config import MLPs

SCHEMES = ("none", "drop-random", "drop-second", "drop-largest", "keep-largest")
"""none: all latents. drop-X: all but one at each token and neuron. keep-largest: only the
dominant one."""
MIDS = ("exact_mid", "reconstructed_mid", "mean_rest")
"""What an MLP and the stream beside it are given. exact_mid: the model's own stream, of which the
MLP reads the latents and (where the dictionary is upstream of it) everything else exactly.
reconstructed_mid: the MLP's output is added to the reconstructed resid_mid. mean_rest: what the
MLP reads beside the latents is its mean (dictionaries upstream only)."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What `evaluate` measures and how."""

    batch_sequences: int = 8
    """Sequences a forward pass."""
    resamples: int = 1000
    """Bootstrap resamples of the sequences."""
    seed: int = 0
    """Of the bootstrap and of drop-random."""
    patch_hookpoints: bool = True
    """Measure CE and KL recovered with each hookpoint patched (two forward passes each)."""
    schemes: tuple[str, ...] = SCHEMES
    """Ablation schemes whose Φ is measured (a forward pass a scheme, block and mid); none: no Φ."""
    mids: tuple[str, ...] = MIDS
    """What the stream beside the latents is; see `MIDS`."""
    mlps: MLPs = "next"
    """The MLPs that read the dictionary: `interactions.mlp_views`."""
    keep_sequences: int = 8
    """Φ by the number of latents that a neuron keeps comes from this many sequences at most."""
    context_sequences: int = 64
    """Contexts of a few latents come from this many of the sequences at most."""
    latents: int = 6
    """How many latents to show with their contexts."""
