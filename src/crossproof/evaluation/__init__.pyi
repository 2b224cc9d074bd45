from .config import SCHEMES as SCHEMES
from .config import EvaluationOptions as EvaluationOptions
from .measure import evaluate as evaluate
