"""Calibrations in the workspace: written once, verified whenever they are read, listed and compared."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import (
    CALIBRATION_SCHEMA,
    COMMIT,
    MEASURED,
    Place,
    publish_folder,
    read_table,
    remove_folder,
    write_json,
    write_table,
)
from nelbo.detectors import Interval, Threshold, binomial_interval, p_values, q_values, variant_p_values, verdicts
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.identity import calibration_id as id_of
from nelbo.flows.workspace.calibrations.identity import check_calibration_id
from nelbo.flows.workspace.calibrations.level import RegionLevel
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run, code_version
from nelbo.flows.workspace.tables import with_column, without
from nelbo.vae_core import FLOAT32, INT8, Scorable, precision_of

log = logging.getLogger(__name__)

#: Version 2 had another id. Version 4 has levels of variants; a calibration without any is written as version 3.
#: Version 5 belongs to a second fit, which earlier readers would take for the bundle's.
FORMAT_VERSION, WITH_LEVELS, OF_SECOND_FIT, _READABLE = 3, 4, 5, (2, 3, 4, 5)
FILES = ("calibration.json", "scores.parquet")
_DECIDING = ("image_id", "label", "split", "variant", "anomaly_score")

#: The origin of labels that are people's decisions on flagged images; ``--labels`` takes it instead of a file's name
#: (a file of that name is ``./reviews``).
REVIEWS = "reviews"


#: Why calibrations of earlier versions have no level.
_BEFORE = "the calibration was made by a version without regions: calibrate again"


class Judgement(NamedTuple):
    """A calibration's judgement of scored images; each (n,)."""

    anomaly_score: np.ndarray
    p_value: np.ndarray
    q_value: np.ndarray
    verdict: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """A calibration as read: what decides verdicts.

    batch_id: manifest of the images behind it.
    statistic: what the threshold is compared with.
    threshold: the threshold, with its promise.
    normal_scores: (n,) sorted scores of the held-out normal images that p-values refer to. The threshold of a
        contaminated set leaves out the highest scores; these keep them, because otherwise p-values would be too small.
    normal_scores_of: the same for each variant that has a promise of its own.
    image_ids: ids of all images that were used in it.
    heatmap_top: the upper end of the maps' colour scale, in units above what is usual.
    judged: metrics on labelled images that did not choose the threshold; None without any.
    labels_from: where the labels that chose the threshold came from: "manifest" or "reviews"; None if none did.
    why_not: why it did not become current when it was made; None if it did.
    region_level: the level that regions exceed; None if it is unknown.
    no_regions: why the level is unknown; None if it is known.
    fit_id: id of the second fit that gave its scores; None if the bundle's fit gave them.
    """

    calibration_id: str
    model_id: str
    batch_id: str
    statistic: Statistic
    threshold: Threshold
    normal_scores: np.ndarray
    normal_scores_of: Mapping[str, np.ndarray]
    image_ids: pa.Array
    heatmap_top: float
    judged: dict[str, Any] | None
    labels_from: str | None
    why_not: str | None
    made_at_utc: str
    region_level: RegionLevel | None = None
    no_regions: str | None = _BEFORE
    fit_id: str | None = None

    @property
    def precision(self) -> str:
        """The precision of the fit that gave the scores."""
        return FLOAT32 if self.fit_id is None else INT8

    def check_fit(self, model: Scorable) -> None:
        """Check that a model scores with this calibration's fit, because two fits have different thresholds.

        Raises:
            UsageError: it scores with another fit.
        """
        if model.fit_id != self.fit_id:
            found, expected = ("the bundle's" if name is None else name for name in (model.fit_id, self.fit_id))
            raise UsageError(
                f"calibration {self.calibration_id} is for another fit of model {self.model_id}: expected "
                f"{expected}, got {found}. Calibrate again with: nelbo calibrate --normal DIR"
            )

    def judge(self, table: pa.Table) -> Judgement:
        """Scores, p- and q-values and verdicts of the rows of one batch, all of them scored."""
        scores = self.statistic.scores(table)
        p = self.p_values(scores, table["variant"])
        return Judgement(scores, p, q_values(p), self.verdicts(scores))

    def p_values(self, scores: np.ndarray, variants: pa.ChunkedArray | None = None) -> np.ndarray:
        """(n,) p-values of anomaly scores; by the normal images of each one's variant, if variants are told apart."""
        if variants is None or not self.normal_scores_of:
            return p_values(scores, self.normal_scores)
        return variant_p_values(scores, np.asarray(variants.cast(pa.string()).to_numpy(), object), self.against)

    def against(self, variant: str | None) -> np.ndarray:
        """Sorted scores of the normal images that the p-values of a variant refer to."""
        return self.normal_scores if variant is None else self.normal_scores_of.get(variant, self.normal_scores)

    def verdicts(self, scores: np.ndarray) -> np.ndarray:
        """(n,) verdicts on anomaly scores."""
        return verdicts(scores, self.threshold.value, self.threshold.review)

    def flags(self, table: pa.Table) -> np.ndarray:
        """(n,) whether scored rows are anomalous or for review."""
        return np.asarray(self.verdicts(self.statistic.scores(table)) != "normal")

    def unseen(self, table: pa.Table) -> pa.Table:
        """The rows of images that were not used in it, on which it may be judged."""
        return table.filter(pc.invert(pc.is_in(table["image_id"], self.image_ids)))


def write_calibration(content: dict[str, Any], scores: pa.Table, workspace: Workspace, run: Run) -> str:
    """Publish a calibration's folder, whole, or keep an equal one that already exists; returns its id."""
    scores = scores.select(CALIBRATION_SCHEMA.names).cast(CALIBRATION_SCHEMA)
    calibration_id = id_of(content, scores)
    folder = workspace.calibrations / calibration_id
    if (folder / COMMIT).exists():
        read_calibration(workspace, calibration_id)
        return calibration_id
    made = {"made_at_utc": f"{run.started_at_utc:%Y-%m-%dT%H:%M:%SZ}", "code_version": code_version()}
    unfinished = workspace.local_staging / f"{run.run_id}-{calibration_id}"
    content = {**content, **made, "calibration_id": calibration_id}
    plain = WITH_LEVELS if content.get("levels") else FORMAT_VERSION
    content["format_version"] = OF_SECOND_FIT if content.get("fit_id") else plain
    write_json(content, unfinished / "calibration.json")
    write_table(scores, unfinished / "scores.parquet", CALIBRATION_SCHEMA, run.metadata)
    write_json({name: _sha256(unfinished / name) for name in FILES}, unfinished / COMMIT)
    publish_folder(unfinished, folder)
    remove_folder(unfinished)
    return calibration_id


def read_calibration(workspace: Workspace, calibration_id: str) -> Calibration:
    """A calibration of the workspace, verified: each file by its checksum, and all of it by its id.

    Raises:
        UsageError: it is not whole, or not what it was when it was made.
    """
    folder = workspace.calibrations / calibration_id
    remedy = "Restore it from a copy, or delete it and calibrate again."
    try:
        checksums = json.loads((folder / COMMIT).read_text(encoding="utf-8"))
        damaged = [name for name in FILES if _sha256(folder / name) != checksums.get(name)]
        content = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
        version = content.get("format_version")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{folder} is not a whole calibration ({error}). {remedy}") from error
    if damaged or version not in _READABLE:
        what = f"{damaged[0]} does not match its checksum" if damaged else "it has another format version"
        raise UsageError(f"{folder}: {what}. {remedy}")
    try:
        check_calibration_id(folder, content, remedy)
        return _parsed(folder, content)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder / 'calibration.json'} is not what nelbo writes: {error!r}. {remedy}") from error


def _parsed(folder: Place, content: dict[str, Any]) -> Calibration:
    # The tails of a rule of 0.1 need what else was measured.
    table = read_table(folder / "scores.parquet", None if content["joint"] else _DECIDING)
    # Earlier versions did not write this.
    labels_from = content.get("labels_from")
    joint = content["joint"]
    if joint is None:
        statistic = Statistic(content["statistic"], levels=content.get("levels", {}))
    else:
        statistic = Statistic.by_rule(part_rows(table, "reference"), joint["statistics"], joint["rule"])
    normal = _normals(table.select(_DECIDING), labels_from)
    of_variant = {name: normal.filter(pc.equal(normal["variant"], name)) for name in statistic.levels}
    said = content.get("region_level") or {"why_not": _BEFORE}
    kept = ("calibration_id", "model_id", "batch_id", "heatmap_top", "judged", "made_at_utc")
    return Calibration(
        **{name: content[name] for name in kept},
        statistic=statistic,
        threshold=Threshold(**content["threshold"]),
        normal_scores=_sorted_scores(normal),
        normal_scores_of={name: _sorted_scores(rows) for name, rows in of_variant.items()},
        image_ids=table["image_id"].combine_chunks(),
        labels_from=labels_from,
        why_not=content.get("why_not"),
        region_level=None if "why_not" in said else RegionLevel.parsed(said),
        no_regions=said.get("why_not"),
        fit_id=content.get("fit_id"),
    )


def _sorted_scores(rows: pa.Table) -> np.ndarray:
    return np.sort(rows["anomaly_score"].to_numpy())


def _normals(table: pa.Table, labels_from: str | None) -> pa.Table:
    """The rows that p-values refer to: normal images that chose the threshold, or separate ones if reviews chose it.

    Reviewed images are a selection and do not represent normal ones.
    """
    if labels_from == REVIEWS:
        return part_rows(table, "normal")
    chosen = part_rows(table, "calibration")
    return chosen.filter(pc.not_equal(chosen["label"], 1))


def part_rows(rows: pa.Table, part: str) -> pa.Table:
    """The rows of one part of a calibration, by the column ``split``."""
    return rows.filter(pc.equal(rows["split"], part))


def not_choosing(rows: pa.Table, workspace: Workspace, calibration: Calibration) -> pa.Table:
    """The rows of images that a calibration was not made from, on which it may be judged."""
    own = rows_of(workspace, calibration)
    return without(rows, own.filter(pc.not_equal(own["split"], "test")))


def normal_rows(workspace: Workspace, calibration: Calibration) -> pa.Table:
    """The held-out normal images that a calibration's p-values refer to, as rows for another one that keeps them."""
    rows = _normals(rows_of(workspace, calibration), calibration.labels_from)
    return with_column(rows, "split", ["normal"] * rows.num_rows)


def reference_rows(workspace: Workspace, calibration: Calibration) -> pa.Table:
    """The images behind the tails of a calibration with a rule of 0.1; none for a single statistic."""
    return part_rows(rows_of(workspace, calibration), "reference")


def rows_of(workspace: Workspace, calibration: Calibration) -> pa.Table:
    """The rows of all images that were used in a calibration."""
    return read_table(workspace.calibrations / calibration.calibration_id / "scores.parquet")


def calibration_of(
    workspace: Workspace, model_id: str, name: str | None = None, precision: str = FLOAT32
) -> Calibration | None:
    """A model's calibration: the one named, or the current one of its fit in that precision; None if it has none."""
    if name is None:
        calibration_id = pointers.current_calibration(workspace, model_id, precision)
    else:
        calibration_id = catalog.find_calibration(workspace, name)
    if calibration_id is None:
        return None
    calibration = read_calibration(workspace, calibration_id)
    if calibration.model_id != model_id:
        raise UsageError(
            f"calibration {calibration_id} belongs to model {calibration.model_id}, not to {model_id}. "
            "Name one of this model's, or leave it out. List them with: nelbo calibrations"
        )
    return calibration


def needed_calibration(workspace: Workspace, model_id: str, name: str | None = None) -> Calibration:
    """As `calibration_of`; UsageError if the model has none."""
    calibration = calibration_of(workspace, model_id, name)
    if calibration is None:
        raise UsageError(f"model {model_id} has no calibration. Make one with: nelbo calibrate --normal DIR")
    return calibration


def calibrations_of(workspace: Workspace, model_id: str) -> list[Calibration]:
    """All calibrations of a model, the oldest first."""
    known, found = catalog.calibrations(workspace), []
    # A damaged calibration may be any model's.
    mine = known.filter(pc.fill_null(pc.equal(known["model_id"], model_id), True))
    for calibration_id in mine["calibration_id"].to_pylist():
        try:
            found.append(read_calibration(workspace, calibration_id))
        except UsageError as error:
            # A damaged calibration must not hide the others.
            log.warning("%s", error)
    return found


def standing(calibration: Calibration, current: str | None) -> dict[str, Any]:
    """Whether a calibration is the current one, whose id is given; and if it stayed a candidate, why."""
    is_current = calibration.calibration_id == current
    candidate = calibration.why_not is not None and not is_current
    return {"current": is_current, "candidate": candidate, "why_not": calibration.why_not if candidate else None}


def describe(calibration: Calibration) -> dict[str, Any]:
    """What is printed of a calibration along with its threshold; ``review_share`` is a share of normal images.

    If ``approximate``, the rates are aimed at and not promised.
    """
    threshold = calibration.threshold
    supported, share = threshold.supported, review_share(calibration)
    return {
        "calibration_id": calibration.calibration_id,
        "statistic": calibration.statistic.name,
        "objective": threshold.objective,
        "labels_from": calibration.labels_from,
        "threshold": threshold.value,
        "review": threshold.review,
        "fpr": threshold.fpr,
        "fpr_low": supported.low if supported else None,
        "fpr_high": supported.high if supported else None,
        "review_share": share.value if share else None,
        "n_calibration": threshold.n_calibration,
        "approximate": threshold.approximate,
        "promise": promise(calibration),
        **({"variants": of_variants(calibration)} if calibration.statistic.levels else {}),
    }


def of_variants(calibration: Calibration) -> list[dict[str, Any]]:
    """The promise for each variant; ``threshold`` applies to its scores before their level is subtracted."""
    threshold = calibration.threshold
    return [
        {
            "variant": name,
            "n_calibration": len(scores),
            "threshold": threshold.value + calibration.statistic.levels[name],
            "promise": replace(threshold, n_calibration=len(scores)).describe(None),
        }
        for name, scores in calibration.normal_scores_of.items()
    ]


def promise(calibration: Calibration) -> str:
    """What a calibration's threshold promises, in words."""
    said = calibration.threshold.describe(review_share(calibration))
    names = calibration.statistic.levels
    if not names or not calibration.threshold.fpr:
        return said
    return f"{said}; kept for {f'each of {len(names)} variants' if len(names) > 1 else f'variant {next(iter(names))}'}"


def review_share(calibration: Calibration) -> Interval | None:
    """Share of normal images sent to people: by the calibration's law; or as judged, if labels chose the threshold.

    If reviews chose it, the judging images had all been flagged; the images that p-values refer to were not selected,
    and give the share.
    """
    threshold = calibration.threshold
    if threshold.review is None:
        return None
    if threshold.supported_review is not None:
        return threshold.supported_review
    if calibration.labels_from == REVIEWS:
        words = calibration.verdicts(calibration.normal_scores)
        return binomial_interval(int((words == "review").sum()), len(words))
    counts = ((calibration.judged or {}).get("confusion") or {}).get("normal")
    return binomial_interval(counts["review"], sum(counts.values())) if counts and any(counts.values()) else None


def caution(calibration: Calibration) -> str:
    """What to warn about a threshold that reviews chose."""
    scores = calibration.normal_scores
    n_above = int((scores > calibration.threshold.value).sum())
    return (
        "reviewed images had all been flagged: the normal ones among them are the hardest, and anomalies that were not "
        "flagged are missing, so no rate here (judged) holds for all images. Of the "
        f"{len(scores):,} held-out normal images that p-values refer to, {n_above:,} lie above the threshold"
    )


def scored_rows(path: Place) -> pa.Table:
    """The rows of a published batch that have a score, with the columns that any calibration needs."""
    table = read_table(path, ["relative_path", "image_id", "label", "anomaly_score", *MEASURED])
    return table.filter(pc.is_valid(table["anomaly_score"]))


def scored_in(path: Place) -> str:
    """The precision of the fit that scored a published batch; one fit scores all its rows."""
    engines = read_table(path, ["engine"])["engine"]
    return FLOAT32 if not len(engines) else precision_of(engines[0].as_py())


def last_precision(workspace: Workspace, model_id: str) -> str:
    """The precision of the fit that scored a model's last batch; the bundle's if the model has scored none."""
    scored = catalog.published(workspace, model_id=model_id)["path"].to_pylist()
    return scored_in(workspace.root / scored[-1]) if scored else FLOAT32


def _sha256(path: Place) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
