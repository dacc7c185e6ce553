"""Image files in, Parquet out: manifests, decoding, splits, schemas, atomic publishing.

The stub beside this file lists the names, and each is loaded on first use: pandas and pyarrow take a second to load.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
