"""What a calibration set of a given size can promise."""

import numpy as np
from scipy.stats import beta

from detectors.interval import Interval


def supported_fpr(fpr: float, n_calibration: int) -> Interval:
    """What a conformal threshold's promise comes to in the long run for one calibration set of this size.

    Over calibration sets the realised rate follows Beta(j, n + 1 - j), j = floor(fpr (n + 1)); the promise is
    an upper bound of its mean.

    Source: Vovk 2012, "Conditional validity of inductive conformal predictors", section 2.

    >>> [round(v, 3) for v in supported_fpr(0.05, 152)]
    [0.046, 0.019, 0.084]
    """
    j = max(1, int(np.floor(fpr * (n_calibration + 1) + 1e-9)))
    law = beta(j, n_calibration + 1 - j)
    return Interval(float(law.mean()), *(float(law.ppf(q)) for q in (0.025, 0.975)))
