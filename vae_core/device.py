"""The choice that depends on the device."""

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
