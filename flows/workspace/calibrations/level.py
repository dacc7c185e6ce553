"""The level that the regions of an image exceed, which a calibration keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nelbo.detectors import Threshold


@dataclass(frozen=True)
class RegionLevel:
    """The level that the map of a normal image exceeds anywhere only as rarely as promised.

    threshold: threshold of the maps' largest values, in units above what is usual, with its promise.
    levels: variant -> what is added to the level for its images.

    >>> level = RegionLevel(Threshold.from_normals(range(99), fpr=0.05), {"b": 2.0})
    >>> level.of(["a", "b"]).tolist(), RegionLevel.parsed(level.to_dict()) == level
    ([94.0, 96.0], True)
    """

    threshold: Threshold
    levels: Mapping[str, float] = field(default_factory=dict)

    def of(self, variants: Sequence[str | None]) -> NDArray[np.float64]:
        """(n,) levels for images of these variants."""
        return np.array([self.threshold.value + self.levels.get(name or "", 0.0) for name in variants], np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The level as an object for JSON."""
        return {**self.threshold.to_dict(), **({"levels": dict(self.levels)} if self.levels else {})}

    @classmethod
    def parsed(cls, content: Mapping[str, Any]) -> "RegionLevel":
        """The level that an object of JSON holds.

        Raises:
            TypeError: the object holds something else.
        """
        threshold = {name: value for name, value in content.items() if name != "levels"}
        return cls(Threshold(**threshold), dict(content.get("levels", {})))
