"""Interactions between latents, as pure functions of tensors: they measure any dictionary."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
