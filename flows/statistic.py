"""The anomaly score of an image: one of the model's statistics, or several joined into one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data import STATISTICS
from detectors import Joint


@dataclass(frozen=True)
class Statistic:
    """What a threshold is compared with.

    name: of ``STATISTICS``, or "joint_" and the rule.
    joint: the rule with its reference scores; None for a single statistic.
    """

    name: str
    joint: Joint | None = None

    @classmethod
    def joined(cls, reference: pa.Table, statistics: Sequence[str], rule: str) -> "Statistic":
        """Several statistics by a rule, against rows of normal images that serve nothing else."""
        return cls(f"joint_{rule}", Joint(_measures(reference), statistics, rule))

    def scores(self, table: pa.Table) -> np.ndarray:
        """(n,) anomaly scores of rows with the columns of ``MEASURES``."""
        if self.joint is not None:
            return self.joint.scores(_measures(table))
        return table[STATISTICS[self.name]].to_numpy()


def _measures(table: pa.Table) -> dict[str, np.ndarray]:
    return {name: table[column].to_numpy() for name, column in STATISTICS.items()}
