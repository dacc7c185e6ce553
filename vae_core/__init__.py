"""A variational autoencoder for images whose every number is per image and in nats.

``distortion`` (minus log likelihood) + ``rate`` (KL divergence) = ``nelbo``; higher = more anomalous. Beta is
not part of it.

The stub beside this file lists the names, and each is loaded on first use: most need Keras, which takes seconds to
load, and scoring with an exported engine does not need it.
"""

import os

import lazy_loader

# Set before the import: ONNX Runtime would report to its makers what it runs. A value that the user has set stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Likewise: TensorFlow and JAX would take nearly all memory of a GPU at their start, and leave none to other programs.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
