"""Auditing a model: which texts its insides find unusual, by detectors with honest controls."""

import lazy_loader

# Names are imported when they are first used: options need neither torch nor scikit-learn.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
