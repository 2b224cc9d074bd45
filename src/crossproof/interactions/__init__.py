"""Interactions between latents, as pure functions of tensors: they measure any dictionary."""

from crossproof.interactions.attention import (
    AttentionDictionary,
    ScoreParts,
    attention_dictionary,
    ov_constant,
    ov_contributions,
    score_parts,
)
from crossproof.interactions.attention_pairs import (
    KeptPairs,
    PairScores,
    attention_interactions,
    keep_pairs,
    pair_scores,
)
from crossproof.interactions.coalitions import neuron_game, output_game
from crossproof.interactions.contributions import (
    Dominance,
    MLPDictionary,
    dominant_contributions,
    magnitudes,
    mlp_views,
    owned_contributions,
)
from crossproof.interactions.gated import GatedTerms, gated_pair_form, gated_terms
from crossproof.interactions.matrix import Accumulator, Interactions, merge
from crossproof.interactions.measuring import TokenPairs, measure_interactions, token_pairs
from crossproof.interactions.penalty import (
    additive_interaction,
    dominant_share,
    interaction,
    residual,
)
from crossproof.interactions.second_differences import (
    PairSums,
    second_difference_scores,
    second_difference_sums,
)
from crossproof.interactions.shapley import (
    Game,
    ShapleySums,
    ShapleyTaylor,
    absolute_sums,
    shapley_taylor,
)

__all__ = [
    "Accumulator",
    "AttentionDictionary",
    "Dominance",
    "Game",
    "GatedTerms",
    "Interactions",
    "KeptPairs",
    "MLPDictionary",
    "PairScores",
    "PairSums",
    "ScoreParts",
    "ShapleySums",
    "ShapleyTaylor",
    "TokenPairs",
    "absolute_sums",
    "additive_interaction",
    "attention_dictionary",
    "attention_interactions",
    "dominant_contributions",
    "dominant_share",
    "gated_pair_form",
    "gated_terms",
    "interaction",
    "keep_pairs",
    "magnitudes",
    "measure_interactions",
    "merge",
    "mlp_views",
    "neuron_game",
    "output_game",
    "ov_constant",
    "ov_contributions",
    "owned_contributions",
    "pair_scores",
    "residual",
    "score_parts",
    "second_difference_scores",
    "second_difference_sums",
    "shapley_taylor",
    "token_pairs",
]
