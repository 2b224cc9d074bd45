"""Do different measures rank the same pairs alike? Spearman's ρ between all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crossproof.errors import CrossproofError

Table = NDArray[np.float64]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ of two measures, and its 95% interval over resampled pairs if asked for."""

    left: str
    right: str
    rho: float
    ci: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class RankCorrelations:
    """Spearman's ρ between n measures of the same M pairs."""

    names: tuple[str, ...]
    rho: Table
    """[n, n], ones on the diagonal."""
    low: Table | None = None
    high: Table | None = None
    """Ends of the 95% percentile intervals, [n, n]; None if not asked for."""

    def rows(self) -> Iterator[RankCorrelation]:
        """One row for every two measures, in the order in which they were given."""
        for i, j in zip(*np.triu_indices(len(self.names), 1), strict=True):
            ci = None
            if self.low is not None and self.high is not None:
                ci = float(self.low[i, j]), float(self.high[i, j])
            yield RankCorrelation(self.names[i], self.names[j], float(self.rho[i, j]), ci)


def rank_correlations(
    named: Mapping[str, Tensor], resamples: int = 0, seed: int = 0
) -> RankCorrelations:
    """Spearman's ρ (ties get their mean rank) between measures, each [M], of the same M pairs.

    With `resamples`, also 95% percentile intervals over draws of M pairs with replacement. They
    speak of the choice of pairs, not of the choice of text: pairs that share a latent or a token
    are not independent. Raises CrossproofError for fewer than two measures or three pairs,
    different lengths, numbers not finite, and a measure that is the same for all pairs.
    """
    table = _table(named)
    names = tuple(named)
    rho = _spearman(table)
    if not resamples:
        return RankCorrelations(names, rho)
    rng = np.random.default_rng(seed)
    draws = np.stack(
        [_spearman(table[rng.integers(len(table), size=len(table))]) for _ in range(resamples)]
    )
    # A draw in which a measure happens to be constant has no ρ.
    low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
    return RankCorrelations(names, rho, low, high)


def _table(named: Mapping[str, Tensor]) -> Table:
    if len(named) < 2:
        raise CrossproofError("Rank correlations need at least two measures of the same pairs.")
    lengths = {name: len(values) for name, values in named.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise CrossproofError(f"The measures are of different numbers of pairs: {listed}.")
    table: Table = np.stack([v.detach().double().cpu().numpy() for v in named.values()], axis=1)
    if len(table) < 3:
        raise CrossproofError(f"Rank correlations of {len(table)} pairs mean nothing; give more.")
    for name, column in zip(named, table.T, strict=True):
        if not np.isfinite(column).all():
            raise CrossproofError(f"The measure '{name}' is NaN or infinite for some pairs.")
        if (column == column[0]).all():
            raise CrossproofError(
                f"The measure '{name}' is the same for all pairs, so it does not rank them; "
                f"leave it out."
            )
    return table


def _spearman(table: Table) -> Table:
    from scipy.stats import rankdata  # takes half a second to import

    with np.errstate(invalid="ignore", divide="ignore"):
        rho: Table = np.corrcoef(rankdata(table, axis=0), rowvar=False)
    return rho
