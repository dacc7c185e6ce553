"""How many defects a model misses, by people's decisions on flagged images and on audit samples of the others."""

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import MissingError, read_table
from nelbo.detectors import Interval, missed_defects
from nelbo.flows.numbers import images, number, percent
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.calibration import last_precision
from nelbo.flows.workspace.flagged import read_audit
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import labels_of, latest_reviews

#: How many of the last batches are looked at.
LAST_BATCHES = 30

#: Why a batch does not count, as a word and in a sentence.
LEFT_OUT = {
    "flagged_undecided": "with flagged images that nobody decided on",
    "no_sample": "without an audit sample",
    "sample_undecided": "with images of the audit sample that nobody decided on",
}


class Audit(NamedTuple):
    """What is known of the defects that a model missed, at one threshold, in its last batches.

    model_id, calibration_id: the model and calibration whose verdicts count.
    n_batches: batches that count; n_left_out: batches that do not, by the reasons in `LEFT_OUT`.
    n_scored, n_unflagged: images of the batches that count, and those of them that were not flagged.
    n_audited: images of their audit samples.
    n_caught: defects among flagged images; n_missed_found: defects among the audited ones.
    missed: defects that were not flagged; None where nothing is known.
    miss_rate: share of the defects that were not flagged; None also where there may be no defect at all.
    defect_rate: share of the scored images that have a defect.
    """

    model_id: str
    calibration_id: str
    n_batches: int
    n_left_out: Mapping[str, int]
    n_scored: int
    n_unflagged: int
    n_audited: int
    n_caught: int
    n_missed_found: int
    missed: Interval | None
    miss_rate: Interval | None
    defect_rate: Interval | None

    @property
    def sentence(self) -> str:
        """A summary in words."""
        return f"{self._known()} {self._left_out()}".strip()

    def _known(self) -> str:
        if self.missed is None:
            return (
                "How many defects are missed is unknown. Decide on all flagged images of a batch, and on all images of "
                "its audit sample, which were not flagged."
            )
        n, were = self.n_missed_found, "was" if self.n_audited == 1 else "were"
        drawn = f"{images(self.n_audited)} that {were} drawn at random from the unflagged ones"
        has = f"{number(n) if n else 'none'} {'have' if n > 1 else 'has'} a defect"
        text = f"Of {drawn} in {_batches(self.n_batches)}, {has}"
        if self.miss_rate is None:
            return f"{text}, nor has a flagged image: at most {_count(self.missed.high)} are missed (95 %)."
        missed, every = number(round(self.missed.value)), _count(self.n_caught + self.missed.value)
        return (
            f"{text}, so {_percent(self.miss_rate)} of the defects are missed, about {missed} of {every}. "
            f"Of all images {_percent(self.defect_rate)} have a defect."
        )

    def _left_out(self) -> str:
        if not self.n_left_out:
            return ""
        reasons = [f"{_batches(n)} {LEFT_OUT[reason]}" for reason, n in self.n_left_out.items()]
        return f"Left out: {', '.join(reasons)}."


class _Counted(NamedTuple):
    """The numbers of a batch that counts, named as in `Audit`."""

    n_scored: int
    n_unflagged: int
    n_audited: int
    n_caught: int
    n_missed_found: int


def audit(
    workspace: Workspace,
    model_id: str,
    calibration_id: str | None = None,
    n_batches: int = LAST_BATCHES,
    reviews: pa.Table | None = None,
) -> Audit | None:
    """What people's decisions say of the defects that a model misses.

    A batch counts if people have decided on all its flagged images and all of its audit sample. They look at the worst
    images first, and at images that another model flagged, so a part of the decisions is no random sample.

    Args:
        calibration_id: the calibration whose verdicts count; by default the model's current one.
        n_batches: how many of the model's last batches are looked at, including those of other calibrations.
        reviews: all existing rows of ``REVIEWS_SCHEMA``; None reads the files.

    Returns:
        None where the model has no calibration.
    """
    calibration_id = calibration_id or pointers.current_calibration(
        workspace, model_id, last_precision(workspace, model_id)
    )
    if calibration_id is None:
        return None
    labels = labels_of(latest_reviews(workspace, reviews))
    counted, left_out = [], Counter[str]()
    newest_first = reversed(catalog.published(workspace, model_id=model_id)["batch_id"].to_pylist())
    for batch_id in islice(newest_first, n_batches):
        found = _of_batch(workspace, model_id, batch_id, calibration_id, labels)
        if isinstance(found, _Counted):
            counted.append(found)
        elif found is not None:
            left_out[found] += 1
    return _summed(model_id, calibration_id, counted, {name: left_out[name] for name in LEFT_OUT if left_out[name]})


def _of_batch(
    workspace: Workspace, model_id: str, batch_id: str, calibration_id: str, labels: Mapping[str, int]
) -> _Counted | str | None:
    """The numbers of one batch, or why it does not count; None if its verdicts are of another calibration."""
    try:
        rows = read_table(workspace.scores(model_id, batch_id), ["image_id", "verdict", "calibration_id"])
    except MissingError:
        # The batch was pruned meanwhile.
        return None
    if rows["calibration_id"].unique().to_pylist() != [calibration_id]:
        return None
    verdicts = rows["verdict"].cast(pa.string())
    flagged = rows.filter(pc.is_in(verdicts, pa.array(["anomalous", "review"])))
    n_unflagged = pc.sum(pc.equal(verdicts, "normal")).as_py() or 0
    caught = _decided(flagged, labels)
    if len(caught) < flagged.num_rows:
        return "flagged_undecided"
    sample = read_audit(workspace, model_id, batch_id, ["image_id"])
    if n_unflagged and not sample.num_rows:
        return "no_sample"
    missed = _decided(sample, labels)
    if len(missed) < sample.num_rows:
        return "sample_undecided"
    return _Counted(flagged.num_rows + n_unflagged, n_unflagged, sample.num_rows, sum(caught), sum(missed))


def _decided(rows: pa.Table, labels: Mapping[str, int]) -> list[int]:
    """The labels of those rows that have one."""
    return [labels[image_id] for image_id in rows["image_id"].to_pylist() if image_id in labels]


def _summed(model_id: str, calibration_id: str, counted: list[_Counted], left_out: Mapping[str, int]) -> Audit:
    numbers = np.array(counted, np.int64).reshape(-1, len(_Counted._fields))
    total = _Counted(*(int(n) for n in numbers.sum(axis=0)))
    missed = miss_rate = defect_rate = None
    # Where every image was flagged, nothing can be missed.
    drawn = numbers[numbers[:, _Counted._fields.index("n_unflagged")] > 0]
    if len(drawn):
        columns = dict(zip(_Counted._fields, drawn.T, strict=True))
        missed = missed_defects(columns["n_unflagged"], columns["n_audited"], columns["n_missed_found"])
    if missed is not None:
        defect_rate = Interval(*((total.n_caught + n) / total.n_scored for n in missed))
        # The rate grows with the number of missed defects, so its ends follow from those of the number.
        if total.n_caught + missed.value > 0:
            miss_rate = Interval(*(n / (total.n_caught + n) for n in missed))
    return Audit(
        model_id, calibration_id, len(counted), left_out, **total._asdict(), missed=missed, miss_rate=miss_rate,
        defect_rate=defect_rate,
    )  # fmt: skip


def _batches(n: int) -> str:
    return f"{number(n)} batch{'' if n == 1 else 'es'}"


def _count(n: float) -> str:
    """A number of defects in words, rounded."""
    return f"{number(round(n))} defect{'' if round(n) == 1 else 's'}"


def _percent(found: Interval | None) -> str:
    if found is None:
        return "—"
    return f"{percent(found.value, 2)} ({percent(found.low, 2)} to {percent(found.high, 2)}, 95 %)"
