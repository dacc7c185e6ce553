"""Watch images for anomalies: learn from normal ones, score in nats, keep a promised false-alarm rate.

Start with `Workspace`, `Model`, `Batch` and `load`; the stub beside this file lists them, and each is loaded on first
use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
