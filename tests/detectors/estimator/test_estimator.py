"""The scikit-learn estimator: inputs, states, signs, and scikit-learn's own tools and checks."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from parts import Scene, drawn, picture
from PIL import Image
from products import product
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted
from synthetic import texture

from nelbo.data import Preprocessing, image_of, read_image
from nelbo.detectors import CalibrationError, NelboDetector, NotCalibratedError, decision_function
from nelbo.detectors.estimator.inputs import as_paths, learn_rows
from nelbo.detectors.estimator.record import parse
from nelbo.vae_core import TrainConfig, VAEConfig, score

#: After a few epochs on a few images the latents carry no information yet, which gives warnings.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_NORMAL, N_FRESH, N_BLOT = 80, 60, 20


def small(**more: Any) -> NelboDetector:
    return NelboDetector(**{"image_size": 16, "epochs": 1, "random_state": 0, **more})


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(160, 32, 32) uint8: images to fit on, fresh normal ones, and some with a blot."""
    random = np.random.default_rng(8)
    kinds = [False] * (N_NORMAL + N_FRESH) + [True] * N_BLOT
    return np.stack([texture(random, blot=blot) for blot in kinds])


@pytest.fixture(scope="module")
def normal(images: np.ndarray) -> np.ndarray:
    return images[:N_NORMAL]


@pytest.fixture(scope="module")
def fresh(images: np.ndarray) -> np.ndarray:
    return images[N_NORMAL : N_NORMAL + N_FRESH]


@pytest.fixture(scope="module")
def blots(images: np.ndarray) -> np.ndarray:
    return images[-N_BLOT:]


@pytest.fixture(scope="module")
def detector(normal: np.ndarray) -> NelboDetector:
    """Fitted on normal images with a compiled network, before the eager trainings of this module."""
    return NelboDetector(image_size=32, epochs=25, random_state=0).fit(normal)


@pytest.fixture(scope="module")
def uncalibrated(normal: np.ndarray, eager: None) -> NelboDetector:  # noqa: ARG001
    """Fitted on too few images for its fpr."""
    with pytest.warns(UserWarning, match="Fitted, but not calibrated. fpr=0.05 needs 19 calibration images"):
        return small().fit(normal[:30])


@pytest.fixture(scope="module")
def quick(normal: np.ndarray, eager: None) -> NelboDetector:  # noqa: ARG001
    """Fitted quickly, and therefore badly."""
    return small(fpr=0.1).fit(normal)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """(40, 10) numbers far from [0, 1]."""
    return pd.DataFrame(np.random.default_rng(3).normal(50, 5, (40, 10)), columns=list("abcdefghij"))


@pytest.fixture(scope="module")
def on_rows(frame: pd.DataFrame, eager: None) -> NelboDetector:  # noqa: ARG001
    """Fitted on a table, with parameters that JSON cannot hold directly."""
    state = np.random.RandomState(0)
    return NelboDetector(fpr=np.float64(0.2), epochs=np.int64(1), random_state=state).fit(frame)


@pytest.fixture(scope="module")
def paths(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The images as PNG files."""
    folder = tmp_path_factory.mktemp("png")
    files = [folder / f"{number:03d}.png" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    return files


def test_the_estimator_finds_blots(detector: NelboDetector, fresh: np.ndarray, blots: np.ndarray) -> None:
    assert (detector.predict(blots) == -1).mean() > 0.9
    assert (detector.predict(fresh) == 1).mean() > 0.8
    assert len(detector.history_["val_nelbo"]) == 25
    assert len(detector.calibration_scores_) == 19


def test_scores_and_maps_have_the_signs_and_shapes_of_scikit_learn(
    detector: NelboDetector, fresh: np.ndarray, blots: np.ndarray
) -> None:
    both = np.concatenate([fresh, blots])
    scores, decisions = detector.score_samples(both), detector.decision_function(both)
    assert scores.dtype == decisions.dtype == np.float64
    np.testing.assert_array_equal(decisions, scores - detector.offset_)
    anomalous = detector.predict(both) == -1
    assert 0 < anomalous.sum() < len(both)
    np.testing.assert_array_equal(anomalous, -scores > detector.threshold_)
    np.testing.assert_array_equal(anomalous, decisions < 0)
    np.testing.assert_array_equal(anomalous, detector.p_values(both) <= detector.fpr_)
    np.testing.assert_array_equal(decisions, decision_function(-scores, detector.threshold_))
    maps = detector.anomaly_map(both)
    assert maps.shape == (len(both), 32, 32)
    # nelbo = distortion + rate, and the rate is not negative.
    assert (-detector.elbo(both) - maps.sum(axis=(1, 2)) > -1e-2).all()
    assert detector.elbo(blots).mean() < detector.elbo(fresh).mean()


def test_the_same_image_in_every_form_has_the_same_score(
    detector: NelboDetector, paths: list[Path], fresh: np.ndarray
) -> None:
    expected = detector.score_samples(fresh)
    files = paths[N_NORMAL : N_NORMAL + N_FRESH]
    forms = {
        "paths": files,
        "texts": [str(file) for file in files],
        "array of texts": np.array([str(file) for file in files]),
        "series": pd.Series([str(file) for file in files]),
        "floats": fresh / 255,
        "32-bit floats": (fresh / 255).astype(np.float32),
        "16 bits": fresh.astype(np.uint16) * 257,
        "channel": fresh[..., None],
        "colours": np.repeat(fresh[..., None], 3, axis=3),
        "lists": (fresh / 255).tolist(),
    }
    for name, form in forms.items():
        np.testing.assert_array_equal(detector.score_samples(form), expected, err_msg=name)
    np.testing.assert_array_equal(detector.score_samples(fresh[3:5]), expected[3:5])


def test_fitting_on_paths_equals_fitting_on_arrays(quick: NelboDetector, paths: list[Path], blots: np.ndarray) -> None:
    """Copies stay with their originals, and count one time."""
    more = [*paths[:N_NORMAL], *(str(path) for path in paths[:10])]
    by_path = clone(quick).fit(more)
    np.testing.assert_array_equal(by_path.decision_function(blots), quick.decision_function(paths[-N_BLOT:]))
    np.testing.assert_array_equal(by_path.calibration_scores_, quick.calibration_scores_)


def test_another_random_state_gives_another_result(quick: NelboDetector, normal: np.ndarray) -> None:
    one, same = (small(fpr=0.1, random_state=np.random.RandomState(1)).fit(normal) for _ in range(2))
    assert one.threshold_ == same.threshold_ != quick.threshold_


def test_a_model_of_coloured_images_finds_grey_ones(normal: np.ndarray, blots: np.ndarray) -> None:
    coloured = np.stack([normal, normal, 255 - normal], axis=3)
    detector = small(fpr=0.2, epochs=4).fit(coloured)
    assert detector.model_.config.channels == 3
    assert detector.anomaly_map(coloured[:2]).shape == (2, 16, 16)
    # Grey images are anomalous for a model of coloured ones.
    assert detector.decision_function(blots).mean() < detector.decision_function(coloured).mean()


def test_rows_and_images_are_not_mixed(normal: np.ndarray, blots: np.ndarray) -> None:
    square, new = normal[:, ::2, ::2], blots[:, ::2, ::2]
    detector = NelboDetector(fpr=0.1, epochs=1, random_state=0).fit(square.reshape(N_NORMAL, 256))
    assert detector.n_features_in_ == 256
    by_rows = detector.decision_function(new.reshape(N_BLOT, 256))
    with pytest.raises(ValueError, match=r"fitted on rows: expected an array \(n, n_features\)"):
        detector.predict(new)
    with pytest.raises(ValueError, match="X has 9 features, but NelboDetector is expecting 256"):
        detector.predict(np.zeros((2, 9)))
    detector.set_params(image_size=16).fit(square)
    assert not hasattr(detector, "n_features_in_")
    np.testing.assert_array_equal(detector.decision_function(new), by_rows)
    with pytest.raises(ValueError, match=r"fitted on images: .* as image\[None\]"):
        detector.predict(new[0])


def test_the_range_of_rows_is_learnt_and_what_lies_beyond_is_clipped(
    on_rows: NelboDetector, frame: pd.DataFrame
) -> None:
    low, high = frame.to_numpy().min(), frame.to_numpy().max()
    assert on_rows.rows_.shape == (2, 5, 1)
    assert on_rows.rows_.value_range == pytest.approx((low - (high - low) / 2, high + (high - low) / 2))
    assert on_rows.feature_names_in_.tolist() == list(frame.columns)
    far, further = frame * 0 + 1e6, frame * 0 + 1e9
    np.testing.assert_array_equal(on_rows.score_samples(far), on_rows.score_samples(further))
    with pytest.raises(ValueError, match="feature names should match"):
        on_rows.predict(frame[frame.columns[::-1]])


@pytest.mark.parametrize(
    ("rows", "size", "channels", "shape", "value_range"),
    [
        (np.zeros((2, 784), np.uint8), None, 1, (28, 28, 1), None),
        (np.zeros((2, 7)), None, 1, (1, 7, 1), None),
        (np.zeros((2, 27)), None, 3, (3, 3, 3), None),
        (np.zeros((2, 12)), (2, 6), 1, (2, 6, 1), None),
        (np.array([[0, 1]]), None, 1, (1, 2, 1), None),
        (np.array([[0, 255]]), None, 1, (1, 2, 1), (-127.5, 382.5)),
        (np.array([[-4.0, -4.0]]), None, 1, (1, 2, 1), (-6.0, -2.0)),
    ],
)
def test_rows_are_laid_out_as_images(rows: Any, size: Any, channels: int, shape: Any, value_range: Any) -> None:
    learnt = learn_rows(rows, size, channels)
    assert (learnt.shape, learnt.value_range) == (shape, value_range)
    images = learnt.images(rows)
    assert images.shape == (len(rows), *shape)
    assert images.dtype == np.uint8 or (images.min() >= 0 and images.max() <= 1)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((40, 20, 20)) + 7.0, r"lie in \[7, 7\], expected \[0, 1\]: divide 8-bit values by 255"),
        (np.full((40, 20, 20), 200), "int64 lie in .* or give them as uint8"),
        (np.full((40, 20, 20), np.nan), "NaN"),
        (np.zeros((40, 20, 20, 2)), r"shape \(40, 20, 20, 2\)"),
        (np.zeros((40, 2, 2, 2, 2)), r"shape \(40, 2, 2, 2, 2\)"),
        (np.zeros((0, 20, 20)), r"0 sample\(s\)"),
        (np.zeros((40, 20, 20)), "n_samples=40, 1 of them different: expected at least 3"),
        ([], "Expected 2D array|0 sample"),
        ("folder", "X is one path, 'folder'"),
        (["a.png", "b.png"], "Found 2 paths while a minimum of 3"),
        (["/no/a.png", "/no/b.png", "/no/c.png"], r"3 of 3 images cannot be read: /no/a.png \(does not exist\), "),
        ([np.zeros((4, 4)), np.zeros((5, 5))], "different shapes"),
        (np.zeros((40, 100)), "X has 100 features, but images of 16 x 16 pixels with 1 channels have 256"),
        (np.full((40, 256), 1e307) * np.linspace(0, 7, 40)[:, None], "too wide"),
    ],
)
def test_an_argument_that_is_no_image_is_refused(X: Any, message: str) -> None:  # noqa: N803
    with pytest.raises(ValueError, match=message):
        small().fit(X)


def test_a_broken_file_is_named(detector: NelboDetector, paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"1 of 3 images cannot be read: \S*notes.png \(not_an_image\)"):
        detector.predict([paths[0], tmp_path / "notes.png", paths[1]])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"fpr": 0}, "fpr=0"),
        ({"image_size": "big"}, "image_size='big': expected a whole number"),
        ({"image_size": (1, 2, 3)}, "image_size="),
        ({"image_size": 8}, "height=8 px: expected 16 to 1024; try 16"),
        ({"channels": 2}, "channels=2"),
        ({"channels": "rgb"}, r"channels='rgb': expected 1 \(grey\), 3 \(RGB\) or 'auto'"),
        ({"preset": "vgg"}, "preset='vgg'"),
        ({"resize": "crop"}, "fit='crop'"),
        ({"epochs": 0}, "epochs=0"),
        ({"random_state": -1}, "random_state|Seed must be between"),
        ({"train_config": {"epochs": 3}}, r"train_config=\['epochs'\]: .* parameters of their own"),
        ({"train_config": {"shift_px": 16}}, "shift_px=16"),
        (
            {"preset": "features", "backbone": "self_trained", "train_config": {"precision": "int8"}},
            "precision='int8' .* a detector has one",
        ),
    ],
)
def test_bad_parameters_are_refused_by_fit(bad: dict[str, Any], message: str, normal: np.ndarray) -> None:
    with pytest.raises(ValueError, match=message):
        small(**bad).fit(normal)


def test_defaults_are_those_of_the_command_line() -> None:
    params = NelboDetector().get_params()
    for config in (VAEConfig, TrainConfig):
        defaults = {field.name: field.default for field in fields(config)}
        # The command line's channels are auto, too, but a network needs a number.
        # The variants of a network are those that were found.
        shared = set(params) & set(defaults) - {"channels", *(["variants"] if config is VAEConfig else [])}
        assert len(shared) >= 5
        assert {name: params[name] for name in shared} == {name: defaults[name] for name in shared}
    assert params["channels"] == "auto"
    assert (params["resize"], params["binarize"]) == (Preprocessing().fit, Preprocessing().binarize)


def test_unfitted_and_uncalibrated_detectors_refuse_what_they_lack(
    detector: NelboDetector, uncalibrated: NelboDetector, fresh: np.ndarray
) -> None:
    new = NelboDetector()
    for call in (new.predict, new.score_samples, new.elbo, new.anomaly_map, new.calibrate, new.p_values):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            call(fresh)
    assert not hasattr(new, "offset_")
    check_is_fitted(uncalibrated)
    for call in (uncalibrated.predict, uncalibrated.decision_function, uncalibrated.p_values):
        with pytest.raises(NotCalibratedError, match=r"no threshold\. fpr=0\.05 needs 19 calibration images"):
            call(fresh)
    assert not hasattr(uncalibrated, "threshold_")
    assert len(uncalibrated.score_samples(fresh)) == len(uncalibrated.elbo(fresh)) == N_FRESH
    assert hasattr(detector, "threshold_")
    assert re.fullmatch(r"false-alarm rate promised: \S+ %, between .* and .* % with \d+ images", detector.promise_)


def test_calibrate_sets_a_threshold_on_unseen_images(
    uncalibrated: NelboDetector, normal: np.ndarray, fresh: np.ndarray
) -> None:
    detector = pickle.loads(pickle.dumps(uncalibrated))  # noqa: S301 - our own
    before = detector.score_samples(fresh)
    assert detector.calibrate(fresh) is detector
    assert (detector.fpr_, len(detector.calibration_scores_)) == (0.05, N_FRESH)
    first = detector.threshold_
    assert detector.calibrate(np.concatenate([fresh, fresh]), fpr=0.2).threshold_ < first
    assert len(detector.calibration_scores_) == N_FRESH
    np.testing.assert_array_equal(detector.score_samples(fresh), before)
    np.testing.assert_array_equal(detector.predict(fresh) == -1, detector.p_values(fresh) <= 0.2)
    with pytest.raises(ValueError, match=r"validated on 1 of the 61 different images \(the first is number 60\)"):
        detector.calibrate(np.concatenate([fresh, normal[:1]]))
    with pytest.raises(CalibrationError, match=r"fpr=0\.01 needs at least 99 calibration images, got 60"):
        detector.calibrate(fresh, fpr=0.01)
    assert detector.fpr_ == 0.2


def test_a_verbose_fit_prints_epochs_and_a_collapse_gives_a_warning(
    normal: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(ConvergenceWarning, match="Posterior collapse"):
        small(fpr=0.1, epochs=6, train_config={"beta": 1e6}, verbose=1).fit(normal)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert re.fullmatch(r"epoch 6 of 6: validation nelbo -?[\d.]+ nats", lines[5])


def test_a_detector_is_restored_from_its_folder(detector: NelboDetector, images: np.ndarray, tmp_path: Path) -> None:
    folder = detector.save(tmp_path / "kept")
    loaded = NelboDetector.load(str(folder))
    assert loaded.get_params() == detector.get_params()
    assert loaded.history_ == detector.history_
    for name in ("score_samples", "elbo", "decision_function", "predict", "p_values", "anomaly_map"):
        np.testing.assert_array_equal(getattr(loaded, name)(images), getattr(detector, name)(images))
    # The same model with a new calibration may replace it; another model may not.
    calibrated = loaded.calibrate(images[N_NORMAL : N_NORMAL + N_FRESH], fpr=0.3)
    calibrated.save(folder)
    assert NelboDetector.load(folder).fpr_ == 0.3
    assert sorted(path.name for path in folder.iterdir())[0] == "detector.json"
    with pytest.raises(ValueError, match="validated on"):
        NelboDetector.load(folder).calibrate(images)


def test_an_uncalibrated_detector_is_restored_from_its_folder(
    uncalibrated: NelboDetector, detector: NelboDetector, tmp_path: Path
) -> None:
    loaded = NelboDetector.load(uncalibrated.save(tmp_path))
    with pytest.raises(NotCalibratedError):
        _ = loaded.offset_
    with pytest.raises(FileExistsError, match="holds another detector"):
        detector.save(tmp_path)
    with pytest.raises(NotFittedError):
        NelboDetector().save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_detector_of_rows_is_restored_from_its_folder(
    on_rows: NelboDetector, frame: pd.DataFrame, tmp_path: Path
) -> None:
    loaded = NelboDetector.load(on_rows.save(tmp_path))
    np.testing.assert_array_equal(loaded.decision_function(frame), on_rows.decision_function(frame))
    assert loaded.n_features_in_ == 10
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(frame.rename(columns={"a": "z"}))
    assert loaded.get_params()["random_state"] is None


@pytest.fixture(scope="module")
def kept(uncalibrated: NelboDetector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uncalibrated.save(tmp_path_factory.mktemp("kept"))


def forged(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """Changed contents with a matching checksum, as an attacker would write them."""
    from nelbo.detectors.estimator.record import _digest

    def rewrite(text: bytes) -> bytes:
        whole = json.loads(text)
        change(whole["content"])
        return json.dumps(whole | {"sha256": _digest(whole["content"])}).encode()

    return rewrite


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        (lambda text: text[:-20], "not JSON"),
        (lambda _: b"\xff", "not JSON"),
        (lambda _: b"[" * 100_000, "not JSON"),
        (lambda _: b"[]", "not a nelbo-detector"),
        (lambda text: text.replace(b'"epochs": 1,', b'"epochs": 2,'), "SHA-256 is not that of its content"),
        (lambda text: text.replace(b'"format_version": 1', b'"format_version": 2'), "version 2, this nelbo reads 1"),
        (forged(lambda content: content.update(model_id="../../etc")), "not a text of the form"),
        (forged(lambda content: content.update(fpr=0.5, threshold=1.0)), "needs at least 1 calibration image"),
        (
            forged(lambda content: content.update(fpr=0.5, threshold=9.0, calibration_scores=[1.0, 2.0])),
            "threshold is 9.0, its calibration scores give 2.0",
        ),
        (forged(lambda content: content.update(calibration_scores=[10**400])), "not a detector's"),
        (forged(lambda content: content.update(calibration_scores=["1"])), "not a finite number"),
        (forged(lambda content: content.update(rows=[[0, 1, 1], None])), "rows have shape"),
        (forged(lambda content: content.update(rows=[[2, 1, 1], [3, 3]])), "rows have values"),
        (forged(lambda content: content.update(rows=[[2, 1, 3], None])), "3 channels"),
        (forged(lambda content: content.update(history=[1])), "not a detector's"),
        (forged(lambda content: content.pop("seen")), "not a detector's"),
        (forged(lambda content: content["params"].update(command="rm")), r"unknown parameters \['command'\]"),
    ],
)
def test_a_damaged_or_hostile_record_is_refused(
    kept: Path, tmp_path: Path, rewrite: Callable[[bytes], bytes], message: str
) -> None:
    folder = shutil.copytree(kept, tmp_path / "copy")
    file = folder / "detector.json"
    file.write_bytes(rewrite(file.read_bytes()))
    with pytest.raises(ValueError, match=message):
        NelboDetector.load(folder)


def test_a_missing_or_damaged_model_is_refused(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a saved detector"):
        NelboDetector.load(tmp_path / "nowhere")
    folder = shutil.copytree(kept, tmp_path / "copy")
    (weights,) = folder.glob("m*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="the bundle is damaged"):
        NelboDetector.load(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="not a whole bundle"):
        NelboDetector.load(folder)


def test_a_record_is_json_without_pickles(kept: Path) -> None:
    text = (kept / "detector.json").read_bytes()
    record = parse(text)
    assert json.dumps(record.to_dict(), sort_keys=True) == json.dumps(json.loads(text), sort_keys=True)
    assert not list(kept.rglob("*.pkl"))


def test_a_detector_can_be_pickled_and_cloned(detector: NelboDetector, fresh: np.ndarray) -> None:
    pickled = pickle.dumps(detector)
    assert b"keras" not in pickled
    again = pickle.loads(pickled)  # noqa: S301 - our own
    np.testing.assert_array_equal(again.decision_function(fresh), detector.decision_function(fresh))
    copy = clone(detector)
    assert copy.get_params() == detector.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(fresh)
    assert copy.set_params(epochs=3, fpr=0.1).get_params()["epochs"] == 3


def test_a_detector_works_in_grid_search_and_cross_validation(images: np.ndarray, paths: list[Path]) -> None:
    """Trained on normal images, judged on other normal images and on blots."""
    labels = np.where(np.arange(len(images)) < N_NORMAL + N_FRESH, 1, -1)
    judged = np.arange(N_NORMAL, len(images))
    split = [(np.arange(N_NORMAL), judged)]
    grid = {"statistic": ["peak", "nelbo"], "train_config": [{"flip": "horizontal"}]}

    def mean_score(detector: NelboDetector, X: Any, y: Any) -> float:  # noqa: ARG001, N803 - scikit-learn's names
        return float(detector.score_samples(X).mean())

    scoring = {"auroc": "roc_auc", "score": mean_score}
    search = GridSearchCV(small(fpr=0.1), grid, scoring=scoring, cv=split, refit=False, error_score="raise")
    search.fit(images, labels)
    assert [params["statistic"] for params in search.cv_results_["params"]] == grid["statistic"]
    assert all(0.9 < auroc <= 1 for auroc in search.cv_results_["mean_test_auroc"])
    # One detector scores in standard deviations, the other in nats.
    peak, nelbo = search.cv_results_["mean_test_score"]
    assert abs(peak - nelbo) > 1

    def auroc_of_scores(detector: NelboDetector, X: Any, y: Any) -> float:  # noqa: N803
        return float(roc_auc_score(y, detector.score_samples(X)))

    found = cross_val_score(small(fpr=0.1), paths, labels, scoring=auroc_of_scores, cv=split, error_score="raise")
    assert found.shape == (1,)
    assert 0 <= found[0] <= 1


@pytest.fixture(scope="module")
def keys() -> np.ndarray:
    """60 pictures of a key at any angle."""
    random = np.random.default_rng(4)
    scene = Scene("key", width=120, height=90, length=0.5, noise=0.02)
    values = [picture(scene, drawn(random, scene), random) for _ in range(60)]
    return np.rint(255 * np.stack(values)).astype(np.uint8)


@pytest.fixture(scope="module")
def located(keys: np.ndarray) -> NelboDetector:
    return NelboDetector(image_size=96, preset="features", backbone="filters").fit(keys[:40])


def test_parts_are_located_and_every_image_is_used_for_training(
    located: NelboDetector, keys: np.ndarray, tmp_path: Path
) -> None:
    """A linear model is cross-fitted if a fifth of the images, to be held out, would be fewer than 200."""
    how = Preprocessing(**located.model_.preprocessing)
    assert how.frame is not None
    assert (how.height, how.width) == how.frame.crop_size(96 * 96)
    assert len(located.calibration_scores_) == 40
    assert "approximate" in located.promise_
    assert located.predict(keys[40:]).mean() > 0.5
    # An image with two keys, and one with none.
    two = np.maximum(keys[40:41], keys[41:42, :, ::-1])
    assert located.predict(np.concatenate([two, np.full_like(two, 64)])).tolist() == [-1, -1]
    again = NelboDetector.load(located.save(tmp_path / "detector"))
    assert again.promise_ == located.promise_
    np.testing.assert_array_equal(again.score_samples(keys[40:44]), located.score_samples(keys[40:44]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "defect"),
    [("screw", "scratch"), ("disc", "scratch"), ("rod", "missing"), ("washer", "missing")],
)
def test_locating_parts_does_not_make_detection_worse(shape: str, defect: str, random: np.random.Generator) -> None:
    scene = Scene(shape, noise=0.02)

    def rendered(n: int, defect: str | None = None) -> np.ndarray:
        values = [picture(scene, drawn(random, scene), random, defect) for _ in range(n)]
        return np.rint(255 * np.stack(values)).astype(np.uint8)

    normals, judged = rendered(40), np.concatenate([rendered(25), rendered(25, defect)])
    labels = np.repeat([0, 1], 25)
    found = {}
    for locate in ("off", "auto"):
        detector = NelboDetector(image_size=96, preset="features", backbone="filters", locate=locate).fit(normals)
        found[locate] = roc_auc_score(labels, -detector.score_samples(judged))
    # 0.2 is three standard errors for so few images.
    assert found["auto"] > found["off"] - 0.2
    assert found["auto"] > 0.7


def test_held_out_calibration_and_bad_ways_to_calibrate(keys: np.ndarray, normal: np.ndarray) -> None:
    settings: dict[str, Any] = {"image_size": 96, "preset": "features", "backbone": "filters"}
    held_out = NelboDetector(**settings, locate="off", calibrate_on="held_out").fit(keys)
    assert len(held_out.calibration_scores_) == 19
    assert "approximate" not in held_out.promise_
    assert Preprocessing(**held_out.model_.preprocessing).frame is None
    with pytest.raises(ValueError, match="calibrate_on='cross' is for the linear heads"):
        NelboDetector(image_size=16, calibrate_on="cross", epochs=1).fit(normal)
    with pytest.raises(ValueError, match="calibrate_on='twice': expected 'auto'"):
        NelboDetector(image_size=16, calibrate_on="twice", epochs=1).fit(normal)
    with pytest.raises(ValueError, match="locate='maybe': expected 'auto'"):
        NelboDetector(image_size=16, locate="maybe", epochs=1).fit(normal)


def test_paths_are_told_from_other_input() -> None:
    assert as_paths(np.array(["a.png"])) == [Path("a.png")]
    assert as_paths((Path("a.png"), "b.png")) == [Path("a.png"), Path("b.png")]
    for no_paths in ([[1.0]], np.zeros(3), np.array([["a"]]), [], [1, "a"], pd.DataFrame({"a": ["x"]})):
        assert as_paths(no_paths) is None


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("values", ["grey", "grey 16", "colour"])
@pytest.mark.parametrize("binarize", [None, 0.5])
def test_an_array_is_prepared_like_a_png(
    fit: str, channels: int, values: str, binarize: float | None, random: np.random.Generator, tmp_path: Path
) -> None:
    shape, top = ((30, 41, 3) if values == "colour" else (30, 41)), (65_536 if values == "grey 16" else 256)
    image = random.integers(0, top, shape).astype(np.uint16 if top > 256 else np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    preprocessing = Preprocessing(16, 24, channels, fit, binarize)
    (pixels,) = image_of(image, preprocessing).pixels
    np.testing.assert_array_equal(pixels, read_image(tmp_path / "x.png", preprocessing))
    if binarize is None:
        # Arrays skip the rounding to 8 bits at each step.
        np.testing.assert_allclose(image_of(image / (top - 1), preprocessing).pixels[0], pixels, atol=1.5 / 255)


@pytest.mark.slow
def test_examples_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[3] / "docs" / "how-to" / "estimator.md"
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(example, scope)  # noqa: S102 - our own document
    assert capsys.readouterr().out.startswith("[-1 -1 -1 -1 -1]\n")
    assert scope["detector"].p_values(scope["broken"]).max() <= 0.1


# Many checks fit on too few samples for the default fpr: `docs/how-to/estimator.md`, which also says what is skipped.
@pytest.mark.slow
@parametrize_with_checks([NelboDetector(fpr=0.5, epochs=1)])
@pytest.mark.usefixtures("eager")
def test_the_estimator_passes_the_checks_of_scikit_learn(
    estimator: NelboDetector, check: Callable[[NelboDetector], None]
) -> None:
    check(estimator)


def test_variants_have_thresholds_of_their_own(random: np.random.Generator, tmp_path: Path) -> None:
    kinds = ["stripes", "dots"] * 50
    normal = np.stack([product(kind, random) for kind in kinds])[..., 0]
    detector = NelboDetector(image_size=64, preset="features", backbone="filters", random_state=0).fit(normal)
    assert detector.model_.config.variants == ("1", "2")
    assert len(detector.calibration_scores_) == 100
    own = score(detector.model_, normal[..., None], maps=False).variant
    for number in (0, 1):
        mine = detector.calibration_scores_[own == number]
        # The second highest of fifty, as with a threshold on this variant alone.
        assert (mine > detector.threshold_ + 1e-9).sum() == 1
    fresh = np.stack([product(kind, random, i < 20) for i, kind in enumerate(["stripes", "dots"] * 20)])[..., 0]
    np.testing.assert_array_equal(detector.predict(fresh) == -1, detector.p_values(fresh) <= 0.05)
    assert (detector.predict(fresh[:20]) == -1).all()
    loaded = NelboDetector.load(detector.save(tmp_path / "saved"))
    np.testing.assert_array_equal(loaded.score_samples(fresh), detector.score_samples(fresh))
    np.testing.assert_array_equal(loaded.p_values(fresh), detector.p_values(fresh))
    one = NelboDetector(image_size=64, preset="features", backbone="filters", variants=1, random_state=0).fit(normal)
    assert one.model_.config.variants == ()
