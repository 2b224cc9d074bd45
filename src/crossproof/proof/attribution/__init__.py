"""Error attribution: the proof's shape on a real language model, token by token.

As costly as running the model, hence no compact proof; it tells which step, which latents and
which neurons a proof would fail on (docs/attribution.md).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
