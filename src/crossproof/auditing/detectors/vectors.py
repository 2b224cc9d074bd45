"""Baselines that know nothing of MLPs: activations and latents under a Gaussian of trusted text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from torch import Tensor

from crossproof.auditing.readings import Pooling, TextReading

_NUMBERS = 2**26
"""Numbers of trusted activations that are kept while a covariance is fitted: 256 MiB."""

VARYING = 1e-6
"""Least standard deviation, as a share of the largest, of a direction that counts as varying."""


@dataclass
class Mahalanobis:
    """Distance of a token's activations from those of trusted tokens, at each hookpoint.

    Squared distances under a covariance shrunk as Ledoit and Wolf do, averaged over hookpoints.
    """

    pooling: Pooling = "max"

    def fit(self, trusted: Sequence[TextReading]) -> Mahalanobis:
        per_token = trusted[0].x[0].numel()
        x = torch.cat([reading.x for reading in trusted])[: max(1000, _NUMBERS // per_token)]
        self.means_, self.precisions_ = [], []
        for hookpoint in range(x.shape[1]):
            fitted = LedoitWolf().fit(x[:, hookpoint].double().cpu().numpy())
            self.means_.append(torch.from_numpy(fitted.location_).to(x.device))
            self.precisions_.append(torch.from_numpy(fitted.precision_).to(x.device))
        return self

    def score(self, reading: TextReading) -> Float[Tensor, " S"]:
        total = reading.x.new_zeros(len(reading.token_ids), dtype=torch.float64)
        fitted = zip(reading.x.unbind(1), self.means_, self.precisions_, strict=True)
        for x, mean, precision in fitted:
            centred = x.double() - mean
            total += ((centred @ precision) * centred).sum(1)
        return reading.by_text(total / len(self.means_), self.pooling)


@dataclass
class LatentSurprise:
    """Latents rarely active in trusted text, weighed by what they write to the hookpoints.

    A token's score is Σ a_h ‖d_h‖ log((M + 1) / (c + 1)) over its latents, c being at how many of M
    trusted tokens the latent was active, and ‖d_h‖ its decoder's norm at the MLPs' inputs, as the
    virtual weights show it.
    """

    pooling: Pooling = "max"

    def fit(self, trusted: Sequence[TextReading]) -> LatentSurprise:
        wide = trusted[0].latents.n_latents
        active = [torch.bincount(r.latents.indices, minlength=wide) for r in trusted]
        counts = torch.stack(active).sum(0)
        tokens = sum(len(reading.token_ids) for reading in trusted)
        seen = trusted[0].seen.values()
        sizes = sum(view.dictionary.G.double().norm(dim=1) for view in seen)
        self.weights_ = sizes * torch.log((tokens + 1) / (counts.double() + 1))
        return self

    def score(self, reading: TextReading) -> Float[Tensor, " S"]:
        latents = reading.latents
        total = latents.values.new_zeros(latents.n_tokens, dtype=torch.float64)
        total.index_add_(
            0, latents.token_index, latents.values.double() * self.weights_[latents.indices]
        )
        return reading.by_text(total, self.pooling)


@dataclass
class LatentGaussian:
    """A text's mean latent activations under a Gaussian (probabilistic PCA) of trusted texts."""

    components: int = 16

    def fit(self, trusted: Sequence[TextReading]) -> LatentGaussian:
        vectors = torch.cat([_mean_activations(reading) for reading in trusted])
        self.gaussian_ = fit_gaussian(vectors, self.components)
        return self

    def score(self, reading: TextReading) -> Float[Tensor, " S"]:
        return -torch.from_numpy(
            self.gaussian_.score_samples(_mean_activations(reading).cpu().numpy())
        )


def fit_gaussian(vectors: Float[Tensor, "S width"], components: int) -> PCA:
    """Probabilistic PCA with at most so many components.

    Columns keep their relative sizes: scaled to the spread each has on a few hundred trusted texts,
    those that are nearly always zero would drown the others. There are fewer components than
    directions in which the vectors vary, so that what is left over has a variance; where nothing
    varies, as of latents that are never active, it is 1.
    """
    rows: NDArray[np.float64] = vectors.cpu().numpy()
    sizes = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    varying = int((sizes > VARYING * max(float(sizes.max()), np.finfo(np.float64).tiny)).sum())
    with np.errstate(invalid="ignore"):  # shares of no variance
        fitted = PCA(max(0, min(components, varying - 1)), random_state=0).fit(rows)
    if varying == 0:
        fitted.noise_variance_ = 1.0
    return fitted


def _mean_activations(reading: TextReading) -> Float[Tensor, "S H"]:
    latents, wide = reading.latents, reading.latents.n_latents
    flat = latents.values.new_zeros(len(reading.tokens) * wide, dtype=torch.float64)
    flat.index_add_(
        0, reading.sequence[latents.token_index] * wide + latents.indices, latents.values.double()
    )
    tokens = torch.bincount(reading.sequence, minlength=len(reading.tokens))
    return flat.view(-1, wide) / tokens[:, None]
