"""The demonstration on real images."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nelbo.data import read_table
from nelbo.flows.cli.demo import _images, protocol

pytest.importorskip("elpv_dataset", reason="the real solar cells are not installed (extra demo)")


def test_protocol_has_the_published_sizes() -> None:
    table = protocol(_images() / "labels.csv")
    counts = table.groupby(["part", "label"]).size().to_dict()
    assert counts == {("train", 0): 454, ("test", 0): 134, ("test", 1): 313}
    assert table["path"].is_unique


@pytest.mark.slow
def test_the_demo_sees_defects_in_real_cells(nelbo: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, _ = nelbo("demo", "--workspace", tmp_path / "w", "--no-prefect", "--json")
    assert code == 0
    result = json.loads(out)
    trained, scored = result["train"], result["score"]
    assert (trained["n_train"], trained["n_validation"]) == (454, 0)
    # Neighbours on a module look alike. Machines may round differently at the limit of similarity.
    assert trained["n_calibration"] == trained["n_groups"] == pytest.approx(280, abs=20)
    assert (trained["calibrate_on"], trained["approximate"]) == ("cross", True)
    assert (scored["n_images"], scored["n_not_scored"]) == (447, 0)
    metrics = scored["metrics"]
    assert scored["engine"] == "openvino"
    assert metrics["auroc"]["value"] >= 0.94
    # If the rate of 5 % on 134 normal images were exact, about one calibration in a thousand would give more than 21.
    assert metrics["false_alarms"] <= 21
    assert read_table(Path(scored["flagged"])).num_rows == scored["n_anomalous"]
