"""Compact proofs: constants, bounds on what latents' interactions cost, and what they certify.

Bounds are pure functions of tensors and hold for any numbers as activations, decoder vectors and
biases: a bad dictionary only loosens them. `docs/theory` states and proves each.
"""

import lazy_loader

# Names are imported when they are first used: the verifier needs none of them, nor torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
