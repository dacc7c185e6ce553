"""The choices that depend on backend and device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import keras


def jit_compile() -> bool | str:
    """Whether Keras should compile with XLA here.

    TensorFlow runs this network several times faster without XLA on a CPU, and faster with it on a GPU; other
    backends have no such choice.
    """
    if keras.backend.backend() != "tensorflow":
        return "auto"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


@contextmanager
def data_parallel(n_devices: int) -> Iterator[None]:
    """Models made and trained in this block spread each batch over the first `n_devices` devices.

    By the framework's own means: ``tf.distribute.MirroredStrategy``, or ``keras.distribution`` on JAX.

    Raises:
        ValueError: there are fewer devices, or the backend has no such means.
    """
    if n_devices == 1:
        yield
        return
    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax"):
        raise ValueError(
            f"devices={n_devices}: training on several needs KERAS_BACKEND tensorflow or jax, not {backend}"
        )
    found = _devices()
    if len(found) < n_devices:
        raise ValueError(f"devices={n_devices}: this machine has {len(found)} ({', '.join(found)}); try {len(found)}")
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(found[:n_devices]).scope():
            yield
        return
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=found[:n_devices]))
    try:
        yield
    finally:
        keras.distribution.set_distribution(None)


def _devices() -> list[str]:
    """Names of the accelerators, or of the CPUs where there are none."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return [
            device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        ]
    return list(keras.distribution.list_devices())


def make_deterministic() -> None:
    """Have operations repeat to the bit, in the whole process from now on.

    Raises:
        ValueError: JAX on a GPU decides this when it starts, and was not told to.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif any("cpu" not in device for device in _devices()) and (
        "--xla_gpu_deterministic_ops" not in os.environ.get("XLA_FLAGS", "")
    ):
        raise ValueError(
            "deterministic=True: JAX on a GPU needs XLA_FLAGS=--xla_gpu_deterministic_ops=true in its environment "
            "before it starts. Set it, or leave deterministic out."
        )
