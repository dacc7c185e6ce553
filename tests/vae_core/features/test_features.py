"""The preset `features`: a VAE on the features of a backbone, and how these are made."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.stats import multivariate_normal, norm

import nelbo.vae_core.features.pretext
import nelbo.vae_core.features.representation
from nelbo.vae_core import (
    BackboneError,
    Model,
    TrainConfig,
    Training,
    VAEConfig,
    importance_weighted_bound,
    load_bundle,
    save_bundle,
    score,
    train,
)
from nelbo.vae_core.config import BACKBONES
from nelbo.vae_core.features.backbones import build_backbone, load_weights
from nelbo.vae_core.features.pretext import BATCH_SIZE, Crops, _network
from nelbo.vae_core.features.representation import Representation, fit_representation, whitening_of
from nelbo.vae_core.linear.moments import Moments
from nelbo.vae_core.model import draw_eps
from nelbo.vae_core.network.vae import VAE

CONFIG = VAEConfig(height=96, width=64, preset="features", backbone="self_trained", head="deep", statistic="peak")
SETTINGS = TrainConfig(epochs=2, pretext_steps=4, batch_size=16)
pytestmark = pytest.mark.usefixtures("eager")


def waves(random: np.random.Generator, n: int) -> np.ndarray:
    """(n, 96, 64, 1) float32: stripes of one kind."""
    rows = np.arange(96)[None, :, None, None]
    phase, grain = random.normal(0, 0.3, (n, 1, 1, 1)), random.normal(0, 0.03, (n, 96, 64, 1))
    return np.clip(0.5 + 0.2 * np.sin(rows / 2 + phase) + grain, 0, 1).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def short_epochs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nelbo.vae_core.features.pretext, "STEPS_AN_EPOCH", 2)
        yield


@pytest.fixture(scope="module")
def training(eager: None, short_epochs: None) -> Training:  # noqa: ARG001
    random = np.random.default_rng(1)
    return train(waves(random, 64), waves(random, 24), CONFIG, SETTINGS)


@pytest.fixture
def pixels(random: np.random.Generator) -> np.ndarray:
    return waves(random, 6)


def test_an_untrained_vae_is_a_gaussian_per_position(random: np.random.Generator) -> None:
    network = VAE(CONFIG)
    features = random.normal(size=(3, 6, 4, 192)).astype(np.float32)
    found = network.evaluate_draws(features, draw_eps(CONFIG, 0))
    np.testing.assert_allclose(found["anomaly_map"], -norm.logpdf(features).sum(axis=-1), rtol=1e-5)


def test_sigma_of_a_feature_stays_within_bounds() -> None:
    """Whatever the decoder gives, sigma is 0.1 to 10, so that no loss is infinite and no constant feature dominates."""
    likelihood = VAE(CONFIG).likelihood
    outputs = np.float32([-1e9, -50, 0, 50, 1e9]).reshape(5, 1, 1, 1)
    parameters = np.concatenate([np.zeros_like(outputs), outputs], axis=-1)
    np.testing.assert_allclose(np.ravel(likelihood.sigma(parameters)), [0.1, 0.1, 1, 10, 10], rtol=1e-6)
    nats = np.ravel(likelihood([np.full_like(outputs, 10), parameters]))
    np.testing.assert_allclose(nats, norm.logpdf(10, scale=[0.1, 0.1, 1, 10, 10]), rtol=1e-5)


def test_extreme_features_are_clipped(tmp_path: Path) -> None:
    """One odd image among constant ones lies thousands of standard deviations away."""
    random = np.random.default_rng(3)
    normals = np.full((40, 96, 64, 1), 0.5, np.float32)
    normals[:, :, :8] += random.normal(0, 0.01, (40, 96, 8, 1))
    freak = random.random((1, 96, 64, 1), np.float32)
    representation, values = fit_representation(
        np.concatenate([normals[:30], freak]), normals[30:], CONFIG, SETTINGS, tmp_path
    )
    assert np.abs(values.train).max() == nelbo.vae_core.features.representation.LIMIT
    new = np.asarray(representation(1 - freak))
    assert np.abs(new).max() == nelbo.vae_core.features.representation.LIMIT


def test_whitening_inverts_the_covariance(random: np.random.Generator) -> None:
    """Squared lengths after whitening are the Mahalanobis distances of SciPy's Gaussian."""
    rows = np.einsum("npc,pcd->npd", random.normal(size=(90, 2, 3)), random.normal(size=(2, 3, 3))).astype(np.float32)
    moments = Moments.of(rows)
    for position, whitening in enumerate(whitening_of(moments, 0.0, ridge=0.0)):
        own = rows[:, position].astype(float)
        assert whitening == pytest.approx(np.tril(whitening))
        white = (own - moments.mean[position]) @ whitening.T
        gaussian = multivariate_normal(own.mean(axis=0), np.cov(own.T, bias=True))
        ours = norm.logpdf(white).sum(axis=1) + np.log(np.diag(whitening)).sum()
        np.testing.assert_allclose(ours, gaussian.logpdf(own), rtol=1e-5)
    # With full pooling, all positions have the mean covariance.
    both = whitening_of(moments, 1.0, ridge=0.0)
    mean = np.mean([np.cov(rows[:, position].T, bias=True) for position in (0, 1)], axis=0)
    np.testing.assert_allclose(both[0] @ mean @ both[0].T, np.eye(3), atol=1e-5)


def test_moments_without_a_fold_are_those_of_the_others(random: np.random.Generator) -> None:
    rows = random.normal(size=(150, 2, 4)).astype(np.float32)
    others = Moments.of(rows).without(Moments.of(rows[::5]))
    expected = Moments.of(np.delete(rows, np.s_[::5], axis=0))
    assert others.n == expected.n == 120
    np.testing.assert_allclose(whitening_of(others, 0.1, 0.01), whitening_of(expected, 0.1, 0.01), rtol=1e-6, atol=1e-9)


def test_training_images_are_whitened_by_others_and_new_ones_by_all(tmp_path: Path) -> None:
    """Whitened with their own covariance, training images would have unit variance, and new ones a larger one."""
    random = np.random.default_rng(2)
    seen, held_out, new = waves(random, 240), waves(random, 30), waves(random, 60)
    representation, values = fit_representation(seen, held_out, CONFIG, SETTINGS, tmp_path)
    np.testing.assert_allclose(values.validation[:], representation(held_out), rtol=1e-3, atol=1e-3)
    by_all = np.asarray(representation(seen))
    own, by_others, fresh = (np.square(rows).mean() for rows in (by_all, values.train[:], representation(new)))
    assert own < 0.9 * fresh
    assert abs(by_others - fresh) < 0.5 * abs(own - fresh)


def test_maps_add_up_and_the_peak_is_theirs(training: Training, pixels: np.ndarray) -> None:
    found = score(training.model, pixels)
    assert found.anomaly_map.shape == found.rate_map.shape == found.local_z.shape == (6, 96, 64)
    np.testing.assert_allclose(found.anomaly_map.sum(axis=(1, 2)), found.distortion, rtol=1e-5)
    np.testing.assert_allclose(found.rate_map.sum(axis=(1, 2)), found.rate, rtol=1e-5)
    np.testing.assert_allclose(found.nelbo, found.distortion + found.rate, rtol=1e-6)
    # The middle of a position lies between pixels, so the peak may be slightly higher.
    highest = found.local_z.max(axis=(1, 2))
    assert (highest <= found.peak + 1e-5).all()
    np.testing.assert_allclose(highest, found.peak, atol=0.1)
    assert found.reconstruction is None
    assert training.model.config.likelihood == "gaussian_pixel_sigma"
    assert training.model.config.smoothing_px == 48
    assert training.model.usual_std.shape == (6, 4)


def test_an_unusual_place_scores_higher(training: Training, pixels: np.ndarray) -> None:
    broken = pixels.copy()
    broken[:, 8:32, 8:28] = 1 - broken[:, 8:32, 8:28]
    usual, found = (score(training.model, images) for images in (pixels, broken))
    assert found.anomaly_score.min() > usual.anomaly_score.max()
    assert found.nelbo.min() > usual.nelbo.max()
    rows, _ = np.divmod(found.local_z.reshape(6, -1).argmax(axis=1), 64)
    assert (rows < 48).all()


def test_a_bundle_scores_the_same_in_any_batch(training: Training, pixels: np.ndarray, tmp_path: Path) -> None:
    read = load_bundle(tmp_path / save_bundle(training.model, tmp_path))
    assert read.config == CONFIG
    whole, alone = score(training.model, pixels, maps=False), score(read, pixels[-1:], maps=False)
    assert (alone.anomaly_score[0], alone.nelbo[0]) == (whole.anomaly_score[-1], whole.nelbo[-1])


def test_the_bound_is_that_of_the_features(training: Training, pixels: np.ndarray) -> None:
    model: Model = training.model
    assert model.representation is not None
    elbo = -score(model, pixels).nelbo
    bound = importance_weighted_bound(model, pixels, n_samples=200)
    spread = 6 * bound.standard_error + 0.05 * np.abs(elbo)
    assert (bound.value > elbo - spread).all()


def test_interrupted_training_of_the_backbone_resumes(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    seen, held_out = waves(random, 20), waves(random, 20)

    class StoppedError(Exception): ...

    def stop(_epoch: int, _logs: object) -> None:
        raise StoppedError

    whole, _ = fit_representation(seen, held_out, CONFIG, SETTINGS, tmp_path)
    kept = tmp_path / "kept.safetensors"
    stopping = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    with pytest.raises(StoppedError):
        fit_representation(seen, held_out, CONFIG, SETTINGS, tmp_path, kept, [stopping])
    epochs: list[int] = []
    counting = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _logs: epochs.append(epoch))
    resumed, _ = fit_representation(seen, held_out, CONFIG, SETTINGS, tmp_path, kept, [counting])
    assert epochs == [1]
    np.testing.assert_allclose(resumed(held_out), whole(held_out), rtol=1e-3, atol=1e-3)


def test_crops_depend_only_on_seed_epoch_and_number() -> None:
    images = (waves(np.random.default_rng(4), 5) * 255).astype(np.uint8)
    crops = Crops(images, n_steps=4, seed=7)
    pixels, wanted = crops[1]
    assert pixels.shape == (BATCH_SIZE, 32, 32, 1)
    assert wanted["defect"].shape == (BATCH_SIZE, 4, 4, 1)
    np.testing.assert_array_equal(Crops(images, n_steps=4, seed=7)[1][0], pixels)
    crops.epoch = 1
    assert (crops[1][0] != pixels).any()
    # Most crops have a defect, and it lies where the labels say.
    assert 0.3 < wanted["defect"].any(axis=(1, 2, 3)).mean() < 1


@pytest.mark.parametrize("side", [32, 48, 80, 128])
def test_the_backbone_predicts_one_value_for_8_pixels(side: int) -> None:
    """Whether or not each side can be halved five times."""
    found = _network(side, 1, n_steps=1, seed=0)(np.zeros((2, side, side, 1), np.float32))
    assert found["defect"].shape == (2, side // 8, side // 8, 1)


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [*((name, 1) for name in BACKBONES if name != "filters"), ("self_trained", 3), ("efficientnet_lite0", 3)],
)
def test_every_backbone_gives_a_position_for_16_pixels(backbone: str, channels: int) -> None:
    config = VAEConfig(height=64, width=96, channels=channels, preset="features", backbone=backbone, head="deep")
    features = build_backbone(config)(np.zeros((2, 64, 96, channels), np.float32), training=False)
    assert features.shape == (2, 4, 6, 192)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "MobileNetV2"])
def test_backbone_weights_are_read_from_a_file(backbone: str, tmp_path: Path, random: np.random.Generator) -> None:
    config = VAEConfig(height=64, width=64, preset="features", backbone=backbone, head="deep")
    pixels = random.random((2, 64, 64, 1), np.float32)
    keras.utils.set_random_seed(5)
    if backbone == "efficientnet_lite0":
        given, path = build_backbone(config), tmp_path / "lite0.safetensors"
        save_file({variable.path: np.asarray(variable) for variable in given.weights}, path)
        expected = given(pixels, training=False)
    else:
        # The weights do not depend on the size of the input.
        network = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(96, 96, 3))
        path = tmp_path / "mobilenet.weights.h5"
        network.save_weights(path)
        kernel = np.asarray(network.get_layer("Conv1").kernel)
    loaded = build_backbone(config)
    load_weights(loaded, config, path)
    if backbone == "efficientnet_lite0":
        np.testing.assert_allclose(loaded(pixels, training=False), expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(loaded.get_layer("application").get_layer("Conv1").kernel, kernel)


def test_a_backbone_with_weights_trains_and_scores(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    config = VAEConfig(height=96, width=64, preset="features", backbone="efficientnet_lite0", head="deep")
    path = tmp_path / "lite0.safetensors"
    keras.utils.set_random_seed(8)
    save_file({variable.path: np.asarray(variable) for variable in build_backbone(config).weights}, path)
    settings = TrainConfig(epochs=2, backbone_weights=str(path))
    model = train(waves(random, 20), waves(random, 10), config, settings).model
    read = load_bundle(tmp_path / save_bundle(model, tmp_path))
    pixels = waves(random, 3)
    np.testing.assert_array_equal(score(read, pixels).nelbo, score(model, pixels).nelbo)


@pytest.mark.parametrize("content", [None, b"", b"no weights at all", "other"])
def test_weights_of_another_network_are_refused(content: bytes | str | None, tmp_path: Path) -> None:
    config = VAEConfig(height=96, width=64, preset="features", backbone="efficientnet_lite0", head="deep")
    path = tmp_path / "weights.safetensors"
    if content == "other":
        save_file({"stem_conv/kernel": np.zeros((3, 3, 1, 8), np.float32)}, path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(BackboneError, match=r"weights\.safetensors"):
        load_weights(Representation(config).backbone, config, path)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        ({"backbone": "self_trained", "preset": "resnet"}, {}, "goes with the preset features"),
        ({"backbone": None, "preset": "resnet"}, {}, "head='deep' goes with the preset features"),
        ({"backbone": "resnet"}, {}, "expected one of efficientnet_lite0"),
        ({"backbone": "filters"}, {}, "head='deep' learns from a network's features, not from filters"),
        ({"head": "wide"}, {}, "head='wide': expected one of linear, linear_image, deep"),
        ({"subject": "free"}, {}, "subject='free' goes with the head linear, not deep"),
        ({"head": "linear", "subject": "fixed"}, {}, "subject='fixed': expected one of aligned, free"),
        ({"head": "linear", "likelihood": "gaussian_pixel_sigma"}, {}, "a linear head has one sigma"),
        ({"head": "linear", "smoothing_px": 16}, {}, "32 times an odd number"),
        ({}, {"rotations": 4}, "rotations=4 goes with the head linear_image, not deep"),
        ({"head": "linear_image"}, {"rotations": 4}, "needs images as wide as high, not 96 x 64"),
        ({}, {"rotations": 2}, "rotations=2: expected 1 or 4"),
        ({"statistic": "largest"}, {}, "statistic='largest': expected one of joint, peak, nelbo"),
        ({"of": "rate"}, {}, "of='rate': expected one of nelbo, distortion"),
        ({"likelihood": "bernoulli"}, {}, "try gaussian_pixel_sigma"),
        ({"height": 80}, {}, "multiple of 32, from 64; try 64"),
        ({"width": 32}, {}, "multiple of 32, from 64; try 64"),
        ({"smoothing_px": 5}, {}, "16 times an odd number"),
        ({"smoothing_px": 80}, {}, "no larger than the image; try 48"),
        ({"backbone": "MobileNetV2"}, {}, "needs backbone_weights"),
        ({}, {"backbone_weights": "x.h5"}, "goes with a backbone of"),
        ({}, {"denoising": 0.5}, "changes pixels"),
        ({}, {"flip": "both"}, "changes pixels"),
        ({}, {"pretext_steps": 0}, "expected a positive number"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    config: dict[str, object], settings: dict[str, object], message: str, random: np.random.Generator
) -> None:
    images = waves(random, 12)
    with pytest.raises(ValueError, match=message):
        train(
            images,
            images,
            VAEConfig(**CONFIG.to_dict() | {"smoothing_px": 0, "likelihood": "auto"} | config),  # type: ignore[arg-type]
            TrainConfig(**settings),  # type: ignore[arg-type]
        )
