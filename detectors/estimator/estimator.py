"""The scikit-learn estimator: images in, scikit-learn's methods and signs out.

This package knows `vae_core` and `data`, and imports them when they are used.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.validation import check_is_fitted, validate_data

from nelbo.detectors.calibration import Calibration
from nelbo.detectors.estimator import inputs
from nelbo.detectors.estimator.images import Found, Images, Prepared, as_images, prepared
from nelbo.detectors.estimator.record import Record, read_record
from nelbo.detectors.estimator.settings import (
    AUTO,
    MIN_IMAGES,
    as_seed,
    channels_of,
    frame_of,
    settings,
    shared_out,
)
from nelbo.detectors.parts import images_of_variant
from nelbo.detectors.promise import check_size, n_needed
from nelbo.detectors.scale import Scale, learn_scale
from nelbo.detectors.threshold import Threshold
from nelbo.detectors.verdict import decision_function

if TYPE_CHECKING:
    from nelbo.data import Preprocessing
    from nelbo.vae_core import Model, Score

DEFAULT_SIZE = (256, 256)
#: Values of images that are scored, or decoded, at a time.
_CHUNK_VALUES = 2**24


class NotCalibratedError(NotFittedError):
    """A fitted detector has scores, but no threshold yet: give `NelboDetector.calibrate` normal images."""


@dataclass(kw_only=True, eq=False, repr=False)
class NelboDetector(OutlierMixin, BaseEstimator):
    """Outlier detector of images by a variational autoencoder, with a promised false-alarm rate.

    `fit` takes normal images. It holds some of them back, by content, and sets the threshold so that at most a share
    `fpr` of fresh normal images lies beyond it, on average over calibrations.

    X is, everywhere, one of

    * paths: a list or one-dimensional array of str or Path;
    * images: an array (n, height, width), or with a last axis of 1 or 3 channels: uint8 or uint16 over their whole
      range, other numbers in [0, 1]; they are resized as files are. A detector fitted on paths or images takes both;
    * rows: an array (n, n_features), each row the values of one image. Numbers outside [0, 1] are rescaled: the range
      seen in fit, with half of it to spare on both sides, becomes [0, 1], and values beyond are clipped.

    A list of arrays of one type counts as an array, too. The type in fit says what is white: 255 for uint8 and files,
    65,535 for uint16, 1 for all others. From then on the same values in another type have the same score. Other values
    in another type are read on the scale of that type; if both readings are possible, or neither, it is a ValueError.

    Args:
        image_size: of the network's input, in pixels: one side, (height, width), or None, which is 256 x 256 for paths
            and images, and for rows as square as their number of features allows, with sides of at least 16. With a
            size, rows must have height x width x channels features.
        channels: 1 (grey), 3 (RGB), or "auto": 3 where an image given to fit has colour, see docs/reference/images.md,
            and 1 otherwise and for rows.
        fpr: promised false-alarm rate; needs ceil(1 / fpr) - 1 calibration images.
        preset, backbone, head, likelihood, sigma, statistic, smoothing_px: see `vae_core.VAEConfig`.
        epochs, patience, batch_size, learning_rate, denoising: see `vae_core.TrainConfig`.
        locate: "on" looks for the part in paths and images, turns it upright and crops to it, to as many pixels as
            `image_size` has, in its own shape; "auto" does so where the images given to fit show one rigid part before
            a plain background; "off" takes images as they are. See docs/how-to/parts.md.
        variants: how many variants of the product a linear head of the preset features models, each with a threshold of
            its own; "auto" models several where the images given to fit show them.
        calibrate_on: "held_out" keeps images back to set the threshold; "cross" trains on all, and sets it by the score
            of each image under a model of the others, which is approximate, and for the linear heads of the preset
            features only; "auto" crosses where that is possible and fewer than 200 would be held back. See
            docs/explanation/verdicts.md.
        resize: "stretch" to the size, or keep the aspect ratio and "pad" with black.
        binarize: None, or a level in (0, 1) above which values become 1, and others 0.
        train_config: further settings of `vae_core.TrainConfig`, by name.
        random_state: int for a reproducible result; a RandomState, or None, to draw a seed from.
        verbose: 1 prints a line for each epoch.

    Attributes:
        model_: the `vae_core.Model`.
        threshold_: images with a higher anomaly score are anomalous; `offset_` is minus that.
        fpr_: the rate that the threshold promises.
        calibration_scores_: (n,) anomaly scores of the calibration images. With several variants, anomaly scores are
            reduced by the level of each variant once there is a threshold, which is then right for all of them.
        history_: of the training, lists with an entry for each epoch; see `vae_core.Training`.
        rows_: how rows are read as images; None for a detector of images.
        scale_: the type that fit saw, and with it what is white.
        n_features_in_, feature_names_in_: of rows.

    >>> random = np.random.default_rng(0)
    >>> shades, dark = random.uniform(0.4, 0.8, (60, 1, 1)), np.zeros((1, 16, 16))
    >>> normal = random.normal(shades, 0.05, (60, 16, 16)).clip(0, 1)
    >>> detector = NelboDetector(image_size=16, epochs=20, random_state=0).fit(normal)
    >>> detector.predict(dark).tolist(), detector.fpr_, len(detector.calibration_scores_)
    ([-1], 0.05, 19)
    """

    image_size: int | tuple[int, int] | None = None
    channels: int | str = AUTO
    fpr: float = 0.05
    preset: str = "auto"
    backbone: str | None = None
    head: str | None = None
    likelihood: str = "auto"
    sigma: float | None = None
    statistic: str = "auto"
    smoothing_px: int = 0
    epochs: int = 150
    patience: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    denoising: float = 0.0
    locate: str = AUTO
    variants: int | str = AUTO
    calibrate_on: str = AUTO
    resize: str = "stretch"
    binarize: float | None = None
    train_config: Mapping[str, Any] | None = None
    random_state: int | np.random.RandomState | None = None
    verbose: int = 0

    def fit(self, X: Any, y: Any = None) -> NelboDetector:  # noqa: ARG002, N803 - scikit-learn's names
        """Train on normal images and calibrate on some that are held back, or see `calibrate_on`.

        Copies of an image count once. Calibration gets the larger of 20 % and what `fpr` needs, validation 15 % (none
        where the model is solved). Where that is too few for `fpr`, the detector has scores but no threshold, and a
        warning says so.

        Args:
            X: normal images, at least 3.
            y: ignored.

        Returns:
            The detector itself.

        Raises:
            ValueError: parameters or images that cannot be used.
            FloatingPointError: the training diverged.
        """
        from nelbo.data import float_range
        from nelbo.vae_core import check_together, train

        n_needed(self.fpr)
        size = inputs.as_size(self.image_size)
        params, seed = self.get_params(), as_seed(self.random_state)
        # Wrong parameters are reported before files are read.
        settings(params, size or DEFAULT_SIZE, seed)
        found = self._validate(inputs.stacked(X), reset=True)
        scale, channels = learn_scale(found), channels_of(found, self.channels)
        rows = None
        if isinstance(found, np.ndarray) and found.ndim == 2:
            rows = inputs.learn_rows(found, size, channels)
            size = size or rows.input_size
        images = as_images(found, rows, scale)
        size = size or DEFAULT_SIZE
        frame = None if rows is not None else frame_of(images, self.locate)
        config, train_config, preprocessing = settings(
            params, frame.crop_size(math.prod(size)) if frame else size, seed, channels
        )
        # Floating-point files are read by the range of those that fit saw.
        floats = None if isinstance(found, np.ndarray) else float_range(found) or (0.0, 1.0)
        preprocessing = replace(preprocessing, float_range=floats, frame=frame)
        check_together(config, train_config)
        fitted = prepared(images, preprocessing)
        contents = fitted.contents()
        rows_of = shared_out(contents, self.calibrate_on, self.fpr, config.is_linear, seed)
        n_calibration = len(rows_of.get("calibration", ()))
        training = train(
            fitted.pixels[rows_of["train"]],
            fitted.pixels[rows_of["validation"]] if "validation" in rows_of else None,
            config,
            train_config,
            preprocessing=preprocessing.to_dict(),
            images_of_variant=images_of_variant(n_needed(self.fpr), len(rows_of["train"]), n_calibration),
            names=[f"X[{row}]" if isinstance(found, np.ndarray) else str(found[row]) for row in rows_of["train"]],
            callbacks=_progress(train_config.epochs) if self.verbose else (),
        )
        for text in training.warnings:
            warnings.warn(text, ConvergenceWarning, stacklevel=2)
        self.model_, self.history_, self.rows_, self.scale_ = training.model, training.history, rows, scale
        self._seen = frozenset(contents[row] for part in ("train", "validation") for row in rows_of.get(part, ()))
        self._calibration: Calibration | None = None
        if n_calibration:
            self._calibrate(fitted.take(rows_of["calibration"]), self.fpr)
        elif (
            training.unseen is not None
            and self.calibrate_on != "held_out"
            and len(rows_of["train"]) >= n_needed(self.fpr)
        ):
            self._set_calibration(training.unseen, fitted.take(rows_of["train"]), self.fpr, cross=True)
        else:
            warnings.warn(f"Fitted, but not calibrated. {self._missing()}", UserWarning, stacklevel=2)
        return self

    def calibrate(self, X: Any, fpr: float | None = None) -> NelboDetector:  # noqa: N803
        """Set the threshold from other normal images, without training again.

        Args:
            X: normal images that fit did not train or validate on; copies count once.
            fpr: promised false-alarm rate; None takes the parameter `fpr`.

        Returns:
            The detector itself.

        Raises:
            CalibrationError: too few images for `fpr`; a ValueError.
            ValueError: images that fit has seen.
        """
        from nelbo.data import first_rows

        check_is_fitted(self)
        fpr = self.fpr if fpr is None else fpr
        n_needed(fpr)
        normal = prepared(self._images(X), self._preprocessing)
        self._warn_of_colour(normal.n_coloured)
        row_of = first_rows(normal.contents())
        seen = [row for image, row in row_of.items() if image in self._seen]
        if seen:
            raise ValueError(
                f"fit has trained or validated on {len(seen)} of the {len(row_of)} different images (the first is "
                f"number {min(seen)}), and their scores are too good. Leave out the images given to fit"
            )
        check_size(len(row_of), fpr)
        self._calibrate(normal.take(list(row_of.values())), fpr)
        return self

    def score_samples(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """(n,) minus the anomaly score: higher = more normal; needs no calibration.

        The anomaly score is the model's statistic: standard deviations for "peak" and "joint", nats for "nelbo".

        Args:
            X: images, as `fit` takes them.
        """
        return -self._judged(X)[0]

    def elbo(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """(n,) evidence lower bound in nats: higher = more normal.

        Args:
            X: images, as `fit` takes them.
        """
        return -self._scores(X, "nelbo")[0].astype(np.float64)

    def anomaly_map(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """(n, height, width) nats a pixel of the network's input; they add up to the distortion, higher = worse.

        Args:
            X: images, as `fit` takes them.
        """
        return self._scores(X, "anomaly_map", maps=True)[0].astype(np.float64)

    def decision_function(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """(n,) ``score_samples - offset_``: below 0 is anomalous.

        Args:
            X: images, as `fit` takes them.

        Raises:
            NotCalibratedError: there is no threshold.
        """
        threshold = self.threshold_
        return decision_function(self._judged(X)[0], threshold)

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """(n,) -1 for anomalous, 1 for normal images.

        Args:
            X: images, as `fit` takes them.

        Raises:
            NotCalibratedError: there is no threshold.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """(n,) how extreme an image is among the calibration images, in (0, 1]; at most fpr for an anomalous image.

        Args:
            X: images, as `fit` takes them.

        Raises:
            NotCalibratedError: there is no calibration.
        """
        calibration = self._calibrated()
        scores, variants = self._judged(X)
        return calibration.p_values(scores, variants)

    @property
    def threshold_(self) -> float:
        """The anomaly score above which an image is anomalous."""
        return self._calibrated().threshold

    @property
    def offset_(self) -> float:
        """Values of `score_samples` below it are anomalous."""
        return -self._calibrated().threshold

    @property
    def fpr_(self) -> float:
        """The false-alarm rate that the threshold promises."""
        return self._calibrated().fpr

    @property
    def promise_(self) -> str:
        """What the threshold promises, in words, with the range that so many calibration images support."""
        calibration = self._calibrated()
        return Threshold.from_normals(calibration.scores, calibration.fpr, cross=calibration.cross).describe()

    @property
    def calibration_scores_(self) -> NDArray[np.float64]:
        """(n,) anomaly scores of the calibration images."""
        calibration = self._calibrated()
        return calibration.levelled(calibration.scores, calibration.variants)

    def save(self, folder: Path | str) -> Path:
        """Write a fitted detector: the bundle of its model, and ``detector.json``; no pickle.

        A RandomState in the parameters is written as None.

        Args:
            folder: made if need be. It may hold the same model, which then has a new calibration.

        Returns:
            The folder.

        Raises:
            FileExistsError: it holds another detector.
        """
        from nelbo.data import write_json
        from nelbo.vae_core import save_bundle

        check_is_fitted(self)
        folder = Path(folder)
        model_id = save_bundle(self.model_, folder)
        target = folder / "detector.json"
        if target.exists() and read_record(folder).model_id != model_id:
            raise FileExistsError(f"{folder} holds another detector: choose another folder, or delete it")
        names = getattr(self, "feature_names_in_", None)
        record = Record(
            model_id,
            self.get_params(),
            self._calibration,
            self.rows_,
            self.scale_,
            None if names is None else list(names),
            sorted(self._seen),
            self.history_,
        )
        write_json(record.to_dict(), target)
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> NelboDetector:
        """The detector that `save` wrote to a `folder`.

        Every checksum is compared first, and nothing in the folder is executed.

        Raises:
            ValueError: the files are damaged, incomplete, or of another version.
        """
        from nelbo.vae_core import load_bundle

        folder = Path(folder)
        record = read_record(folder)
        detector = cls()
        unknown = sorted(set(record.params) - set(detector.get_params()))
        if unknown:
            raise ValueError(f"{folder}/detector.json has unknown parameters {unknown[:5]}. Update nelbo.")
        params = dict(record.params)
        if isinstance(size := params.get("image_size"), list):
            params["image_size"] = tuple(size)
        detector.set_params(**params)
        detector.model_, detector.history_ = load_bundle(folder / record.model_id), record.history
        detector.rows_, detector.scale_ = record.rows, record.scale
        try:
            channels = detector._preprocessing.channels
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder}: the model is not that of a detector ({error})") from error
        if record.rows is not None and record.rows.shape[2] != channels:
            raise ValueError(f"{folder}: rows are read with {record.rows.shape[2]} channels. Fit again.")
        detector._seen, detector._calibration = frozenset(record.seen), record.calibration
        if record.rows is not None:
            detector.n_features_in_ = int(np.prod(record.rows.shape))
        if record.feature_names is not None:
            detector.feature_names_in_ = np.array(record.feature_names, object)
        return detector

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and joblib: the model as the bytes of its bundle."""
        state = dict(super().__getstate__())
        if "model_" in state:
            state["model_"] = _packed(self.model_)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The model is made anew from the bytes of its bundle."""
        if "model_" in state:
            # What nelbo 0.1 pickled has no scale.
            state = {"scale_": Scale(None)} | state | {"model_": _unpacked(*state["model_"])}
        super().__setstate__(state)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # The tag `string` is for tables of strings; one-dimensional arrays are taken for paths only.
        tags.input_tags.three_d_array = True
        return tags

    @property
    def _preprocessing(self) -> Preprocessing:
        from nelbo.data import Preprocessing

        return Preprocessing(**self.model_.preprocessing)

    def _validate(self, X: Any, *, reset: bool) -> Found:  # noqa: N803
        """Paths, images (n, h, w[, c]) or rows (n, n_features), checked as scikit-learn checks them."""
        n_least = MIN_IMAGES if reset else 1
        paths = inputs.as_paths(X)
        if paths is None and inputs.n_dimensions(X) <= 2:
            return inputs.native(validate_data(self, X, reset=reset, ensure_min_samples=n_least))
        if reset and hasattr(self, "n_features_in_"):
            # It is left from an earlier fit on rows.
            del self.n_features_in_
        if paths is None:
            images = validate_data(
                self, X, reset=reset, ensure_2d=False, allow_nd=True, ensure_min_samples=n_least, ensure_min_features=0
            )
            return inputs.check_images(inputs.native(images))
        validate_data(self, paths, reset=reset, skip_check_array=True, ensure_2d=False)
        if len(paths) < n_least:
            raise ValueError(f"Found {len(paths)} paths while a minimum of {n_least} is required")
        return paths

    def _images(self, X: Any) -> Images:  # noqa: N803
        """X of a fitted detector, as paths or as images on the scale of fit."""
        X = inputs.stacked(X)  # noqa: N806
        as_rows = inputs.as_paths(X) is None and inputs.n_dimensions(X) <= 2
        if as_rows and self.rows_ is None:
            raise ValueError(
                "this detector was fitted on images: expected paths, or an array (n, height, width), or with a last "
                "axis of 1 or 3 channels. Give a single image as image[None]"
            )
        if not as_rows and self.rows_ is not None:
            raise ValueError("this detector was fitted on rows: expected an array (n, n_features)")
        return as_images(self._validate(X, reset=False), self.rows_, self.scale_)

    def _judged(self, X: Any) -> tuple[NDArray[np.float64], NDArray[Any] | None]:  # noqa: N803
        """(n,) anomaly scores, and the number of each image's variant, None where there is only one."""
        check_is_fitted(self)
        if not self.model_.config.variants:
            return self._scores(X, "anomaly_score")[0].astype(np.float64), None
        found, variants = self._scores(X, "anomaly_score", "variant")
        scores = found.astype(np.float64)
        return scores if self._calibration is None else self._calibration.levelled(scores, variants), variants

    def _scores(self, X: Any, *names: str, maps: bool = False) -> list[NDArray[Any]]:  # noqa: N803
        """Fields of the scores of X, found in chunks, so that not all files are in memory at once."""
        from nelbo.vae_core import score

        check_is_fitted(self)
        images, preprocessing = self._images(X), self._preprocessing
        n_chunk = max(1, _CHUNK_VALUES // preprocessing.n_values)
        chunks, n_coloured = [], 0
        for start in range(0, len(images), n_chunk):
            chunk = prepared(images[start : start + n_chunk], preprocessing)
            n_coloured += chunk.n_coloured
            found = score(self.model_, chunk.pixels, maps=maps)
            found = found._replace(anomaly_score=self._with_sizes(found.anomaly_score, chunk))
            chunks.append([np.asarray(getattr(found, name)) for name in names])
        self._warn_of_colour(n_coloured)
        return [np.concatenate(values) for values in zip(*chunks, strict=True)]

    def _warn_of_colour(self, n: int) -> None:
        """Warn of images in colour, unless the user chose grey."""
        if n and self.channels == AUTO:
            warnings.warn(
                f"{n} images have colour, and those given to fit were grey: what is wrong in colour alone is missed. "
                "Fit on images in colour, or set channels=1.",
                UserWarning,
                stacklevel=2,
            )

    def _calibrate(self, images: Prepared, fpr: float) -> None:
        from nelbo.vae_core import score

        self._set_calibration(score(self.model_, images.pixels, maps=False), images, fpr)

    def _with_sizes(self, scores: NDArray[Any], images: Prepared) -> NDArray[Any]:
        """Anomaly scores plus how far the parts' sizes are off, as for verdicts on files."""
        from nelbo.data import IN_DEVIATIONS

        return scores + images.size_z if self.model_.config.statistic in IN_DEVIATIONS else scores

    def _set_calibration(self, found: Score, images: Prepared, fpr: float, *, cross: bool = False) -> None:
        scores = np.asarray(self._with_sizes(found.anomaly_score, images), np.float64)
        variants = None if found.variant is None else found.variant.astype(np.int64)
        self._calibration = Calibration(float(fpr), scores, cross, variants)

    def _calibrated(self) -> Calibration:
        check_is_fitted(self)
        if self._calibration is None:
            raise NotCalibratedError(f"This detector has no threshold. {self._missing()}")
        return self._calibration

    def _missing(self) -> str:
        return (
            f"fpr={self.fpr} needs {n_needed(self.fpr)} calibration images, more than half of those given to fit. Call "
            "calibrate with as many other normal images, give fit more of them, or raise fpr."
        )


def _progress(n_epochs: int) -> list[Any]:
    import keras

    def epoch_ended(epoch: int, logs: Mapping[str, float]) -> None:
        print(f"epoch {epoch + 1} of {n_epochs}: validation nelbo {logs['val_nelbo']:.2f} nats")  # noqa: T201

    return [keras.callbacks.LambdaCallback(on_epoch_end=epoch_ended)]


def _packed(model: Model) -> tuple[str, dict[str, bytes]]:
    """Id and files of a model's bundle."""
    from nelbo.vae_core import save_bundle

    with tempfile.TemporaryDirectory() as aside:
        model_id = save_bundle(model, Path(aside))
        return model_id, {file.name: file.read_bytes() for file in (Path(aside) / model_id).iterdir()}


def _unpacked(model_id: str, files: Mapping[str, bytes]) -> Model:
    from nelbo.vae_core import load_bundle

    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) / model_id
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return load_bundle(folder)
