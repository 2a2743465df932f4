"""A small real case that ships with the package.

Names are loaded when they are first asked for; the stub beside this file lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
