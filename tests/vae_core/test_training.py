import numpy as np
import pytest
from synthetic import stripes

from vae_core import TrainConfig, VAEConfig, score, train

CONFIG = VAEConfig(height=24, width=20)


def test_training_repeats_to_the_bit(random: np.random.Generator) -> None:
    pixels = stripes(random, 40)
    runs = [train(pixels[:30], pixels[30:], CONFIG, TrainConfig(epochs=3, seed=seed)) for seed in (5, 5, 6)]
    weights = [run.model.network.get_weights() for run in runs]
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))
    assert runs[0].history == runs[1].history


def test_loss_falls_and_its_parts_add_up(random: np.random.Generator) -> None:
    pixels = stripes(random, 90)
    history = train(pixels[:70], pixels[70:], CONFIG, TrainConfig(epochs=15)).history
    assert history["val_nelbo"][-1] < history["val_nelbo"][0] - 100
    np.testing.assert_allclose(np.add(history["distortion"], history["rate"]), history["nelbo"], rtol=1e-4, atol=0.1)
    np.testing.assert_allclose(history["loss"], history["nelbo"], rtol=1e-4, atol=0.1)


def test_the_best_weights_stay(random: np.random.Generator) -> None:
    pixels, other = stripes(random, 40), stripes(random, 40)[:, ::-1]
    # Validation images of another kind get worse as training goes on.
    settings = TrainConfig(epochs=60, patience=4, learning_rate=5e-3)
    run = train(pixels, 1 - other, CONFIG, settings)
    curve = run.history["val_nelbo"]
    assert len(curve) < 60
    kept = score(run.model, 1 - other, maps=False).nelbo.mean()
    assert abs(kept - min(curve)) < 0.25 * abs(curve[-1] - min(curve))


def test_empty_and_ill_shaped_sets() -> None:
    good = np.zeros((4, 24, 20, 1), np.float32)
    with pytest.raises(ValueError, match="validation has shape"):
        train(good, good[:0], CONFIG)
    with pytest.raises(ValueError, match="pixels has shape"):
        train(good[:, :, :10], good, CONFIG)


def test_divergence_is_an_error() -> None:
    good = np.full((8, 24, 20, 1), 0.5, np.float32)
    with pytest.raises(FloatingPointError, match="learning rate below 1000000"):
        train(good, good, CONFIG, TrainConfig(epochs=3, learning_rate=1e6))


@pytest.mark.parametrize(
    "bad", [{"epochs": 0}, {"learning_rate": -1.0}, {"batch_size": 0}, {"seed": -1}, {"patience": 0}]
)
def test_bad_settings(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        TrainConfig(**bad)  # type: ignore[arg-type]
