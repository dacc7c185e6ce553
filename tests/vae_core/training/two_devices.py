"""Compares one device with two virtual ones, as JSON on stdout; test_devices.py runs it in its own process."""

import json
import sys
from typing import Any

import numpy as np


def main(counts: list[int]) -> None:
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Before anything runs on the CPU.
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

    json.dump({devices: curves(devices) for devices in counts}, sys.stdout)


def curves(devices: int) -> dict[str, Any] | str:
    """History and scores, or the reason why there are none."""
    from synthetic import stripes

    from nelbo.vae_core import TrainConfig, VAEConfig, score, train

    # 37 images in batches of 8: the last one has 5, which do not divide by 2.
    pixels = stripes(np.random.default_rng(0), 50)
    settings = TrainConfig(
        epochs=2,
        batch_size=8,
        learning_rate=2e-4,
        warmup_epochs=2,
        free_bits=0.02,
        latent_l2=0.01,
        denoising=0.5,
        devices=devices,
    )
    try:
        training = train(pixels[:37], pixels[37:], VAEConfig(height=24, width=20), settings)
    except ValueError as error:
        return str(error)
    return {**training.history, "scores": score(training.model, pixels[37:], maps=False).nelbo.tolist()}


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
