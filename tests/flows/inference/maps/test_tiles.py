"""Images in tiles, read from files: ten sizes in one folder, defects of a few pixels, and what is refused."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import score, train
from PIL import Image
from scipy.ndimage import gaussian_filter

from nelbo import Workspace
from nelbo.data import File, read_table
from nelbo.flows.inference.localisation import Pictured, localise
from nelbo.flows.inference.models import load_model
from nelbo.flows.options.options import SensitivityOptions, TrainOptions
from nelbo.flows.options.settings import DecodingSettings
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.workspace.layout import Workspace as Layout

TILED = {"tile": 64, "backbone": "filters", "engines": ()}
#: Width and height: smaller than a tile in both directions or in one, its size, a strip, and larger ones.
SIZES = [(40, 30), (50, 90), (64, 64), (65, 64), (2000, 30), (100, 100), (128, 64), (127, 129), (200, 160), (300, 70)]


def surface(seed: int, size: tuple[int, int], *, spot: bool = False) -> np.ndarray:
    """(h, w) uint8 grain; with a spot of 10 x 10 pixels."""
    grain = gaussian_filter(np.random.default_rng(seed).normal(size=size[::-1]), 1.5)
    levels = np.clip(128 + 25 * grain / grain.std(), 0, 255).astype(np.uint8)
    if spot:
        levels[10:20, 12:22] = 255
    return levels


def write(folder: Path, sizes: list[tuple[int, int]], first: int, kind: str = "png", *, spot: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        Image.fromarray(surface(first + number, size, spot=spot)).save(folder / f"{first + number}.{kind}")


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a workspace, and the result of training in it."""
    folder = tmp_path_factory.mktemp("tiles")
    write(folder / "normal", 4 * SIZES, first=0)
    return folder, train(folder / "normal", folder / "w", **TILED)


def test_the_bundle_holds_tiles(tiled: tuple[Path, dict[str, Any]]) -> None:
    folder, trained = tiled
    described = json.loads((folder / "w" / "models" / trained["model_id"] / "model.json").read_text())
    assert described["preprocessing"]["tile_scale"] == 1.0
    assert (described["config"]["height"], described["config"]["tile_overlap"]) == (64, 8)
    assert described["config"]["head"] == "linear"
    # The model was not tried on simulated defects, so nothing is said of its sensitivity.
    assert trained["sensitivity"] is None


def test_images_of_ten_sizes_in_one_folder_are_scored(tiled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = tiled
    write(tmp_path / "in" / "normal", SIZES, first=1000)
    write(tmp_path / "in" / "spot", SIZES, first=2000, spot=True)
    write(tmp_path / "in" / "tiff", [(2000, 30), (150, 150)], first=3000, kind="tif", spot=True)
    (tmp_path / "in" / "cut.png").write_bytes((tmp_path / "in" / "normal" / "1008.png").read_bytes()[:900])
    result = score(tmp_path / "in", folder / "w")
    assert (result["n_images"], result["n_scored"], result["n_not_scored"]) == (23, 22, 1)
    rows = {row["relative_path"]: row for row in read_table(Path(result["scores"])).to_pylist()}
    assert rows["cut.png"]["reason"] == "truncated"
    for number in range(len(SIZES)):
        pair = [rows[f"normal/{1000 + number}.png"], rows[f"spot/{2000 + number}.png"]]
        # Compare with an image of the same size, because the usual score depends on the number of tiles.
        assert pair[1]["anomaly_score"] > pair[0]["anomaly_score"] + 3, SIZES[number]
        for row in pair:
            assert row["nelbo_nats"] == pytest.approx(row["distortion_nats"] + row["rate_nats"])
            assert 0 < row["p_value"] <= 1
    # A map has a value for each 32 pixels of the image, whatever its size; images smaller than a tile are enlarged.
    pictured = [row for name in ("flagged", "near", "audit") for row in read_table(Path(result[name])).to_pylist()]
    maps = {row["relative_path"]: np.array(row["map"], float) for row in pictured}
    assert maps["spot/2008.png"].shape == (5, 6)
    assert np.unravel_index(maps["spot/2008.png"].argmax(), (5, 6)) == (0, 0)
    assert maps["tiff/3000.tif"].shape == (2, 62)
    assert Path(result["report"]).stat().st_size > 1000


def test_defects_are_painted_at_the_images_own_resolution(tiled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, trained = tiled
    write(tmp_path / "in", 2 * [(200, 160), (300, 70), (40, 30), (500, 300), (100, 100), (130, 90)], first=6000)
    options = SensitivityOptions(on=str(tmp_path / "in"), workspace=str(folder / "w"), defect_px=(2, 30))
    found = execute("sensitivity", options, prefect=False)
    assert (found["n_images"], found["n"], set(found["by_size_px"])) == (12, 16 * 12, {"2", "30"})
    by_size = found["by_size_px"]
    assert by_size["30"]["auroc_low"] > max(0.5, by_size["2"]["auroc"])
    rows = read_table(Layout.at(str(folder / "w")).simulated(trained["model_id"])).to_pylist()
    scored = {
        row["relative_path"]: row["anomaly_score"]
        for row in read_table(Path(score(tmp_path / "in", folder / "w")["scores"])).to_pylist()
    }
    for row in rows:
        if row["kind"] is None:
            assert row["peak"] == pytest.approx(scored[row["relative_path"]], abs=1e-2)
    card = Layout.at(str(folder / "w")).card(trained["model_id"]).read_text()
    assert "Not tried on simulated defects" not in card
    assert "## Simulated defects" in card


def test_an_image_in_memory_scores_as_its_file(tiled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    levels = surface(4000, (150, 90), spot=True)
    Image.fromarray(levels).save(tmp_path / "a.png")
    scorer = Workspace(tiled[0] / "w").scorer()
    assert scorer(tmp_path / "a.png").anomaly_score == scorer(levels).anomaly_score


def test_train_proposes_tiles(tmp_path: Path) -> None:
    write(tmp_path / "in", [(1100, 1056)] * 24, first=0)
    result = train(tmp_path / "in", tmp_path / "w", backbone="filters", image_size=(64, 64))
    (finding,) = (one for one in result["data"] if one["name"] == "tile")
    assert "tile=256 sees them at their own resolution, in 25 tiles an image" in finding["sentence"]
    assert finding["n"] == 24


def test_maps_are_compared_with_masks(tiled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = tiled
    sizes = [(200, 160), (300, 200)]
    write(tmp_path / "in", sizes, first=1, spot=True)
    (tmp_path / "masks").mkdir()
    images = []
    for number, size in enumerate(sizes, 1):
        mask = np.zeros(size[::-1], np.uint8)
        mask[10:20, 12:22] = 255
        path, of = (tmp_path / name / f"{number}.png" for name in ("masks", "in"))
        Image.fromarray(mask).save(path)
        images.append(Pictured(File.at(of), File.at(path), False, *size))
    workspace = Layout.at(str(folder / "w"))
    found = localise(load_model(workspace, tiled[1]["model_id"]), images, DecodingSettings())
    assert (found.rows, found.left_out) == ([0, 1], {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overlap": 8, "tile": None}, "overlap=8 goes with tiles, and tile is off. Set tile=256"),
        ({"scale": 0.5, "tile": None}, "scale=0.5 goes with tiles"),
        ({"image_size": (128, 128)}, "leave one of them out"),
        ({"locate": "on"}, "locate=on does not go with tile=64"),
        ({"fit": "pad"}, "fit=pad does not go with tile=64"),
        ({"variant_by": "folder"}, "variant_by does not go with tile=64"),
        ({"tile": 100}, "height=100 px: the preset features expects a multiple of 32"),
        ({"overlap": 40}, "expected 0 to half a tile; try 32"),
        ({"head": "deep", "backbone": "self_trained"}, "try head=linear"),
        ({"preset": "conv_spatial", "backbone": None}, "not the preset conv_spatial"),
        ({"variants": 2}, "without tiles"),
    ],
)
def test_settings_that_exclude_each_other_are_refused_at_once(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    write(tmp_path / "in", [(64, 64)] * 3, first=0)
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "in", tmp_path / "w", **{**TILED, **given})
    assert not (tmp_path / "w").exists()


def test_settings_are_read_from_text() -> None:
    options = TrainOptions(normal="in", tile="128", overlap="16", scale="0.5")  # type: ignore[arg-type]
    assert (options.input_size, options.tile_overlap, options.scale) == ((128, 128), 16, 0.5)
    assert TrainOptions(normal="in", tile=256).tile_overlap == 32
    assert TrainOptions(normal="in").tile_overlap is None


#: A program that learns from small images and scores large ones; it prints the peak memory of it and its decoders.
MEASURED = """
import sys
from pathlib import Path
import numpy as np
from nelbo.data import File, Preprocessing
from nelbo.data.decoder import workers
from nelbo.flows.inference.pipeline import score_files
from nelbo.flows.options.settings import DecodingSettings
from nelbo.vae_core import VAEConfig, train_tiles

channels, *paths = sys.argv[1:]
random, n = np.random.default_rng(0), int(channels)
prepared = Preprocessing(256, 256, n, tile_scale=1.0).to_dict()
config = VAEConfig(256, 256, channels=n, backbone="filters", tile_overlap=32)
small = random.integers(0, 255, (10, 256, 256, n), np.uint8)
small = small if n == 3 else small[..., 0]
model = train_tiles(small, config, preprocessing=prepared, folds=[0, 1] * 5).model
for rows in score_files(model, [File.at(Path(path)) for path in paths], DecodingSettings()):
    assert rows["reason"].to_pylist() == [None], rows
pids = ["self", *(worker.pid for worker in workers._open)]
held = [Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0] for pid in pids]
print(sum(map(int, held)) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "most_mib"), [(1, 1500), (3, 2500)])
def test_sixty_four_megapixels_take_bounded_memory(tmp_path: Path, channels: int, most_mib: int) -> None:
    grain = np.random.default_rng(0).integers(0, 255, (1000, 1000), np.uint8)
    levels = np.kron(grain, np.ones((8, 8), np.uint8))
    picture = Image.fromarray(levels if channels == 1 else np.dstack([levels, levels[::-1], levels.T]))
    paths = [tmp_path / name for name in ("a.jpg", "b.tif", "c.jpg")]
    for path in paths:
        picture.save(path)
    # Many files need as much memory as one: nothing accumulates.
    command = [sys.executable, "-c", MEASURED, str(channels), *map(str, paths)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert float(answer.stdout) < most_mib


@pytest.mark.slow
def test_a_batch_that_was_killed_is_resumed(tiled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = tiled
    write(tmp_path / "in", 4 * [(500, 400)], first=5000)
    command = [Path(sys.executable).with_name("nelbo"), "score", tmp_path / "in", "--workspace", folder / "w"]
    process = subprocess.Popen(
        [*command, "--no-prefect", "--set", "shard_size=1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not list((folder / "w" / "_staging").glob("**/*.parquet")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = score(tmp_path / "in", folder / "w", shard_size=1)
    assert (result["n_images"], result["n_scored"]) == (4, 4)
