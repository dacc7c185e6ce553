"""From Keras to OpenVINO, through TensorFlow."""

from typing import Any

import keras

from nelbo.vae_core.device import has_accelerator
from nelbo.vae_core.engines.exported import is_installed
from nelbo.vae_core.engines.graphs import import_openvino


def suits_openvino() -> bool:
    """Whether OpenVINO can be made of a network here, and is faster: on TensorFlow, without an accelerator."""
    return keras.backend.backend() == "tensorflow" and is_installed("openvino") and not has_accelerator()


def to_openvino(network: keras.Model, shape: tuple[int | None, ...]) -> Any:
    """A network as a model of OpenVINO's, whose outputs have the names of the network's own.

    Args:
        network: of one input; KERAS_BACKEND is tensorflow.
        shape: (n, h, w, c) of the input, None for any n.
    """
    import tensorflow as tf

    signature = [tf.TensorSpec(shape, tf.float32, name="pixels")]
    # Called as for inference: no layer behaves as in training.
    function = tf.function(lambda pixels: network(pixels, training=False), input_signature=signature)
    traced = function.get_concrete_function()
    converted = import_openvino().convert_model(traced)
    converted.inputs[0].get_tensor().set_names({"pixels"})
    if isinstance(traced.structured_outputs, dict):
        # TensorFlow flattens a dict in the order of its keys.
        ours = {
            theirs.name: name for name, theirs in zip(sorted(traced.structured_outputs), traced.outputs, strict=True)
        }
        for output in converted.outputs:
            output.get_tensor().add_names({ours[name] for name in output.get_names() if name in ours})
    return converted
