"""What a workspace holds; only this module lists its folders.

It ignores links, files that nelbo did not write, and names that are not ids. Ids and times come from paths, and counts
from the rows of runs: verdicts are read only where a run's row is gone.
"""

import glob
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import InputError, MissingError, Place, modified, read_table
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.errors import NotYetError, UsageError
from nelbo.flows.workspace.ids import meant
from nelbo.flows.workspace.layout import ID, KEPT_ABOUT, KEPT_ROWS, PATHS, Workspace, check_id, is_id, some
from nelbo.flows.workspace.models import describe_model
from nelbo.flows.workspace.tables import KINDS, distinct, read_rows_of

log = logging.getLogger(__name__)

_MODELS = pa.schema(
    {"model_id": "string", "latest": "bool"}
    | dict.fromkeys(("calibration_id", "preset", "image_size", "statistic"), "string")
    | {"n_train": "int64", "engines": "string"}
)
_DESCRIBED = ("model_id", "batch_id", "made_at_utc")
_CALIBRATIONS = pa.schema({"calibration_id": "string", "current": "bool"} | dict.fromkeys(_DESCRIBED, "string"))
_COUNTS = ("n_anomalous", "n_review", "n_not_scored")
_BATCHES = pa.schema(
    {"batch_id": "string", "model_id": "string", "n_images": "int64"}
    | dict.fromkeys(_COUNTS, "int64")
    | {"scored_at_utc": "string"}
)


def models(workspace: Workspace) -> pa.Table:
    """A row for each model: id, sizes, whether it is the latest, its current calibration."""
    latest, current, rows = pointers.promoted(workspace), pointers.calibrations(workspace), []
    for model_id in model_ids(workspace):
        description = describe_model(workspace, model_id)
        config, training = description["config"], description["training"]
        rows.append(
            {
                "model_id": model_id,
                "latest": model_id == latest,
                "calibration_id": current.get(model_id),
                "preset": config["preset"],
                "image_size": f"{config['height']}x{config['width']}x{config['channels']}",
                "statistic": config["statistic"],
                "n_train": training.get("n_train"),
                "engines": ",".join(engines(workspace, model_id)),
            }
        )
    return pa.Table.from_pylist(rows, _MODELS)


def calibrations(workspace: Workspace) -> pa.Table:
    """A row for each calibration, the oldest first: its model, whether it is current, and its images' manifest.

    For a damaged calibration, which ``verify`` reports, only the id is known.
    """
    current = {
        name for precision in pointers.PRECISIONS for name in pointers.calibrations(workspace, precision).values()
    }
    rows = []
    for calibration_id in calibration_ids(workspace):
        own = {"calibration_id": calibration_id, "current": calibration_id in current}
        rows.append(own | _described(workspace, calibration_id))
    order = [(name, "ascending") for name in ("made_at_utc", "calibration_id")]
    return pa.Table.from_pylist(rows, _CALIBRATIONS).sort_by(order)


def _described(workspace: Workspace, calibration_id: str) -> dict[str, str]:
    try:
        content = json.loads((workspace.calibrations / calibration_id / "calibration.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    found = content if isinstance(content, dict) else {}
    return {name: found[name] for name in _DESCRIBED if isinstance(found.get(name), str)}


def batches(workspace: Workspace) -> pa.Table:
    """A row for each scored batch and model, the newest last: counts, and when it was scored."""
    counted = {row["run_id"]: row for row in all_rows(workspace, "runs").select(["run_id", *_COUNTS]).to_pylist()}
    rows = []
    for row in find(workspace, "scores").to_pylist():
        # A batch may be pruned meanwhile.
        with suppress(MissingError):
            rows.append(row | _counts(workspace.root / row["path"], counted))
    return pa.Table.from_pylist(rows, _BATCHES).sort_by("scored_at_utc")


def _counts(scores: Place, counted: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Counts and time of a batch, from the run that published it; from its verdicts if that run has no row."""
    times = read_table(scores, ["scored_at_utc"])
    run = counted.get((times.schema.metadata or {}).get(b"nelbo.run_id", b"").decode(), {})
    counts = {name: run.get(name) for name in _COUNTS}
    if None in counts.values():
        verdicts = read_table(scores, ["verdict"])["verdict"].to_pylist()
        counts = {name: verdicts.count(name.removeprefix("n_")) for name in _COUNTS}
    last = pc.max(times["scored_at_utc"]).as_py()
    if last is None:
        raise InputError(f"{scores} is damaged: no row says when it was scored. Restore it, or score the batch again.")
    return {"n_images": times.num_rows, **counts, "scored_at_utc": f"{last:%Y-%m-%dT%H:%M:%SZ}"}


def published(workspace: Workspace, **ids: str | None) -> pa.Table:
    """The scores of batches as `find` returns them, the batch that was published last at the end."""
    return with_times(workspace, find(workspace, "scores", **ids)).sort_by("modified")


def all_rows(workspace: Workspace, kind: str, beginning: str = "") -> pa.Table:
    """All rows of ``runs`` or ``reviews`` in order of time; or only those in files whose names have this beginning."""
    try:
        tables = [read_rows_of(place, KINDS[kind]) for place in places(workspace, kind, beginning)]
    except MissingError:
        # A file was compacted meanwhile: its rows stand in another file now.
        return all_rows(workspace, kind, beginning)
    return distinct((table for table in tables if table is not None), KINDS[kind])


def sources(workspace: Workspace) -> set[str]:
    """The manifests of the images behind calibrations and models."""
    described: list[dict[str, Any]] = [_described(workspace, name) for name in calibration_ids(workspace)]
    described += [describe_model(workspace, name)["training"] for name in model_ids(workspace)]
    return {str(content.get("batch_id")) for content in described}


def model_ids(workspace: Workspace) -> list[str]:
    """Ids of the models in the workspace."""
    return sorted(find(workspace, "models")["model_id"].to_pylist())


def calibration_ids(workspace: Workspace) -> list[str]:
    """Ids of the calibrations in the workspace, of all models."""
    return sorted(name for name in find(workspace, "calibrations")["calibration_id"].to_pylist() if name[0] == "c")


def engines(workspace: Workspace, model_id: str) -> list[str]:
    """Engines that a model was exported for."""
    return sorted(find(workspace, "engines", model_id=model_id)["engine"].to_pylist())


def find_model(workspace: Workspace, name: str) -> str:
    """The id of the model that `name` means: ``latest``, an id, or the beginning of one."""
    known = model_ids(workspace)
    if name == "latest":
        asked = pointers.promoted(workspace)
        if asked is None:
            raise NotYetError(
                f"workspace {workspace.root} has no latest model. Make one with: nelbo train --normal DIR"
            )
        model_id = asked if asked in known else None
    else:
        asked, model_id = name, meant(name, known, "model")
    if model_id is None:
        raise UsageError(
            f"model {asked!r} is not in workspace {workspace.root}, which has {some(known)}. "
            "Name one of them, or give another --workspace."
        )
    return model_id


def find_calibration(workspace: Workspace, name: str) -> str:
    """The id of the calibration that `name` means: an id, or the beginning of one."""
    known = calibration_ids(workspace)
    calibration_id = meant(check_id(name), known, "calibration")
    if calibration_id is None:
        raise UsageError(f"calibration {name!r} is not in workspace {workspace.root}, which has {some(known)}.")
    return calibration_id


def find_scored(workspace: Workspace, kind: Literal["batch", "model"], name: str) -> str:
    """The id of the scored batch, or of the model that scored some, that `name` means; `name` itself if it means none.

    A model may have been pruned since it scored.
    """
    column = f"{kind}_id"
    # Listing all batches takes longer than looking for one.
    if find(workspace, "scores", **{column: check_id(name)}).num_rows:
        return name
    return meant(name, find(workspace, "scores")[column].to_pylist(), kind) or name


def ids(workspace: Workspace) -> list[str]:
    """Everything that can be named on the command line, in order: models, calibrations and scored batches."""
    batch_ids = find(workspace, "scores")["batch_id"].to_pylist()
    return sorted({*model_ids(workspace), *calibration_ids(workspace), *batch_ids})


def find(workspace: Workspace, kind: str, **ids: str | None) -> pa.Table:
    """What the workspace has of a kind of `PATHS`, in order of ``path``, which is relative to the workspace.

    Args:
        ids: ids to look for; folders of other ids are not opened. None stands for all.

    Returns:
        A column for each id in the kind's path, ``path`` and ``size_bytes``.
    """
    asked, expression = {name: value for name, value in ids.items() if value is not None}, _expression(PATHS[kind])
    rows = []
    if all(map(is_id, asked.values())):
        for path, size_bytes in _files(workspace.root, PATHS[kind].format_map(defaultdict(lambda: "*", asked))):
            if found := expression.fullmatch(path):
                rows.append({**found.groupdict(), "path": path, "size_bytes": size_bytes})
    schema = pa.schema({**dict.fromkeys([*expression.groupindex, "path"], "string"), "size_bytes": "int64"})
    return pa.Table.from_pylist(rows, schema).sort_by("path")


@cache
def _expression(path: str) -> re.Pattern[str]:
    """An expression that matches a path of `PATHS`, with its ids as groups."""
    return re.compile(re.sub(r"\\{(\w+)\\}", rf"(?P<\1>{ID})", re.escape(path)))


def _files(root: Place, pattern: str) -> Iterator[tuple[str, int]]:
    """Regular files that match a pattern without passing a link: path below the root, and bytes."""
    if isinstance(root, Path):
        yield from _files_on_disk(root, "", pattern.split("/"))
        return
    folder = root.path.rstrip("/")
    for name, status in root.fs.glob(f"{glob.escape(folder)}/{pattern}", detail=True).items():
        if status["type"] == "file":
            yield name.removeprefix(folder).strip("/"), status["size"]


def _files_on_disk(folder: Path, path: str, levels: list[str]) -> Iterator[tuple[str, int]]:
    level, *deeper = levels
    # Asking for a known name is much faster than searching for it.
    for place in folder.glob(level) if "*" in level else [folder / level]:
        # A folder of somebody else may be unreadable.
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            try:
                status = place.lstat()
            except FileNotFoundError:
                # It has gone since it was listed. Its reader must notice: its rows may stand in another file now.
                if "*" in level and not deeper:
                    yield f"{path}{place.name}", 0
                continue
            if deeper and S_ISDIR(status.st_mode):
                yield from _files_on_disk(place, f"{path}{place.name}/", deeper)
            elif not deeper and S_ISREG(status.st_mode):
                yield f"{path}{place.name}", status.st_size


def places(workspace: Workspace, kind: str, beginning: str = "") -> list[Place]:
    """The files of a kind whose names have this beginning."""
    found = [workspace.root / path for path in find(workspace, kind)["path"].to_pylist()]
    return [place for place in found if place.name.startswith(beginning)]


def with_times(workspace: Workspace, found: pa.Table) -> pa.Table:
    """The rows of `find` with ``modified``, in seconds since 1970, without rows of files that are gone meanwhile."""
    rows = []
    for row in found.to_pylist():
        with suppress(FileNotFoundError):
            rows.append(row | {"modified": modified(workspace.root / row["path"])})
    return pa.Table.from_pylist(rows, found.schema.append(pa.field("modified", pa.float64())))


def leftovers(workspace: Workspace) -> Iterator[tuple[Place, str]]:
    """What unfinished jobs left behind, and decoded images, including those of jobs at work: root, and path below it.

    The root is the workspace's, or its folder on this machine. The names are arbitrary. Rows that a watcher has printed
    and not yet published are not leftovers, however old.
    """
    folders = [(workspace.root, "_staging"), (workspace.local, "checkpoints"), (workspace.local, "cache")]
    if workspace.local != workspace.root:
        folders.append((workspace.local, "_staging"))
    for root, folder in folders:
        inside = (root / folder).iterdir() if is_plain(root, folder) and (root / folder).is_dir() else ()
        paths = sorted(f"{folder}/{place.name}" for place in inside if not place.name.startswith(KEPT_ROWS))
        yield from ((root, path) for path in paths if is_plain(root, path))


def kept_batches(workspace: Workspace, ledger: str) -> list[str]:
    """Batches of a watched folder that are not published: its watcher still fills them, or ended before publishing."""
    beginning = f"{KEPT_ROWS}{ledger}."
    names = (place.name for place in workspace.local_staging.glob(f"{glob.escape(beginning)}*") if place.is_dir())
    return sorted(name for name in (name.removeprefix(beginning) for name in names) if is_id(name))


def behind_kept_batches(workspace: Workspace) -> set[str]:
    """Ids of the models and calibrations of watched folders' unpublished batches, as far as they can be read."""
    found = set()
    for path in workspace.local_staging.glob(f"{KEPT_ROWS}*/{KEPT_ABOUT}"):
        with suppress(OSError, ValueError, LookupError, TypeError):
            about = json.loads(path.read_text(encoding="utf-8"))
            found |= {str(about["model_id"]), str(about["calibration_id"])}
    return found


def newest_inside(place: Place) -> tuple[float, int]:
    """When anything in a folder (or the file itself) was last changed, and its total bytes."""
    if isinstance(place, Path):
        inside = [place, *place.rglob("*")]
        status = [path.lstat() for path in inside if path.is_symlink() or path.exists()]
        return max((found.st_mtime for found in status), default=0.0), sum(found.st_size for found in status)
    files = place.fs.find(place.path, detail=True)
    return (
        max((place.fs.modified(name).timestamp() for name in files), default=0.0),
        sum(int(found["size"]) for found in files.values()),
    )


def is_plain(root: Place, path: str) -> bool:
    """Whether no part of the path is a link; object stores have none."""
    if not isinstance(root, Path):
        return True
    steps = [root / path, *(root / path).parents]
    return not any(step.is_symlink() for step in steps[: steps.index(root)])
