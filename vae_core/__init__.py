"""A variational autoencoder for images whose every number is per image and in nats.

``distortion`` (minus log likelihood) + ``rate`` (KL divergence) = ``nelbo``; higher = more anomalous. Beta is
not in it.

Names are loaded when they are first asked for, by the stub beside this file: most need Keras, which takes seconds to
load, and scoring with an exported engine does without.
"""

import os

import lazy_loader

# Before it is imported: ONNX Runtime would tell its makers of what it runs. Who has set it otherwise, has said so.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
