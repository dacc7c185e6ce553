"""The scikit-learn estimator: images in, scikit-learn's methods and signs out.

The one file of this package that knows `vae_core` and `data`, and it imports them when they are used.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from nelbo.detectors.calibration import Calibration
from nelbo.detectors.estimator import inputs
from nelbo.detectors.estimator.record import Record, parse, plain
from nelbo.detectors.parts import HELD_OUT_FROM, images_of_variant, part_sizes
from nelbo.detectors.promise import check_size, n_needed
from nelbo.detectors.scale import Scale, learn_scale
from nelbo.detectors.threshold import Threshold
from nelbo.detectors.verdict import decision_function

if TYPE_CHECKING:
    from nelbo.data import Frame, Part, Preprocessing
    from nelbo.vae_core import Model, Score, TrainConfig, VAEConfig

#: One to train on, one to validate on, and one more.
MIN_IMAGES = 3
DEFAULT_SIZE = (256, 256)
#: What the images decide.
AUTO = "auto"
#: Parameters that are of `vae_core.TrainConfig`.
_TRAINED = ("epochs", "patience", "batch_size", "learning_rate", "denoising", "variants")
#: Numbers of an image that are scored, or decoded, at a time.
_CHUNK_VALUES = 2**24

#: What X is, once it is checked: paths, or images or rows.
Found = list[Path] | NDArray[Any]
Images = list[Path] | list[NDArray[Any]]
#: (n, h, w, c) float32 in [0, 1]; of the type of any array, as vae_core says it.
Pixels = Any


class NotCalibratedError(NotFittedError):
    """A fitted detector has scores, but no threshold yet: give `NelboDetector.calibrate` normal images."""


class NelboDetector(OutlierMixin, BaseEstimator):
    """Outlier detector of images by a variational autoencoder, with a promised false-alarm rate.

    `fit` takes normal images. It holds some of them back, by content, and sets the threshold so that at most a share
    `fpr` of fresh normal images lies beyond it, on average over calibrations.

    X is, everywhere, one of

    * paths: a list or one-dimensional array of str or Path;
    * images: an array (n, height, width), or with 1 or 3 channels behind: uint8 or uint16 over their whole range,
      other numbers in [0, 1]; they are resized as files are. A detector fitted on paths or images takes both;
    * rows: an array (n, n_features), each row the values of one image. Numbers outside [0, 1] are brought there: the
      range seen in fit, and half of it to spare on both sides, becomes [0, 1], and what lies beyond is clipped.

    An array may be a list of arrays of one type, too. Its type in fit says what is white: 255 for uint8 and files,
    65,535 for uint16, 1 for all others. From then on the same values in another type have the same score. Other values
    in another type lie on the scale of that type; where they could be either, or are neither, it is a ValueError.

    Args:
        image_size: of the network's input, in pixels: one side, (height, width), or None, which is 256 x 256 for paths
            and images, and for rows as square as their number of features allows, with sides of at least 16. With a
            size, rows must have height x width x channels features.
        channels: 1 (grey), 3 (RGB), or "auto": 3 where an image given to fit has colour, see docs/images.md, and 1
            otherwise and for rows.
        fpr: promised false-positive rate; needs ceil(1 / fpr) - 1 calibration images.
        preset, backbone, head, likelihood, sigma, statistic, smoothing_px: see `vae_core.VAEConfig`.
        epochs, patience, batch_size, learning_rate, denoising: see `vae_core.TrainConfig`.
        locate: "on" looks for the part in paths and images, turns it upright and crops to it, to as many pixels as
            `image_size` has, in its own shape; "auto" does where the images given to fit show one rigid part before a
            plain background; "off" takes images as they are. See docs/parts.md.
        variants: of a linear head of the preset features: models of so many variants of the product, each with a
            threshold of its own; "auto" is several where the images given to fit show them.
        calibrate_on: "held_out" keeps images back to set the threshold; "cross" trains on all, and sets it by what
            models of other images say of each, which is approximate, and for the linear heads of the preset features
            alone; "auto" crosses where that can be, and fewer than 200 would be held back. See docs/verdicts.md.
        resize: "stretch" to the size, or keep the aspect ratio and "pad" with black.
        binarize: None, or a level in (0, 1) above which values become 1, and others 0.
        train_config: further settings of `vae_core.TrainConfig`, by name.
        random_state: int, for a result that repeats; a RandomState, or None, to draw one from.
        verbose: 1 prints a line an epoch.

    Attributes:
        model_: the `vae_core.Model`.
        threshold_: images with a higher anomaly score are anomalous; `offset_` is minus that.
        fpr_: the rate that the threshold promises.
        calibration_scores_: (n,) anomaly scores of the calibration images. Of several variants, anomaly scores are less
            the level of each, once there is a threshold: it is right for all of them then.
        history_: of the training, a list with an entry an epoch each; see `vae_core.Training`.
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

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] | None = None,
        channels: int | str = AUTO,
        fpr: float = 0.05,
        preset: str = "auto",
        backbone: str | None = None,
        head: str | None = None,
        likelihood: str = "auto",
        sigma: float | None = None,
        statistic: str = "auto",
        smoothing_px: int = 0,
        epochs: int = 150,
        patience: int = 20,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        denoising: float = 0.0,
        locate: str = AUTO,
        variants: int | str = AUTO,
        calibrate_on: str = AUTO,
        resize: str = "stretch",
        binarize: float | None = None,
        train_config: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.image_size = image_size
        self.channels = channels
        self.fpr = fpr
        self.preset = preset
        self.backbone = backbone
        self.head = head
        self.likelihood = likelihood
        self.sigma = sigma
        self.statistic = statistic
        self.smoothing_px = smoothing_px
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.denoising = denoising
        self.locate = locate
        self.variants = variants
        self.calibrate_on = calibrate_on
        self.resize = resize
        self.binarize = binarize
        self.train_config = train_config
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> NelboDetector:  # noqa: ARG002, N803 - scikit-learn's names
        """Train on normal images and calibrate on some that are held back, or see `calibrate_on`.

        Copies of an image count once. Calibration gets the larger of 20 % and what `fpr` needs, validation 15 % (none
        where the model is solved). Where that is too few for `fpr`, the detector has scores but no threshold, and a
        warning says so.

        Args:
            X: normal images, at least 3.
            y: ignored.

        Raises:
            ValueError: parameters or images that cannot be used.
            FloatingPointError: the training diverged.
        """
        from nelbo.vae_core import check_together, train

        n_needed(self.fpr)
        size = inputs.as_size(self.image_size)
        seed = _seed(self.random_state)
        # Wrong parameters are told before files are read.
        self._configs(size or DEFAULT_SIZE, seed)
        found = self._validate(inputs.stacked(X), reset=True)
        scale, channels = learn_scale(found), self._channels(found)
        rows = None
        if isinstance(found, np.ndarray) and found.ndim == 2:
            rows = inputs.learn_rows(found, size, channels)
            size = size or rows.input_size
        images = _read(found, rows, scale)
        size = size or DEFAULT_SIZE
        frame = None if rows is not None else self._frame(images)
        config, train_config, preprocessing = self._configs(
            frame.crop_size(math.prod(size)) if frame else size, seed, channels
        )
        preprocessing = replace(self._with_floats(preprocessing, found), frame=frame)
        check_together(config, train_config)
        prepared = _prepared(images, preprocessing)
        pixels = prepared.pixels
        ids = _contents(pixels)
        rows_of = self._share_out(ids, config.is_linear, seed)
        training = train(
            pixels[rows_of["train"]],
            pixels[rows_of["validation"]] if "validation" in rows_of else None,
            config,
            train_config,
            preprocessing=preprocessing.to_dict(),
            images_of_variant=self._images_of_variant(rows_of),
            names=[f"X[{row}]" if isinstance(found, np.ndarray) else str(found[row]) for row in rows_of["train"]],
            callbacks=_progress(train_config.epochs) if self.verbose else (),
        )
        for text in training.warnings:
            warnings.warn(text, ConvergenceWarning, stacklevel=2)
        self.model_, self.history_, self.rows_, self.scale_ = training.model, training.history, rows, scale
        self._seen = frozenset(ids[row] for part in ("train", "validation") for row in rows_of.get(part, ()))
        self._calibration: Calibration | None = None
        if "calibration" in rows_of:
            self._calibrate(prepared.take(rows_of["calibration"]), self.fpr)
        elif (
            training.unseen is not None
            and self.calibrate_on != "held_out"
            and len(rows_of["train"]) >= n_needed(self.fpr)
        ):
            self._set_calibration(training.unseen, prepared.take(rows_of["train"]), self.fpr, cross=True)
        else:
            warnings.warn(f"Fitted, but not calibrated. {self._missing()}", UserWarning, stacklevel=2)
        return self

    def calibrate(self, X: Any, fpr: float | None = None) -> NelboDetector:  # noqa: N803
        """Set the threshold from other normal images, without training again.

        Args:
            X: normal images that fit did not train or validate on; copies count once.
            fpr: promised false-positive rate; None takes the parameter `fpr`.

        Raises:
            CalibrationError: too few images for `fpr`; a ValueError.
            ValueError: images that fit has seen.
        """
        check_is_fitted(self)
        fpr = self.fpr if fpr is None else fpr
        n_needed(fpr)
        prepared = _prepared(self._images(X), self._preprocessing)
        self._warn_of_colour(prepared.n_coloured)
        row_of = _first_of_each(_contents(prepared.pixels))
        seen = [row for image, row in row_of.items() if image in self._seen]
        if seen:
            raise ValueError(
                f"fit has trained or validated on {len(seen)} of the {len(row_of)} different images (the first is "
                f"number {min(seen)}), and their scores are too good. Leave out the images given to fit"
            )
        check_size(len(row_of), fpr)
        self._calibrate(prepared.take(list(row_of.values())), fpr)
        return self

    def score_samples(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """(n,) minus the anomaly score: higher = more normal; needs no calibration.

        The anomaly score is the model's statistic: standard deviations for "peak" and "joint", nats for "nelbo".
        """
        return -self._judged(X)[0]

    def elbo(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """(n,) evidence lower bound in nats: higher = more normal."""
        return -self._scores(X, "nelbo")

    def anomaly_map(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """(n, height, width) nats a pixel of the network's input; they add up to the distortion, higher = worse."""
        return self._scores(X, "anomaly_map", maps=True)

    def decision_function(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """(n,) ``score_samples - offset_``: below 0 is anomalous.

        Raises:
            NotCalibratedError: there is no threshold.
        """
        threshold = self.threshold_
        return decision_function(self._judged(X)[0], threshold)

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """(n,) -1 for anomalous, 1 for normal images.

        Raises:
            NotCalibratedError: there is no threshold.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """(n,) how extreme an image is among the calibration images, in (0, 1]; anomalous where it is at most fpr.

        Raises:
            NotCalibratedError: there is no calibration.
        """
        calibration = self._calibrated()
        scores, variants = self._judged(X)
        return calibration.p_values(scores, variants)

    @property
    def threshold_(self) -> float:
        """Anomaly scores above it are anomalous."""
        return self._calibrated().threshold

    @property
    def offset_(self) -> float:
        """Values of `score_samples` below it are anomalous."""
        return -self._calibrated().threshold

    @property
    def fpr_(self) -> float:
        """The false-positive rate that the threshold promises."""
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
        if target.exists() and _recorded(folder).model_id != model_id:
            raise FileExistsError(f"{folder} holds another detector: choose another folder, or delete it")
        names = getattr(self, "feature_names_in_", None)
        record = Record(
            model_id=model_id,
            params=plain(self.get_params()),
            fpr=None if self._calibration is None else self._calibration.fpr,
            calibration_scores=np.empty(0) if self._calibration is None else self._calibration.scores,
            cross=self._calibration is not None and self._calibration.cross,
            variants=None if self._calibration is None else self._calibration.variants,
            rows=self.rows_,
            scale=self.scale_,
            feature_names=None if names is None else list(names),
            seen=sorted(self._seen),
            history=self.history_,
        )
        write_json(record.to_dict(), target)
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> NelboDetector:
        """Read what `save` wrote, after checking every checksum; nothing in the folder is executed.

        Raises:
            ValueError: damaged, incomplete, or of another version.
        """
        from nelbo.vae_core import load_bundle

        folder = Path(folder)
        record = _recorded(folder)
        detector = cls()
        unknown = sorted(set(record.params) - set(detector.get_params()))
        if unknown:
            raise ValueError(f"{folder}/detector.json has unknown parameters {unknown[:5]}. Update nelbo.")
        size = record.params.get("image_size")
        detector.set_params(**record.params | {"image_size": tuple(size) if isinstance(size, list) else size})
        detector.model_, detector.history_ = load_bundle(folder / record.model_id), record.history
        detector.rows_, detector.scale_ = record.rows, record.scale
        _check_model(folder, detector.model_, record)
        detector._seen = frozenset(record.seen)
        detector._calibration = None
        if record.fpr is not None:
            detector._calibration = Calibration(record.fpr, record.calibration_scores, record.cross, record.variants)
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

    def _channels(self, found: Found) -> int:
        """The parameter, or what the images of fit decide."""
        from nelbo.data import first_coloured, is_coloured

        if self.channels != AUTO:
            return int(self.channels)
        if isinstance(found, np.ndarray):
            # Rows have no channels: what stands side by side in them is not known to be one pixel.
            return 3 if found.ndim == 4 and any(map(is_coloured, found)) else 1
        return 1 if first_coloured(found) is None else 3

    def _configs(
        self, size: tuple[int, int], seed: int, channels: int = 1
    ) -> tuple[VAEConfig, TrainConfig, Preprocessing]:
        """What the parameters say about network, training and preprocessing; `channels` where these are left open."""
        from nelbo.data import Preprocessing
        from nelbo.vae_core import TrainConfig, VAEConfig

        params = plain(self.get_params())
        if params["channels"] not in (AUTO, 1, 3):
            raise ValueError(f"channels={self.channels!r}: expected 1 (grey), 3 (RGB) or {AUTO!r}")
        height, width = size
        further = params["train_config"] or {}
        own = {name: params[name] for name in _TRAINED}
        unknown = sorted(set(further) - (set(TrainConfig().to_dict()) - set(own) - {"seed"}))
        if unknown:
            raise ValueError(
                f"train_config={unknown}: expected further settings of vae_core.TrainConfig; "
                f"{', '.join(own)} and random_state are parameters of their own"
            )
        config = VAEConfig(
            height=height,
            width=width,
            channels=channels if params["channels"] == AUTO else params["channels"],
            **{name: params[name] for name in ("preset", "backbone", "head", "likelihood", "sigma", "statistic")},
            smoothing_px=params["smoothing_px"],
        )
        train_config = TrainConfig(**own, **further, seed=seed)
        return config, train_config, Preprocessing(height, width, config.channels, self.resize, params["binarize"])

    def _with_floats(self, preprocessing: Preprocessing, found: Found) -> Preprocessing:
        """With the range that files in floats go by, as those of fit do."""
        from nelbo.data import float_range

        if isinstance(found, np.ndarray):
            return preprocessing
        return replace(preprocessing, float_range=float_range(found) or (0.0, 1.0))

    def _validate(self, X: Any, *, reset: bool) -> Found:  # noqa: N803
        """Paths, images (n, h, w[, c]) or rows (n, n_features), checked as scikit-learn checks them."""
        n_least = MIN_IMAGES if reset else 1
        paths = inputs.as_paths(X)
        if paths is None and inputs.n_dimensions(X) <= 2:
            return inputs.native(validate_data(self, X, reset=reset, ensure_min_samples=n_least))
        if reset and hasattr(self, "n_features_in_"):
            # Of an earlier fit, on rows.
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
                "this detector was fitted on images: expected paths, or an array (n, height, width), with 1 or 3 "
                "channels behind. One image alone is image[None]"
            )
        if not as_rows and self.rows_ is not None:
            raise ValueError("this detector was fitted on rows: expected an array (n, n_features)")
        return _read(self._validate(X, reset=False), self.rows_, self.scale_)

    def _scores(self, X: Any, name: str, *, maps: bool = False) -> NDArray[np.float64]:  # noqa: N803
        """One field of the scores of X."""
        check_is_fitted(self)
        images = self._images(X)
        return np.concatenate([np.asarray(getattr(score, name), np.float64) for score in self._scored(images, maps)])

    def _judged(self, X: Any) -> tuple[NDArray[np.float64], NDArray[Any] | None]:  # noqa: N803
        """(n,) anomaly scores, and numbers of variants, None where there is one."""
        check_is_fitted(self)
        found = list(self._scored(self._images(X), maps=False))
        scores = np.concatenate([np.asarray(score.anomaly_score, np.float64) for score in found])
        if not self.model_.config.variants:
            return scores, None
        variants = np.concatenate([score.variant for score in found])
        return scores if self._calibration is None else self._calibration.levelled(scores, variants), variants

    def _scored(self, images: Images, maps: bool) -> Iterator[Score]:
        """The scores, in chunks, so that not all files are in memory at once."""
        from nelbo.vae_core import score

        preprocessing = self._preprocessing
        n_chunk = max(1, _CHUNK_VALUES // preprocessing.n_values)
        n_coloured = 0
        for start in range(0, len(images), n_chunk):
            prepared = _prepared(images[start : start + n_chunk], preprocessing)
            n_coloured += prepared.n_coloured
            found = score(self.model_, prepared.pixels, maps=maps)
            yield found._replace(anomaly_score=self._with_sizes(found.anomaly_score, prepared))
        self._warn_of_colour(n_coloured)

    def _warn_of_colour(self, n: int) -> None:
        """Said where nobody asked for grey."""
        if n and self.channels == AUTO:
            warnings.warn(
                f"{n} images have colour, and those given to fit were grey: what is wrong in colour alone is missed. "
                "Fit on images in colour, or set channels=1.",
                UserWarning,
                stacklevel=2,
            )

    def _calibrate(self, prepared: _Prepared, fpr: float) -> None:
        from nelbo.vae_core import score

        self._set_calibration(score(self.model_, prepared.pixels, maps=False), prepared, fpr)

    def _with_sizes(self, scores: NDArray[Any], prepared: _Prepared) -> NDArray[Any]:
        """Anomaly scores with how far the parts' sizes are off, as verdicts of files have it."""
        from nelbo.data import IN_DEVIATIONS

        return scores + prepared.size_z if self.model_.config.statistic in IN_DEVIATIONS else scores

    def _share_out(self, ids: Sequence[str], solved: bool, seed: int) -> dict[str, list[int]]:
        """The rows of each part: of copies only the first.

        Args:
            ids: content of each image.
            solved: whether the model needs no validation images, and can be crossed.
        """
        from nelbo.data import split_by_content

        if self.calibrate_on not in (AUTO, "held_out", "cross"):
            raise ValueError(f"calibrate_on={self.calibrate_on!r}: expected 'auto', 'held_out' or 'cross'")
        if self.calibrate_on == "cross" and not solved:
            raise ValueError(
                "calibrate_on='cross' is of the linear heads of the preset features; leave it out, or set preset"
            )
        row_of = _first_of_each(ids)
        if len(row_of) < MIN_IMAGES:
            raise ValueError(f"n_samples={len(ids)}, {len(row_of)} of them different: expected at least {MIN_IMAGES}")
        sizes = part_sizes(len(row_of), n_needed(self.fpr))
        if solved:
            del sizes["validation"]
            few = sizes["calibration"] < HELD_OUT_FROM
            if self.calibrate_on == "cross" or (self.calibrate_on == AUTO and few):
                sizes = {}
        parts = split_by_content(list(row_of), sizes, "train", seed)
        rows_of: dict[str, list[int]] = {}
        for row, part in zip(row_of.values(), parts, strict=True):
            rows_of.setdefault(part, []).append(row)
        return rows_of

    def _images_of_variant(self, rows_of: Mapping[str, Sequence[int]]) -> int:
        """Images that a variant needs so that there are enough to set its threshold."""
        return images_of_variant(n_needed(self.fpr), len(rows_of["train"]), len(rows_of.get("calibration", ())))

    def _frame(self, images: Images) -> Frame | None:
        """What brings the parts of the images to lie alike; None where none are looked for."""
        from nelbo.data import Preprocessing, look_for_parts
        from nelbo.data.decoder.preprocessing import picture_of
        from nelbo.data.part.framing import choose_frame, some_of
        from nelbo.data.part.part import look

        if self.locate not in (AUTO, "on", "off"):
            raise ValueError(f"locate={self.locate!r}: expected 'auto', 'on' or 'off'")
        if self.locate == "off":
            return None
        some = some_of(images)
        paths = [image for image in some if isinstance(image, Path)]
        pictures = (picture_of(image, Preprocessing()) for image in some if isinstance(image, np.ndarray))
        seen = look_for_parts(paths) if paths else [look(picture.values) for picture in pictures]
        return choose_frame(seen, self.locate)[0]

    def _set_calibration(self, found: Score, prepared: _Prepared, fpr: float, *, cross: bool = False) -> None:
        scores = np.asarray(self._with_sizes(found.anomaly_score, prepared), np.float64)
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


def _seed(random_state: Any) -> int:
    """The seed of a training; a RandomState, and NumPy's own for None, moves on."""
    state = check_random_state(random_state)
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(state.randint(2**31 - 1))


def _read(found: Found, rows: inputs.Rows | None, scale: Scale) -> Images:
    """Paths, or images: uint8 or uint16 over their whole range, or numbers in [0, 1]."""
    if not isinstance(found, np.ndarray):
        return found
    if rows is None:
        return scale.read(found)
    if rows.value_range is not None:
        return list(rows.images(found))
    return [rows.images(row)[0] for row in scale.read(found, clip=True)]


class _Prepared(NamedTuple):
    """Images as the model takes them.

    pixels: (n, h, w, c) float32 in [0, 1].
    size_z: (n,) how far each part's size is off, see `data.Part`; 0 where none is looked for.
    n_coloured: images with colour that one channel does not hold.
    """

    pixels: Pixels
    size_z: NDArray[np.float64]
    n_coloured: int

    def take(self, rows: list[int]) -> _Prepared:
        """Some of them."""
        return self._replace(pixels=self.pixels[rows], size_z=self.size_z[rows])


def _prepared(images: Images, preprocessing: Preprocessing) -> _Prepared:
    """The images, or a ValueError that names the files that cannot be read."""
    from nelbo.data import is_coloured, prepare_with_part, read_images

    arrays = [image for image in images if isinstance(image, np.ndarray)]
    if arrays:
        values, parts = zip(*(prepare_with_part(image, preprocessing) for image in arrays), strict=True)
        n_coloured = sum(map(is_coloured, arrays)) if preprocessing.channels == 1 else 0
        return _Prepared(np.stack(values), _size_z(parts), n_coloured)
    paths = [image for image in images if isinstance(image, Path)]
    found = read_images(paths, preprocessing)
    bad = [
        f"{path} ({reason if path.exists() else 'does not exist'})"
        for path, reason in zip(paths, found.reasons, strict=True)
        if reason is not None
    ]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(f"{len(bad)} of {len(paths)} images cannot be read: {', '.join(bad[:5])}{more}")
    return _Prepared(found.pixels, _size_z(found.parts), int(found.drops_colour.sum()))


def _size_z(parts: Sequence[Part | None]) -> NDArray[np.float64]:
    return np.array([0.0 if part is None else part.size_z for part in parts])


def _contents(pixels: Pixels) -> list[str]:
    """A hash of each image, so that copies are known."""
    return [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in pixels]


def _first_of_each(ids: Sequence[str]) -> dict[str, int]:
    """Content -> the first row that has it, in the order of the rows."""
    first: dict[str, int] = {}
    for row, image in enumerate(ids):
        first.setdefault(image, row)
    return first


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


def _recorded(folder: Path) -> Record:
    """The record of a saved detector, checked."""
    from nelbo.data.sources.files import open_regular

    path = folder / "detector.json"
    try:
        with open_regular(path) as file:
            return parse(file.read())
    except OSError as error:
        raise ValueError(f"{folder} is not a saved detector: {error}.") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}. Restore it from a copy, or fit again.") from error


def _check_model(folder: Path, model: Model, record: Record) -> None:
    """The model's preprocessing, and the rows, must go with its network."""
    from nelbo.data import Preprocessing

    try:
        preprocessing = Preprocessing(**model.preprocessing)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}: the model is not one of a detector ({error})") from error
    size = (preprocessing.height, preprocessing.width, preprocessing.channels)
    if size != (model.config.height, model.config.width, model.config.channels):
        raise ValueError(f"{folder}: images are prepared as {size}, which the network does not take. Fit again.")
    if record.rows is not None and record.rows.shape[2] != preprocessing.channels:
        raise ValueError(f"{folder}: rows are read with {record.rows.shape[2]} channels. Fit again.")
