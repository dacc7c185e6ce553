"""Reviews: what people decided on images. Each decision is written once and never changed.

A person who takes a decision back adds a row that names it: the decision no longer stands, and the person's previous
one on the image stands again. Of several decisions that *stand* on an image, the last one counts.
"""

import contextlib
import math
import re
import unicodedata
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import (
    CALIBRATION_SCHEMA,
    DECISIONS,
    MEASURED,
    REVIEWS_SCHEMA,
    VERDICTS,
    WITHDRAWN,
    MissingError,
    iter_rows,
    read_table,
    with_united_groups,
    write_table,
)
from nelbo.detectors import CalibrationError
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.errors import NotYetError, UsageError
from nelbo.flows.workspace.layout import Workspace, check_id
from nelbo.flows.workspace.models import check_unseen
from nelbo.flows.workspace.tables import JOINED_REVIEWS
from nelbo.vae_core import FLOAT32, precision_of

MAX_REVIEWER, MAX_NOTE, MAX_KIND = 100, 2_000, 100

#: Verdicts of an image with a score.
_SCORED = VERDICTS[:3]

#: Decisions that stand until they are taken back.
_DECIDED = pa.array([decision for decision in DECISIONS if decision != WITHDRAWN])

#: Rows of scores in memory at a time.
_ROWS = 65_536


@dataclass(frozen=True)
class Review:
    """A person's decision on one image.

    image_id: SHA-256 of its bytes; relative_path, model_id, batch_id: the row of scores that was looked at.
    calibration_id: the calibration that gave the verdict; None if there was none.
    verdict: as it was then: "anomalous" or "review" for a flagged image, "normal" for one of the audit sample.
    anomaly_score: as it was then.
    decision: "anomalous" or "normal"; "withdrawn" takes back one that this reviewer made on the image.
    reviewer: who decided.
    review_id: made when the form is shown, see `new_review_id`: a form that is sent twice is one review.
    kind: the kind of the defect, in the reviewer's words; only with "anomalous".
    withdraws: the ``review_id`` that "withdrawn" takes back; by default that of the reviewer's last decision that
        stands on the image when it is recorded.

    Raises:
        UsageError: a part of it cannot be kept as it is.
    """

    image_id: str
    relative_path: str
    model_id: str
    batch_id: str
    calibration_id: str | None
    verdict: str | None
    anomaly_score: float
    decision: str
    reviewer: str
    note: str
    review_id: str
    kind: str | None = None
    withdraws: str | None = None

    def __post_init__(self) -> None:
        """Check that it can be kept."""
        for identifier in (self.review_id, self.model_id, self.batch_id, self.calibration_id, self.withdraws):
            if identifier is not None:
                check_id(identifier)
        self._check_decision()
        if self.verdict not in (*_SCORED, None):
            raise UsageError(f"verdict={self.verdict!r}: expected one of {', '.join(_SCORED)}, or None.")
        if re.fullmatch(r"[0-9a-f]{64}", self.image_id) is None:
            raise UsageError(f"image_id={self.image_id!r}: expected the SHA-256 of the image, 64 hex digits.")
        if not self.relative_path:
            raise UsageError("relative_path is empty: expected the path of the image below its batch's folder.")
        if not math.isfinite(self.anomaly_score):
            raise UsageError(f"anomaly_score={self.anomaly_score}: expected a finite number; only scored images count.")
        if not self.reviewer.strip():
            raise UsageError("reviewer is empty: expected the name of the person who decides.")
        _check_text("reviewer", self.reviewer, MAX_REVIEWER)
        _check_text("note", self.note.replace("\n", " "), MAX_NOTE)
        if self.kind is not None:
            self._check_kind(self.kind)

    def _check_decision(self) -> None:
        if self.decision not in DECISIONS:
            raise UsageError(f"decision={self.decision!r}: expected one of {', '.join(DECISIONS)}.")
        if self.withdraws is not None and self.decision != WITHDRAWN:
            raise UsageError(f"withdraws={self.withdraws!r} with decision={self.decision!r}: expected {WITHDRAWN!r}.")

    def _check_kind(self, kind: str) -> None:
        if self.decision != "anomalous":
            raise UsageError(f"kind={kind!r} with decision={self.decision!r}: only an anomalous image has a kind.")
        if not kind.strip():
            raise UsageError("kind is empty: expected the kind of the defect, or None.")
        _check_text("kind", kind, MAX_KIND)


def _check_text(name: str, text: str, longest: int) -> None:
    if len(text) > longest:
        raise UsageError(f"{name} has {len(text):,} characters, {longest:,} at most are kept. Shorten it.")
    # Control characters, and lone surrogates, which no file can hold as text.
    if odd := next((letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs")), None):
        raise UsageError(f"{name} holds the control character U+{ord(odd):04X}. Leave it out.")


def new_review_id() -> str:
    """A fresh id for a form that is about to be shown."""
    return f"v{uuid.uuid4().hex}"


def record_review(workspace: Workspace, review: Review) -> bool:
    """Keep a decision: one file, which appears whole or not at all and is never overwritten.

    Returns:
        True if it was written now; False if a review of that id already exists, which stays as it is.

    Raises:
        UsageError: it takes back a decision that this reviewer did not make on the image.

    >>> import tempfile
    >>> workspace = Workspace.at(tempfile.mkdtemp())
    >>> row = ("0" * 64, "a.png", "m1", "b1", "c1", "anomalous", 3.2)
    >>> review = Review(*row, "anomalous", "Ann", "at the edge", new_review_id(), kind="crack")
    >>> record_review(workspace, review), record_review(workspace, review)
    (True, False)
    >>> latest_reviews(workspace).select(["reviewer", "decision", "kind"]).to_pylist()
    [{'reviewer': 'Ann', 'decision': 'anomalous', 'kind': 'crack'}]

    A decision that is taken back no longer counts, and the previous one counts again:

    >>> for decision in ("normal", "withdrawn"):
    ...     new = record_review(workspace, Review(*row, decision, "Ann", "", new_review_id()))
    >>> latest_reviews(workspace)["decision"].to_pylist()
    ['anomalous']
    """
    # A review that was compacted has no file of its own any more.
    if review.review_id in catalog.all_rows(workspace, "reviews", JOINED_REVIEWS)["review_id"].to_pylist():
        return False
    if review.decision == WITHDRAWN:
        review = replace(review, withdraws=_taken_back(workspace, review))
    row = {**asdict(review), "reviewed_at_utc": datetime.now(UTC)}
    target = workspace.reviews / f"{review.review_id}.parquet"
    table = pa.Table.from_pylist([row], REVIEWS_SCHEMA)
    try:
        write_table(table, target, REVIEWS_SCHEMA, staging=workspace.staging, exclusive=True)
    except FileExistsError:
        return False
    return True


def _taken_back(workspace: Workspace, review: Review) -> str | None:
    """The id of the decision that a withdrawal takes back; None if none stands."""
    rows = catalog.all_rows(workspace, "reviews")
    own = pc.and_(pc.equal(rows["image_id"], review.image_id), pc.equal(rows["reviewer"], review.reviewer))
    if review.withdraws is None:
        standing = pc.is_in(rows["review_id"], _standing(rows)["review_id"].combine_chunks())
        return next(reversed(rows.filter(pc.and_(own, standing))["review_id"].to_pylist()), None)
    if review.withdraws not in rows.filter(own)["review_id"].to_pylist():
        raise UsageError(
            f"withdraws={review.withdraws!r}: expected a decision of {review.reviewer} on {review.relative_path}."
        )
    return review.withdraws


def latest_reviews(workspace: Workspace, reviews: pa.Table | None = None) -> pa.Table:
    """The last decision that stands on each image, in order of time; it counts where reviewers disagree.

    Args:
        reviews: all rows of ``REVIEWS_SCHEMA``, in any order; None reads the files.
    """
    return _latest(_standing(_all(workspace, reviews)), "image_id")


def disagreements(workspace: Workspace, reviews: pa.Table | None = None) -> pa.Table:
    """What different reviewers decided on the images on which they disagree.

    Args:
        reviews: all rows of ``REVIEWS_SCHEMA``, in any order; None reads the files.

    Returns:
        Rows of ``REVIEWS_SCHEMA``: each reviewer's last decision that stands on each such image. An image's rows stand
        together, in order of time, and the images are in order of their last decision.

    >>> import tempfile
    >>> workspace = Workspace.at(tempfile.mkdtemp())
    >>> row = ("0" * 64, "a.png", "m1", "b1", "c1", "anomalous", 3.2)
    >>> for reviewer, decision in (("Ann", "anomalous"), ("Bob", "normal")):
    ...     new = record_review(workspace, Review(*row, decision, reviewer, "", new_review_id()))
    >>> disagreements(workspace).select(["relative_path", "reviewer", "decision"]).to_pylist()[1]
    {'relative_path': 'a.png', 'reviewer': 'Bob', 'decision': 'normal'}
    """
    rows = _latest(_standing(_all(workspace, reviews)), "image_id", "reviewer")
    said: dict[str, list[int]] = {}
    for place, image_id in enumerate(rows["image_id"].to_pylist()):
        said.setdefault(image_id, []).append(place)
    decisions = rows["decision"].to_pylist()
    differing = [places for places in said.values() if len({decisions[place] for place in places}) > 1]
    order = [place for places in sorted(differing, key=max) for place in places]
    return rows.take(pa.array(order, pa.int64()))


def _all(workspace: Workspace, reviews: pa.Table | None) -> pa.Table:
    """The given rows, or those of the files, in order of time."""
    if reviews is None:
        return catalog.all_rows(workspace, "reviews")
    rows = reviews.select(REVIEWS_SCHEMA.names).cast(REVIEWS_SCHEMA)
    return rows.sort_by([("reviewed_at_utc", "ascending"), ("review_id", "ascending")])


def _standing(reviews: pa.Table) -> pa.Table:
    """The decisions that no withdrawal names, in the order of the rows.

    A file that nelbo did not write may hold any word, which is not a decision.
    """
    taken_back = reviews.filter(pc.equal(reviews["decision"], WITHDRAWN))["withdraws"].combine_chunks()
    is_decision = pc.and_(
        pc.is_in(reviews["decision"], _DECIDED), pc.invert(pc.is_in(reviews["review_id"], taken_back))
    )
    return reviews.filter(is_decision)


def _latest(reviews: pa.Table, *keys: str) -> pa.Table:
    """The last row for each value of the keys, in the order of the rows."""
    columns = (reviews[name].to_pylist() for name in keys)
    last = {key: row for row, key in enumerate(zip(*columns, strict=True))}
    return reviews.take(pa.array(sorted(last.values()), pa.int64()))


def labels_of(decided: pa.Table) -> dict[str, int]:
    """Content hash of each image -> 0 or 1, from rows of `latest_reviews`."""
    columns = (decided[name].to_pylist() for name in ("image_id", "decision"))
    return {image_id: DECISIONS.index(decision) for image_id, decision in zip(*columns, strict=True)}


def reviewed_rows(workspace: Workspace, model_id: str, precision: str = FLOAT32) -> tuple[pa.Table, int]:
    """Reviewed images that a model flagged, with the measures of its fit in a precision, from published batches.

    Images that only another model flagged are left out: nobody reviews images that are easily normal, and a few
    anomalies with low scores would pull the threshold down to where nearly everything is flagged.

    Returns:
        One row per image, in order of ``image_id``: the columns of ``CALIBRATION_SCHEMA`` except the score, ``label``
        as decided last, and ``group`` from the batches' manifests. And the number of reviewed images that are left
        out: this model did not flag them, or its scores are gone.

    Raises:
        NotYetError: there are no reviews.
        CalibrationError: none of those images was reviewed as normal, or none as anomalous.
        InputError: the model was trained on some of them.
    """
    reviews = catalog.all_rows(workspace, "reviews")
    decided = _latest(_standing(reviews), "image_id")
    if not decided.num_rows:
        raise NotYetError(f"workspace {workspace.root} has no reviews. Decide on flagged images in: nelbo dashboard")
    label_of = labels_of(decided)
    # A batch may have been scored again since, with a threshold that flags fewer. No image of an audit sample was
    # flagged.
    flagged = pc.fill_null(pc.not_equal(reviews["verdict"], "normal"), True)
    shown = reviews.filter(pc.and_(flagged, pc.equal(reviews["model_id"], model_id)))["image_id"]
    rows = _flagged(decided["image_id"].combine_chunks(), shown.combine_chunks(), workspace, model_id, precision)
    labels = [label_of[image_id] for image_id in rows["image_id"].to_pylist()]
    n_left_out = len(label_of) - len(labels)
    remedy = "Take a model that has not seen them (--model), or give the other images in a table (--labels CSV)."
    check_unseen("reviewed images", rows, workspace, model_id, remedy)
    if len(set(labels)) < 2:
        raise CalibrationError(
            "--labels reviews needs images that were reviewed as normal and as anomalous. Of those that model "
            f"{model_id} flagged, {labels.count(0)} were reviewed as normal and {labels.count(1)} as anomalous "
            f"({n_left_out} that it did not flag, or has no score of, are left out). Decide on more in: nelbo dashboard"
        )
    rows = rows.append_column("label", pa.array(labels, pa.int8()))
    return rows.append_column("split", pa.nulls(rows.num_rows, pa.string())), n_left_out


def _flagged(image_ids: pa.Array, shown: pa.Array, workspace: Workspace, model_id: str, precision: str) -> pa.Table:
    """One row, with its measures, for each of these images that the model flags, or flagged when it was shown."""
    columns = ["relative_path", "image_id", *MEASURED]
    none = CALIBRATION_SCHEMA.empty_table().select(columns)
    found = [none.append_column("group", pa.array([], pa.string()))]
    for batch in catalog.find(workspace, "scores", model_id=model_id).to_pylist():
        for rows in iter_rows(workspace.root / batch["path"], _ROWS, [*columns, "verdict", "engine"]):
            # One fit scored the whole batch.
            if rows.num_rows and precision_of(rows["engine"][0].as_py()) != precision:
                break
            rows = rows.filter(pc.and_(pc.is_in(rows["image_id"], image_ids), pc.is_valid(rows["nelbo_nats"])))
            raised = pc.is_in(rows["verdict"].cast(pa.string()), pa.array(["anomalous", "review"]))
            rows = rows.filter(pc.or_(raised, pc.is_in(rows["image_id"], shown)))
            if rows.num_rows:
                # Scores store words as dictionaries.
                found.append(_with_groups(rows.select(columns).cast(none.schema), workspace, batch["batch_id"]))
    table = with_united_groups(pa.concat_tables(found))
    # An image has the same score in every batch.
    row_of = {image_id: row for row, image_id in enumerate(table["image_id"].to_pylist())}
    return table.take(pa.array([row for _, row in sorted(row_of.items())], pa.int64()))


def _with_groups(rows: pa.Table, workspace: Workspace, batch_id: str) -> pa.Table:
    """The rows of a batch's scores with the groups of its manifest, if the manifest still exists."""
    group_of: dict[str, str | None] = {}
    with contextlib.suppress(MissingError):
        manifest = read_table(workspace.manifest(batch_id), ["image_id", "group"])
        group_of = dict(zip(*(column.to_pylist() for column in manifest.columns), strict=True))
    groups = [group_of.get(image_id) for image_id in rows["image_id"].to_pylist()]
    return rows.append_column("group", pa.array(groups, pa.string()))
