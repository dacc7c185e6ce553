"""Compiled graphs leave the process as it was."""

import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_graphs_are_gone_reaches_its_handler(number: signal.Signals) -> None:
    """With a core for each graph, which ends with it, the process would crash here."""
    pytest.importorskip("openvino")
    code = f"""
import signal
import numpy as np
from openvino import Model, opset13
from nelbo.vae_core.engines.graphs import OpenVINOGraph

def graph():
    pixels = opset13.parameter([1, 2, 2, 1], np.float32)
    return OpenVINOGraph(Model([opset13.relu(pixels)], [pixels]), shape=(1, 2, 2, 1))

first, second = graph(), graph()
del first
del second
signal.signal({number:d}, lambda *_: print("handled"))
signal.raise_signal({number:d})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
