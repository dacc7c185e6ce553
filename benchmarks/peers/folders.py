"""nelbo beside anomalib, from a folder of solar cells to scores, on two cores.

    python -m benchmarks.peers.folders [--images 2000] [--environments DIR] [--smoke]

prints the table of ``docs/evidence/benchmarks.md``. All get 256 x 256 pixels and learn from the same 100 cells, because
the core set of PatchCore takes hours with more. nelbo's figures include listing, hashing and published Parquet;
anomalib's end with scores in memory. Loading is not timed for either.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.datasets import repeated_elpv
from benchmarks.peers.compare import ENVIRONMENTS, THREADS, Peer, python_of, reason
from benchmarks.rates import Rate, circumstances
from benchmarks.speed.end_to_end import measured, trained
from benchmarks.table import heads, row

SIDE = 256
N_NORMAL = 100
ROUNDS = 3
#: Images for PaDiM, and for PatchCore, which takes up to a second for each.
N_PADIM, N_PATCHCORE = 500, 40
ANOMALIB = ("anomalib[openvino]==2.7.0", "onnxscript==0.7.2", "torch==2.14.1", "torchvision==0.29.1")
PADIM, PATCHCORE = (Peer(name, "anomalib", name, ANOMALIB) for name in ("Padim", "Patchcore"))
ROADS = ("torch", "openvino", "int8")


def own(engine: str, n: int, side: int, n_normal: int, rounds: int, aside: Path) -> Rate:
    """Images a second of nelbo's whole run."""
    workspace, folder = trained(aside / engine, engine, n_normal, side), repeated_elpv(n, aside / engine / "images")
    runs = [measured(folder, workspace, engine) for _ in range(rounds)]
    return Rate.of(n, [run["listing"] + run["scoring"] + run["publishing"] for run in runs])


def foreign(peer: Peer, road: str, n: int, environments: Path, aside: Path) -> Rate:
    """Images a second of a detector of anomalib, from files to scores.

    Raises:
        CalledProcessError: it could not be installed or run.
    """
    normal, images = repeated_elpv(N_NORMAL, aside / "normal"), repeated_elpv(n, aside / f"images{n}")
    script = Path(__file__).with_name("from_files.py")
    # One round more: the first is not timed.
    command = [python_of(peer, environments), script, peer.detector, road, normal, images, str(1 + ROUNDS)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=aside)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["n"] == n
    return Rate.of(n, found["seconds"][1:])


def rows(asked: argparse.Namespace, aside: Path) -> Iterator[tuple[str, ...]]:
    """Detector, engine, images a second, and nelbo's with the same numbers relative to it."""
    own_rates = {}
    for engine in ("openvino",) if asked.smoke else ("openvino", "int8"):
        sizes = (40, 16, 60, 1) if asked.smoke else (asked.images, SIDE, N_NORMAL, ROUNDS)
        rate = own_rates[engine] = own(engine, *sizes, aside)
        yield "nelbo", engine, f"{rate:,.0f}", "1.0"
    for peer, n in () if asked.smoke else ((PADIM, N_PADIM), (PATCHCORE, N_PATCHCORE)):
        for road in ROADS:
            try:
                rate = foreign(peer, road, n, asked.environments, aside)
            except subprocess.CalledProcessError as error:
                yield f"anomalib {peer.name}", road, f"could not be installed or run: {reason(error)}", ""
                continue
            ours = own_rates["int8" if road == "int8" else "openvino"]
            yield f"anomalib {peer.name}", road, f"{rate:,.1f}", f"{ours.median / rate.median:.1f}"


def main() -> None:
    """Print the table, each row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, metavar="N")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, metavar="DIR", help="of anomalib")
    parser.add_argument("--smoke", action="store_true", help="a few small images, and nelbo alone")
    asked = parser.parse_args()
    # Every process inherits this.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    print(f"{circumstances()}; medians of {ROUNDS} rounds, the range in brackets")
    print("\n".join(heads("detector", "engine", "images/s", "nelbo / it")))
    with tempfile.TemporaryDirectory() as aside:
        for cells in rows(asked, Path(aside)):
            print(row(*cells), flush=True)


if __name__ == "__main__":
    main()
