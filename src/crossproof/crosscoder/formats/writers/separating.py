"""A crosscoder as dictionaries of their own: the inverse of joining, hookpoint by hookpoint."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.crosscoder.layout import PlaceSpan
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.signed import SignedJumpReLU
from crossproof.crosscoder.sparsity import BatchTopK, JumpReLU, TopK
from crossproof.errors import CrossproofError


@torch.no_grad()
def separated(crosscoder: Crosscoder, source: str) -> list[ForeignDictionary]:
    """Dictionaries that share no hookpoint and together compute what the crosscoder computes.

    Of joined SAEs each is one again, of transcoders of several layers each; a crosscoder whose
    latents read or write several hookpoints stays whole. For raw activations, float32 on the CPU.
    Raises CrossproofError for a BatchTopK whose threshold was never set, a registered rule that
    no other library has, and TopK groups that do not fall on one dictionary each.
    """
    whole = copy.deepcopy(crosscoder).float().cpu()
    whole.fold()
    rule = _rule(whole, source)
    encoder = _at_all(whole.W_enc, whole.layout.reading, len(whole.hookpoints))
    decoder = whole.whole_decoder()
    used = encoder.any(2) | decoder.any(2)
    skips = {pair: whole.W_skip[at].data for at, pair in enumerate(whole.layout.skips)}
    labels = _components(used, [*skips])
    of_latent = _latent_labels(used, labels)
    parts = []
    for label in labels.unique().tolist():
        rows, places = of_latent == label, (labels == label).nonzero()[:, 0].tolist()
        names = tuple(whole.hookpoints.names[place] for place in places)
        if not bool(rows.any()):
            raise CrossproofError(
                f"{source} holds no latent of {', '.join(names)}, only a bias: no other library "
                f"keeps that as a dictionary."
            )
        fields = _rule_of(rule, rows, source)
        fields["skips"] = {
            (places.index(read), places.index(written)): weights
            for (read, written), weights in skips.items()
            if read in places
        }
        weights = encoder[rows][:, places], decoder[rows][:, places]
        biases = whole.b_enc[rows], whole.b_dec[places]
        fields["normalisation"] = whole.token_scale.kind
        parts.append(ForeignDictionary(source, names, *weights, *biases, **fields))
    return parts


def _at_all(
    weights: Float[Tensor, "H R D"], spans: Sequence[PlaceSpan], n_places: int
) -> Float[Tensor, "H P D"]:
    """Vectors at every hookpoint, zero where a latent has none."""
    whole = weights.new_zeros(len(weights), n_places, weights.shape[2])
    for span in spans:
        whole[span.rows, list(span.places)] = weights[span.rows, : len(span.places)]
    return whole


def _components(used: Bool[Tensor, "H P"], skips: list[Any]) -> Int[Tensor, " P"]:
    """A number for each hookpoint, the same for those that a latent or a skip connects."""
    together = used.T.float() @ used.float() + torch.eye(used.shape[1])
    for read, written in skips:
        together[read, written] = together[written, read] = 1
    reached = together > 0
    for _ in range(used.shape[1]):
        reached = reached.float() @ reached.float() > 0
    return reached.int().argmax(1)


def _latent_labels(used: Bool[Tensor, "H P"], labels: Int[Tensor, " P"]) -> Int[Tensor, " H"]:
    """The component of each latent; one without weights stays with the latent before it."""
    last, out = int(labels[0]), []
    for row in used:
        if bool(row.any()):
            last = int(labels[int(row.int().argmax())])
        out.append(last)
    return torch.tensor(out)


def _rule(crosscoder: Crosscoder, source: str) -> dict[str, Any]:
    """Rule, threshold [H] or k and groups; of BatchTopK the JumpReLU that it is in inference."""
    rule, kind, count = crosscoder.sparsity, crosscoder.config.sparsity, crosscoder.n_latents
    if isinstance(rule, TopK):
        return {"rule": kind, "k": rule.k, "groups": rule.groups}
    if isinstance(rule, JumpReLU | SignedJumpReLU):
        return {"rule": kind, "threshold": rule.threshold.clone()}
    if isinstance(rule, BatchTopK):
        if rule.threshold < 0:
            raise CrossproofError(
                f"The threshold of {source} was never set (no training step estimated it), so its "
                f"code is not settled: train it on."
            )
        return {"rule": "jumprelu", "threshold": rule.threshold.expand(count).clone()}
    if kind == "relu":
        return {"rule": kind}
    raise CrossproofError(
        f"{source} has the sparsity rule '{kind}', which no other library has: export one with "
        f"relu, jumprelu, topk or batch_topk."
    )


def _rule_of(rule: dict[str, Any], rows: Bool[Tensor, " H"], source: str) -> dict[str, Any]:
    if "threshold" in rule:
        return rule | {"threshold": rule["threshold"][rows]}
    if "groups" not in rule:
        return dict(rule)
    inside = rows.view(rule["groups"], -1)
    if not bool((inside.all(1) | ~inside.any(1)).all()):
        raise CrossproofError(
            f"{source} chooses its largest latents among several dictionaries at once: they cannot "
            f"be exported one by one."
        )
    return rule | {"groups": int(inside.all(1).sum())}
