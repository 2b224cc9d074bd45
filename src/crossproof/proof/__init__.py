"""Compact proofs: constants, bounds on what latents' interactions cost, and what they certify.

Bounds are pure functions of tensors and hold for any numbers as activations, atoms and biases:
a bad dictionary only loosens them. `docs/theory` states and proves each.
"""

from crossproof.proof.additive import (
    AdditiveBounds,
    additive_bounds,
    additive_error,
    additive_gap,
    additive_output,
    convex_range,
    curves,
    pair_interactions,
)
from crossproof.proof.attention import (
    bilinear_scores,
    dominant_pair,
    extremal_average,
    functional_value_error,
    score_error,
    score_residual,
    value_error,
    value_residual,
    variation_of_error,
    variation_of_range,
    weight_interval,
)
from crossproof.proof.blocks import Blocks, as_blocks, contributions
from crossproof.proof.centred import Centred, centred_gap, centred_slope
from crossproof.proof.functionals import (
    functional_bound,
    gram_bound,
    margin_bound,
    spectral_bound,
    triangle_bound,
)
from crossproof.proof.gated import (
    GatedTerms,
    gated_additive_bound,
    gated_additive_error,
    gated_gap,
    gated_interaction,
    gated_pair_interactions,
    gated_residual,
)
from crossproof.proof.induction import (
    block_lipschitz,
    block_step,
    consistency_defect,
    mlp_lipschitz,
    norm_defect,
    separable_defect,
)
from crossproof.proof.ladder import Ladder, dominant_gap, dominant_ladder, residual_gap
from crossproof.proof.margins import (
    Baselines,
    certified_correct,
    certified_margins,
    certified_margins_through_norm,
    cross_entropy_bound,
    label_margins,
)
from crossproof.proof.norms import Norm, correct_through_norm, margins_through_norm
from crossproof.proof.paths import Path, gate_path, linear_path

__all__ = [
    "AdditiveBounds",
    "Baselines",
    "Blocks",
    "Centred",
    "GatedTerms",
    "Ladder",
    "Norm",
    "Path",
    "additive_bounds",
    "additive_error",
    "additive_gap",
    "additive_output",
    "as_blocks",
    "bilinear_scores",
    "block_lipschitz",
    "block_step",
    "centred_gap",
    "centred_slope",
    "certified_correct",
    "certified_margins",
    "certified_margins_through_norm",
    "consistency_defect",
    "contributions",
    "convex_range",
    "correct_through_norm",
    "cross_entropy_bound",
    "curves",
    "dominant_gap",
    "dominant_ladder",
    "dominant_pair",
    "extremal_average",
    "functional_bound",
    "functional_value_error",
    "gate_path",
    "gated_additive_bound",
    "gated_additive_error",
    "gated_gap",
    "gated_interaction",
    "gated_pair_interactions",
    "gated_residual",
    "gram_bound",
    "label_margins",
    "linear_path",
    "margin_bound",
    "margins_through_norm",
    "mlp_lipschitz",
    "norm_defect",
    "pair_interactions",
    "residual_gap",
    "score_error",
    "score_residual",
    "separable_defect",
    "spectral_bound",
    "triangle_bound",
    "value_error",
    "value_residual",
    "variation_of_error",
    "variation_of_range",
    "weight_interval",
]
