"""Watch images for anomalies: learn from normal ones, score in nats, keep a promised false-alarm rate.

`Workspace`, `Model`, `Batch` and `load` are the front door; they are loaded when they are first asked for, by the stub
beside this file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
