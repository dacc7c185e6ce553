"""A new calibration becomes current if enough evidence does not contradict it; otherwise it is a candidate."""

import hashlib
import json
import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scored import MODEL, add_calibration

from nelbo.data import CALIBRATION_SCHEMA, MAP_PEAK, MEASURES
from nelbo.detectors import Threshold
from nelbo.flows.evaluation import succession
from nelbo.flows.evaluation.comparison import list_calibrations
from nelbo.flows.evaluation.succession import Proposal, keep
from nelbo.flows.options.options import CalibrateOptions
from nelbo.flows.options.settings import LabelSettings
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.calibrations.calibration import (
    REVIEWS,
    Calibration,
    calibrations_of,
    read_calibration,
    standing,
)
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

F1 = LabelSettings(objective="f1")


@pytest.fixture
def workspace(tmp_path: Any) -> Workspace:
    return Workspace.at(str(tmp_path))


def rows(split: str, label: int, scores: Any, kind: str = "image") -> pa.Table:
    """Images whose measures all equal the score; kind, label, part and number determine the contents."""
    scores = np.asarray(scores, np.float64)
    names = [f"{kind}/{label}/{split}/{i}.png" for i in range(len(scores))]
    columns = {
        "relative_path": names,
        "image_id": [hashlib.sha256(name.encode()).hexdigest() for name in names],
        "label": pa.array([label] * len(names), pa.int8()),
        "split": [split] * len(names),
        "anomaly_score": scores,
        **dict.fromkeys((*MEASURES, MAP_PEAK), scores),
        # As for a model that locates no part and has one variant.
        **dict.fromkeys(("size_z", "variant_z", "variant"), [None] * len(names)),
    }
    return pa.table({name: columns[name] for name in CALIBRATION_SCHEMA.names}).cast(CALIBRATION_SCHEMA)


def propose(
    value: float, *parts: pa.Table, labels: LabelSettings | None = F1, labels_from: str = "manifest", **about: Any
) -> Proposal:
    """Propose a threshold at a value: from labels or, if `labels` is None, from normal images at a rate of 5 %."""
    threshold = Threshold(value, None if labels else 0.05, labels.objective or "" if labels else "conformal", 50)
    return Proposal(
        MODEL,
        "k0",
        pa.concat_tables(parts),
        Statistic("peak"),
        threshold,
        heatmap_top=12.0,
        region_level="none was asked for",
        labels=labels,
        labels_from=labels_from if labels else None,
        **about,
    )


def labelled(n_choosing: int, normal: Any, anomalous: Any, kind: str = "image") -> list[pa.Table]:
    """`n_choosing` images of each label that choose the threshold, and the scores of the images that judge it."""
    choosing = [rows("calibration", label, [3.0] * n_choosing, kind) for label in (0, 1)]
    return [*choosing, rows("test", 0, normal, kind), rows("test", 1, anomalous, kind)]


def kept(proposal: Proposal, workspace: Workspace) -> Calibration:
    run = Run("calibrate", CalibrateOptions(normal="normal"))
    return read_calibration(workspace, keep(proposal, workspace, run))


def is_current(calibration: Calibration, workspace: Workspace) -> bool:
    return pointers.current_calibration(workspace, MODEL) == calibration.calibration_id


def test_two_and_two_labels_do_not_move_the_threshold(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    first = add_calibration(workspace)
    new = kept(propose(4.0, *labelled(1, [1], [9])), workspace)
    assert is_current(first, workspace)
    assert new.why_not == "2 anomalous images with a label, and at least 20 are needed"
    assert (
        f"calibration {new.calibration_id} is a candidate, and {first.calibration_id} stays current: 2 " in caplog.text
    )
    assert f"Use it anyway with: nelbo calibrate --model {MODEL} --use {new.calibration_id}" in caplog.text
    listed = {row["calibration_id"]: row for row in list_calibrations(workspace, MODEL)}
    about = ("current", "candidate", "why_not")
    assert [listed[first.calibration_id][name] for name in about] == [True, False, None]
    assert [listed[new.calibration_id][name] for name in about] == [False, True, new.why_not]
    # Somebody makes it current anyway; made again, it stays current.
    pointers.use_calibration(workspace, MODEL, new.calibration_id)
    assert kept(propose(4.0, *labelled(1, [1], [9])), workspace).calibration_id == new.calibration_id
    assert is_current(new, workspace)
    assert standing(new, new.calibration_id) == {"current": True, "candidate": False, "why_not": None}


def test_a_few_labels_do_not_make_a_first_threshold_current(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    new = kept(propose(4.0, *labelled(9, [1] * 10, [9] * 11)), workspace)
    assert pointers.current_calibration(workspace, MODEL) is None
    assert new.why_not == "of 20 anomalous images 9 choose and 11 judge it, and each needs at least 10"
    new = kept(propose(4.0, *labelled(10, [1] * 9, [9] * 10)), workspace)
    assert new.why_not == "19 normal images with a label, and at least 20 are needed"
    assert "and the model has no current one" in caplog.text
    # That the threshold finds no anomalous image is known without a comparison.
    blind = kept(propose(4.0, *labelled(10, [1] * 10, [3] * 10)), workspace)
    assert pointers.current_calibration(workspace, MODEL) is None
    assert blind.why_not == "it finds none of 10 anomalous images that did not choose it"
    assert is_current(kept(propose(4.0, *labelled(10, [1] * 10, [3] * 9 + [9])), workspace), workspace)


def test_enough_labels_become_current(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    add_calibration(workspace)
    new = kept(propose(4.0, *labelled(13, [1] * 12, [9] * 12)), workspace)
    assert is_current(new, workspace)
    assert new.why_not is None
    assert "candidate" not in caplog.text


def test_a_threshold_that_is_much_worse_on_the_same_images_is_a_candidate(workspace: Workspace) -> None:
    """Guards against a former fault: a threshold that raised misses from a few to 92 % became current at once."""
    first = add_calibration(workspace)
    high = first.threshold.value + 1
    new = kept(propose(high, *labelled(13, [1] * 12, [high - 0.5] * 9 + [1, 1, high + 1])), workspace)
    assert is_current(first, workspace)
    assert new.why_not == (
        "by f1 it is worse: it misses 11 of 12 anomalous images and flags 0 of 12 normal ones, the current one 2 and 0 "
        "(p = 0.00195)"
    )


def test_only_images_that_chose_neither_threshold_compare_them(workspace: Workspace) -> None:
    parts = labelled(13, [1] * 12, [5] * 12)
    first = kept(propose(4.0, *parts), workspace)
    # With the same table and halves, the images that judged may compare.
    assert not is_current(kept(propose(6.0, *parts, rows("test", 1, [9], "more")), workspace), workspace)
    # With the halves swapped, the images that judge now had chosen the current threshold.
    swapped = pa.concat_tables(parts)
    split = pa.array(["calibration" if part == "test" else "test" for part in swapped["split"].to_pylist()])
    swapped = swapped.set_column(swapped.schema.get_field_index("split"), "split", split)
    lower = kept(propose(2.0, swapped), workspace)
    assert (lower.why_not, is_current(first, workspace)) == (None, False)


def test_reviews_do_not_stand_in_for_normal_images(workspace: Workspace) -> None:
    """All reviewed images were flagged, so the current threshold is wrong on every normal image among them."""
    first = add_calibration(workspace)
    value, held_out = first.threshold.value, first.normal_scores
    reviewed = labelled(11, [value + 1] * 11, [value + 2] * 11)
    normal = rows("normal", 0, held_out, "held out")
    lower = kept(propose(held_out[-20], *reviewed, normal, labels_from=REVIEWS), workspace)
    # 9 of 199 lie above the threshold at 5 %, and 19 above the twentieth from the top.
    assert lower.why_not == (
        "it flags 19 of 199 normal images, and the current one 9: 10 that only it flags and 0 that only the current "
        "one does (p = 0.000977), all of them held out and picked by nobody"
    )
    assert is_current(first, workspace)
    np.testing.assert_array_equal(lower.normal_scores, held_out)
    higher = kept(propose(value + 1.5, *reviewed, normal, labels_from=REVIEWS), workspace)
    assert is_current(higher, workspace)


def test_without_held_out_images_reviewed_ones_do_not_replace_them(workspace: Workspace) -> None:
    new = kept(propose(4.0, *labelled(11, [5] * 11, [9] * 11), labels_from=REVIEWS), workspace)
    assert len(new.normal_scores) == 0


def test_a_few_reviews_are_not_enough(workspace: Workspace) -> None:
    first = add_calibration(workspace)
    reviewed = [rows("calibration", 0, [5, 5]), *labelled(2, [5], [9, 9])[1:]]
    new = kept(propose(8.0, *reviewed, rows("normal", 0, first.normal_scores), labels_from=REVIEWS), workspace)
    assert new.why_not == "4 anomalous images with a label, and at least 20 are needed"
    assert is_current(first, workspace)


def test_as_many_normal_images_as_the_promise_needs_are_enough(workspace: Workspace) -> None:
    first = add_calibration(workspace)
    # Whether higher or lower, the threshold is the one that was requested.
    for value in (first.threshold.value + 5, first.threshold.value - 1):
        assert is_current(kept(propose(value, rows("calibration", -1, [1] * 19), labels=None), workspace), workspace)


def test_normal_images_are_doubted_if_labelled_anomalies_are_missed(workspace: Workspace) -> None:
    """Normal images that include anomalies give a threshold that labelled images show to be blind."""
    parts = labelled(13, [1] * 12, [6] * 6 + [9] * 6)
    first = kept(propose(4.0, *parts), workspace)
    normal = rows("calibration", -1, [1] * 19, "normal")
    new = kept(propose(8.0, normal, labels=None), workspace)
    assert is_current(first, workspace)
    assert new.why_not is not None
    assert new.why_not.startswith("by recall it is worse: it misses 6 of 12 anomalous images and flags 0 of 12")
    assert kept(propose(10.0, normal, labels=None), workspace).why_not == (
        "it finds none of 12 anomalous images that did not choose it"
    )
    # An image in the set of normal images does not count as a labelled one.
    told = propose(8.0, normal, rows("calibration", 1, [6] * 6), parts[3], labels=None)
    assert kept(told, workspace).why_not is None


def test_fewer_false_alarms_for_more_misses_are_accepted_on_request(workspace: Workspace) -> None:
    """The current threshold flags a third of the labelled normal images, but 5 % were requested."""
    kept(propose(4.0, *labelled(13, [1] * 8 + [5] * 4, [6] * 6 + [9] * 6)), workspace)
    new = kept(propose(8.0, rows("calibration", -1, [1] * 19, "normal"), labels=None), workspace)
    assert is_current(new, workspace)


def test_a_threshold_is_compared_with_the_one_that_is_current_at_the_switch(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another command makes a better threshold current while this one is compared with the previous one."""
    add_calibration(workspace)
    parts = labelled(13, [1] * 12, [6] * 12)
    compared, ask = [], succession._why_not

    def meanwhile(new: Proposal, current: Calibration | None, workspace: Workspace) -> str | None:
        said = ask(new, current, workspace)
        compared.append(current and current.calibration_id)
        if len(compared) == 1:
            pointers.use_calibration(workspace, MODEL, better.calibration_id)
        return said

    better = kept(propose(5.0, *parts), workspace)
    wrong = kept(propose(7.0, *labelled(13, [1] * 12, [9] * 12, "other")), workspace)
    assert is_current(wrong, workspace)
    monkeypatch.setattr(succession, "_why_not", meanwhile)
    new = kept(propose(6.5, *parts[:3], rows("test", 1, [6] * 11 + [9])), workspace)
    assert compared == [wrong.calibration_id, better.calibration_id]
    assert new.why_not is not None
    assert is_current(better, workspace)


def test_a_damaged_current_calibration_is_replaced(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    first = add_calibration(workspace)
    (workspace.calibrations / first.calibration_id / "scores.parquet").write_bytes(b"PAR1")
    new = kept(propose(4.0, *labelled(13, [1] * 12, [9] * 12)), workspace)
    assert is_current(new, workspace)
    assert "not compared with the current calibration" in caplog.text


def test_calibrations_of_version_0_1_are_no_candidates(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    first = add_calibration(workspace)
    written = json.loads((workspace.calibrations / first.calibration_id / "calibration.json").read_text())
    assert "why_not" not in written
    (found,) = calibrations_of(workspace, MODEL)
    assert standing(found, None) == {"current": False, "candidate": False, "why_not": None}
    assert not caplog.records
