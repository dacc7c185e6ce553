"""The true labels of images, and where they come from."""

from pathlib import Path

import numpy as np
import pytest

from nelbo.data import InputError
from nelbo.flows.evaluation.truth import kinds_of, labels_by_folder, truth_of

PATHS = ["good/1.png", "crack/1.png", "crack/2.png", "3.png"]
UNKNOWN = np.full(4, -1, np.int8)


def test_folders_give_labels_if_nothing_else_does() -> None:
    found = truth_of(PATHS, "/in", UNKNOWN, [False] * 4, None, None)
    assert (found.labels.tolist(), found.said_by) == ([0, 1, 1, -1], "folders")
    own = truth_of(PATHS, "/in", np.array([1, 0, -1, 0], np.int8), [False] * 4, None, None)
    assert (own.labels.tolist(), own.said_by) == ([1, 0, -1, 0], "the batch's labels")
    nothing = truth_of(["a/1.png"], "/in", UNKNOWN[:1], [False], None, None)
    assert nothing.labels.tolist() == [-1]


def test_an_image_with_a_mask_is_anomalous_unless_a_label_says_otherwise() -> None:
    paths = ["1.png", "2.png", "3.png"]
    found = truth_of(paths, "/in", np.array([0, -1, -1], np.int8), [True, True, False], None, None)
    assert (found.labels.tolist(), found.said_by) == ([0, 1, -1], "the batch's labels and masks")
    assert truth_of(paths, "/in", UNKNOWN[:3], [True, False, False], None, None).said_by == "masks"


@pytest.mark.parametrize("moved", [False, True])
def test_a_table_of_labels_replaces_all_other_labels(moved: bool, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for path in PATHS:
        (images / path).parent.mkdir(parents=True, exist_ok=True)
        (images / path).write_bytes(b"")
    table = images / "labels.csv"
    table.write_text("path,label\ngood/1.png,1\ncrack/1.png,0\n3.png,\n")
    root = "/elsewhere" if moved else str(images)
    found = truth_of(PATHS, root, np.ones(4, np.int8), [False] * 4, str(table), None)
    assert (found.labels.tolist(), found.said_by) == ([1, 0, -1, -1], "the labels given")


def test_a_table_of_other_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("path,label\na.png,1\n")
    with pytest.raises(InputError, match=r"has no label for any of the batch's 4 images \(first: /in/good/1.png\)"):
        truth_of(PATHS, "/in", UNKNOWN, [False] * 4, str(tmp_path / "labels.csv"), None)


def test_labels_follow_from_folders_of_visa_mvtec_and_a_single_kind() -> None:
    assert labels_by_folder(["Normal/1.JPG", "Anomaly/1.JPG"]).tolist() == [0, 1]
    assert labels_by_folder(["c/test/good/1.png", "c/train/good/2.png", "c/test/hole/1.png"]).tolist() == [0, 0, 1]
    assert kinds_of(["c/test/hole/1.png", "c/test/crack/1.png"]) == ["hole", "crack"]
    assert kinds_of(["crack/1.png", "crack/2.png"]) == ["crack", "crack"]
    assert kinds_of([]) == []
