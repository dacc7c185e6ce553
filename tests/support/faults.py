"""Faults made on purpose: folders that cannot be listed, also by root, and engines made anew with other facts."""

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
    """From now on folders of these names cannot be listed: for lack of rights, or with another error."""
    scandir = os.scandir

    def listed(path: Any = ".") -> Any:
        # A number is a descriptor of whoever removes or copies folders.
        if not isinstance(path, int) and Path(path).name in names:
            raise error or PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listed)


def remake(workspace: Path, engine: str, **changes: Any) -> None:
    """An engine of the latest model with other facts or graphs, and the id that they give it."""
    from nelbo import vae_core
    from nelbo.flows.inference.models import read_engine
    from nelbo.flows.workspace import catalog
    from nelbo.flows.workspace.layout import Workspace

    place = Workspace(workspace)
    folder = place.engine(catalog.find_model(place, "latest"), engine)
    made = read_engine(folder)
    shutil.rmtree(folder)
    vae_core.save_exported(replace(made, **changes), folder)


def with_zeros(engine: str, files: Mapping[str, bytes], output: str, aside: Path) -> dict[str, bytes]:
    """An engine's files with an output of its graph multiplied by zero.

    Args:
        engine: "onnx" or "openvino".
        aside: an empty folder.
    """
    if engine == "onnx":
        return {name: _onnx(content, output) for name, content in files.items()}
    return _openvino(files, output, aside)


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


def _openvino(files: Mapping[str, bytes], output: str, aside: Path) -> dict[str, bytes]:
    import openvino

    model = openvino.Core().read_model(files["scores.xml"], files["scores.bin"])
    for result in model.get_results():
        source = result.input(0).get_source_output()
        if output in source.get_names():
            source.set_names(set())
            zeros = openvino.opset13.multiply(source, openvino.opset13.constant(np.float32(0)))
            zeros.output(0).set_names({output})
            result.input(0).replace_source_output(zeros.output(0))
    openvino.save_model(model, aside / "scores.xml", compress_to_fp16=False)
    return {name: (aside / name).read_bytes() for name in files}
