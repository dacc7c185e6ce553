"""Deliberate faults: folders that cannot be listed, even by root, and engines rewritten with other facts."""

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def shut(monkeypatch: pytest.MonkeyPatch, *names: str, error: OSError | None = None) -> None:
    """From now on, listing a folder with one of these names fails with a permission error, or with `error`."""
    scandir = os.scandir

    def listed(path: Any = ".") -> Any:
        # A number is a file descriptor, from code that removes or copies folders.
        if not isinstance(path, int) and Path(path).name in names:
            raise error or PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listed)


def remake(workspace: Path, engine: str, **changes: Any) -> None:
    """Rewrite an engine of the latest model with other facts or graphs, under the id that follows from them."""
    from nelbo import vae_core
    from nelbo.flows.inference.models import read_engine
    from nelbo.flows.workspace import catalog
    from nelbo.flows.workspace.layout import Workspace

    place = Workspace(workspace)
    folder = place.engine(catalog.find_model(place, "latest"), engine)
    made = read_engine(folder)
    shutil.rmtree(folder)
    vae_core.save_exported(replace(made, **changes), folder)


def with_zeros(engine: str, files: Mapping[str, bytes], output: str, scratch: Path) -> dict[str, bytes]:
    """An engine's files with an output of its graph multiplied by zero.

    Args:
        engine: "onnx" or "openvino".
        scratch: an empty folder.
    """
    if engine == "onnx":
        return {name: _onnx(content, output) for name, content in files.items()}
    return multiplied(files, output, 0, scratch)


def add_second_fit(workspace: Path, scratch: Path) -> None:
    """A second fit beside the latest model, made of its engine for OpenVINO: each peak is twice as high.

    Args:
        scratch: an empty folder.
    """
    from nelbo import vae_core
    from nelbo.flows.inference.models import read_engine
    from nelbo.flows.workspace import catalog
    from nelbo.flows.workspace.layout import Workspace
    from nelbo.vae_core.scoring import score_batches

    place = Workspace(workspace)
    model_id = catalog.find_model(place, "latest")
    made = read_engine(place.engine(model_id, "openvino"))
    files = multiplied(made.files, "peak", 2, scratch)
    # Recorded as the fastest engine, however busy this machine was.
    speeds = {"keras": 1.0, "int8": 99.0}
    second = replace(made, engine="int8", files=files, images_per_s=speeds, tolerance=0.01, features=())
    expected, seen = score_batches(second.graph(), made.pixels, seen=True)
    vae_core.save_exported(
        replace(second, expected=expected, features=tuple(seen)), place.engine(model_id, second.engine)
    )


def _onnx(content: bytes, output: str) -> bytes:
    import onnx

    model = onnx.load_from_string(content)
    if output not in [one.name for one in model.graph.output]:
        return content
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
        node.input[:] = ["before" if name == output else name for name in node.input]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((), np.float32), "none"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "none"], [output]))
    return bytes(model.SerializeToString())


def multiplied(files: Mapping[str, bytes], output: str, by: float, scratch: Path) -> dict[str, bytes]:
    """The files of an OpenVINO graph with one output multiplied by a factor."""
    import openvino

    model = openvino.Core().read_model(files["scores.xml"], files["scores.bin"])
    for result in model.get_results():
        source = result.input(0).get_source_output()
        if output in source.get_names():
            source.set_names(set())
            other = openvino.opset13.multiply(source, openvino.opset13.constant(np.float32(by)))
            other.output(0).set_names({output})
            result.input(0).replace_source_output(other.output(0))
    openvino.save_model(model, scratch / "scores.xml", compress_to_fp16=False)
    return {name: (scratch / name).read_bytes() for name in files}
