"""Linear VAEs compared with worked examples, with probabilistic PCA, and with themselves."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_info, threadpool_limits

from nelbo.detectors import conformal_threshold
from nelbo.vae_core import (
    Score,
    TrainConfig,
    Training,
    importance_weighted_bound,
    kl_divergence,
    load_bundle,
    map_peaks,
    save_bundle,
    score,
    train,
)
from nelbo.vae_core.config import VAEConfig
from nelbo.vae_core.linear.crossfit import fit_folds
from nelbo.vae_core.linear.detail import DetailMap, joined
from nelbo.vae_core.linear.moments import Moments, Solution, solve_image, solve_positions, solve_shared, whiten
from nelbo.vae_core.linear.solving import _detail, _Detailed
from nelbo.vae_core.linear.vae import LinearVAE, Whitening

FEATURES = VAEConfig(height=64, width=96, preset="features", backbone="filters", head="linear")


def network(solution: Solution, shape: tuple[int, int, int], blocks: str) -> LinearVAE:
    made = LinearVAE(shape, solution.variances.shape[-1], blocks)
    made.assign(solution)
    return made


@pytest.fixture
def rows(random: np.random.Generator) -> np.ndarray:
    """(300, 6, 5) features; each position has a covariance of its own."""
    turned = np.linalg.qr(random.normal(size=(6, 5, 5)))[0]
    spread = np.array([5.0, 3.0, 1.0, 0.5, 0.3])
    return random.normal(size=(6, 5)) + np.einsum("npc,pcd->npd", random.normal(size=(300, 6, 5)) * spread, turned)


def test_a_worked_example_gives_the_exact_nelbo() -> None:
    """W = (1, 0), sigma^2 = 1, u = (2, 1): the posterior is N(1, 1/2), and -log N(u; 0, diag(2, 1)) = 3.684451."""
    by_hand = Solution(np.zeros((1, 2)), np.eye(2), np.array([[[1.0], [0.0]]]), np.array([[2.0]]), np.array([1.0]))
    found = network(by_hand, (1, 1, 2), "positions").evaluate(np.array([[[[2.0, 1.0]]]], np.float32))
    assert float(found["anomaly_map"][0, 0, 0]) == pytest.approx(3.087877, abs=1e-6)
    assert float(found["rate"][0]) == float(found["rate_map"][0, 0, 0]) == pytest.approx(0.596574, abs=1e-6)
    assert float(found["anomaly_map"][0, 0, 0] + found["rate"][0]) == pytest.approx(3.684451, abs=1e-6)
    assert float(found["z_mean"][0, 0, 0, 0]) == pytest.approx(1.0)
    assert float(found["z_log_var"][0, 0, 0, 0]) == pytest.approx(np.log(0.5))


def test_a_linear_vae_is_probabilistic_pca(random: np.random.Generator) -> None:
    """At one position it gives scikit-learn's log likelihood on whitened features."""
    rows = random.normal(size=(200, 1, 6)) * [4.0, 3.0, 2.0, 1.0, 0.7, 0.5]
    solution = solve_positions(Moments.of(rows), shared=True, n_latents=2)
    whitened = whiten(rows, solution.centre, solution.whitening)[:, 0].astype(np.float64)
    # scikit-learn divides the covariance by n - 1; this rescales it to n.
    oracle = PCA(2).fit(np.sqrt((len(rows) - 1) / len(rows)) * whitened)
    oracle.mean_ = np.zeros(6)
    found = network(solution, (1, 1, 6), "shared").evaluate(whitened.reshape(-1, 1, 1, 6).astype(np.float32))
    nelbo = np.asarray(found["anomaly_map"])[:, 0, 0] + np.asarray(found["rate"])
    np.testing.assert_allclose(nelbo, -oracle.score_samples(whitened), rtol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_the_bound_is_tight_at_every_position(rows: np.ndarray, shared: bool) -> None:
    solution = solve_positions(Moments.of(rows), shared=shared, n_latents=3)
    values = whiten(rows[:20], solution.centre, solution.whitening)
    found = network(solution, (2, 3, 5), "shared" if shared else "positions").evaluate(values.reshape(-1, 2, 3, 5))
    nelbo = (np.asarray(found["anomaly_map"]) + np.asarray(found["rate_map"])).reshape(20, 6)
    for position in range(6):
        block = 0 if shared else position
        loadings = solution.directions[block] * np.sqrt(solution.variances[block] - solution.noise[block])
        covariance = loadings @ loadings.T + solution.noise[block] * np.eye(5)
        expected = -multivariate_normal(np.zeros(5), covariance).logpdf(values[:, position])
        np.testing.assert_allclose(nelbo[:, position], expected, rtol=1e-5)
    # The functions that every model uses.
    rate = kl_divergence(found["z_mean"], found["z_log_var"])
    np.testing.assert_allclose(np.asarray(found["rate"]), np.asarray(rate), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(found["rate_map"]).sum((1, 2)), np.asarray(rate), rtol=1e-5)


def test_whole_images_are_scored_as_by_the_full_covariance(rows: np.ndarray) -> None:
    """With fewer images than features, they score as by the whole covariance, which is too large in practice."""
    few = rows[:20]
    moments = Moments.of(few)
    solution = solve_image(few, moments, n_latents=4).with_ridge(0.3)
    values = whiten(few, solution.centre, solution.whitening)
    flat = values.reshape(20, 30).astype(np.float64)
    spectrum, vectors = np.linalg.eigh(flat.T @ flat / 20)
    noise = spectrum[:-4].mean() + 0.3
    loadings = vectors[:, -4:] * np.sqrt(spectrum[-4:] + 0.3 - noise)
    covariance = loadings @ loadings.T + noise * np.eye(30)
    found = network(solution, (2, 3, 5), "image").evaluate(values.reshape(-1, 2, 3, 5))
    nelbo = np.asarray(found["anomaly_map"]).sum((1, 2)) + np.asarray(found["rate"])
    np.testing.assert_allclose(nelbo, -multivariate_normal(np.zeros(30), covariance).logpdf(flat), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(found["rate_map"]).sum((1, 2)), np.asarray(found["rate"]), rtol=1e-5)
    assert found["z_mean"].shape == (20, 1, 1, 4)


@pytest.mark.parametrize("blocks", ["positions", "image"])
def test_every_importance_weight_is_the_likelihood(rows: np.ndarray, random: np.random.Generator, blocks: str) -> None:
    """With a wrong posterior the weights would vary."""
    moments = Moments.of(rows)
    solution = (
        solve_image(rows, moments, 4) if blocks == "image" else solve_positions(moments, shared=False, n_latents=3)
    )
    made = network(solution, (2, 3, 5), blocks)
    values = whiten(rows[:4], solution.centre, solution.whitening).reshape(-1, 2, 3, 5)
    found = made.evaluate(values)
    eps = random.standard_normal((7, *found["z_mean"].shape[1:])).astype(np.float32)
    weights = np.asarray(made.log_weights(values, eps))
    nelbo = np.asarray(found["anomaly_map"]).sum((1, 2)) + np.asarray(found["rate"])
    np.testing.assert_allclose(weights, -np.broadcast_to(nelbo, (7, 4)), rtol=1e-4)


def test_the_shared_covariance_needs_no_covariance_per_position(rows: np.ndarray) -> None:
    one, other = solve_shared([rows[:100], rows[100:]], 3), solve_positions(Moments.of(rows), shared=True, n_latents=3)
    for name in Solution._fields:
        found, expected = getattr(one, name), getattr(other, name)
        # The sign of an eigenvector is arbitrary.
        np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-6, err_msg=name)


def test_the_whitening_layer_equals_numpy(rows: np.ndarray) -> None:
    solution = solve_positions(Moments.of(rows), shared=True)
    layer = Whitening((2, 3, 5))
    layer.assign(solution)
    features = rows[:9].reshape(-1, 2, 3, 5).astype(np.float32)
    expected = whiten(rows[:9], solution.centre, solution.whitening).reshape(-1, 2, 3, 5)
    np.testing.assert_allclose(np.asarray(layer(features)), expected, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_few_images_give_finite_scores(random: np.random.Generator, shared: bool) -> None:
    """Twelve images with 40 features have no variance in most directions; copies of one picture have none at all."""
    for rows in (random.normal(size=(12, 2, 40)), np.ones((12, 2, 40))):
        solution = solve_positions(Moments.of(rows), shared=shared, n_latents=20)
        new = whiten(random.normal(size=(5, 2, 40)), solution.centre, solution.whitening).reshape(-1, 1, 2, 40)
        found = network(solution, (1, 2, 40), "shared" if shared else "positions").evaluate(new)
        assert np.isfinite(np.asarray(found["anomaly_map"])).all()
        assert np.isfinite(np.asarray(found["rate"])).all()


def test_each_fold_is_scored_by_a_model_of_the_others(rows: np.ndarray) -> None:
    folds = np.repeat([3, 1, 7], 100)
    fit = fit_folds(rows, (2, 3, 5), FEATURES, folds)
    for fold in (3, 1, 7):
        seen = rows[folds != fold]
        solution = solve_positions(Moments.of(seen), shared=fit.subject == "free")
        values = whiten(rows[folds == fold], solution.centre, solution.whitening).reshape(-1, 2, 3, 5)
        blocks = "shared" if fit.subject == "free" else "positions"
        expected = network(solution, (2, 3, 5), blocks).evaluate(values)
        np.testing.assert_allclose(
            fit.unseen.distortion_map[folds == fold], np.asarray(expected["anomaly_map"]), rtol=1e-4, atol=1e-4
        )
    # The final model is fitted on all images.
    np.testing.assert_allclose(fit.solutions[0].centre, rows.mean(0))


def test_unseen_images_decide_whether_positions_share_a_covariance(
    rows: np.ndarray, random: np.random.Generator
) -> None:
    folds = np.arange(len(rows)) % 5
    assert fit_folds(rows, (2, 3, 5), FEATURES, folds).subject == "aligned"
    alike = random.normal(size=(60, 6, 5)) * [5.0, 3.0, 1.0, 0.5, 0.3]
    assert fit_folds(alike, (2, 3, 5), FEATURES, folds[:60]).subject == "free"
    asked = VAEConfig(**FEATURES.to_dict() | {"subject": "aligned"})
    assert fit_folds(alike, (2, 3, 5), asked, folds[:60]).subject == "aligned"


def test_turned_views_are_unseen_where_the_image_is(rows: np.ndarray) -> None:
    config = VAEConfig(**FEATURES.to_dict() | {"head": "linear_image", "subject": None})
    views = np.concatenate([rows[:60], rows[:60] + 100])
    fit = fit_folds(views, (2, 3, 5), config, np.arange(60) % 5)
    assert fit.unseen.distortion_map.shape == (60, 2, 3)
    np.testing.assert_allclose(fit.solutions[0].centre, views.mean(0))
    # If copies of a fold's images stayed in training, the model would know them by heart.
    copies = fit_folds(np.concatenate([rows[:60], rows[:60]]), (2, 3, 5), config, np.arange(60) % 5)
    alone = fit_folds(rows[:60], (2, 3, 5), config, np.arange(60) % 5)
    assert copies.unseen.nelbo > 0.9 * alone.unseen.nelbo


def test_a_single_fold_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="folds: expected at least 2, got 1"):
        fit_folds(rows, (2, 3, 5), FEATURES, np.zeros(len(rows), int))


# Tests that start from pixels.


def parts(n: int, seed: int, spot: bool = False) -> np.ndarray:
    """(n, 64, 96, 1) float32: a bright bar on a dark ground, with grain, and with a spot on request."""
    random = np.random.default_rng(seed)
    pixels = np.full((n, 64, 96, 1), 0.2) + random.normal(0, 0.02, (n, 64, 96, 1))
    pixels[:, 24:40, 16:80] += 0.5 + random.normal(0, 0.03, (n, 1, 1, 1))
    if spot:
        pixels[:, 28:36, 40:50] -= 0.4
    return pixels.clip(0, 1).astype(np.float32)


@pytest.fixture(scope="module", params=[("efficientnet_lite0", "linear"), ("filters", "linear_image")], ids="-".join)
def training(request: pytest.FixtureRequest) -> Training:
    backbone, head = request.param
    config = VAEConfig(height=64, width=96, preset="features", backbone=backbone, head=head)
    return train(parts(40, 0), parts(20, 1), config, TrainConfig(seed=3))


def test_a_spot_stands_out(training: Training) -> None:
    normal, spotted = (score(training.model, parts(20, seed, seed == 3), maps=False) for seed in (2, 3))
    assert spotted.anomaly_score.min() > normal.anomaly_score.max()
    joint = normal.peak_z + normal.worst_z + normal.mean_z
    np.testing.assert_allclose(normal.anomaly_score, joint, rtol=1e-5)


def test_unseen_images_score_like_new_ones(training: Training) -> None:
    """Cross-fitted scores represent those of new images; scores of training images would not."""
    unseen = training.unseen
    assert unseen is not None
    assert len(unseen.nelbo) == 60
    new = score(training.model, parts(60, 4), maps=False)
    fitted = score(training.model, np.concatenate([parts(40, 0), parts(20, 1)]), maps=False)
    # A model of four fifths of the images knows a little less than one of all, never more.
    assert np.median(fitted.nelbo) < np.median(new.nelbo) < 1.1 * np.median(unseen.nelbo)
    np.testing.assert_allclose(unseen.nelbo, unseen.distortion + unseen.rate, rtol=1e-5)


def test_the_statistic_of_the_graph_equals_that_of_numpy(training: Training) -> None:
    """NumPy learns the usual values, which Keras reads; on the same map both give the same statistic."""
    model, pixels = training.model, parts(6, 5)
    found = model.network.evaluate(model.representation(pixels))
    local = np.asarray(found["anomaly_map"]) + np.asarray(found["rate_map"])
    smoothed = uniform_filter(local.astype(float), (0, 1, 1), mode="reflect")
    z = ((smoothed - model.usual_mean) / model.usual_std).reshape(6, -1)
    scored = score(model, pixels, maps=False)
    np.testing.assert_allclose(scored.peak, z.max(axis=1), rtol=1e-3, atol=1e-3)
    for name, raw, (median, spread) in zip(
        ("peak_z", "worst_z", "mean_z"),
        (z.max(1), np.sort(z)[:, -1:].mean(1), z.mean(1)),
        model.usual_statistics,
        strict=True,
    ):
        np.testing.assert_allclose(getattr(scored, name), (raw - median) / spread, rtol=1e-3, atol=2e-2)


def test_a_bundle_scores_like_the_model(training: Training, tmp_path: Path) -> None:
    pixels = parts(5, 6)
    loaded = load_bundle(tmp_path / save_bundle(training.model, tmp_path))
    assert loaded.config == training.model.config
    for name, ours, theirs in zip(Score._fields, score(loaded, pixels), score(training.model, pixels), strict=True):
        if theirs is not None:
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 60e6


def test_maps_add_up_to_the_nelbo(training: Training) -> None:
    found = score(training.model, parts(3, 7, spot=True))
    np.testing.assert_allclose(found.anomaly_map.sum((1, 2)), found.distortion, rtol=1e-4)
    np.testing.assert_allclose(found.rate_map.sum((1, 2)), found.rate, rtol=1e-4)
    assert found.reconstruction is None
    assert found.local_z.shape == (3, 64, 96)


def test_the_map_is_high_at_the_spot(training: Training) -> None:
    """The map is high where the spot is: rows 28 to 36 of 64, columns 40 to 50 of 96."""
    usual, unit = training.model.map_scales[0]
    for nats in score(training.model, parts(5, 8, spot=True)).local_nelbo:
        one, (height, width) = (nats - usual) / unit, nats.shape
        there = one[28 * height // 64 : -(-36 * height // 64), 40 * width // 96 : -(-50 * width // 96)]
        assert there.mean() > np.quantile(one, 0.8)
        assert there.max() > 2 * np.median(one)


def test_maps_of_unseen_images_reach_as_high_as_those_of_new_ones(training: Training) -> None:
    """They set the level of regions; maps of images that the model was fitted on are lower."""
    unseen = training.unseen
    assert unseen is not None
    assert unseen.map_peak is not None
    assert np.isfinite(unseen.map_peak).all()

    def peaks(pixels: np.ndarray) -> np.ndarray:
        return map_peaks(score(training.model, pixels).local_nelbo, training.model.map_scales)

    fitted, new = peaks(np.concatenate([parts(40, 0), parts(20, 1)])), peaks(parts(60, 4))
    assert np.median(fitted) < np.median(new) < 1.15 * np.median(unseen.map_peak)
    level = conformal_threshold(unseen.map_peak, 0.1)
    assert (new > level).mean() <= 0.25
    assert (peaks(parts(20, 8, spot=True)) > level).all()


def test_each_map_is_made_by_a_model_of_the_other_folds(random: np.random.Generator) -> None:
    fine, coarse = (random.normal(size=(30, side, side, 3)).astype(np.float32) for side in (4, 2))
    folds, variants, everywhere = np.arange(30) % 3, np.zeros(30, np.int64), np.ones((4, 4), bool)
    peaks = random.gamma(3, 1, 40).astype(np.float32)
    detail, found = _detail(_Detailed([fine, coarse], variants, folds, everywhere), peaks, np.zeros(40, np.int64))
    usual, unit = detail.scales[0]
    features = joined([fine, coarse]).reshape(30, 16, 6)
    for fold in range(3):
        mine = folds == fold
        own = DetailMap.of([solve_shared([features[~mine]], 5)], [(0.0, 1.0)])
        expected = (own([fine[mine], coarse[mine]]).max(axis=(1, 2)) - usual) / unit
        np.testing.assert_allclose(found[mine], expected, rtol=1e-3, atol=1e-3)
    # The final map is fitted on all images.
    whole = DetailMap.of([solve_shared([features], 5)], [(usual, unit)])
    np.testing.assert_allclose(detail([fine, coarse]), whole([fine, coarse]), rtol=1e-3)
    # A rare variant uses the map of all images; if there are only a handful of images, the map is unknown.
    variants[:8] = 1
    rare = _detail(_Detailed([fine, coarse], variants, folds, everywhere), peaks, np.arange(40) % 2)[1]
    assert np.isfinite(rare).all()
    alone = _detail(
        _Detailed([fine[:12], coarse[:12]], 0 * variants[:12], folds[:12], everywhere), peaks, 0 * np.arange(40)
    )
    assert np.isnan(alone[1]).all()


def test_the_map_is_minus_the_log_density(random: np.random.Generator) -> None:
    """At each position of whitened features it equals that of SciPy, which inverts the covariance itself.

    Two of the maps have the same grid, and are combined.
    """
    deep = random.normal(size=(60, 1, 1, 2))
    middle = random.normal(size=(60, 2, 2, 1)) + deep[..., :1]
    maps = [random.normal(size=(60, 4, 4, 3)) @ random.normal(size=(3, 3)), middle, middle**2 - middle, deep]
    features = joined(maps).reshape(60, 16, 7)
    solution = solve_shared([features], 3)
    detail = DetailMap.of([solution], [(0.0, 1.0)])
    (directions,), (variances,), (noise,) = solution.directions, solution.variances, solution.noise
    model = noise * np.eye(7) + (directions * (variances - noise)) @ directions.T
    whitened = (features - solution.centre) @ solution.whitening.T
    expected = -multivariate_normal(np.zeros(7), model).logpdf(whitened)
    np.testing.assert_allclose(detail(maps).reshape(60, 16), expected, rtol=1e-4)


def test_maps_leave_numpys_threads_as_they_were(random: np.random.Generator) -> None:
    """Each thread that makes maps limits NumPy to one thread, and restores the previous limit, also in parallel."""
    maps = [random.normal(size=(20, 4, 4, 3))]
    detail = DetailMap.of([solve_shared([maps[0].reshape(20, 16, 3)], 2)], [(0.0, 1.0)])
    with threadpool_limits(2, "blas"):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: detail(maps), range(64)))
        assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {2}
    np.testing.assert_array_equal(found[0], found[-1])


def test_the_bound_needs_no_draws(training: Training) -> None:
    pixels = parts(3, 9)
    bound = importance_weighted_bound(training.model, pixels, 4)
    np.testing.assert_allclose(bound.value, -score(training.model, pixels, maps=False).nelbo, rtol=1e-4)
    with pytest.raises(ValueError, match=r"is exact, and has no noise\. Leave eps out"):
        score(training.model, pixels, eps=np.zeros((1, 1, 1, 1), np.float32))


def test_missing_images_folds_or_validation_are_named() -> None:
    config = VAEConfig(height=64, width=96, preset="features", backbone="filters")
    with pytest.raises(ValueError, match="9 images to train on: the preset features expects 10 or more"):
        train(parts(9, 0), None, config)
    with pytest.raises(ValueError, match="folds: expected 12, one for each image, got 3"):
        train(parts(12, 0), None, config, folds=[0, 1, 2])
    with pytest.raises(
        ValueError, match="validation: the conv_1x1x16 network needs images that decide when training stops"
    ):
        train(parts(12, 0), None, VAEConfig(height=64, width=96, preset="conv_1x1x16"))
