"""nelbo beside other detectors that people would choose: the same solar cells, the same size, one machine, one run.

    python -m benchmarks.peers.compare [--sides 64 128] [--environments DIR]

prints the tables of ``docs/evidence/benchmarks.md``. Every detector trains on the same 1,131 normal cells with its own
defaults, in a separate process. Each foreign library gets its own environment, which pip installs from its configured
registry and which is kept for the next run; where a library cannot be installed or run, its row says why.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.datasets import Dataset, elpv
from benchmarks.rates import REPEATS, Rate, circumstances
from benchmarks.table import heads, row
from nelbo.detectors import auroc

MEASURE = Path(__file__).with_name("measure.py")
ENVIRONMENTS = Path("~/.cache/nelbo-peers").expanduser()
THREADS = 2
LIMIT_MINUTES = 120
COLUMNS = (
    "detector",
    "epochs",
    "training, s",
    "training, images/s",
    "scoring, images/s",
    "peak MiB",
    "AUROC, all",
    "mono",
    "poly",
)

TORCH = "torch==2.13.0"
ALIBI_DETECT = ("alibi-detect[tensorflow]==0.13.0",)
PYIMGANO = ("pyimgano==0.9.1", TORCH)
# PyOD imports tqdm without requiring it.
PYOD = ("pyod==3.6.7", TORCH, "tqdm")


class Peer(NamedTuple):
    """A detector: a class in a module of ``benchmarks/peers``, and its requirements; none means this environment."""

    name: str
    module: str
    detector: str
    requirements: tuple[str, ...] = ()


OWN = (Peer("nelbo, keras", "own", "Keras"), Peer("nelbo, openvino", "own", "OpenVINO"))
BRIEF = (Peer("nelbo, one epoch", "own", "Brief"),)
PLAIN = (
    Peer("scikit-learn PCA", "baselines", "Reconstruction"),
    Peer("scikit-learn IsolationForest", "baselines", "Forest"),
)
FOREIGN = (
    Peer("alibi-detect OutlierVAE", "outlier_vae", "Outlier", ALIBI_DETECT),
    Peer("pyimgano vae_conv", "vae_conv", "Conv", PYIMGANO),
    Peer("PyOD VAE", "dense", "Vae", PYOD),
    Peer("PyOD AutoEncoder", "dense", "AutoEncoder", PYOD),
)


def python_of(peer: Peer, environments: Path) -> Path:
    """The Python that has a peer's requirements; its environment is made unless one with them exists.

    Raises:
        CalledProcessError: pip failed.
    """
    if not peer.requirements:
        return Path(sys.executable)
    folder, wanted = environments / peer.module, "\n".join(peer.requirements)
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not (installed.exists() and installed.read_text(encoding="utf-8") == wanted):
        venv.create(folder, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "--quiet", *peer.requirements]
        subprocess.run(command, check=True, capture_output=True, text=True)
        installed.write_text(wanted, encoding="utf-8")
    return python


def outcome(peer: Peer, python: Path, folder: Path, rounds: int, minutes: int) -> tuple[dict[str, Any], np.ndarray]:
    """What a peer's process measured, and its scores of the test images.

    Raises:
        CalledProcessError, TimeoutExpired: the process failed, or took too long.
    """
    # If nelbo is found by PYTHONPATH, another environment must not see it.
    hidden = {"PYTHONPATH"} if peer.requirements else set()
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [python, MEASURE, peer.module, peer.detector, folder, str(rounds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=60 * minutes)
    return json.loads(done.stdout.splitlines()[-1]), np.load(folder / "scores.npy", allow_pickle=False)


def cells(peer: Peer, environments: Path, folder: Path, data: Dataset, rounds: int, minutes: int) -> list[str]:
    """The cells of a peer's row, or its name and why it has no figures."""
    try:
        found, scores = outcome(peer, python_of(peer, environments), folder, rounds, minutes)
    except subprocess.CalledProcessError as error:
        return [peer.name, f"could not be installed or run: {reason(error)}"]
    except subprocess.TimeoutExpired:
        return [peer.name, f"not done after {minutes} minutes, and stopped"]
    kinds = (slice(None), data.groups == "mono", data.groups == "poly")
    return [
        peer.name,
        f"{found['epochs']}",
        f"{found['fit_s']:.1f}",
        f"{found['n_learnt'] / found['fit_s']:,.0f}",
        f"{Rate.of(len(scores), found['score_s']):,.0f}",
        f"{found['peak_mib']:,.0f}",
        *(str(auroc(data.labels[rows], scores[rows])) for rows in kinds),
    ]


def reason(error: subprocess.CalledProcessError) -> str:
    """The last line of a program's stderr, which is its error; or the signal that killed it."""
    if error.returncode < 0:
        return f"killed by signal {-error.returncode}"
    said = (error.stderr or "").strip().splitlines()
    return said[-1].replace("|", "/") if said else f"exit status {error.returncode}"


def compare(peers: tuple[Peer, ...], side: int, environments: Path, minutes: int, *, smoke: bool) -> None:
    """Print the table of one size, each row as soon as it is known."""
    data = elpv(side)
    train = np.concatenate([data.train, data.validation])
    if smoke:
        train, data = train[:40], Dataset(*(part[::20] for part in data[:5]))
    print(f"\n{side} x {side} px, {len(train):,} training and {len(data.test):,} test images\n")
    print("\n".join(heads(*COLUMNS)), flush=True)
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        np.save(folder / "train.npy", train, allow_pickle=False)
        np.save(folder / "test.npy", data.test, allow_pickle=False)
        for peer in peers:
            found = cells(peer, environments, folder, data, 1 if smoke else REPEATS, minutes)
            print(row(*found, *[""] * (len(COLUMNS) - len(found))), flush=True)


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[64], metavar="PX")
    parser.add_argument(
        "--environments", type=Path, default=ENVIRONMENTS, metavar="DIR", help="of the foreign libraries"
    )
    parser.add_argument("--minutes", type=int, default=LIMIT_MINUTES, metavar="N", help="most minutes of a detector")
    parser.add_argument(
        "--smoke", action="store_true", help="a few small images, nothing installed: whether it runs, not how fast"
    )
    given = parser.parse_args()
    # Every process inherits this; libraries count these cores, not all of the machine.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    foreign = " ".join(dict.fromkeys(text for peer in FOREIGN for text in peer.requirements))
    own = " ".join(f"{name}=={version(name)}" for name in ("keras", "scikit-learn"))
    print(
        f"{circumstances()}; {THREADS} threads; scoring: medians of {REPEATS}, the range in brackets\n{own} {foreign}"
    )
    peers, sides = (BRIEF + PLAIN, [16]) if given.smoke else (OWN + PLAIN + FOREIGN, given.sides)
    for side in sides:
        compare(peers, side, given.environments, given.minutes, smoke=given.smoke)


if __name__ == "__main__":
    main()
