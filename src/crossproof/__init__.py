"""crossproof: measure, penalise and certify interactions between a crosscoder's latents."""

import lazy_loader

# Names are imported when they are first used: `crossproof --help` need not wait for torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
