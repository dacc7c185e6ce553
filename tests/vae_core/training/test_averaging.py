"""Averages of the weights are validated and kept; training continues with the weights themselves."""

from typing import Any

import keras
import numpy as np
import pytest
from synthetic import stripes

from nelbo.vae_core import TrainConfig, VAEConfig, train
from nelbo.vae_core.training.averaging import AveragingAdam
from nelbo.vae_core.training.batches import Batches
from nelbo.vae_core.training.training import _make_network

CONFIG = VAEConfig(height=24, width=20)
SETTINGS = TrainConfig(epochs=4, batch_size=8)


def steps(optimizer: keras.optimizers.Optimizer, gradients: np.ndarray) -> list[float]:
    """The weight after each step from 1."""
    weight = keras.Variable([1.0])
    values = []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor([gradient])], [weight])
        values.append(float(weight[0]))
    return values


def test_the_average_of_weights_has_known_values(random: np.random.Generator) -> None:
    gradients = random.normal(0, 1, 600).astype(np.float32)
    optimizer = AveragingAdam(0.1)
    averages = []
    for k, value in enumerate(steps(optimizer, gradients)):
        # 0, 1/10, 2/11, 3/12 ...: after the first step the average equals the weights.
        kept = min(0.98, k / (k + 9))
        averages.append(value if k == 0 else kept * averages[-1] + (1 - kept) * value)
    assert float(optimizer.averages[0][0]) == pytest.approx(averages[-1], rel=1e-4)
    assert abs(averages[-1]) > 1e-3


def test_averaging_does_not_change_adams_steps(random: np.random.Generator) -> None:
    gradients = random.normal(0, 1, 50).astype(np.float32)
    assert steps(AveragingAdam(0.1), gradients) == steps(keras.optimizers.Adam(0.1), gradients)


class Collect(keras.callbacks.Callback):
    """Weights and averages after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[np.ndarray]] = []
        self.averages: list[list[np.ndarray]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.weights.append([np.array(variable) for variable in self.model.trainable_variables])
        self.averages.append([np.array(average) for average in self.model.optimizer.averages])


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_averages_of_the_best_epoch_are_kept(random: np.random.Generator) -> None:
    pixels, collect = stripes(random, 40), Collect()
    # The learning rate is so high that the best epoch is not the last one.
    settings = TrainConfig(epochs=40, batch_size=8, patience=3, learning_rate=2e-2)
    model, history, *_ = train(pixels[:30], pixels[30:], CONFIG, settings, callbacks=[collect])
    best = int(np.argmin(history["val_nelbo"]))
    assert best < len(history["val_nelbo"]) - 1
    kept = [np.asarray(variable) for variable in model.network.trainable_variables]
    assert equal(kept, collect.averages[best])
    assert not any(equal(kept, weights) for weights in collect.weights)
    # The curve was measured with these averages.
    network = _make_network(model.config, settings)
    network.set_weights(model.network.get_weights())
    validated = network.evaluate(Batches(pixels[30:], CONFIG, settings, validation=True), return_dict=True, verbose=0)
    assert validated["nelbo"] == pytest.approx(history["val_nelbo"][best], rel=1e-5)


def test_training_continues_with_its_own_weights(random: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, averaged, plain = stripes(random, 40), Collect(), Collect()
    curves = train(pixels[:30], pixels[30:], CONFIG, SETTINGS, callbacks=[averaged]).history
    monkeypatch.setattr("nelbo.vae_core.training.training.Averages", keras.callbacks.Callback)
    of_steps = train(pixels[:30], pixels[30:], CONFIG, SETTINGS, callbacks=[plain]).history
    assert curves["loss"] == of_steps["loss"]
    assert all(map(equal, averaged.weights, plain.weights))
    assert curves["val_loss"] != of_steps["val_loss"]


def test_the_validation_loss_does_not_jump() -> None:
    """Version 0.1 ended at -540 nats here, after rises of up to 162 nats between epochs."""
    pixels = stripes(np.random.default_rng(0), 80)
    history = train(pixels[:64], pixels[64:], CONFIG, TrainConfig(epochs=35, patience=60, batch_size=8)).history
    assert np.diff(history["val_nelbo"]).max() < 30
    assert history["val_nelbo"][-1] < -900
    np.testing.assert_allclose(np.add(history["distortion"], history["rate"]), history["nelbo"], rtol=1e-4, atol=0.1)
    np.testing.assert_allclose(history["loss"], history["nelbo"], rtol=1e-4, atol=0.1)
