"""Figures of a dictionary on text: how good it is, and how its latents interact."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
