"""What was measured of one variant: per-sequence sums of each seed, and figures from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from crossproof import CrossproofError
from crossproof.evaluation import Tally, available, phi
from paper.measuring.statistics import ResampledStatistic, Statistic, Sums, over_seeds

SUMS, FIRED, FILE = "sums/", "fired", "sums.safetensors"


@dataclass(frozen=True, eq=False)
class Measured:
    """One crosscoder's per-sequence sums, and how often each latent fired."""

    sums: Sums
    fired: NDArray[np.int64]

    @classmethod
    def of(cls, tally: Tally) -> Measured:
        """From what `tally_sequences` counted."""
        assert tally.fired is not None
        return cls(tally.joined(), tally.fired.cpu().numpy())

    def save(self, folder: Path) -> None:
        """Into a file of the folder."""
        tensors = {SUMS + name: np.ascontiguousarray(v) for name, v in self.sums.items()}
        save_file(tensors | {FIRED: self.fired}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Measured:
        """What `save` wrote."""
        tensors = load_file(folder / FILE)
        fired = tensors.pop(FIRED)
        return cls({name.removeprefix(SUMS): v for name, v in tensors.items()}, fired)

    @property
    def dead(self) -> float:
        """Fraction of latents that never fired."""
        return float((self.fired == 0).mean())


@dataclass(frozen=True, eq=False)
class SeedMeasurements:
    """One variant: a measurement a seed, on the same sequences."""

    seeds: tuple[Measured, ...]
    mlp_in: tuple[int, ...]
    """Which hookpoints are inputs of MLPs."""

    def figure(self, name: str) -> ResampledStatistic:
        """A figure with its resamples, by its name in results.json.

        Φ is "phi/SCHEME/MID", or "phi_mlp_removed/SCHEME/MID". Raises CrossproofError if it was
        not measured.
        """
        sums = self.seeds[0].sums
        known = available(sums, self.mlp_in)
        if name in known:
            return self.draws(known[name])
        phis = _phis(sums)
        if name not in phis:
            raise CrossproofError(f"'{name}' was not measured, only {', '.join([*known, *phis])}.")
        return self.draws(phi(*phis[name]))

    def draws(self, statistic: Statistic) -> ResampledStatistic:
        """Any statistic of the sums, the mean over seeds with its resamples."""
        return over_seeds([seed.sums for seed in self.seeds], statistic)

    @property
    def dead(self) -> list[float]:
        """Fraction of latents that never fired, a seed."""
        return [seed.dead for seed in self.seeds]


def _phis(sums: Sums) -> dict[str, tuple[str, str, str]]:
    """Mid, scheme and zero reference of every Φ that the sums allow, by its name."""
    found = {}
    for key in (name.removeprefix("phi/") for name in sums if name.startswith("phi/")):
        mid, _, scheme = key.partition("/")
        found[f"phi/{scheme}/{mid}"] = mid, scheme, "features-removed"
        found[f"phi_mlp_removed/{scheme}/{mid}"] = mid, scheme, "mlp-removed"
    return found
