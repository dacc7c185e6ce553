"""Training on normal images."""

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.config import SIGMA_FLOOR, TrainConfig, VAEConfig, check_together
from nelbo.vae_core.device import check_devices, compute_in_float32, data_parallel, jit_compile, make_deterministic
from nelbo.vae_core.features.representation import Values, fit_representation
from nelbo.vae_core.linear.curve import LearningCurve
from nelbo.vae_core.linear.solving import Solved, solve
from nelbo.vae_core.model import Model, draw_eps, usual_of
from nelbo.vae_core.network.vae import VAE
from nelbo.vae_core.pixels import PixelRows, fingerprint, mean_and_std, supported, to_unit
from nelbo.vae_core.scoring import Score, check_finite, default_batch_size, refuse_unsupported
from nelbo.vae_core.seen import Outside, check_outside, places_of
from nelbo.vae_core.tiles.fitting import SolvedTiles, solve_tiles
from nelbo.vae_core.training.averaging import Averages, AveragingAdam
from nelbo.vae_core.training.batches import Batches
from nelbo.vae_core.training.checkpoint import Checkpoint
from nelbo.vae_core.training.diagnosis import diagnose

#: Held-out images that a trained network is examined on.
_EXAMINED = 64
#: Adam's beta_2 for pixels: a sudden gradient moves a weight by at most (1 - beta_1) / sqrt(1 - beta_2) learning rates,
#: here by one, with Keras's 0.999 by three. docs/evidence/experiments.md says what that changed.
_BETA_2 = 0.99


class Training(NamedTuple):
    """What training gives.

    model: with the weights of the best epoch.
    history: for each epoch ``loss``; ``nelbo``, ``distortion``, ``rate`` (nats) and ``sigma`` (where the likelihood
        has one), means over the training images, and the same with ``val_``; ``learning_rate``, ``rate_weight``,
        ``images_per_s`` and ``seconds``.
    warnings: sentences for people; see `nelbo.vae_core.training.diagnosis`.
    unseen: for a linear head, the scores of each image that was given by models of others; None for other heads.
    of_others: for a linear head, a model that has not seen some of these images; apart: (k,) their rows.
    curve: for a linear head, what more images bring; None where there are too few to say.
    kinds: for a linear head that looks for variants, (n,) number of each image's kind, 0 for the commonest, including
        kinds too rare to have a model of their own.
    """

    model: Model
    history: dict[str, list[float]]
    warnings: list[str]
    unseen: Score | None = None
    of_others: Model | None = None
    apart: NDArray[np.int64] | None = None
    curve: LearningCurve | None = None
    kinds: NDArray[np.int64] | None = None


class Epochs(keras.callbacks.Callback):
    """Sets what changes from epoch to epoch, and writes the history.

    Args:
        batches: told which epoch they belong to.
        names: of the training images, for errors.
        rows: the history, one row for each epoch; extended here.
    """

    def __init__(self, batches: Batches, names: Sequence[str] | None, rows: list[dict[str, float]]) -> None:
        super().__init__()
        self.batches, self.names, self.rows = batches, names, rows
        self.settings = batches.train_config

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras names them
        """Set the weight of the rate and the learning rate."""
        settings = self.settings
        self.batches.start(epoch)
        warmed = min(1.0, (epoch + 1) / settings.warmup_epochs) if settings.warmup_epochs else 1.0
        self.changing = {"rate_weight": settings.beta * warmed, "learning_rate": learning_rate(settings, epoch)}
        self.model.rate_weight.assign(self.changing["rate_weight"])
        self.model.optimizer.learning_rate = self.changing["learning_rate"]
        self.seconds, self.started = 0.0, time.perf_counter()

    def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        """Stop the clock: validation does not count in images per second."""
        self.seconds = time.perf_counter() - self.started

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Extend the history, or raise an error that names the images that made the loss NaN."""
        finite = logs.pop("finite")
        logs.pop("val_finite")
        # Keras's own mean of the loss is over batches, whose sizes differ.
        logs |= {f"{kind}loss": logs.pop(f"{kind}objective") for kind in ("", "val_")}
        if finite < 1 or not np.isfinite(list(logs.values())).all():
            raise FloatingPointError(self._failure(epoch, finite))
        measured = {
            "images_per_s": len(self.batches.pixels) / self.seconds,
            "seconds": time.perf_counter() - self.started,
        }
        logs |= self.changing | measured
        self.rows.append({name: float(value) for name, value in logs.items()})

    def _failure(self, epoch: int, finite: float) -> str:
        settings = self.settings
        clip = f"below {settings.clip_norm:g}" if settings.clip_norm else "(try 1000)"
        remedy = f"Train with a learning rate below {settings.learning_rate:g}, or with clip_norm {clip}"
        # Once a loss is not finite, no later one of the epoch is. The share of them is a 32-bit number, and with
        # several devices one of them may have gone before the others.
        n_batches = len(self.batches)
        index = math.floor(finite * n_batches + 0.01)
        what = "loss" if index < n_batches else "validation loss after the last update"
        index = min(index, n_batches - 1)
        rows = self.batches.rows(index)
        shown = [repr(self.names[row]) if self.names else f"image {row}" for row in rows[:5]]
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        return (
            f"the {what} became NaN or infinite in epoch {epoch + 1}, batch {index + 1} of {n_batches} "
            f"({', '.join(shown)}{more}). {remedy}, and look at these images."
        )


def learning_rate(settings: TrainConfig, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0.

    >>> cosine = TrainConfig(epochs=4, learning_rate=0.1, learning_rate_schedule="cosine")
    >>> [round(learning_rate(cosine, epoch), 4) for epoch in range(4)]
    [0.1, 0.0854, 0.05, 0.0146]
    """
    if settings.learning_rate_schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))


def train(
    pixels: PixelRows,
    validation: PixelRows | None = None,
    config: VAEConfig | None = None,
    train_config: TrainConfig | None = None,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    variants: Sequence[str] | None = None,
    images_of_variant: int = 19,
    outside: Outside | None = None,
    checkpoint: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    backbone_callbacks: Sequence[keras.callbacks.Callback] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> Training:
    """Fit a VAE on normal images and learn what is usual for each place.

    A linear head is solved on all images that are given, and what is usual is learnt by cross-fitting: each image is
    scored by a model of images of other folds. Other networks are trained on `pixels` until the scores of `validation`
    no longer improve.

    Args:
        pixels: (n, h, w, c), normal images: float in [0, 1], or uint8 or uint16 over their whole range. Only the
            images of a few batches are read at a time, so a memory map may be larger than memory.
        validation: (m, h, w, c), other normal images: they stop the training, and give the usual local
            negative ELBO. A linear head needs none. Neither set may hold an image that a threshold is calibrated on,
            unless the calibration uses `Training.unseen`.
        config: the network; by default for features of 256 x 256 grey pixels.
        train_config: epochs, batches, seed.
        preprocessing: kept with the model, as it is.
        names: of the training images, for errors; by default their row numbers.
        folds: for a linear head, (n + m,) the fold of each image, pixels first; images that are not independent, such
            as views of one part, belong in one. By default the images take five folds in turn.
        variants: for a linear head, (n + m,) the name of each image's variant of the product, if that is known; each
            gets a model of its own. By default `TrainConfig.variants` says how many there are.
        images_of_variant: images that each variant needs, if the images decide how many variants there are; by default
            as many as a promised false-alarm rate of 5 % needs.
        outside: for a linear head, (rows, columns) share of each part of the picture that is ignored, 0 to 1:
            places that are mostly ignored affect nothing. Their content should be the same in all images.
        checkpoint: a file written after every epoch. If it exists, and belongs to the same training, training
            goes on after its last finished epoch and ends as if it had never stopped.
        callbacks: further Keras callbacks; a linear head has no epochs to call them in.
        backbone_callbacks: the same, for the training of the backbone ``self_trained``.
        advance: called by a linear head with the number of images whose features it has computed since the last call.

    Returns:
        The model, the history of its training, warnings, and what it says of images that it has not seen.

    Raises:
        BackboneError: the backbone's weights are missing, or of another network; a ValueError too.
        ValueError: an empty set, a shape that is not the network's, or more devices than there are.
        PixelsError: values that the likelihood is not defined for; a ValueError too.
        FloatingPointError: the loss became NaN or infinite; the message names the images of the batch.

    >>> from nelbo.vae_core import TrainConfig, VAEConfig, train
    >>> normals = np.random.default_rng(0).random((8, 16, 16, 1), np.float32)
    >>> training = train(normals[:6], normals[6:], VAEConfig(height=16, width=16), TrainConfig(epochs=2))
    >>> len(training.history["val_nelbo"])
    2
    """
    config, train_config = config or VAEConfig(), train_config or TrainConfig()
    check_together(config, train_config)
    check_devices(train_config)
    compute_in_float32()
    if train_config.deterministic:
        make_deterministic()
    if checkpoint is not None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    _check_outside(config, outside)
    sets = {"pixels": pixels} | ({} if validation is None else {"validation": validation})
    for name, images in sets.items():
        _check_images(name, images, config, names if name == "pixels" else None)
    config = _scaled(config, pixels)
    folder = None if checkpoint is None else checkpoint.parent
    kept = None if checkpoint is None else checkpoint.with_name(f"backbone-{checkpoint.name}")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".features-") as aside:
        if config.is_linear:
            solved = solve(
                list(sets.values()),
                config,
                train_config,
                preprocessing=preprocessing or {},
                folds=folds,
                variants=variants,
                images_of_variant=images_of_variant,
                aside=Path(aside),
                outside=outside,
                checkpoint=kept,
                advance=advance,
                backbone_callbacks=backbone_callbacks,
            )
            history = solved_history(solved)
            return Training(
                solved.model,
                history,
                solved.warnings,
                solved.unseen,
                solved.of_others,
                solved.apart,
                solved.curve,
                solved.kinds,
            )
        if validation is None:
            raise ValueError(
                f"validation: the {config.head or config.preset} network needs images that decide when training stops"
            )
        representation, values = None, Values(pixels, validation)
        if not config.is_pixels:
            representation, values = fit_representation(
                pixels, validation, config, train_config, Path(aside), kept, backbone_callbacks
            )
        with data_parallel(train_config.devices):
            network = _make_network(config, train_config)
            batches = Batches(values.train, config, train_config)
            rows = _fit(network, batches, values.validation, names, checkpoint, callbacks)
        trained, network = network, VAE(config)
        # Scores come from one device, in float32, whatever the training was.
        network.set_weights(trained.get_weights())
        eps = draw_eps(config, train_config.seed)
        usual = usual_of(network, eps, values.validation)
        warnings = diagnose(network, to_unit(values.validation[:_EXAMINED]))
    model = Model(
        config,
        network,
        eps,
        usual.mean,
        usual.std,
        dict(preprocessing or {}),
        representation=representation,
        usual_statistics=usual.statistics,
    )
    history = {name: [row[name] for row in rows] for name in rows[0]}
    return Training(model, history, warnings)


def train_tiles(
    wholes: Iterable[NDArray[Any]],
    config: VAEConfig,
    train_config: TrainConfig | None = None,
    *,
    preprocessing: Mapping[str, Any],
    folds: Sequence[int],
    outside: Outside | None = None,
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Training:
    """The same as `train` for images seen in tiles at their own resolution: solved, and cross-fitted image by image.

    Args:
        wholes: normal images, each (rows, columns) or (rows, columns, channels), see `vae_core.score_tiles`; taken one
            after the other, once.
        config: with `tile_overlap`.
        train_config: of the training.
        preprocessing: kept with the model, as it is.
        folds: the fold of each image; its tiles are in no other.
        outside: (rows, columns) share of each part of the pictures that is ignored, as in `train`.
        folder: for what is unfinished: the features, 0.1 MB for each tile. By default the system's for temporary files.
        advance: called with the number of images whose features have been computed since the last call.

    Raises:
        BackboneError: the backbone's weights are missing, or of another network; a ValueError too.
        ValueError: settings that do not fit together, too few images, or one smaller than a tile.
        FloatingPointError: an image has scores that are NaN or infinite.

    >>> from nelbo.vae_core import VAEConfig, train_tiles
    >>> wholes = np.random.default_rng(0).integers(0, 256, (10, 64, 90), np.uint8)
    >>> config = VAEConfig(64, 64, backbone="filters", tile_overlap=8)
    >>> training = train_tiles(wholes, config, preprocessing={"tile_scale": 1.0}, folds=[0, 1] * 5)
    >>> training.unseen.anomaly_score.shape, training.model.config.subject
    ((10,), 'free')
    """
    train_config = train_config or TrainConfig()
    check_together(config, train_config)
    _check_outside(config, outside)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".features-") as aside:
        solved = solve_tiles(
            wholes,
            config,
            train_config,
            preprocessing=preprocessing,
            folds=folds,
            outside=outside,
            aside=Path(aside),
            advance=advance,
        )
    check_finite("anomaly_score", solved.unseen.anomaly_score)
    return Training(solved.model, solved_history(solved), solved.warnings, solved.unseen)


def _check_outside(config: VAEConfig, outside: Outside | None) -> None:
    """Raise a ValueError for an ignored area that this network cannot leave out, or that leaves it nothing."""
    if outside is None:
        return
    if not config.is_linear:
        raise ValueError(
            f"{config.head or config.preset}: only linear heads can leave places out. Take one, or ignore nothing"
        )
    check_outside(outside)
    if not config.is_tiled:
        places_of(config, outside)


def solved_history(solved: Solved | SolvedTiles) -> dict[str, list[float]]:
    """The history of one epoch: a solution has no more. ``val_`` is of images unseen by the model that scored them."""
    unseen = solved.unseen
    row = {
        "loss": solved.nelbo,
        "nelbo": solved.nelbo,
        # Means over the images, for people to look at.
        **{f"val_{name}": float(getattr(unseen, name).mean()) for name in ("nelbo", "distortion", "rate")},
        "seconds": solved.seconds,
        "images_per_s": len(unseen.nelbo) / solved.seconds,
    }
    return {name: [value] for name, value in (row | {"val_loss": row["val_nelbo"]}).items()}


def _scaled(config: VAEConfig, pixels: PixelRows) -> VAEConfig:
    """The configuration with the mean and standard deviation of the pixels, if the network models pixels."""
    if not config.is_pixels or config.pixel_mean is not None:
        return config
    mean, std = mean_and_std(pixels, default_batch_size(config))
    # Constant images vary by their rounding at least.
    return replace(config, pixel_mean=mean, pixel_std=max(std, SIGMA_FLOOR))


def _make_network(config: VAEConfig, train_config: TrainConfig) -> VAE:
    network = VAE(config, train_config.seed, train_config)
    # The losses of whitened features hardly jump: docs/evidence/experiments.md.
    adam = partial(AveragingAdam, beta_2=_BETA_2) if config.is_pixels else keras.optimizers.Adam
    optimizer = adam(
        float(train_config.learning_rate),
        weight_decay=train_config.weight_decay or None,
        global_clipnorm=train_config.clip_norm,
    )
    # Weight decay leaves biases, scales and norms alone.
    optimizer.exclude_from_weight_decay(
        var_list=[variable for variable in network.trainable_variables if len(variable.shape) < 2]
    )
    # TensorFlow would trace a step twice that creates variables.
    optimizer.build(network.trainable_variables)
    network.compile(optimizer, jit_compile=jit_compile())
    return network


def _check_images(name: str, images: PixelRows, config: VAEConfig, names: Sequence[str] | None) -> None:
    if images.shape[1:] != (config.height, config.width, config.channels) or not len(images):
        expected = f"(n >= 1, {config.height}, {config.width}, {config.channels})"
        raise ValueError(f"{name} has shape {images.shape}, expected {expected}")
    size = default_batch_size(config)
    unsupported: list[int] = []
    for start in range(0, len(images), size):
        pixels = to_unit(images[start : start + size])
        if not ((pixels >= 0) & (pixels <= 1)).all():
            raise ValueError(f"{name} lie outside [0, 1], or are NaN; divide 8-bit values by 255")
        unsupported.extend(start + np.flatnonzero(~supported(pixels, config.likelihood)))
    refuse_unsupported(config, [repr(names[row]) if names else f"{name}, image {row}" for row in unsupported])


def _fit(
    network: VAE,
    batches: Batches,
    validation: PixelRows,
    names: Sequence[str] | None,
    checkpoint: Path | None,
    callbacks: Sequence[keras.callbacks.Callback],
) -> list[dict[str, float]]:
    """Fit until patience ends and leave the best weights in the network; the history, one row for each epoch."""
    settings = batches.train_config
    rows: list[dict[str, float]] = []
    early_stopping = keras.callbacks.EarlyStopping(
        "val_nelbo", mode="min", patience=settings.patience, restore_best_weights=True
    )
    own: list[keras.callbacks.Callback] = [early_stopping, Epochs(batches, names, rows)]
    if network.config.is_pixels:
        own.append(Averages())
    first = 0
    if checkpoint is not None:
        facts = {
            "config": network.config.to_dict(),
            "train_config": settings.to_dict(),
            "images": [fingerprint(batches.pixels), fingerprint(validation)],
        }
        kept = Checkpoint(checkpoint, facts, early_stopping, rows)
        kept.restore(network)
        own.append(kept)
        first = settings.epochs if kept.has_stopped else len(rows)
    network.fit(
        batches,
        shuffle=False,
        epochs=settings.epochs,
        initial_epoch=first,
        validation_data=Batches(validation, network.config, settings, validation=True),
        callbacks=[*own, *callbacks],
        verbose=0,
    )
    return rows
