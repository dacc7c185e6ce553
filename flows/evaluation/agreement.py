"""Two calibrations, of one model or of two, on one scored batch: where their verdicts differ, and who is right."""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from nelbo.detectors import PairedTest, VerdictCounts, delong_test, mcnemar_test
from nelbo.flows.workspace.calibrations.calibration import Calibration, scored_rows
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import unseen_in_training
from nelbo.flows.workspace.tables import with_column

#: What makes two rows the same image.
_KEYS = ["relative_path", "image_id"]


class Against(NamedTuple):
    """How two calibrations fare where the truth is known.

    n_normal, n_anomalous: images that are compared; n_left_out: labelled images that one of the two was made from.
    false_alarms, misses: shares of the normal, and of the anomalous images; None without such images.
    auroc: None with fewer than two normal or two anomalous images.
    """

    n_normal: int
    n_anomalous: int
    n_left_out: int
    false_alarms: PairedTest | None
    misses: PairedTest | None
    auroc: PairedTest | None


def agreement(workspace: Workspace, batch_id: str, a: Calibration, b: Calibration) -> pa.Table:
    """The files of a batch that both models have scored, with the scores and verdicts of a and of b.

    Verdicts are derived from the stored scores, whichever calibration decided when the batch was scored.

    Returns:
        ``relative_path``, ``image_id``, ``label``, ``score_a``, ``verdict_a``, ``score_b``, ``verdict_b``, in the
        order of the paths. A file that was replaced between the two models' scoring has no row.
    """
    judged_a = _judged(workspace, batch_id, a, "a")
    judged_b = _judged(workspace, batch_id, b, "b").drop_columns("label")
    return judged_a.join(judged_b, _KEYS, join_type="inner").sort_by([(name, "ascending") for name in _KEYS])


def _judged(workspace: Workspace, batch_id: str, calibration: Calibration, side: str) -> pa.Table:
    rows = scored_rows(workspace.scores(calibration.model_id, batch_id))
    scores = calibration.statistic.scores(rows)
    found = {f"score_{side}": scores, f"verdict_{side}": calibration.verdicts(scores)}
    return pa.table({name: rows[name] for name in (*_KEYS, "label")} | found)


def verdict_counts(rows: pa.Table) -> dict[str, VerdictCounts]:
    """How many images have each pair of verdicts: for each verdict of a, the counts of b's verdicts.

    >>> rows = pa.table({"verdict_a": ["normal", "normal"], "verdict_b": ["normal", "anomalous"]})
    >>> verdict_counts(rows)["normal"]
    VerdictCounts(normal=1, review=0, anomalous=1)
    """
    a, b = (rows[name].to_numpy() for name in ("verdict_a", "verdict_b"))
    words = VerdictCounts._fields
    return {word: VerdictCounts(*(int(((a == word) & (b == other)).sum()) for other in words)) for word in words}


def differing(rows: pa.Table) -> pa.Table:
    """The rows on which the two verdicts differ."""
    return rows.filter(pc.not_equal(rows["verdict_a"], rows["verdict_b"]))


def flagged_shares(rows: pa.Table) -> PairedTest | None:
    """The share of images that each flags, anomalous or for review; None without rows."""
    flags = (rows[f"verdict_{side}"].to_numpy() != "normal" for side in "ab")
    return mcnemar_test(*flags) if rows.num_rows else None


def against_truth(rows: pa.Table, workspace: Workspace, a: Calibration, b: Calibration) -> Against | None:
    """Compare the two on images whose ``label`` is known; None if there are none.

    Images that one of the two models was trained on, or that took part in one of the calibrations, are left out. The
    verdict "anomalous" is an alarm, "review" is not.

    Raises:
        UsageError: a model is damaged or gone, so its training images are not known.
    """
    known = rows.filter(pc.greater_equal(rows["label"], 0))
    if not known.num_rows:
        return None
    fresh = known
    for calibration in (a, b):
        fresh = calibration.unseen(unseen_in_training(fresh, workspace, calibration.model_id))
    labels = fresh["label"].to_numpy()
    alarms_a, alarms_b = (fresh[f"verdict_{side}"].to_numpy() == "anomalous" for side in "ab")
    normal, anomalous = labels == 0, labels == 1
    n_normal, n_anomalous = int(normal.sum()), int(anomalous.sum())
    return Against(
        n_normal,
        n_anomalous,
        known.num_rows - fresh.num_rows,
        mcnemar_test(alarms_a[normal], alarms_b[normal]) if n_normal else None,
        mcnemar_test(~alarms_a[anomalous], ~alarms_b[anomalous]) if n_anomalous else None,
        delong_test(labels, *(fresh[f"score_{side}"].to_numpy() for side in "ab"))
        if min(n_normal, n_anomalous) > 1
        else None,
    )


def with_truth(rows: pa.Table, truth: dict[str, int]) -> pa.Table:
    """The same rows with labels from `truth`, whose keys are hashes of the images' contents."""
    return with_column(rows, "label", [truth.get(image_id, -1) for image_id in rows["image_id"].to_pylist()])
