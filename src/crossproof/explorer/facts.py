"""What a store's manifest says of one dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from crossproof.crosscoder.diffing import is_joint
from crossproof.crosscoder.model import Crosscoder
from crossproof.explorer.detail_tally import neurons_of
from crossproof.explorer.format import DictionaryFacts
from crossproof.explorer.material import Material
from crossproof.interactions.views import MixtureView, MLPView, described, n_neurons

REACH, POINTS = 24.0, 481
"""The activation function is drawn on [-REACH, REACH]; beyond, all of them are straight lines."""


def dictionary_facts(
    name: str,
    crosscoder: Crosscoder,
    material: Material,
    views: Mapping[int, MLPView],
    unread: str,
) -> DictionaryFacts:
    """Sizes and means; objective and figures of the run are added by the caller."""
    text, details, logits = material.text, material.details, material.logits
    return DictionaryFacts(
        name=name,
        latents=material.n_latents,
        dead=int((text.active == 0).sum()),
        tokens=text.tokens,
        pair_tokens=text.measured,
        detail_tokens=details.tokens if details else 0,
        pairs=len(text.pairs.key),
        pairs_complete=text.pairs.complete,
        described=len(details.key) if details else 0,
        neurons={str(block): sum(neurons_of(view)) for block, view in views.items()},
        forms=list(text.forms),
        gated="AND" in text.forms,
        views={str(block): described(view, crosscoder) for block, view in views.items()},
        hookpoints=list(crosscoder.hookpoints.names),
        joint=is_joint(crosscoder.hookpoints),
        totals=_totals(material, views),
        logits=logits.hookpoint or logits.missing,
        unread=unread,
        curve=_curve(views),
    )


def _totals(material: Material, views: Mapping[int, MLPView]) -> dict[str, float]:
    """Means over tokens and blocks of every form, and the dominated share of neurons."""
    totals, tokens = material.text.totals, material.text.measured
    means = {form: float(totals[form].mean()) / tokens for form in material.text.forms}
    if "dominated" in totals:
        neurons = [n_neurons(view) for view in views.values()]
        shares = [d / tokens / n for d, n in zip(totals["dominated"], neurons, strict=True)]
        means["dominated"] = float(sum(shares) / len(shares))
    return means


def _curve(views: Mapping[int, MLPView]) -> dict[str, Any]:
    """The activation function of the MLPs."""
    if not views:
        return {}
    view = next(iter(views.values()))
    mlp = (view.first if isinstance(view, MixtureView) else view).dictionary.mlp
    x = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    y = [float(f"{v:.5g}") for v in mlp.activation(x).tolist()]
    return {"name": mlp.activation.value, "reach": REACH, "y": y}
