from .figures import AttributedRun as AttributedRun
from .result import AttributionResult as AttributionResult
from .run import attribute as attribute
