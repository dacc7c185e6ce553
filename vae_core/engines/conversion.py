"""From Keras to OpenVINO, through TensorFlow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from nelbo.vae_core.device import has_accelerator
from nelbo.vae_core.engines.exported import is_installed
from nelbo.vae_core.engines.graphs import import_openvino
from nelbo.vae_core.scoring import SEEN


def suits_openvino() -> bool:
    """Whether OpenVINO can be made of a network here, and is faster: on TensorFlow, without an accelerator."""
    return keras.backend.backend() == "tensorflow" and is_installed("openvino") and not has_accelerator()


def to_openvino(network: keras.Model, shape: tuple[int | None, ...]) -> Any:
    """A network as an OpenVINO model, whose outputs have the names of the network's own.

    Args:
        network: with one input; KERAS_BACKEND is tensorflow.
        shape: (n, h, w, c) of the input, None for any n.
    """
    # Called as for inference: no layer behaves as in training.
    return _converted(lambda pixels: network(pixels, training=False), {"pixels": shape})


def maps_to_openvino(function: Callable[[list[Any]], Any], shapes: Sequence[tuple[int | None, ...]]) -> Any:
    """A function of a list of maps as an OpenVINO model; the inputs that it uses are named `SEEN` and a number.

    Args:
        function: gives a list or a dict of tensors; KERAS_BACKEND is tensorflow.
        shapes: (n, h, w, c) of each map, None for any n.
    """
    return _converted(lambda *maps: function(list(maps)), {f"{SEEN}{i}": shape for i, shape in enumerate(shapes)})


def _converted(function: Callable[..., Any], shapes: Mapping[str, tuple[int | None, ...]]) -> Any:
    import tensorflow as tf

    signature = [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in shapes.items()]
    traced = tf.function(function, input_signature=signature).get_concrete_function()
    converted = import_openvino().convert_model(traced)
    if len(shapes) == 1:
        converted.inputs[0].get_tensor().set_names(set(shapes))
    if isinstance(traced.structured_outputs, dict):
        # TensorFlow flattens a dict in the order of its keys.
        ours = {
            theirs.name: name for name, theirs in zip(sorted(traced.structured_outputs), traced.outputs, strict=True)
        }
        for output in converted.outputs:
            output.get_tensor().add_names({ours[name] for name in output.get_names() if name in ours})
    return converted
