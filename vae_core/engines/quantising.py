"""A backbone in 8 bits: weights and the values between layers as whole numbers, by ranges seen on normal images.

ONNX Runtime's ``quantize_static`` says where to round and how; OpenVINO computes what it says. The result is an
OpenVINO graph: neither TensorFlow nor ONNX is needed to score with it.
"""

import importlib.util
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.engines.conversion import maps_to_openvino, suits_openvino
from nelbo.vae_core.engines.exported import EngineError
from nelbo.vae_core.engines.graphs import import_openvino, openvino_core
from nelbo.vae_core.network.likelihoods import Tensor
from nelbo.vae_core.scoring import SEEN

#: Images from which the range of each layer's values is taken.
N_RANGED = 96
#: Packages that make a graph of 8 bits.
_NEEDED = ("onnx", "onnxruntime", "tf2onnx", "openvino")


def lacking_for_int8() -> str | None:
    """What is missing here for a backbone in 8 bits, and the remedy, as a sentence without its full stop; else None.

    >>> lacking_for_int8() is None or "KERAS_BACKEND" in lacking_for_int8() or "pip install" in lacking_for_int8()
    True
    """
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        return (
            f"{' and '.join(absent)} cannot be found here. Get what it needs with: pip install 'nelbo[openvino,onnx]'"
        )
    if not suits_openvino():
        return "it is made through TensorFlow for a CPU. Train with KERAS_BACKEND=tensorflow where there is no GPU"
    return None


def quantised(backbone: keras.Model, pixels: NDArray[np.float32], aside: Path | None = None) -> Any:
    """A backbone in 8 bits, as an OpenVINO model: from pixels to the same maps, in their order.

    Args:
        backbone: with one input, (n, h, w, c), and several outputs.
        pixels: (n, h, w, c) float32 in [0, 1], normal images; their ranges become those of all images.
        aside: a folder for what is unfinished; by default the system's for temporary files.

    Raises:
        EngineError: a package that this needs is missing.
    """
    if (absent := lacking_for_int8()) is not None:
        raise EngineError(f"int8: {absent}")
    spec = keras.InputSpec(shape=(None, *backbone.input.shape[1:]), dtype="float32", name="pixels")
    with tempfile.TemporaryDirectory(prefix="nelbo-", dir=aside) as folder:
        plain, rounded = Path(folder) / "plain.onnx", Path(folder) / "rounded.onnx"
        with warnings.catch_warnings():
            # Ignore warnings of NumPy and protobuf to tf2onnx.
            warnings.simplefilter("ignore")
            backbone.export(plain, format="onnx", verbose=False, input_signature=[spec])
        _round(plain, rounded, pixels)
        # From memory: ONNX may name further files.
        return openvino_core().read_model(rounded.read_bytes())


def _round(plain: Path, rounded: Path, pixels: NDArray[np.float32]) -> None:
    """Static quantisation: a scale for each channel of weights, and for each layer's values that of their range."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(pixels)

        def get_next(self) -> dict[str, Any] | None:
            one = next(self._left, None)
            return None if one is None else {"pixels": one[None]}

    folded = plain.with_name("folded.onnx")
    # Normalisations become parts of convolutions: rounded by themselves they put features three times as far off.
    quant_pre_process(plain, folded, skip_symbolic_shape=True)
    quantize_static(
        folded,
        rounded,
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def continued(backbone: Any, network: Any, maps: Sequence[Tensor]) -> Any:
    """An OpenVINO model that passes the maps of a backbone on to a network of Keras.

    Args:
        backbone: from `quantised`.
        network: a function of a list of the maps that gives a list or a dict of outputs.
        maps: symbolic, as the backbone has them in Keras.
    """
    openvino = import_openvino()
    then = maps_to_openvino(network, [tuple(one.shape) for one in maps])
    for i, output in enumerate(backbone.outputs):
        source = output.get_node().input_value(0)
        for parameter in then.get_parameters():
            if f"{SEEN}{i}" in parameter.output(0).get_names():
                parameter.output(0).replace(source)
    return openvino.Model(then.get_results(), backbone.get_parameters())
