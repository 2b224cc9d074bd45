"""A run's latents, pairs and neurons, looked at in the browser or a notebook."""

import lazy_loader

# Names are imported when they are first used: settings need no PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
