"""Keras's third backend: training, scoring and bundles work on it, and scores are those of the others."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import stripes

from nelbo.vae_core import load_bundle, score

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")

CODE = """
import json, sys
from pathlib import Path
import keras, numpy as np
from synthetic import stripes
from nelbo.vae_core import TrainConfig, VAEConfig, load_bundle, save_bundle, score, train
pixels, folder = stripes(np.random.default_rng(0), 40), Path(sys.argv[1])
config, settings = VAEConfig(height=24, width=20), TrainConfig(epochs=2, batch_size=8, deterministic=True)
training = train(pixels[:30], pixels[30:], config, settings, checkpoint=folder / "checkpoint")
model_id = save_bundle(training.model, folder)
before, after = (score(model, pixels[30:]).nelbo.tolist() for model in (training.model, load_bundle(folder / model_id)))
print(json.dumps({"backend": keras.backend.backend(), "model_id": model_id, "before": before, "after": after}))
"""


def test_training_ends_on_torch_and_other_backends_score_alike(tmp_path: Path) -> None:
    environment = os.environ | {"KERAS_BACKEND": "torch", "PYTHONPATH": str(Path(__file__).parent.parent / "support")}
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == "torch"
    assert found["before"] == found["after"]
    here = score(load_bundle(tmp_path / found["model_id"]), stripes(np.random.default_rng(0), 40)[30:])
    np.testing.assert_allclose(here.nelbo, found["before"], rtol=1e-5, atol=1e-2)
