"""pyimgano's ``vae_conv``, on 8-bit RGB images, which it expects.

PyPI's torchvision cannot be imported beside a PyTorch without CUDA. pyimgano needs four small functions of it, which
this module replaces; nothing is resized, because all images have the network's size.
"""

import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from PIL import Image

Transform = Callable[..., object]


def compose(steps: list[Transform]) -> Transform:
    def apply(value: object) -> object:
        for step in steps:
            value = step(value)
        return value

    return apply


def resize(size: tuple[int, int]) -> Transform:
    def apply(picture: Image.Image) -> Image.Image:
        assert picture.size == size[::-1]
        return picture

    return apply


def to_tensor() -> Transform:
    return lambda picture: torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().div(255)


def normalize(mean: tuple[float, ...], std: tuple[float, ...]) -> Transform:
    centre, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return lambda tensor: tensor.sub(centre).div_(scale)


transforms = ModuleType("torchvision.transforms")
transforms.Compose, transforms.Resize, transforms.ToTensor, transforms.Normalize = compose, resize, to_tensor, normalize
torchvision = ModuleType("torchvision")
torchvision.transforms = transforms
sys.modules |= {"torchvision": torchvision, "torchvision.transforms": transforms}

from pyimgano.models.vae import VAEAnomalyDetector  # noqa: E402 - needs the module above


class Conv:
    def __init__(self, side: int) -> None:
        self.detector = VAEAnomalyDetector(image_size=side)

    def fit(self, pixels: np.ndarray) -> tuple[int, int]:
        self.detector.fit(_rgb(pixels))
        epochs = self.detector.epoch_num
        return epochs, epochs * len(pixels)

    def score(self, pixels: np.ndarray) -> np.ndarray:
        return self.detector.decision_function(_rgb(pixels))


def _rgb(pixels: np.ndarray) -> list[np.ndarray]:
    return list(np.repeat(np.rint(255 * pixels).astype(np.uint8), 3, axis=-1))
