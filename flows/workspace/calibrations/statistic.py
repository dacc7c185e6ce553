"""The anomaly score: one of the model's statistics; in calibrations of 0.1 also several that a rule joins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from nelbo.data import IN_DEVIATIONS, JOINT, JOINT_PARTS, STATISTICS
from nelbo.detectors import levelled
from nelbo.detectors.tail_rules import TWO_SIDED, TailRule


@dataclass(frozen=True)
class Statistic:
    """What a threshold is compared with.

    name: one of ``STATISTICS``, or "joint"; or "joint_" and the rule; or `MAP_PEAK`, which only regions use.
    rule: a rule of version 0.1, with its reference scores; None for a single statistic.
    levels: variant -> what is subtracted from its scores, so that one threshold flags the same share of each variant.
    """

    name: str
    rule: TailRule | None = None
    levels: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def by_rule(cls, reference: pa.Table, statistics: Sequence[str], rule: str) -> "Statistic":
        """Several statistics joined by a rule, whose reference is rows of normal images with no other use."""
        return cls(f"joint_{rule}", TailRule(_measures(reference, statistics), statistics, rule))

    def scores(self, table: pa.Table) -> np.ndarray:
        """(n,) anomaly scores of rows with the columns of ``MEASURED``.

        Statistics in standard deviations also get two terms: how far the part's size is off, if parts are looked for,
        and how far the image is from its variant, if there are several.
        """
        if self.rule is not None:
            return self.rule.scores(_measures(table, self.rule.statistics))
        columns = JOINT_PARTS if self.name == JOINT else (STATISTICS.get(self.name, self.name),)
        found = np.sum([table[column].to_numpy() for column in columns], axis=0)
        if self.name in IN_DEVIATIONS:
            found = found + sum(np.nan_to_num(table[name].to_numpy()) for name in ("size_z", "variant_z"))
        return levelled(found, table["variant"].to_pylist(), self.levels) if self.levels else found


def _measures(table: pa.Table, statistics: Sequence[str]) -> dict[str, np.ndarray]:
    """The statistics that a rule needs, and no more: tables of 0.1 have no others."""
    names = [name.removesuffix(TWO_SIDED) for name in statistics]
    return {name: table[STATISTICS[name]].to_numpy() for name in names}
