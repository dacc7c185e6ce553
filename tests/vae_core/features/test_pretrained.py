"""ImageNet weights in PyTorch's old format: what is read, and what is refused."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from nelbo.vae_core import BackboneError, VAEConfig
from nelbo.vae_core.features.backbones import build_backbone, load_weights
from nelbo.vae_core.features.pretrained import find_weights, read_tensors, read_weights


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def integer(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def group(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


ORDERED = b"ccollections\nOrderedDict\n)R"


def tensor(key: str, n: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    storage = group(text("storage"), b"ctorch\nFloatStorage\n", text(key), text("cpu"), integer(n), b"N") + b"Q"
    sizes = (group(*map(integer, numbers)) for numbers in (shape, strides))
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + group(storage, integer(offset), *sizes, b"\x89", ORDERED) + b"R"


def written(tensors: dict[str, bytes], storages: dict[str, np.ndarray]) -> bytes:
    """A file in the format of ``torch.save`` before 1.6."""
    items = b"".join(text(name) + made for name, made in tensors.items())
    heads = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    numbers = [len(values).to_bytes(8, "little") + values.astype("<f4").tobytes() for values in storages.values()]
    return b"".join([*heads, b"\x80\x02" + ORDERED + b"(" + items + b"u.", pickle.dumps(list(storages), 2), *numbers])


def test_tensors_are_views_of_storages() -> None:
    values = np.arange(12.0)
    made = {
        "rows": tensor("0", 12, 0, (3, 4), (4, 1)),
        "columns": tensor("0", 12, 0, (4, 3), (1, 4)),
        "part": tensor("0", 12, 5, (2,), (1,)),
        "scalar": tensor("1", 1, 0, (), ()),
    }
    found = read_tensors(written(made, {"0": values, "1": np.array([7.0])}))
    np.testing.assert_array_equal(found["rows"], values.reshape(3, 4))
    np.testing.assert_array_equal(found["columns"], values.reshape(3, 4).T)
    assert found["part"].tolist() == [5.0, 6.0]
    assert found["scalar"] == 7.0


@pytest.mark.parametrize(
    ("shape", "strides", "offset"), [((3, 5), (4, 1), 0), ((2,), (1,), 11), ((2,), (-1,), 3), ((2,), (1,), -1)]
)
def test_no_tensor_reaches_beyond_its_storage(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> None:
    content = written({"a": tensor("0", 12, offset, shape, strides)}, {"0": np.arange(12.0)})
    with pytest.raises(BackboneError, match="reaches beyond its 12 numbers"):
        read_tensors(content)


def test_names_in_a_pickle_are_refused(tmp_path: Path) -> None:
    """If names were resolved, whoever writes the file could run any code."""
    target = tmp_path / "touched"
    hostile = b"cposix\nsystem\n" + group(text(f"touch {target}")) + b"R"
    with pytest.raises(BackboneError, match=r"name posix\.system, which they have no need of"):
        read_tensors(written({"a": hostile}, {}))
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps(3), pickle.dumps(0x1950A86A20F9469CFC6C, 2)])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(BackboneError, match="the weights"):
        read_tensors(content)


def test_a_truncated_file_is_refused() -> None:
    whole = written({"a": tensor("0", 12, 0, (12,), (1,))}, {"0": np.arange(12.0)})
    for end in (len(whole) - 1, len(whole) - 48, len(whole) - 60):
        with pytest.raises(BackboneError):
            read_tensors(whole[:end])


def test_the_checksum_is_checked_first(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(
        written({"_conv_stem.weight": tensor("0", 24, 0, (2, 3, 2, 2), (12, 4, 2, 1))}, {"0": np.arange(24.0)})
    )
    with pytest.raises(BackboneError, match=r"has SHA-256 [0-9a-f]{64}, expected 57934424"):
        read_weights(path)
    found = read_weights(path, hashlib.sha256(path.read_bytes()).hexdigest())
    # Height, width, inputs, outputs.
    assert found["stem_conv/kernel"].shape == (2, 2, 3, 2)
    assert found["stem_conv/kernel"][1, 0, 2, 1] == 12 + 8 + 2


def test_the_installed_weights_fit_the_network() -> None:
    path = find_weights()
    assert path is not None, "nelbo[pretrained] is a part of what tests need"
    config = VAEConfig(height=64, width=64, preset="features", backbone="efficientnet_lite0")
    backbone = build_backbone(config)
    load_weights(backbone, config, None)
    # Statistics of training on ImageNet; an untrained network has 0 and 1.
    layer = backbone.get_layer("block_3_depthwise_norm")
    assert 0.01 < float(np.abs(layer.moving_mean).mean()) < 10
    grey = np.full((1, 64, 64, 1), 0.5, np.float32)
    assert [one.shape[1:] for one in backbone(grey)] == [(8, 8, 40), (4, 4, 80), (4, 4, 112), (2, 2, 192)]
