"""Scores in, decisions out: thresholds with a promise, p- and q-values, verdicts, metrics.

Works on any array of scores with the anomalous side up. The stub beside this file lists the names, and each is loaded
on first use: only `NelboDetector`, the scikit-learn estimator, needs a neural network.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
