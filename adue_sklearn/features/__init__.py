"""From a LoRA text classifier to arrays: find its head, extract features, store them.

Names are loaded when they are first asked for: a store is read without transformers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
