"""Linear VAEs against numbers by hand, against probabilistic PCA, and against themselves."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from nelbo.vae_core import (
    Score,
    TrainConfig,
    Training,
    importance_weighted_bound,
    kl_divergence,
    load_bundle,
    save_bundle,
    score,
    train,
)
from nelbo.vae_core.config import VAEConfig
from nelbo.vae_core.linear.crossfit import fit_folds
from nelbo.vae_core.linear.detail import DetailMap, joined
from nelbo.vae_core.linear.moments import Moments, Solution, solve_image, solve_positions, solve_shared, whiten
from nelbo.vae_core.linear.vae import LinearVAE, Whitening

FEATURES = VAEConfig(height=64, width=96, preset="features", backbone="filters", head="linear")


def network(solution: Solution, shape: tuple[int, int, int], blocks: str) -> LinearVAE:
    made = LinearVAE(shape, solution.variances.shape[-1], blocks)
    made.assign(solution)
    return made


@pytest.fixture
def rows(random: np.random.Generator) -> np.ndarray:
    """(300, 6, 5) features whose positions vary each in its own way."""
    turned = np.linalg.qr(random.normal(size=(6, 5, 5)))[0]
    spread = np.array([5.0, 3.0, 1.0, 0.5, 0.3])
    return random.normal(size=(6, 5)) + np.einsum("npc,pcd->npd", random.normal(size=(300, 6, 5)) * spread, turned)


def test_golden_numbers() -> None:
    """W = (1, 0), sigma^2 = 1, u = (2, 1): the posterior is N(1, 1/2), and -log N(u; 0, diag(2, 1)) = 3.684451."""
    by_hand = Solution(np.zeros((1, 2)), np.eye(2), np.array([[[1.0], [0.0]]]), np.array([[2.0]]), np.array([1.0]))
    found = network(by_hand, (1, 1, 2), "positions").evaluate(np.array([[[[2.0, 1.0]]]], np.float32))
    assert float(found["anomaly_map"][0, 0, 0]) == pytest.approx(3.087877, abs=1e-6)
    assert float(found["rate"][0]) == float(found["rate_map"][0, 0, 0]) == pytest.approx(0.596574, abs=1e-6)
    assert float(found["anomaly_map"][0, 0, 0] + found["rate"][0]) == pytest.approx(3.684451, abs=1e-6)
    assert float(found["z_mean"][0, 0, 0, 0]) == pytest.approx(1.0)
    assert float(found["z_log_var"][0, 0, 0, 0]) == pytest.approx(np.log(0.5))


def test_it_is_probabilistic_pca(random: np.random.Generator) -> None:
    """One position: scikit-learn's log likelihood, whose covariance is over n - 1, with the features whitened first."""
    rows = random.normal(size=(200, 1, 6)) * [4.0, 3.0, 2.0, 1.0, 0.7, 0.5]
    solution = solve_positions(Moments.of(rows), shared=True, n_latents=2)
    whitened = whiten(rows, solution.centre, solution.whitening)[:, 0].astype(np.float64)
    # Over n, as ours is.
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
    # The functions used everywhere.
    rate = kl_divergence(found["z_mean"], found["z_log_var"])
    np.testing.assert_allclose(np.asarray(found["rate"]), np.asarray(rate), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(found["rate_map"]).sum((1, 2)), np.asarray(rate), rtol=1e-5)


def test_the_image_as_a_whole(rows: np.ndarray) -> None:
    """Fewer images than features: the same as from the covariance of all features, which nobody could hold."""
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
    """With a posterior that is none, weights would scatter."""
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


def test_many_positions_share_a_covariance_without_one_each(rows: np.ndarray) -> None:
    one, other = solve_shared([rows[:100], rows[100:]], 3), solve_positions(Moments.of(rows), shared=True, n_latents=3)
    for name in Solution._fields:
        found, expected = getattr(one, name), getattr(other, name)
        # An eigenvector's sign is nobody's choice.
        np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-6, err_msg=name)


def test_whitening_is_what_numpy_says(rows: np.ndarray) -> None:
    solution = solve_positions(Moments.of(rows), shared=True)
    layer = Whitening((2, 3, 5))
    layer.assign(solution)
    features = rows[:9].reshape(-1, 2, 3, 5).astype(np.float32)
    expected = whiten(rows[:9], solution.centre, solution.whitening).reshape(-1, 2, 3, 5)
    np.testing.assert_allclose(np.asarray(layer(features)), expected, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_few_images_put_no_other_endlessly_far(random: np.random.Generator, shared: bool) -> None:
    """Twelve images of 40 features have no variance in most directions; all of one picture in none."""
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
    # The model that is kept is of all.
    np.testing.assert_allclose(fit.solutions[0].centre, rows.mean(0))


def test_unseen_images_tell_whether_places_vary_alike(rows: np.ndarray, random: np.random.Generator) -> None:
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
    # Copies that a fold had left behind would make its images known by heart.
    copies = fit_folds(np.concatenate([rows[:60], rows[:60]]), (2, 3, 5), config, np.arange(60) % 5)
    alone = fit_folds(rows[:60], (2, 3, 5), config, np.arange(60) % 5)
    assert copies.unseen.nelbo > 0.9 * alone.unseen.nelbo


def test_one_fold_is_none(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="folds: expected at least 2, got 1"):
        fit_folds(rows, (2, 3, 5), FEATURES, np.zeros(len(rows), int))


# From pixels on.


def parts(n: int, seed: int, spot: bool = False) -> np.ndarray:
    """(n, 64, 96, 1) float32: a bright bar before a dark ground, with grain; or with a spot on it."""
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


def test_unseen_images_score_as_new_ones_do(training: Training) -> None:
    """Cross-fitted scores stand in for those of new images; scores of images that were fitted on would not."""
    unseen = training.unseen
    assert unseen is not None
    assert len(unseen.nelbo) == 60
    new = score(training.model, parts(60, 4), maps=False)
    fitted = score(training.model, np.concatenate([parts(40, 0), parts(20, 1)]), maps=False)
    # By four fifths of the images a model knows a little less than by all of them, never more.
    assert np.median(fitted.nelbo) < np.median(new.nelbo) < 1.1 * np.median(unseen.nelbo)
    np.testing.assert_allclose(unseen.nelbo, unseen.distortion + unseen.rate, rtol=1e-5)


def test_the_statistic_of_the_graph_is_that_of_numpy(training: Training) -> None:
    """What is usual was learnt by NumPy, and Keras reads it: on the same map they say the same."""
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


def test_a_bundle_scores_as_the_model_did(training: Training, tmp_path: Path) -> None:
    pixels = parts(5, 6)
    loaded = load_bundle(tmp_path / save_bundle(training.model, tmp_path))
    assert loaded.config == training.model.config
    for name, ours, theirs in zip(Score._fields, score(loaded, pixels), score(training.model, pixels), strict=True):
        if theirs is not None:
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 60e6


def test_maps_add_up(training: Training) -> None:
    found = score(training.model, parts(3, 7, spot=True))
    np.testing.assert_allclose(found.anomaly_map.sum((1, 2)), found.distortion, rtol=1e-4)
    np.testing.assert_allclose(found.rate_map.sum((1, 2)), found.rate, rtol=1e-4)
    assert found.reconstruction is None
    assert found.local_z.shape == (3, 64, 96)


def test_people_see_the_spot(training: Training) -> None:
    """The map is high where the spot is: rows 28 to 36 of 64, columns 40 to 50 of 96."""
    usual, unit = training.model.map_scales[0]
    for nats in score(training.model, parts(5, 8, spot=True)).local_nelbo:
        one, (height, width) = (nats - usual) / unit, nats.shape
        there = one[28 * height // 64 : -(-36 * height // 64), 40 * width // 96 : -(-50 * width // 96)]
        assert there.mean() > np.quantile(one, 0.8)
        assert there.max() > 2 * np.median(one)


def test_the_map_is_minus_the_log_density(random: np.random.Generator) -> None:
    """At each position of whitened features, as SciPy says, which inverts the covariance itself."""
    maps = [random.normal(size=(60, 4, 2, 3)) @ random.normal(size=(3, 3)), random.normal(size=(60, 2, 1, 2))]
    features = joined(maps).reshape(60, 8, 5)
    solution = solve_shared([features], 3)
    detail = DetailMap.of([solution], [(0.0, 1.0)])
    (directions,), (variances,), (noise,) = solution.directions, solution.variances, solution.noise
    model = noise * np.eye(5) + (directions * (variances - noise)) @ directions.T
    whitened = (features - solution.centre) @ solution.whitening.T
    expected = -multivariate_normal(np.zeros(5), model).logpdf(whitened)
    np.testing.assert_allclose(detail(maps).reshape(60, 8), expected, rtol=1e-4)


def test_the_bound_needs_no_draws(training: Training) -> None:
    pixels = parts(3, 9)
    bound = importance_weighted_bound(training.model, pixels, 4)
    np.testing.assert_allclose(bound.value, -score(training.model, pixels, maps=False).nelbo, rtol=1e-4)
    with pytest.raises(ValueError, match=r"is exact, and has no noise\. Leave eps out"):
        score(training.model, pixels, eps=np.zeros((1, 1, 1, 1), np.float32))


def test_what_is_missing_is_said() -> None:
    config = VAEConfig(height=64, width=96, preset="features", backbone="filters")
    with pytest.raises(ValueError, match="9 images to train on: the preset features expects 10 or more"):
        train(parts(9, 0), None, config)
    with pytest.raises(ValueError, match="folds: expected 12, one for each image, got 3"):
        train(parts(12, 0), None, config, folds=[0, 1, 2])
    with pytest.raises(ValueError, match="validation: the conv_1x1x16 network needs images to be stopped by"):
        train(parts(12, 0), None, VAEConfig(height=64, width=96, preset="conv_1x1x16"))
