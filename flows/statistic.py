"""The anomaly score of an image: one of the model's statistics; in calibrations of 0.1 also several, by a rule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data import IN_DEVIATIONS, JOINT, JOINT_PARTS, STATISTICS
from detectors.tail_rules import TWO_SIDED, TailRule


@dataclass(frozen=True)
class Statistic:
    """What a threshold is compared with.

    name: of ``STATISTICS``, or "joint"; or "joint_" and the rule.
    rule: of version 0.1, with its reference scores; None for a single statistic.
    """

    name: str
    rule: TailRule | None = None

    @classmethod
    def by_rule(cls, reference: pa.Table, statistics: Sequence[str], rule: str) -> "Statistic":
        """Several statistics by a rule, against rows of normal images that serve nothing else."""
        return cls(f"joint_{rule}", TailRule(_measures(reference, statistics), statistics, rule))

    def scores(self, table: pa.Table) -> np.ndarray:
        """(n,) anomaly scores of rows with the columns of ``MEASURES``.

        To those in standard deviations is added how far the part's size is off, where parts are looked for.
        """
        if self.rule is not None:
            return self.rule.scores(_measures(table, self.rule.statistics))
        columns = JOINT_PARTS if self.name == JOINT else (STATISTICS[self.name],)
        found = np.sum([table[column].to_numpy() for column in columns], axis=0)
        return found + np.nan_to_num(table["size_z"].to_numpy()) if self.name in IN_DEVIATIONS else found


def _measures(table: pa.Table, statistics: Sequence[str]) -> dict[str, np.ndarray]:
    """What a rule asks for, and no more: tables of 0.1 have no other statistics."""
    names = [name.removesuffix(TWO_SIDED) for name in statistics]
    return {name: table[STATISTICS[name]].to_numpy() for name in names}
