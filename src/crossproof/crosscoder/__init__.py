"""The dictionary: model, sparsity rules, latents, and the native format."""

import lazy_loader

# Names are imported when they are first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
