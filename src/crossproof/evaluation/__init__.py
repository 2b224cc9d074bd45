"""How good a crosscoder is: reconstruction, interactions, fidelity of its ablations."""

from crossproof.evaluation.measure import evaluate
from crossproof.evaluation.schemes import SCHEMES
from crossproof.evaluation.tally import EvaluationOptions

__all__ = ["SCHEMES", "EvaluationOptions", "evaluate"]
