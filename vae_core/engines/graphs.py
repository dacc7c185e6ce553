"""Scoring functions compiled by OpenVINO and ONNX Runtime, from files without code.

Each core computes a batch of its own: no core waits for another, and a score does not depend on how many there are.
"""

import sys
from functools import cache
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

from joblib import cpu_count

from nelbo.vae_core.scoring import Array


def import_openvino() -> Any:
    """The package, without its telemetry: on import it reports to Google Analytics, and no variable turns that off."""
    telemetry = "openvino_telemetry"
    kept = sys.modules.pop(telemetry, None)
    # As if that package were not installed.
    sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        sys.modules.pop(telemetry, None)
        if kept is not None:
            sys.modules[telemetry] = kept
    return openvino


_starting = Lock()


def openvino_core() -> Any:
    """The process's only `openvino.Core`.

    A core gives its thread another stack for signal handlers, and when it ends, brings back the one before. If the one
    before belonged to a core that has ended, its memory is gone, and the next Ctrl-C crashes the process (2026.4).
    """
    with _starting:
        return _core()


@cache
def _core() -> Any:
    return import_openvino().Core()


class OpenVINOGraph:
    """A graph in OpenVINO's own format, on the CPU, in 32 bits even where the CPU has units for fewer.

    Args:
        network: the content of an ``xml`` file, or an OpenVINO model.
        weights: of the ``bin`` file beside it.
        shape: (batch, h, w, c) of one batch.
    """

    def __init__(self, network: Any, weights: bytes = b"", *, shape: tuple[int, ...]) -> None:
        openvino = import_openvino()
        # OpenVINO makes a table of types when it first needs one. Two threads that need it at once deadlock: one has
        # the table and wants Python's lock, the other has the lock and wants the table.
        openvino.Type.f32.to_dtype()
        self.batch_size, self.parallel = shape[0], cpu_count()
        core = openvino_core()
        # From memory: a network cannot name further files.
        model = core.read_model(network, weights) if isinstance(network, bytes) else network
        model.reshape(list(shape))
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": self.parallel,
            "INFERENCE_NUM_THREADS": self.parallel,
        }
        self._compiled = core.compile_model(model, "CPU", settings)
        # One output may have several names.
        self._names = [output.get_names() for output in self._compiled.outputs]
        # A request serves one thread at a time, and keeps its memory for the next.
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def run(self, pixels: Array) -> dict[str, Array]:
        """The columns of `Score` for one batch; several threads may call it at once."""
        outputs = self.run_in_order(pixels)
        return {name: outputs[i] for i, names in enumerate(self._names) for name in names}

    def run_in_order(self, pixels: Array) -> list[Array]:
        """The outputs for one batch, in their order."""
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        found = list(request.infer([pixels], share_inputs=True).values())
        self._idle.put(request)
        return found


class OnnxGraph:
    """A graph that ONNX Runtime computes on the CPU.

    Args:
        network: the content of an ``onnx`` file.
        shape: (batch, h, w, c) of one batch.
    """

    def __init__(self, network: bytes, shape: tuple[int, ...]) -> None:
        import onnxruntime

        self.batch_size, self.parallel = shape[0], cpu_count()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, pixels: Array) -> dict[str, Array]:
        """The columns of `Score` for one batch; several threads may call it at once."""
        return dict(zip(self._names, self._session.run(None, {"pixels": pixels}), strict=True))
