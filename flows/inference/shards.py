"""Pieces of an unfinished batch, named by what determines their rows: a finished one is not scored again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from nelbo.data import CHANGED, SCHEMA_VERSION, TIMEOUT, InputError, Place, iter_rows, read_table
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.options.settings import DecodingSettings
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import code_version

#: Columns of the manifest that a shard's rows depend on.
_CONTENT = ("relative_path", "image_id", "size_bytes", "label", "width_px", "height_px", "reason")

#: Most pieces of work that a batch is cut into, by runner: many for the workers of a cluster, few where each only
#: interrupts decoding and scoring. Each is a task run: half a second on Dask, 20 kB in Prefect's database.
MAX_CHUNKS = {"local": 20, "dask": 100}
#: Fewest images in a piece, by runner: each piece starts a pipeline, whose network waits for the first batch.
LEAST_IMAGES = {"local": 2048, "dask": 1}


@dataclass(frozen=True)
class Target:
    """The model and calibration that score a batch, and the run that does it."""

    batch_id: str
    model_id: str
    calibration_id: str | None
    run_id: str

    def staging(self, options: ScoreOptions) -> Place:
        """Where the batch waits until it is whole; jobs on the same batch share it."""
        return Workspace.at(options.workspace).unfinished(self.model_id, self.batch_id)


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a manifest, scored as one piece of work; `key` hashes all that their scores depend on."""

    target: Target
    options: ScoreOptions
    start: int
    size: int
    key: str

    @property
    def path(self) -> Place:
        """Where its scores wait for the rest of the batch."""
        return self.target.staging(self.options) / f"{self.key}.parquet"

    @property
    def is_finished(self) -> bool:
        """Whether its file exists and is sound, and no image in it had changed or run out of time."""
        try:
            reasons = read_table(self.path)["reason"]
        except InputError:
            return False
        return len(reasons) == self.size and {CHANGED, TIMEOUT}.isdisjoint(reasons.to_pylist())


def plan_shards(options: ScoreOptions, target: Target, n: int) -> list[Shard]:
    """The batch in shards of ``shard_size``; by default a fiftieth of it, between 256 and 4,096 images.

    Args:
        n: files in the batch.
    """
    size = options.shard_size or min(4096, max(256, -(-n // 50)))
    manifest = Workspace.at(options.workspace).manifest(target.batch_id)
    shards: list[Shard] = []
    for rows in iter_rows(manifest, size, _CONTENT):
        start = len(shards) * size
        shards.append(Shard(target, options, start, rows.num_rows, _key(rows, start, options, target)))
    return shards


def chunks(shards: Sequence[Shard], runner: str) -> list[tuple[Shard, ...]]:
    """The shards in a few consecutive groups, each of which is one piece of work."""
    n_images = sum(shard.size for shard in shards)
    n_chunks = max(1, min(MAX_CHUNKS[runner], n_images // LEAST_IMAGES[runner]))
    size = max(1, -(-len(shards) // n_chunks))
    return [tuple(shards[start : start + size]) for start in range(0, len(shards), size)]


def _key(rows: pa.Table, start: int, options: ScoreOptions, target: Target) -> str:
    decoding = options.model_dump(mode="json", include=set(DecodingSettings.model_fields) - {"workers"})
    # A shard keeps more of images that the calibration flags or the audit draws.
    made_with = [target.model_id, target.calibration_id, options.engine, options.audit, options.audit_seed]
    origin = [code_version(), SCHEMA_VERSION, *made_with, decoding, start]
    content = json.dumps([origin, rows.to_pydict()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]
