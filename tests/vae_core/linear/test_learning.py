"""The gain of more images: nats compared with densities by SciPy, and curves that fall."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from nelbo.vae_core import LearningCurve, VAEConfig
from nelbo.vae_core.linear.crossfit import default_folds, fit_folds
from nelbo.vae_core.linear.learning import learning_curve
from nelbo.vae_core.linear.moments import Solution

SHAPE = (2, 3, 5)
CONFIG = VAEConfig(height=64, width=96, preset="features", backbone="filters", head="linear")


@pytest.fixture
def rows(random: np.random.Generator) -> np.ndarray:
    """(300, 6, 5) features; each position has a covariance of its own."""
    turned = np.linalg.qr(random.normal(size=(6, 5, 5)))[0]
    spread = np.array([5.0, 3.0, 1.0, 0.5, 0.3])
    return random.normal(size=(6, 5)) + np.einsum("npc,pcd->npd", random.normal(size=(300, 6, 5)) * spread, turned)


def curve(rows: np.ndarray, head: str = "linear", variants: np.ndarray | None = None) -> LearningCurve | None:
    config = replace(CONFIG, head=head)
    folds = default_folds(len(rows))
    own = np.zeros(len(rows), np.int64) if variants is None else variants
    fit = fit_folds(rows, SHAPE, config, folds, variants)
    return learning_curve(rows, SHAPE, replace(config, subject=fit.subject), folds, own, fit)


def log_density(rows: np.ndarray, solution: Solution) -> np.ndarray:
    """(n,) log density of features, not of whitened ones, per position."""
    back = np.linalg.inv(solution.whitening)
    total = np.zeros(len(rows))
    for position in range(rows.shape[1]):
        block = position if len(solution.noise) > 1 else 0
        u, noise = solution.directions[block], solution.noise[block]
        inner = u * (solution.variances[block] - noise) @ u.T + noise * np.eye(len(u))
        total += multivariate_normal(solution.centre[position], back @ inner @ back.T).logpdf(rows[:, position])
    return total


def test_the_last_point_is_the_density_of_unseen_features(rows: np.ndarray) -> None:
    found = curve(rows)
    assert found is not None
    assert found.n_images == (60, 120, 240)
    fit = fit_folds(rows, SHAPE, CONFIG, default_folds(300))
    by_scipy = -log_density(rows[default_folds(300) == 0], fit.of_others[0]) / 30
    assert found.nats[-1] == pytest.approx(by_scipy.mean(), rel=1e-4)
    assert found.spread == pytest.approx(by_scipy.std(), rel=1e-3)


def test_more_images_bring_less_and_less(rows: np.ndarray) -> None:
    found = curve(rows, "linear_image")
    assert found is not None
    first, last = found.gains
    assert first > last > 0
    assert 0 < found.next_gain < last


def test_positions_of_five_features_are_soon_known(rows: np.ndarray) -> None:
    found = curve(rows)
    assert found is not None
    assert 0 <= found.next_gain < 0.02


def test_units_of_features_do_not_matter(rows: np.ndarray) -> None:
    one, other = curve(rows), curve(10 * rows)
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(np.array(other.nats) - np.log(10), one.nats, atol=1e-3)
    assert other.next_gain == pytest.approx(one.next_gain, abs=1e-3)


def test_variants_are_models_of_their_own(rows: np.ndarray) -> None:
    variants = (np.arange(300) % 3 == 0).astype(np.int64)
    apart = rows + 50 * variants[:, None, None]
    found = curve(apart, variants=variants)
    assert found is not None
    assert found.n_images == (60, 120, 240)
    # Differences between variants do not count as spread of images.
    assert found.spread < 2 * curve(rows).spread  # type: ignore[union-attr]


def test_too_few_images_or_folds_give_no_curve(rows: np.ndarray) -> None:
    assert curve(rows[:45]) is None
    folds = np.arange(300) % 4
    fit = fit_folds(rows, SHAPE, CONFIG, folds)
    own = np.zeros(300, np.int64)
    assert learning_curve(rows, SHAPE, replace(CONFIG, subject=fit.subject), folds, own, fit) is None
