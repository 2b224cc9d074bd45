"""Language models: loading, hookpoints, activations, and views of their MLPs and attentions."""

import lazy_loader

# Names are imported when they are first used: a crosscoder needs hookpoints, not transformers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
