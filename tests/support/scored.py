"""Workspaces of scored batches: nelbo's own writers fill them with random numbers, without TensorFlow."""

import hashlib
import itertools
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from synthetic import write_images

from nelbo.data import (
    CALIBRATION_SCHEMA,
    FLAGGED_SCHEMA,
    JOINT_PARTS,
    MAP_PEAK,
    REGIONS_SCHEMA,
    SCORES_SCHEMA,
    CachedPixels,
    Preprocessing,
    write_json,
    write_scores,
    write_table,
)
from nelbo.detectors import Threshold, detect_drift
from nelbo.flows.evaluation.drift import drift_facts, write_drift
from nelbo.flows.inference.kept.audit import drawn
from nelbo.flows.inference.kept.near import nearest
from nelbo.flows.inference.maps import pictured
from nelbo.flows.inference.regions.regions import each_region, regions_of
from nelbo.flows.options.options import CalibrateOptions, ScoreOptions, TrainOptions
from nelbo.flows.report.normals import keep_normals
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.calibrations.calibration import Calibration, read_calibration, write_calibration
from nelbo.flows.workspace.calibrations.level import RegionLevel
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

MODEL = "m5c0fed000000000"
WHY = "One spot at the top left (20 % from the left, 21 % from the top, 12 x 13 % in size) stands out."
#: Nats that a map must exceed inside regions.
MAP_LEVEL = 4.0
START = datetime(2026, 10, 1, 6, tzinfo=UTC)
#: Names of files that HTML, Markdown, scripts, spreadsheets or addresses may take for something else.
ATTACKS = (
    "<img src=x onerror=alert(1)>.jpg",
    "**bold** $x$ :red[x].png",
    "a_b_c[d](javascript:alert(1)).png",
    "</script><script>alert(1)</script>.png",
    "\"><svg onload='alert(1)'>.png",
    "{{ 7 * 7 }}{% raw %}&amp;&lt;b&gt;.png",
    "two\nlines\r\n\tand \x01\x7f control\u202e.png",
    "=cmd|' /C calc'!A0.png",
    "?a=b&model=x#top %2e%2e.png",
    f"{'long' * 60}.png",
)
#: Another model.
OTHER = "m07e4000000000000"


def add_calibration(
    workspace: Workspace,
    *,
    model_id: str = MODEL,
    n: int = 199,
    fpr: float = 0.05,
    review_fpr: float | None = 0.15,
    contamination: float = 0.0,
    cross: bool = False,
    at: datetime = START,
    seed: int = 0,
) -> Calibration:
    """Add a calibration on n normal images, and make it the model's current one."""
    rows = _images([f"normal/{i:06d}.png" for i in range(n)])
    rows |= _measures(np.random.default_rng(seed), np.zeros(n))
    rows |= {"label": pa.array([0] * n, pa.int8()), "split": pa.array(["calibration"] * n)}
    rows["variant"] = pa.nulls(n, pa.string())
    rows["anomaly_score"] = rows[MAP_PEAK] = rows["peak"]
    how: dict[str, Any] = {"review_fpr": review_fpr, "contamination": contamination, "cross": cross}
    threshold = Threshold.from_normals(rows["peak"], fpr, **how)
    content = {
        "model_id": model_id,
        "batch_id": "t0",
        "statistic": "peak",
        "joint": None,
        "threshold": threshold.to_dict(),
        "heatmap_top": 2 * float(np.quantile(rows["peak"], 0.95)),
        "judged": None,
        "region_level": RegionLevel(threshold).to_dict(),
    }
    run = Run("calibrate", CalibrateOptions(normal="normal"), started_at_utc=at)
    table = pa.table(rows).select(CALIBRATION_SCHEMA.names)
    calibration_id = write_calibration(content, table, workspace, run)
    pointers.use_calibration(workspace, model_id, calibration_id)
    ids = {"model_id": model_id, "calibration_id": calibration_id, "batch_id": "t0"}
    run.record(workspace, **ids, n_images=n, fpr=fpr)
    return read_calibration(workspace, calibration_id)


def add_batch(
    workspace: Workspace,
    batch_id: str,
    paths: Sequence[str],
    calibration: Calibration | None,
    *,
    model_id: str = MODEL,
    root: Path = Path("/nowhere"),
    anomalous: float | Sequence[bool] = 0.03,
    not_scored: float | Sequence[bool] = 0.01,
    shift: float = 0.0,
    labelled: bool = False,
    at: datetime = START,
    seed: int = 0,
    audit: int = 0,
    near: int = 0,
) -> pa.Table:
    """Publish a batch with its run; returns the rows of its scores.

    Args:
        paths: of the images, below `root`.
        calibration: what the verdicts come from; None leaves the rows without verdicts.
        anomalous: share of the images with a defect, or which of them have one.
        not_scored: share of the files without a score, or which of them have none.
        shift: of all scores, in standard deviations of normal ones.
        labelled: whether the rows have true labels.
        audit: number of rows in the audit sample; near: of images that were nearly flagged.
    """
    random = np.random.default_rng(seed)
    n = len(paths)
    defect, lost = _choice(random, anomalous, n), _choice(random, not_scored, n)
    run = Run(
        "score",
        ScoreOptions(images=str(root), workspace=str(workspace.root)),
        run_id=f"r{at:%Y%m%dT%H%M%S}-{hashlib.sha256(batch_id.encode()).hexdigest()[:8]}",
        started_at_utc=at,
        started=time.perf_counter() - n / 200 - 3,
    )
    measures = _measures(random, defect * random.uniform(1, 8, n) + shift)
    rows = _images(paths, root) | {name: pa.array(values, mask=lost) for name, values in measures.items()}
    rows |= _decide(pa.table(measures), lost, calibration)
    constants = {"statistic": "peak", "likelihood": "gaussian", "engine": "keras", "run_id": run.run_id}
    constants |= {"part": None, "variant": None}
    flags = [verdict in ("anomalous", "review") for verdict in rows["verdict"].to_pylist()]
    rows["why"] = pa.array(np.where(flags, WHY, None), pa.string())
    rows |= {name: pa.array([value] * n) for name, value in constants.items()}
    rows |= {
        "reason": pa.array(random.choice(["truncated", "not_an_image", "too_large"], n, p=[0.6, 0.3, 0.1]), mask=~lost),
        "label": pa.array(np.where(defect, 1, 0) if labelled else np.full(n, -1), pa.int8()),
        "width_px": pa.array([64] * n, pa.int32()),
        "height_px": pa.array([64] * n, pa.int32()),
        "scored_at_utc": pa.array([at] * n, pa.timestamp("us", tz="UTC")),
        "calibration_id": pa.array([calibration and calibration.calibration_id] * n, pa.string()),
    }
    table = pa.table(rows).select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA)
    drift = _drift(table, calibration)
    metadata = {**run.metadata, "nelbo.root": str(root), **write_drift(drift)}
    verdict = table["verdict"].cast(pa.string())
    normal = table.filter(pc.equal(verdict, "normal"))
    kept = {"flagged": table.filter(pc.is_in(verdict, pa.array(["anomalous", "review"])))}
    kept |= {"audit": drawn(normal, batch_id, seed=0, k=audit), "near": nearest(normal, near)}
    for kind, rows_of_kind in kept.items():
        pictured = _with_pictures(rows_of_kind, root)
        place = workspace.place(kind, model_id=model_id, batch_id=batch_id)
        write_table(pictured, place, FLAGGED_SCHEMA, metadata, workspace.staging)
    found = _regions(_with_pictures(kept["flagged"], root), root)
    write_table(found, workspace.regions(model_id, batch_id), REGIONS_SCHEMA, metadata, workspace.staging)
    write_scores(table, workspace.scores(model_id, batch_id), metadata, workspace.staging)
    verdicts = table["verdict"].cast(pa.string()).to_pylist()
    run.record(
        workspace,
        batch_id=batch_id,
        model_id=model_id,
        calibration_id=calibration and calibration.calibration_id,
        n_images=n,
        n_scored=int((~lost).sum()),
        n_not_scored=int(lost.sum()),
        n_waiting=0,
        n_anomalous=verdicts.count("anomalous"),
        n_review=verdicts.count("review"),
        fpr=calibration and calibration.threshold.fpr,
        images_per_s=float(random.normal(200, 12)),
        **drift_facts(drift),
    )
    return table


def add_normals(workspace: Workspace, model_id: str = MODEL, greys: Sequence[int] = (40, 128, 220)) -> None:
    """Write training images of a model, each of one grey."""
    pixels = np.array(greys, np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 1), np.uint8)
    table = pa.table(_images([f"normal/{grey}.png" for grey in greys]))
    run = Run("train", TrainOptions(normal="normal"))
    keep_normals(CachedPixels(pixels, np.arange(len(greys))), table, 0, workspace, model_id, run)


def make_three(folder: Path) -> Workspace:
    """Three batches: the last has drift and names that are attacks; one has no verdicts, one has no scores."""
    workspace = Workspace.at(str(folder))
    calibration = add_calibration(workspace)
    for i in range(3):
        paths = [f"line-{k % 2}/{k:03d}.png" for k in range(300)] + [*ATTACKS] * (i == 2)
        shift, at = 1.5 * (i == 2), START + timedelta(hours=i)
        add_batch(workspace, f"b{i}", paths, calibration, shift=shift, audit=5, near=3, at=at, seed=i)
    add_batch(workspace, "without-verdicts", ["a.png", "b.png"], None, not_scored=0, at=START - timedelta(hours=1))
    add_batch(workspace, "without-scores", ["a.txt"], calibration, not_scored=[True], at=START - timedelta(hours=2))
    return workspace


def make_two_models(folder: Path) -> Workspace:
    """Batches of real files by two models; of the first, which has two calibrations, only the description is left.

    ``shift`` has labels; ``repeat`` and ``raw`` have the same files, ``raw`` without verdicts. The other model has one
    calibration, and has scored ``single`` and ``repeat``. The name of the last file is an attack.
    """
    root = folder / "images"
    paths = [*write_images(root, 24, seed=1), *write_images(root / "b", 16, seed=2, blot=True)]
    paths[-1] = paths[-1].rename(root / ATTACKS[0])
    workspace = Workspace(folder / "workspace")
    described = {"config": {}, "preprocessing": Preprocessing(32, 32).to_dict(), "training": {"seen": []}}
    for model_id in (MODEL, OTHER):
        write_json(described, workspace.models / model_id / "model.json")
    strict = add_calibration(workspace, fpr=0.02, review_fpr=None, seed=5)
    usual = add_calibration(workspace)
    alone = add_calibration(workspace, model_id=OTHER, seed=9)
    assert strict != usual
    names = [path.relative_to(root).as_posix() for path in paths]
    defects = ["blot" in name or name == ATTACKS[0] for name in names]
    scored = {"root": root, "anomalous": defects, "not_scored": 0.0}
    add_batch(workspace, "repeat", names, usual, seed=3, **scored)
    add_batch(workspace, "raw", names, None, **scored)
    add_batch(workspace, "repeat", names, alone, model_id=OTHER, seed=8, **scored)
    add_batch(workspace, "single", names, alone, model_id=OTHER, **scored)
    kept = {"audit": 4, "near": 3}
    add_batch(workspace, "shift", names, usual, labelled=True, at=START + timedelta(days=1), seed=4, **kept, **scored)
    add_normals(workspace)
    return workspace


def address_of(row: Mapping[Any, Any], batch_id: str = "shift", model_id: str = MODEL) -> dict[str, str]:
    """The query parameters of the address of an image's page."""
    return {"model": model_id, "batch": batch_id, "image": row["image_id"], "path": row["relative_path"]}


def spoilt(content: bytes, how: str) -> bytes:
    """The bytes of a file, damaged."""
    if how == "cut":
        return content[: len(content) // 2]
    if how == "a page":
        # The file opens, but fails when it is read.
        return content[:4] + bytes(byte ^ 0xFF for byte in content[4:200]) + content[200:]
    return b"" if how == "empty" else b"garbage" * 99


def publish_for_ever(folder: str) -> None:
    """Publish three batches over and over, until the process ends."""
    workspace = Workspace.at(folder)
    calibration = add_calibration(workspace)
    for turn in itertools.count():
        add_batch(workspace, f"b{turn % 3}", [f"line/{k:03d}.png" for k in range(300)], calibration, seed=turn)


def _choice(random: np.random.Generator, share: float | Sequence[bool], n: int) -> np.ndarray:
    return random.random(n) < share if isinstance(share, int | float) else np.asarray(share, bool)


def _images(paths: Sequence[str], root: Path = Path("/nowhere")) -> dict[str, Any]:
    """Paths with the hashes of their files; a path without a file has a made-up hash."""
    files = [root / path for path in paths]
    ids = [
        hashlib.sha256(file.read_bytes() if file.is_file() else path.encode()).hexdigest()
        for file, path in zip(files, paths, strict=True)
    ]
    return {"relative_path": pa.array(list(paths), pa.string()), "image_id": pa.array(ids, pa.string())}


def _measures(random: np.random.Generator, strangeness: np.ndarray) -> dict[str, np.ndarray]:
    """(n,) columns that correlate as they do for real images, each higher where an image is stranger."""
    n = len(strangeness)
    peak = 2 + random.gamma(4, 0.6, n) + strangeness
    rate = random.gamma(30, 1, n) + 2 * strangeness
    distortion = -5000 + 60 * random.standard_normal(n) + 90 * strangeness
    return {
        "nelbo_nats": distortion + rate,
        "distortion_nats": distortion,
        "rate_nats": rate,
        "bits_per_dim": (distortion + rate) / (64 * 64 * np.log(2)) + 8,
        "z_mean_norm": np.sqrt(rate),
        "z_log_var_sum": -2 * rate,
        "worst_pixels_nats": distortion / 50 + 200,
        "peak": peak,
        # As for a model of pixels, which locates no part and has one variant.
        **dict.fromkeys((*JOINT_PARTS, "size_z", "variant_z"), np.full(n, np.nan)),
    }


def _decide(measures: pa.Table, lost: np.ndarray, calibration: Calibration | None) -> dict[str, pa.Array]:
    """The calibration's verdicts on the images with a score."""
    n = measures.num_rows
    decided: dict[str, np.ndarray] = {name: np.full(n, np.nan) for name in ("threshold", "p_value", "q_value")}
    decided["anomaly_score"] = np.where(lost, np.nan, measures["peak"].to_numpy())
    verdict = np.where(lost, "not_scored", None)
    if calibration is not None:
        judged = calibration.judge(
            measures.filter(pa.array(~lost)).append_column("variant", pa.nulls(int((~lost).sum()), pa.string()))
        )
        decided["threshold"][~lost] = calibration.threshold.value
        decided["p_value"][~lost], decided["q_value"][~lost] = judged.p_value, judged.q_value
        verdict[~lost] = judged.verdict
    columns = {name: pa.array(values, from_pandas=True) for name, values in decided.items()}
    return {**columns, "verdict": pa.array(verdict, pa.string())}


def _drift(table: pa.Table, calibration: Calibration | None) -> dict[str, Any] | None:
    """Like `nelbo.flows.evaluation.drift.find_drift`, but from the scores alone."""
    if calibration is None:
        return None
    scores = table["anomaly_score"].drop_null().to_numpy()
    found = detect_drift(scores, calibration.normal_scores, threshold=calibration.threshold.value)
    tests = [{**test._asdict(), "fired": test in found.fired} for test in found.tests]
    findings = [test.finding for test in found.fired]
    return {"alarm": found.alarm, "alpha": found.alpha, "findings": findings, "tests": tests}


def _with_pictures(rows: pa.Table, root: Path) -> pa.Table:
    """Rows of scores as rows of ``FLAGGED_SCHEMA``."""
    looked_at = _looked_at(rows["relative_path"].to_pylist(), root)
    for name in looked_at.column_names:
        rows = rows.append_column(name, looked_at[name])
    return rows.append_column("heatmap_png", pa.nulls(rows.num_rows, pa.binary()))


def _pixels(paths: Sequence[str], root: Path) -> np.ndarray:
    """(n, 64, 64, 1) pixels in [0, 1]; a missing file counts as black."""
    pixels = np.zeros((len(paths), 64, 64, 1), np.float32)
    for values, path in zip(pixels, paths, strict=True):
        if (root / path).is_file():
            values[..., 0] = np.asarray(Image.open(root / path).convert("L").resize((64, 64))) / 255
    return pixels


def _looked_at(paths: Sequence[str], root: Path) -> pa.Table:
    """For each picture, a map that is high where the picture is dark, as a blot is."""
    pixels = _pixels(paths, root)
    ends, levels = np.tile((0.0, 12.0), (len(paths), 1)), np.full(len(paths), MAP_LEVEL)
    return pictured(pixels, np.ones(len(paths)), _maps(pixels), ends, None, levels, [(64, 64)] * len(paths))


def _maps(pixels: np.ndarray) -> np.ndarray:
    return np.maximum(0, 110 / 255 - pixels[..., 0]) * 42


def _regions(rows: pa.Table, root: Path) -> pa.Table:
    """The regions of flagged rows."""
    n = rows.num_rows
    units = _maps(_pixels(rows["relative_path"].to_pylist(), root)).astype(np.float32)
    found = regions_of(units, np.full(n, MAP_LEVEL), [(64, 64)] * n, [None] * n, Preprocessing(64, 64))
    return each_region(rows.append_column("regions", found))


def stub_workspace(root: Path, fpr: float = 0.05) -> Workspace:
    """A workspace whose latest model is a stub, with a calibration."""
    workspace = Workspace(root)
    model = root / "models" / MODEL
    write_json({"config": {}, "preprocessing": {}, "training": {"batch_id": "t0", "seen": []}}, model / "model.json")
    write_json({}, model / "checksums.json")
    pointers.promote(workspace, MODEL)
    add_calibration(workspace, fpr=fpr, review_fpr=None)
    return workspace
