"""Certificates: compact, checkable statements about small networks.

`format` and `writer` read and write certificate folders (docs/certificate-format.md), `provers`
search them, `verifier` says what they prove, trusting nothing, and `cost` counts it all.
"""

import lazy_loader

# Names are imported when they are first used: the verifier needs numpy, not PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
