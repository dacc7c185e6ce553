"""The choices that depend on backend and device."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import keras

from nelbo.vae_core.config import TrainConfig

#: How many times as many images as a CPU an accelerator computes at once: with fewer, it waits most of the time.
_ACCELERATED = 16
#: Constants from <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def jit_compile() -> bool | str:
    """Whether Keras should compile with XLA here.

    TensorFlow runs this network several times faster without XLA on a CPU, and faster with it on a GPU, where Keras
    knows what forbids it: determinism, and Apple's GPUs. Other backends have no such choice.
    """
    if keras.backend.backend() != "tensorflow":
        return "auto"
    import tensorflow as tf

    return "auto" if tf.config.list_physical_devices("GPU") else False


def has_accelerator() -> bool:
    """Whether there is a device other than the CPU."""
    return any("cpu" not in device.lower() for device in _devices())


def images_at_once(n: int) -> int:
    """Images in a batch on this machine, where a CPU takes n.

    >>> images_at_once(4)  # here, without an accelerator
    4
    """
    return _ACCELERATED * n if has_accelerator() else n


@cache
def compute_in_float32() -> None:
    """Have an accelerator multiply float32 numbers without rounding them first, in the whole process from now on.

    By default NVIDIA's GPUs round them to 10 bits first (TF32), and scores were 1e-3 off those of a CPU. Training with
    ``mixed_bfloat16`` is as fast as before.
    """
    if not has_accelerator():
        return
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "float32")
    else:
        import torch

        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False


def keep_freed_memory() -> None:
    """Have glibc, where it is the C library, keep freed memory for the next step instead of handing it back.

    By default an array above 32 MB comes fresh from the system, page by page, in every step: where the CPU is
    virtual that takes longer than the arithmetic. The process stays as large as it once was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def data_parallel(n_devices: int) -> Iterator[None]:
    """Models made and trained in this block spread each batch over the first `n_devices` devices.

    It uses the framework's own means: ``tf.distribute.MirroredStrategy``, or ``keras.distribution`` on JAX.
    `check_devices` refuses what they cannot do.
    """
    if n_devices == 1:
        yield
        return
    devices = _devices()[:n_devices]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(devices).scope():
            yield
        return
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def check_devices(train_config: TrainConfig) -> None:
    """Refuse a training that this machine and backend cannot do.

    Args:
        train_config: only its `devices` and `clip_norm` count.

    Raises:
        ValueError: too few devices, another backend than TensorFlow or JAX, or clipping that would work differently
            there.

    >>> check_devices(TrainConfig(devices=1))
    """
    n, backend = train_config.devices, keras.backend.backend()
    if n == 1:
        return
    if backend not in ("tensorflow", "jax"):
        raise ValueError(f"devices={n}: training on several needs KERAS_BACKEND tensorflow or jax, not {backend}")
    found = _devices()
    if len(found) < n:
        raise ValueError(f"devices={n}: this machine has {len(found)} ({', '.join(found)}); try {len(found)}")
    if train_config.clip_norm is not None and backend == "tensorflow":
        raise ValueError(
            f"clip_norm={train_config.clip_norm:g} with devices={n}: on TensorFlow, Keras clips the gradients of each "
            "device before it adds them up, which is another training. Leave one of the two out, "
            "or use KERAS_BACKEND=jax"
        )


def _devices() -> list[str]:
    """Names of the accelerators, or of the CPUs where there are none."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return [
            device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        ]
    if keras.backend.backend() == "torch":
        import torch

        return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
    return list(keras.distribution.list_devices())


def make_deterministic() -> None:
    """Have operations repeat to the bit, in the whole process from now on.

    Raises:
        ValueError: JAX on a GPU decides this when it starts, and was not told to.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif keras.backend.backend() == "torch":
        import torch

        torch.use_deterministic_algorithms(True)
    elif has_accelerator() and ("--xla_gpu_deterministic_ops" not in os.environ.get("XLA_FLAGS", "")):
        raise ValueError(
            "deterministic=True: JAX on a GPU needs XLA_FLAGS=--xla_gpu_deterministic_ops=true in its environment "
            "before it starts. Set it, or leave deterministic out."
        )
