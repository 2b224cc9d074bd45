"""Clusters of latents by interaction: found, explained and judged, next to their controls."""

from crossproof.clusters.accuracy import accuracy
from crossproof.clusters.explain import DataExplainer, Explanation
from crossproof.clusters.judges import (
    EmbeddingJudge,
    Judge,
    LLMJudge,
    OverlapJudge,
    Question,
    embedder,
)
from crossproof.clusters.llm import LLM, Cache, Endpoint
from crossproof.clusters.partition import Partition, agreement, partition
from crossproof.clusters.places import differences_of, internal_interaction
from crossproof.clusters.reading import Reading
from crossproof.clusters.run import Settings, cluster_run
from crossproof.clusters.scoring import detection
from crossproof.clusters.similarities import SIMILARITIES, Evidence, similarity
from crossproof.clusters.trials import Trial, draw_trials, matched_labels, random_labels

__all__ = [
    "LLM",
    "SIMILARITIES",
    "Cache",
    "DataExplainer",
    "EmbeddingJudge",
    "Endpoint",
    "Evidence",
    "Explanation",
    "Judge",
    "LLMJudge",
    "OverlapJudge",
    "Partition",
    "Question",
    "Reading",
    "Settings",
    "Trial",
    "accuracy",
    "agreement",
    "cluster_run",
    "detection",
    "differences_of",
    "draw_trials",
    "embedder",
    "internal_interaction",
    "matched_labels",
    "partition",
    "random_labels",
    "similarity",
]
