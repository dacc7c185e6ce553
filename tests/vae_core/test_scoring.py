"""Scores add up, repeat to the bit, and do not depend on other images of a batch."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from synthetic import stripes

from nelbo.vae_core import Model, gaussian_log_likelihood, kl_divergence, score
from nelbo.vae_core.model import draw_eps, usual_of
from nelbo.vae_core.network.vae import VAE
from nelbo.vae_core.scoring import default_batch_size


def test_parts_add_up(model: Model, random: np.random.Generator) -> None:
    result = score(model, stripes(random, 10))
    np.testing.assert_allclose(result.nelbo, result.distortion + result.rate, rtol=1e-6)
    np.testing.assert_allclose(result.anomaly_map.sum((1, 2)), result.distortion, rtol=1e-4)
    assert (result.rate >= 0).all()
    np.testing.assert_array_equal(result.anomaly_score, result.peak)
    np.testing.assert_array_equal(result.peak, result.local_z.max((1, 2)))


def test_distortion_is_the_likelihood_averaged_over_draws(model: Model, random: np.random.Generator) -> None:
    """Computed step by step: encoder, decoder and the public likelihood, draw by draw."""
    pixels = stripes(random, 5)
    z_mean, z_log_var = (np.asarray(part) for part in model.network.encoder(pixels))
    log_sigma = np.asarray(model.network.likelihood.log_scale)
    mean, std = model.config.pixel_mean, model.config.pixel_std
    assert mean is not None
    assert std is not None
    draws = []
    for eps in model.eps:
        decoded = model.network.decoder(z_mean + np.exp(z_log_var / 2) * eps)
        draws.append(np.asarray(gaussian_log_likelihood(pixels, mean + std * decoded, log_sigma)))
    result = score(model, pixels)
    scale = np.abs(result.distortion) + result.rate
    assert (np.abs(result.distortion + np.mean(draws, axis=0)) < 1e-5 * scale).all()
    np.testing.assert_allclose(result.rate, kl_divergence(z_mean, z_log_var), rtol=1e-4)


def test_local_z_is_standardised_then_smoothed(model: Model, random: np.random.Generator) -> None:
    result = score(model, stripes(random, 4))
    # With one position for the whole image, every pixel has an equal share of the rate.
    local = result.anomaly_map + result.rate[:, None, None] / (24 * 20)
    expected = uniform_filter((local - model.usual_mean) / model.usual_std, (0, 5, 5), mode="reflect")
    np.testing.assert_allclose(result.local_z, expected, atol=1e-3)


def test_worst_pixels_are_the_top_tenth(model: Model, random: np.random.Generator) -> None:
    result = score(model, stripes(random, 4))
    expected = np.sort(result.anomaly_map.reshape(4, -1), axis=1)[:, -48:].sum(1)
    np.testing.assert_allclose(result.worst_pixels, expected, rtol=1e-5)


def test_scores_repeat_to_the_bit_in_any_batch(model: Model, random: np.random.Generator) -> None:
    n = 2 * default_batch_size(model.config) + 7
    pixels = stripes(random, n)
    whole = score(model, pixels, maps=False)
    order = random.permutation(n)
    shuffled = score(model, pixels[order], maps=False)
    alone = score(model, pixels[3:4], maps=False)
    for name in ("anomaly_score", "nelbo", "distortion", "rate", "z_mean_norm", "z_log_var_sum", "worst_pixels"):
        np.testing.assert_array_equal(getattr(whole, name)[order], getattr(shuffled, name), err_msg=name)
        assert getattr(alone, name)[0] == getattr(whole, name)[3]
    assert whole.anomaly_map is None


def test_a_defect_raises_the_score_where_it_is(model: Model, random: np.random.Generator) -> None:
    pixels = stripes(random, 20)
    broken = pixels.copy()
    broken[:, 10:14, 5:9] = 0
    before, after = score(model, pixels), score(model, broken)
    assert (after.anomaly_score > before.anomaly_score).all()
    assert (after.anomaly_score > before.anomaly_score.max()).mean() > 0.9
    rows, columns = np.unravel_index(after.local_z.reshape(20, -1).argmax(1), (24, 20))
    assert ((rows >= 8) & (rows < 16) & (columns >= 3) & (columns < 11)).all()


def test_other_noise_gives_another_score(model: Model, random: np.random.Generator) -> None:
    pixels = stripes(random, 6)
    own = score(model, pixels, maps=False)
    np.testing.assert_array_equal(own.nelbo, score(model, pixels, eps=model.eps, maps=False).nelbo)
    other = score(model, pixels, eps=random.standard_normal((3, 1, 1, 16)), maps=False)
    assert (own.nelbo != other.nelbo).all()
    np.testing.assert_array_equal(own.rate, other.rate)


def test_the_spread_over_noise_falls_with_the_root_of_the_draws(model: Model, random: np.random.Generator) -> None:
    pixels = stripes(random, 6)

    def spread(draws: int) -> float:
        eps = random.standard_normal((8, draws, 1, 1, 16)).astype(np.float32)
        found = [np.asarray(model.network.evaluate_draws(pixels, one)["anomaly_map"]).sum((1, 2)) for one in eps]
        return float(np.std(found, axis=0).mean())

    assert spread(16) < 0.5 * spread(1)


def test_the_statistic_nelbo_is_the_score(model: Model, random: np.random.Generator) -> None:
    config = replace(model.config, statistic="nelbo")
    network = VAE(config)
    network.set_weights(model.network.get_weights())
    result = score(Model(config, network, model.eps, model.usual_mean, model.usual_std, {}), stripes(random, 3))
    np.testing.assert_array_equal(result.anomaly_score, result.nelbo)
    assert (result.anomaly_score != result.peak).all()


def test_no_images_give_no_scores(model: Model) -> None:
    assert score(model, np.zeros((0, 24, 20, 1), np.float32)).nelbo.shape == (0,)


def test_bad_pixels_and_noise_are_refused(model: Model) -> None:
    with pytest.raises(ValueError, match=r"takes \(n, 24, 20, 1\)"):
        score(model, np.zeros((2, 20, 24, 1), np.float32))
    with pytest.raises(ValueError, match="are NaN"):
        score(model, np.full((2, 24, 20, 1), np.nan, np.float32))
    with pytest.raises(ValueError, match="divide 8-bit values by 255"):
        score(model, np.full((2, 24, 20, 1), 255.0, np.float32))
    with pytest.raises(ValueError, match="eps has shape"):
        score(model, np.zeros((2, 24, 20, 1), np.float32), eps=np.zeros((0, 1, 1, 16)))
    with pytest.raises(ValueError, match="eps has shape"):
        score(model, np.zeros((2, 24, 20, 1), np.float32), eps=np.zeros((2, 3)))


def test_an_infinite_score_is_an_error(model: Model, random: np.random.Generator) -> None:
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        score(model, stripes(random, 1), eps=np.full((1, 1, 1, 16), np.inf))


def test_the_usual_spread_of_few_images_is_shrunk_to_the_mean(model: Model, random: np.random.Generator) -> None:
    pixels = stripes(random, 300)
    mean, std, _ = usual_of(model.network, model.eps, pixels)
    few = usual_of(model.network, model.eps, pixels[:2]).std
    assert (std > 0).all()
    # Two images alone would give some pixels almost no spread.
    assert few.min() > 0.3 * few.mean()
    local = score(model, pixels)
    expected = (local.anomaly_map + local.rate[:, None, None] / 480).astype(float)
    np.testing.assert_allclose(mean, expected.mean(0), atol=1e-4)
    variance = (300 * expected.var(0) + 10 * expected.var(0).mean()) / 310
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-3)


def test_eps_comes_from_the_seed(model: Model) -> None:
    assert model.eps.shape == (3, 1, 1, 16)
    np.testing.assert_array_equal(draw_eps(model.config, 0), model.eps)
    assert not np.array_equal(draw_eps(model.config, 1), model.eps)


def test_training_finds_the_scale_of_its_images(model: Model) -> None:
    pixels = stripes(np.random.default_rng(1), 96)
    found = model.config.pixel_mean, model.config.pixel_std
    assert found == pytest.approx((pixels.mean(), pixels.std()), rel=1e-5)
