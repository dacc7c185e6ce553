"""How well a batch's verdicts and maps find each kind of defect: one row for each kind and measure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from nelbo.data import EVALUATION_SCHEMA
from nelbo.detectors import Interval, evaluate
from nelbo.detectors.metrics.localised import PixelCounts, Region, share_found
from nelbo.flows.numbers import interval

#: Lower ends of the ranges of regions' areas, in pixels of the masks.
AREAS_PX = (1, 100, 1000, 10_000)

#: If there are more kinds, the names are probably of parts or days, not of defects.
MOST_KINDS = 50

#: The name of each measure and the method of its interval, in the order in which they are shown.
MEASURES = {
    "auroc": ("AUROC", "newcombe_delong"),
    "average_precision": ("average precision", "wilson_bootstrap"),
    "recall": ("found", "clopper_pearson"),
    "f1": ("F1", "clopper_pearson_draws"),
    "realised_fpr": ("false alarms", "clopper_pearson"),
    "pixel_auroc": ("pixel AUROC", "bootstrap_images"),
    "aupro_30": ("AUPRO to .3", "bootstrap_images"),
    "aupro_05": ("AUPRO to .05", "bootstrap_images"),
    "region_recall": ("regions found", "wilson_clustered"),
}

#: Upper limits of AUPRO.
_LIMITS = {"aupro_30": 0.3, "aupro_05": 0.05}


class Counted(NamedTuple):
    """Images whose maps were compared with masks.

    counts: of their pixels.
    kinds: (n_images,) the kind of each image: None if it is normal, empty if its kind of defect has no name.
    """

    counts: PixelCounts
    kinds: Sequence[str | None]


def measures_of_images(rows: pa.Table, kinds: Sequence[str | None], fpr: float | None) -> list[dict[str, Any]]:
    """Rows of ``EVALUATION_SCHEMA``: for all defects, and for each kind against all normal images.

    Args:
        rows: scored images with labels 0 and 1.
        kinds: of each image; those of normal images are not used.
        fpr: the promised false-alarm rate; None where none was promised.
    """
    labels, scores = rows["label"].to_numpy(), rows["anomaly_score"].to_numpy()
    words = None if rows["verdict"].null_count else np.array(rows["verdict"].to_pylist(), object)
    found = []
    for kind in (None, *_named(kinds, labels == 1)):
        some = (labels == 0) | (True if kind is None else np.array([one == kind for one in kinds]))
        judged = evaluate(labels[some], scores[some], None if words is None else words[some], fpr)
        for measure in ("auroc", "average_precision", "recall", "f1", *(() if kind else ("realised_fpr",))):
            value = getattr(judged, measure)
            if value is not None:
                found.append(_row(kind, measure, value, judged.n_normal, judged.n_anomalous))
    return found


def measures_of_pixels(counted: Counted) -> list[dict[str, Any]]:
    """Rows of ``EVALUATION_SCHEMA`` for pixels and regions; for all defects together also by the regions' size."""
    counts, normal = counted.counts, [row for row, kind in enumerate(counted.kinds) if kind is None]
    level, found = counts.level(), []
    for kind in (None, *_named(counted.kinds, np.ones(len(counted.kinds), bool))):
        defective = [row for row, one in enumerate(counted.kinds) if one is not None and kind in (None, one)]
        images = [*normal, *defective]
        measured = {"pixel_auroc": counts.auroc(images)}
        measured |= {name: counts.aupro(end, images) for name, end in _LIMITS.items()}
        found += [
            _row(kind, name, value, len(normal), len(defective))
            for name, value in measured.items()
            if value is not None
        ]
        own = set(defective)
        regions = [region for region in counts.regions if region.image in own]
        # Without a normal pixel there is no level, so no region counts as found.
        if level is not None and regions:
            found.append(_of_regions(kind, regions, level, len(normal), len(defective)))
    if level is not None:
        found += _by_size(counts.regions, level, len(normal), len(counted.kinds) - len(normal))
    return found


def _of_regions(
    kind: str | None, regions: Sequence[Region], level: float, n_normal: int, n_anomalous: int, **size: int | None
) -> dict[str, Any]:
    share = share_found(regions, level)
    return _row(kind, "region_recall", share, n_normal, n_anomalous) | {"n_regions": len(regions)} | size


def _by_size(regions: Sequence[Region], level: float, n_normal: int, n_anomalous: int) -> list[dict[str, Any]]:
    found = []
    for start, end in zip(AREAS_PX, (*AREAS_PX[1:], None), strict=True):
        some = [region for region in regions if start <= region.area_px and (end is None or region.area_px < end)]
        if some:
            size = {"area_from_px": start, "area_to_px": end}
            found.append(_of_regions(None, some, level, n_normal, n_anomalous, **size))
    return found


def as_table(rows: Sequence[Mapping[str, Any]], text: Callable[[Interval], str] = interval) -> list[list[str]]:
    """A header and a line for each kind, all defects first, as texts; a dash where a value is not known."""
    whole = [row for row in rows if row["area_from_px"] is None]
    measures = [name for name in MEASURES if any(row["measure"] == name for row in whole)]
    lines = [["kind", "images", *(MEASURES[name][0] for name in measures)]] if measures else []
    for kind in dict.fromkeys(row["kind"] for row in whole):
        own = {row["measure"]: row for row in whole if row["kind"] == kind}
        n = max(row["n_anomalous"] for row in own.values())
        cells = [text(_interval(own[name])) if name in own else "—" for name in measures]
        lines.append(["all defects" if kind is None else kind, f"{n:,}", *cells])
    return lines


def by_size(rows: Sequence[Mapping[str, Any]], text: Callable[[Interval], str] = interval) -> list[list[str]]:
    """A header and a line for each size of regions, as texts; empty without masks."""
    sized = [row for row in rows if row["area_from_px"] is not None]
    lines = [["pixels of a region", "regions", "found"]] if sized else []
    for row in sized:
        start, end = row["area_from_px"], row["area_to_px"]
        size = f"{start:,} and more" if end is None else f"{start:,} to {end - 1:,}"
        lines.append([size, f"{row['n_regions']:,}", text(_interval(row))])
    return lines


def _named(kinds: Sequence[str | None], among: np.ndarray) -> list[str]:
    """The names of the kinds among some images; none if there is only one, or more than `MOST_KINDS`."""
    names = sorted({kind for kind, is_one in zip(kinds, among, strict=True) if is_one and kind})
    return names if 1 < len(names) <= MOST_KINDS else []


def _row(kind: str | None, measure: str, found: Interval, n_normal: int, n_anomalous: int) -> dict[str, Any]:
    said = {"kind": kind, "measure": measure, **found._asdict(), "n_normal": n_normal, "n_anomalous": n_anomalous}
    return dict.fromkeys(EVALUATION_SCHEMA.names) | said | {"interval": MEASURES[measure][1]}


def _interval(row: Mapping[str, Any]) -> Interval:
    return Interval(row["value"], row["low"], row["high"])
