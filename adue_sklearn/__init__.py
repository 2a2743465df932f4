"""Which answers of a LoRA-tuned text classifier should not be trusted.

Names are loaded when they are first asked for, so that the command line answers at once; the stub
beside this file lists them.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("adue-sklearn")
