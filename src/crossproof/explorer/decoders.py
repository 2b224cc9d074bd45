"""What decoder vectors alone say: where a latent writes, what it promotes, whom it resembles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from crossproof.crosscoder.diffing import relative_norms
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import ModelPair
from crossproof.lm.unembedding import Unembedding

NEAREST = 10
TOKENS = 10
"""Promoted, and as many suppressed."""
_ADDED = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "mlp.hook_out", "attn.hook_out")
"""Hookpoints whose vectors are directions of the residual stream."""
_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class LogitEffects:
    """What each latent's last vector in the residual stream adds to logits, at norm denominator 1.

    [H, 2 TOKENS]: largest first, then the least.
    """

    hookpoint: str
    """Where the vector is taken; "" if there are no effects."""
    missing: str
    """Why there are none."""
    token: NDArray[np.int64]
    value: NDArray[np.float32]


def norms(crosscoder: Crosscoder) -> NDArray[np.float32]:
    """‖d_h‖ at each hookpoint [H, P], in units of the typical activation there."""
    scale = crosscoder.scale.tolist()
    columns = [crosscoder.decoder_vectors(at).norm(dim=1) * scale[at] for at in range(len(scale))]
    return torch.stack(columns, 1).detach().float().cpu().numpy()


def whose(crosscoder: Crosscoder) -> NDArray[np.float32]:
    """`relative_norms` of a dictionary of two models [H]: 0 the first's alone, 1 the second's.

    NaN where a latent writes nothing, and for every latent of a dictionary of one model.
    """
    try:
        return relative_norms(crosscoder).float().cpu().numpy()
    except CrossproofError:  # its hookpoints are not those of two models
        return np.full(crosscoder.n_latents, np.nan, dtype=np.float32)


@torch.no_grad()
def nearest(crosscoder: Crosscoder) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The latents with the most similar decoder vectors, all hookpoints together: [H, NEAREST].

    Cosines of what is written, scaled as in training; a latent that writes nothing has 0 to all.
    """
    written = crosscoder.written
    vectors = torch.cat(
        [crosscoder.decoder_vectors(at) * crosscoder.scale[at] for at in written], 1
    )
    unit = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-30)
    count = min(NEAREST, len(unit) - 1)
    latents, cosines = [], []
    for start in range(0, len(unit), _AT_ONCE):
        products = unit[start : start + _AT_ONCE] @ unit.T
        own = torch.arange(start, start + len(products), device=products.device)
        products.scatter_(1, own[:, None], -2.0)
        top = products.topk(count, 1)
        latents.append(top.indices.cpu())
        cosines.append(top.values.float().cpu())
    return torch.cat(latents).numpy(), torch.cat(cosines).numpy()


@torch.no_grad()
def logit_effects(model: LanguageModel, crosscoder: Crosscoder) -> LogitEffects:
    """Tokens that each latent promotes and suppresses directly, through the unembedding."""
    none = np.zeros((0, 0), dtype=np.int64), np.zeros((0, 0), dtype=np.float32)
    names = [crosscoder.hookpoints.names[at] for at in crosscoder.written]
    added = [name for name in names if name.endswith(_ADDED)]
    if isinstance(model, ModelPair):
        return LogitEffects("", "two models have two unembeddings", *none)
    if not added:
        return LogitEffects("", "nothing is written into the residual stream", *none)
    try:
        view = Unembedding.of(model)
    except CrossproofError as error:
        return LogitEffects("", str(error), *none)
    at = crosscoder.hookpoints.names.index(added[-1])
    vectors = view.norm.centre(crosscoder.decoder_vectors(at).double()) * view.norm.weight
    tokens, values = [], []
    for part in vectors.float().split(_AT_ONCE):
        top, value = _extremes(part @ view.weight.float().T)
        tokens.append(top)
        values.append(value)
    return LogitEffects(added[-1], "", torch.cat(tokens).numpy(), torch.cat(values).numpy())


def _extremes(logits: Float[Tensor, "R V"]) -> tuple[Tensor, Tensor]:
    count = min(TOKENS, logits.shape[1] // 2)
    high, low = logits.topk(count, 1), logits.topk(count, 1, largest=False)
    indices = torch.cat([high.indices, low.indices], 1).cpu()
    return indices, torch.cat([high.values, low.values], 1).cpu()
