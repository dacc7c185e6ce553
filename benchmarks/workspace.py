"""A workspace with a model, for benchmarks that run commands in separate processes."""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.datasets import repeated_elpv

#: The command line, with this Python.
NELBO = [sys.executable, "-c", "from nelbo.flows.cli.main import main; main()"]
#: Settings of a small model, for smoke runs.
_SMALL = ["--set", "image_size=32", "--set", "epochs=2"]


def with_model(given: Path | None, aside: Path, *, small: bool) -> Path:
    """A workspace in the folder `aside` with a model: a copy of the given one, or one trained on solar cells.

    Args:
        small: whether to train a small model.
    """
    workspace = aside / "workspace"
    if given is not None:
        return Path(shutil.copytree(given, workspace))
    normal = repeated_elpv(150, aside / "normal")
    line = [*NELBO, "train", "--normal", str(normal), "--workspace", str(workspace), *(_SMALL if small else [])]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return workspace
