"""Data-parallel training on virtual CPU devices: the same loss curve as on one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from nelbo.vae_core import TrainConfig, check_devices

HERE = Path(__file__).parent


def run(*devices: int) -> dict[str, Any]:
    environment = os.environ | {
        "KERAS_BACKEND": keras.backend.backend(),
        "PYTHONPATH": str(HERE.parents[1] / "support"),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, str(HERE / "two_devices.py"), *map(str, devices)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout[done.stdout.index("{") :])


@pytest.mark.slow
def test_two_devices_give_the_curve_of_one() -> None:
    found = run(1, 2, 4)
    one, two = found["1"], found["2"]
    for name in ("loss", "nelbo", "distortion", "rate", "sigma", "val_nelbo", "scores"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, err_msg=name)
    assert "this machine has 2" in found["4"]


def test_more_devices_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"devices=64: this machine has \d+ \(.*\); try"):
        check_devices(TrainConfig(batch_size=64, devices=64))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX clips the joint gradient")
def test_clipping_device_by_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured with clip_norm=1: a loss curve that is off by 1 % after four epochs."""
    monkeypatch.setattr("nelbo.vae_core.device._devices", lambda: ["one", "two"])
    with pytest.raises(ValueError, match="Leave one of the two out"):
        check_devices(TrainConfig(devices=2, clip_norm=1.0))
    check_devices(TrainConfig(devices=2))


def test_deterministic_in_a_process_of_its_own() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import hashlib, numpy as np\n"
        "from synthetic import stripes\n"
        "from nelbo.vae_core import TrainConfig, VAEConfig, train\n"
        "pixels = stripes(np.random.default_rng(0), 40)\n"
        "settings = TrainConfig(epochs=2, batch_size=8, deterministic=True)\n"
        "for _ in range(2):\n"
        "    network = train(pixels[:30], pixels[30:], VAEConfig(height=24, width=20), settings).model.network\n"
        "    print(hashlib.sha256(b''.join(w.tobytes() for w in network.get_weights())).hexdigest())\n"
    )
    command = [sys.executable, "-c", code, str(HERE.parents[1] / "support")]
    one, other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert one == other
