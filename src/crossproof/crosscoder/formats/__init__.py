"""Dictionaries that other libraries saved (docs/importing.md); one module a library."""

import lazy_loader

# Names are imported when they are first used: listing formats needs no PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
