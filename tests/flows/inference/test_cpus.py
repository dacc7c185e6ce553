"""The numbers of threads and processes follow the CPUs that may be used."""

import json
import os
import subprocess
import sys

import pytest

from nelbo.flows.inference import cpus

_COUNT = """
import json, os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from joblib import cpu_count
from pathlib import Path
from PIL import Image
import tempfile
from nelbo import data
from nelbo.data.decoder import workers
made, started = [], workers.Worker.__init__
def counted(self):
    made.append(1)
    started(self)
workers.Worker.__init__ = counted
folder = Path(tempfile.mkdtemp())
for i in range(100):
    Image.new("L", (8, 8), i).save(folder / f"{i}.png")
data.read_images(sorted(folder.iterdir()), data.Preprocessing(16, 16))
from nelbo.flows.inference.models import import_keras
import_keras()
import pyarrow
from threadpoolctl import threadpool_info
print(json.dumps({
    "allowed": cpu_count(),
    "decoders": len(made),
    "arrow": pyarrow.cpu_count(),
    "blas": max(pool["num_threads"] for pool in threadpool_info()),
    "tensorflow": os.environ["TF_NUM_INTRAOP_THREADS"],
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs, to use only one")
def test_one_allowed_cpu_gives_one_decoder_and_one_thread() -> None:
    # This process may have set the variables for its own CPUs.
    environment = {name: value for name, value in os.environ.items() if name not in cpus.VARIABLES}
    line = [sys.executable, "-c", _COUNT]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found == {"allowed": 1, "decoders": 1, "arrow": 1, "blas": 1, "tensorflow": "1"}


def test_the_cpu_quota_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The affinity allows 64 CPUs, the quota 2, of which no library knows."""
    limits = []
    monkeypatch.setattr(cpus, "cpu_count", lambda: 2)
    monkeypatch.setattr(cpus, "threadpool_info", lambda: [{"num_threads": 64}])
    monkeypatch.setattr(cpus, "threadpool_limits", limits.append)
    monkeypatch.setattr(cpus.pa, "cpu_count", lambda: 64)
    monkeypatch.setattr(cpus.pa, "set_cpu_count", limits.append)
    for name in cpus.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NPROC", "1")
    cpus.follow_cpus()
    assert limits == [2, 2]
    # A value set by the user stays.
    assert [os.environ[name] for name in cpus.VARIABLES] == ["2", "2", "1"]
