"""How the verdicts of a batch compare with its labels, in numbers and in words."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from nelbo.detectors import Evaluation, Interval, evaluate
from nelbo.flows.numbers import fixed, interval, percent
from nelbo.flows.workspace.calibrations.calibration import Calibration
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import unseen_in_training


def evaluate_batch(
    table: pa.Table, calibration: Calibration | None, workspace: Workspace, model_id: str
) -> tuple[Evaluation | None, int]:
    """Metrics of a batch's labelled rows, and how many of these are left out; see `judged_rows`."""
    fresh, n_left_out = judged_rows(table, calibration, workspace, model_id)
    if not fresh.num_rows:
        return None, n_left_out
    words = None if fresh["verdict"].null_count else fresh["verdict"].cast(pa.string()).to_numpy()
    fpr = None if calibration is None else calibration.threshold.fpr
    return evaluate(fresh["label"].to_numpy(), fresh["anomaly_score"].to_numpy(), words, fpr), n_left_out


def judged_rows(
    table: pa.Table, calibration: Calibration | None, workspace: Workspace, model_id: str
) -> tuple[pa.Table, int]:
    """A batch's labelled rows, without those that took part in training or calibration; and how many those are."""
    known = table.filter(pc.and_(pc.greater_equal(table["label"], 0), pc.is_valid(table["anomaly_score"])))
    if not known.num_rows:
        return known, 0
    fresh = unseen_in_training(known, workspace, model_id)
    if calibration is not None:
        fresh = calibration.unseen(fresh)
    return fresh, known.num_rows - fresh.num_rows


def as_json(value: Any) -> Any:
    """The value as JSON holds it, with named tuples as objects."""
    return {name: as_json(inner) for name, inner in value._asdict().items()} if hasattr(value, "_asdict") else value


def real_figures(judged: Mapping[str, Any] | None) -> str | None:
    """A sentence on what labelled images say of a model; it precedes what simulated defects say. None without any.

    Args:
        judged: an `Evaluation` as JSON.

    >>> share = {"value": 0.75, "low": 0.7, "high": 0.79}
    >>> print(real_figures({"auroc": {"value": 0.956, "low": 0.936, "high": 0.972}, "recall": share}))
    Labelled images come first: AUROC 0.96 [0.94, 0.97], and 0.75 [0.70, 0.79] of the anomalous are found
    """
    auroc, recall = ((judged or {}).get(name) for name in ("auroc", "recall"))
    if auroc is None or recall is None:
        return None
    one, other = (interval(Interval(**share)) for share in (auroc, recall))
    return f"Labelled images come first: AUROC {one}, and {other} of the anomalous are found"


class Metric(NamedTuple):
    """One measure as text: its name, its value, its 95 % interval, and the interval's method or a remark."""

    name: str
    value: str
    interval: str
    remark: str


def describe_evaluation(evaluation: Evaluation) -> list[Metric]:
    """The measures that are known, in words and numbers."""
    three = partial(fixed, decimals=3)
    constant = evaluation.f1_all_anomalous
    beside = "" if constant is None else f"; calling every image anomalous gives {three(constant)}"
    measured = (
        ("realised false-alarm rate", evaluation.realised_fpr, percent, "exact binomial"),
        ("share of the anomalous found", evaluation.recall, percent, "exact binomial"),
        ("share found at the requested rate on these normal images", evaluation.recall_at_fpr, percent, "bootstrap"),
        ("F1", evaluation.f1, three, f"exact ends of recall and false-alarm rate{beside}"),
        ("AUROC", evaluation.auroc, three, "Newcombe, widened by DeLong"),
        (
            "average precision",
            evaluation.average_precision,
            three,
            "Wilson, widened by a bootstrap; depends on the share of anomalies",
        ),
    )
    return [
        Metric(name, text(share.value), f"{text(share.low)} to {text(share.high)}", remark)
        for name, share, text, remark in measured
        if share is not None
    ]
