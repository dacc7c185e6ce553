"""Image files in, Parquet out: manifests, decoding, splits, schemas, atomic publishing.

Names are loaded when they are first asked for, by the stub beside this file: pandas and pyarrow take a second to load.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
