from .attribute import attribute as attribute
from .result import AttributedRun as AttributedRun
from .result import AttributionResult as AttributionResult
