"""Features without a network that learns: how strongly an image changes along each direction, at four scales.

Pairs of filters, one even and one odd, see a stripe whatever its phase: the square root of the sum of their squares is
an energy that stays where the stripe is and does not swing with it. What repeats on normal parts (threads, grain,
fingers of a solar cell) has the same energies wherever it lies within a position; a crack adds some of its own.

Sources: Adelson and Bergen 1985, "Spatiotemporal energy models for the perception of motion" (pairs in quadrature);
Freeman and Adelson 1991, "The design and use of steerable filters" (oriented energy); Burt and Adelson 1983, "The
Laplacian pyramid as a compact image code" (coarse scales from images made smaller).
"""

import math

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from nelbo.vae_core.network.likelihoods import Tensor

#: Pixels along a side of what one position covers.
CELL_PX = 32
ORIENTATIONS = 6
#: Each sees stripes twice as wide as the one before: of 4, 8, 16 and 32 pixels.
SCALES = 4
#: Pixels, at the size that a scale has.
_WAVELENGTH = 4.0
_SPREAD = 2.25
#: Even, so that filters that move by two pixels see an image and its mirror image alike.
_SIDE = 10
_STEP = 2
#: Amplitude below which an energy says nothing: a tenth of a level of 8 bits, about what averaging leaves of rounding.
_FLOOR = 0.1 / 255
#: Added to the mean of grey before its log is taken, so that black does not become minus infinity.
_DARK = 0.01
#: The deepest scale of a smaller image could not be mirrored.
_SMALLEST_PX = 64
#: Weights of grey; of red less green; of yellow less blue. Channels that are equal leave nothing of the last two.
_OPPONENTS = ((1 / 3, 1 / 3, 1 / 3), (1.0, -1.0, 0.0), (0.5, 0.5, -1.0))


def filter_features(pixels: Tensor) -> Tensor:
    """pixels (n, h, w, c) in [0, 1] -> features (n, h / 32, w / 32, 25 c), the same on each machine.

    For each plane (grey; of colour images also red less green, and yellow less blue): natural logs of 4 x 6 energies,
    scale by scale from fine to coarse, orientations in steps of 30 degrees from stripes that stand upright; then the
    plane's mean, for grey its log, so that more light adds the same to all features of grey. An energy is the
    fourth root of the mean fourth power within the position, in units of a stripe's amplitude: a defect that fills a
    tenth of the position counts for more than in a plain mean.

    Args:
        pixels: of one or three channels; h and w are multiples of 32, from 64.

    Raises:
        ValueError: other channels or sides.

    >>> import numpy as np
    >>> stripes = 0.5 + 0.2 * np.sin(2 * np.pi * np.arange(64) / 8) * np.ones((1, 64, 1))
    >>> energies = np.asarray(filter_features(np.float32(stripes)[..., None]))[0, 0, 0, :-1].reshape(4, 6)
    >>> [int(i) for i in np.unravel_index(energies.argmax(), energies.shape)]
    [1, 0]
    """
    _, height, width, channels = pixels.shape
    if channels not in (1, 3):
        raise ValueError(f"pixels of {channels} channels: expected 1 (grey) or 3 (RGB)")
    if any(side % CELL_PX or side < _SMALLEST_PX for side in (height, width)):
        raise ValueError(
            f"pixels of {height} x {width}: the filters expect multiples of {CELL_PX} from {_SMALLEST_PX}; "
            "try another image size"
        )
    return layers.Concatenate(name="features")(_maps(pixels, channels))


def _maps(pixels: Tensor, channels: int) -> list[Tensor]:
    bank = _fixed(_bank(), strides=_STEP, name="bank")
    maps = []
    for number, plane in enumerate(_planes(pixels, channels)):
        x = plane
        for scale in range(SCALES):
            if scale:
                x = layers.AveragePooling2D(2)(x)
            maps.append(_log_energies(bank(_mirrored(x)), CELL_PX // 2**scale // _STEP))
        mean = layers.AveragePooling2D(CELL_PX)(plane)
        # Opponents have both signs.
        maps.append(mean if number else ops.log(mean + _DARK))
    return maps


def _planes(pixels: Tensor, channels: int) -> list[Tensor]:
    """Grey as it is; for images in colour the `_OPPONENTS`, (n, h, w, 1) each."""
    if channels == 1:
        return [pixels]
    kernel = np.asarray(_OPPONENTS, np.float32).T[None, None]
    opponents = _fixed(kernel, strides=1, name="opponents")(pixels)
    return [opponents[..., i : i + 1] for i in range(len(_OPPONENTS))]


def _fixed(kernel: NDArray[np.float32], strides: int, name: str) -> layers.Layer:
    """A convolution that is not trained; its weights are kept with a model, which later formulas then do not change."""
    return layers.Conv2D(
        kernel.shape[-1],
        kernel.shape[:2],
        strides,
        use_bias=False,
        trainable=False,
        kernel_initializer=keras.initializers.Constant(kernel),
        name=name,
    )


def _mirrored(x: Tensor) -> Tensor:
    """The image with a mirrored margin as wide as the filters need; zeros would make an edge around every image."""
    beyond = _SIDE // 2 - 1
    return ops.pad(x, ((0, 0), (beyond, beyond), (beyond, beyond), (0, 0)), mode="reflect")


def _log_energies(responses: Tensor, cell: int) -> Tensor:
    """(n, h, w, 2 orientations), even filters first -> (n, h / cell, w / cell, orientations)."""
    squares = ops.square(responses)
    energies = squares[..., :ORIENTATIONS] + squares[..., ORIENTATIONS:]
    # The mean is of squares: amplitudes would need a root, whose slope at zero has no bound.
    return ops.log(layers.AveragePooling2D(cell)(ops.square(energies)) + _FLOOR**4) / 4


def _bank() -> NDArray[np.float32]:
    """(side, side, 1, 2 orientations): Gabor filters, even ones first, that turn a stripe into its amplitude."""
    offsets = np.arange(_SIDE) - (_SIDE - 1) / 2
    down, across = offsets[:, None], offsets[None, :]
    envelope = np.exp(-(down**2 + across**2) / (2 * _SPREAD**2))
    envelope /= envelope.sum()
    angles = [math.pi * k / ORIENTATIONS for k in range(ORIENTATIONS)]
    phases = [2 * math.pi / _WAVELENGTH * (across * math.cos(a) + down * math.sin(a)) for a in angles]
    # Subtract what the filter leaves of a constant image.
    even = [2 * envelope * (np.cos(phase) - (envelope * np.cos(phase)).sum()) for phase in phases]
    odd = [2 * envelope * np.sin(phase) for phase in phases]
    return np.stack([*even, *odd], axis=-1)[:, :, None].astype(np.float32)
