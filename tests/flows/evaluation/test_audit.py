"""What decisions on flagged images and on audit samples say about missed defects."""

from pathlib import Path

import pytest
from reviewing import review
from scored import MODEL, START, add_batch, add_calibration

from nelbo.data import read_table
from nelbo.detectors import missed_defects
from nelbo.flows.evaluation.audit import Audit, audit
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import Calibration
from nelbo.flows.workspace.flagged import read_audit
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import new_review_id, record_review

#: Files in each batch here, and how many of them are drawn.
N, K = 60, 6


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def calibration(workspace: Workspace) -> Calibration:
    return add_calibration(workspace, review_fpr=None)


def add(workspace: Workspace, batch_id: str, calibration: Calibration, k: int = K) -> None:
    paths = [f"{batch_id}/{i}.png" for i in range(N)]
    anomalous = [i < 10 for i in range(N)]
    not_scored = [i == N - 1 for i in range(N)]
    add_batch(workspace, batch_id, paths, calibration, anomalous=anomalous, not_scored=not_scored, audit=k, at=START)


def flagged_of(workspace: Workspace, batch_id: str) -> list[str]:
    rows = read_table(workspace.scores(MODEL, batch_id), ["image_id", "verdict"]).to_pylist()
    return [row["image_id"] for row in rows if row["verdict"] == "anomalous"]


def sample_of(workspace: Workspace, batch_id: str) -> list[str]:
    return read_audit(workspace, MODEL, batch_id)["image_id"].to_pylist()


def decide(workspace: Workspace, image_ids: list[str], decision: str) -> None:
    for image_id in image_ids:
        assert record_review(
            workspace, review(0, image_id=image_id, decision=decision, review_id=new_review_id(), model_id=MODEL)
        )


def looked_at(workspace: Workspace) -> Audit:
    found = audit(workspace, MODEL)
    assert found is not None
    return found


def test_nothing_is_known_before_anybody_has_decided(workspace: Workspace, calibration: Calibration) -> None:
    assert audit(workspace, "mOther") is None
    found = looked_at(workspace)
    assert (found.n_batches, found.missed, found.miss_rate, found.defect_rate) == (0, None, None, None)
    assert found.sentence.startswith("How many defects are missed is unknown. Decide on all flagged images of a batch")
    add(workspace, "b1", calibration)
    found = looked_at(workspace)
    assert (found.n_batches, found.n_left_out, found.missed) == (0, {"flagged_undecided": 1}, None)
    assert found.sentence.endswith("Left out: 1 batch with flagged images that nobody decided on.")


def test_defects_are_weighted_by_the_share_that_was_drawn(workspace: Workspace, calibration: Calibration) -> None:
    caught = n_unflagged = n_scored = 0
    for batch_id in ("b1", "b2"):
        add(workspace, batch_id, calibration)
        flagged = flagged_of(workspace, batch_id)
        assert len(flagged) > 4
        decide(workspace, flagged[:3], "normal")
        decide(workspace, flagged[3:], "anomalous")
        caught += len(flagged) - 3
        n_scored += N - 1
        n_unflagged += N - 1 - len(flagged)
    # In the first batch one of six drawn images has a defect, in the second none.
    first, second = sample_of(workspace, "b1"), sample_of(workspace, "b2")
    decide(workspace, first[:1], "anomalous")
    decide(workspace, first[1:], "normal")
    decide(workspace, second, "normal")
    found = looked_at(workspace)
    unflagged = [N - 1 - len(flagged_of(workspace, batch_id)) for batch_id in ("b1", "b2")]
    assert (found.n_batches, found.n_left_out, found.n_scored, found.n_unflagged) == (2, {}, n_scored, n_unflagged)
    assert (found.n_audited, found.n_caught, found.n_missed_found) == (12, caught, 1)
    assert found.missed == missed_defects(unflagged, [6, 6], [1, 0])
    assert found.missed.value == pytest.approx(unflagged[0] / 6)
    assert found.miss_rate is not None
    assert found.defect_rate is not None
    for name in ("value", "low", "high"):
        n = getattr(found.missed, name)
        assert getattr(found.miss_rate, name) == pytest.approx(n / (n + caught))
        assert getattr(found.defect_rate, name) == pytest.approx((n + caught) / n_scored)
    assert (
        "Of 12 images that were drawn at random from the unflagged ones in 2 batches, 1 has a defect, so "
        in found.sentence
    )
    assert f"of the defects are missed, about {round(unflagged[0] / 6)} of " in found.sentence
    # The decision on the defect is withdrawn: without one, the interval still has an upper end.
    decide(workspace, first[:1], "withdrawn")
    decide(workspace, first[:1], "normal")
    found = looked_at(workspace)
    assert found.missed is not None
    assert (found.n_missed_found, found.missed.value, found.missed.low) == (0, 0, 0)
    assert found.missed.high > 0
    assert "2 batches, none has a defect, so 0 % (0 % to " in found.sentence


def test_batches_without_all_decisions_are_left_out_with_the_reason(
    workspace: Workspace, calibration: Calibration
) -> None:
    for batch_id in ("b1", "b2", "b3", "b4"):
        add(workspace, batch_id, calibration, k=0 if batch_id == "b3" else K)
        decide(workspace, flagged_of(workspace, batch_id)[batch_id == "b2" :], "anomalous")
    # In b2 one flagged image is undecided, b3 has no sample, and in the sample of b4 one image is undecided.
    decide(
        workspace, sample_of(workspace, "b1") + sample_of(workspace, "b2") + sample_of(workspace, "b4")[1:], "normal"
    )
    found = looked_at(workspace)
    assert found.n_batches == 1
    assert found.n_left_out == {"flagged_undecided": 1, "no_sample": 1, "sample_undecided": 1}
    assert found.n_caught == len(flagged_of(workspace, "b1"))
    assert found.n_audited == K
    assert found.sentence.endswith(
        "Left out: 1 batch with flagged images that nobody decided on, 1 batch without an audit sample, 1 batch with "
        "images of the audit sample that nobody decided on."
    )


def test_decisions_made_for_another_reason_are_no_random_sample(workspace: Workspace, calibration: Calibration) -> None:
    """Flags of another model were reviewed: the images that they share with this sample are no random part of it."""
    add(workspace, "b1", calibration)
    decide(workspace, flagged_of(workspace, "b1"), "anomalous")
    sample = sample_of(workspace, "b1")
    decide(workspace, sample[:2], "anomalous")
    found = looked_at(workspace)
    assert (found.missed, found.n_left_out) == (None, {"sample_undecided": 1})
    # Once the whole sample is decided on, the reason does not matter.
    decide(workspace, sample[2:], "normal")
    found = looked_at(workspace)
    assert found.missed is not None
    assert (found.n_audited, found.n_missed_found, found.n_left_out) == (K, 2, {})


def test_one_drawn_image_is_told_in_the_singular(workspace: Workspace, calibration: Calibration) -> None:
    add(workspace, "b1", calibration, k=1)
    decide(workspace, flagged_of(workspace, "b1") + sample_of(workspace, "b1"), "anomalous")
    assert looked_at(workspace).sentence.startswith(
        "Of 1 image that was drawn at random from the unflagged ones in 1 batch, "
    )


def test_rows_of_reviews_can_be_passed_in(workspace: Workspace, calibration: Calibration) -> None:
    add(workspace, "b1", calibration)
    decide(workspace, flagged_of(workspace, "b1") + sample_of(workspace, "b1"), "anomalous")
    rows = catalog.all_rows(workspace, "reviews")
    expected = looked_at(workspace)
    for file in Path(str(workspace.reviews)).iterdir():
        file.unlink()
    assert audit(workspace, MODEL, reviews=rows) == expected
    assert looked_at(workspace).missed is None


def test_only_the_last_batches_of_one_calibration_count(workspace: Workspace, calibration: Calibration) -> None:
    add(workspace, "b1", calibration)
    newer = add_calibration(workspace, review_fpr=None, fpr=0.2)
    for batch_id in ("b2", "b3"):
        add(workspace, batch_id, newer)
    add_batch(workspace, "b4", [f"b4/{i}.png" for i in range(N)], None)
    for batch_id in ("b1", "b2", "b3"):
        decide(workspace, flagged_of(workspace, batch_id), "anomalous")
        decide(workspace, sample_of(workspace, batch_id), "normal")
    assert (looked_at(workspace).calibration_id, looked_at(workspace).n_batches) == (newer.calibration_id, 2)
    of_old = audit(workspace, MODEL, calibration.calibration_id)
    assert of_old is not None
    assert (of_old.n_batches, of_old.n_caught) == (1, len(flagged_of(workspace, "b1")))
    # One of the last two batches has no verdicts; earlier ones are not considered.
    for n_looked_at, n_counted in ((1, 0), (2, 1), (3, 2)):
        of_last = audit(workspace, MODEL, n_batches=n_looked_at)
        assert of_last is not None
        assert of_last.n_batches == n_counted
        of_old = audit(workspace, MODEL, calibration.calibration_id, n_looked_at)
        assert of_old is not None
        assert of_old.n_batches == 0


def test_without_any_defect_there_is_no_share(workspace: Workspace, calibration: Calibration) -> None:
    add(workspace, "b1", calibration)
    decide(workspace, flagged_of(workspace, "b1") + sample_of(workspace, "b1"), "normal")
    found = looked_at(workspace)
    assert found.miss_rate is None
    assert found.missed is not None
    assert found.defect_rate is not None
    assert (found.missed.value, found.defect_rate.value, found.defect_rate.low) == (0, 0, 0)
    assert f"none has a defect, nor has a flagged image: at most {round(found.missed.high)} defects" in found.sentence
