"""Clusters of latents by interaction: made, explained and judged, next to their controls."""

import lazy_loader

# Names are imported when they are first used: the names of judges do not wait for PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
