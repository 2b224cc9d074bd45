"""Figures of a dictionary on text: how good it is, and how its latents interact."""

import lazy_loader

# Names are imported when they are first used: settings need no PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
