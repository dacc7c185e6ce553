"""Where everything lies in a workspace, and the locks on it."""

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from nelbo.data import COMMIT, InputError, Place, open_place
from nelbo.flows.workspace.errors import UsageError, store_errors, without_credentials
from nelbo.flows.workspace.home import expand_home
from nelbo.flows.workspace.locks import locked

#: Ids become folder names; they start with a letter so that hive readers keep them strings.
ID = r"[A-Za-z][A-Za-z0-9_-]{0,99}"

#: Path of each kind, with ids in braces: `Workspace.place` turns ids into a path, and `catalog` a path into ids.
PATHS = {
    "manifests": "manifests/batch_id={batch_id}/manifest.parquet",
    # A folder is complete once the file that is written last is there.
    "models": f"models/{{model_id}}/{COMMIT}",
    "calibrations": f"calibrations/{{calibration_id}}/{COMMIT}",
    "engines": f"engines/{{model_id}}/{{engine}}/{COMMIT}",
    # The file of a folder that is deleted last: a folder that is half deleted still has it.
    "model.json": "models/{model_id}/model.json",
    "calibration.json": "calibrations/{calibration_id}/calibration.json",
    "scores": "scores/model_id={model_id}/batch_id={batch_id}/scores.parquet",
    "flagged": "flagged/model_id={model_id}/batch_id={batch_id}/flagged.parquet",
    "audit": "audit/model_id={model_id}/batch_id={batch_id}/audit.parquet",
    "near": "near/model_id={model_id}/batch_id={batch_id}/near.parquet",
    "regions": "regions/model_id={model_id}/batch_id={batch_id}/regions.parquet",
    "evaluations": "evaluations/model_id={model_id}/batch_id={batch_id}/evaluation.parquet",
    "reports": "reports/{batch_id}.html",
    "runs": "runs/{file}.parquet",
    "reviews": "reviews/{file}.parquet",
    "ledgers": "landing/{ledger}.parquet",
    "journal": "_staging/journal.{run_id}.json",
}

#: Beginning of the names of folders with the rows of a batch that a watched folder still fills; and the file in them
#: that says what scored the rows.
KEPT_ROWS, KEPT_ABOUT = "watch.", "batch.json"


@dataclass(frozen=True)
class Workspace:
    """A folder of manifests, models, calibrations, scores and reports, on a disk or in an object store."""

    root: Place

    @classmethod
    def at(cls, name: str) -> "Workspace":
        """The workspace at a local path or an fsspec URL; it need not exist, but its bucket must."""
        return cls(_open(expand_home(name)))

    def prepare(self) -> "Workspace":
        """Check that it can be written to, before any work is done; creates the folder of a local one."""
        probe = self.staging / f".probe.{uuid.uuid4().hex}"
        try:
            self.local_staging.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except store_errors() as error:
            raise UsageError(
                f"workspace {self.root} cannot be written ({_why(error)}). "
                "Choose another with --workspace, or change its permissions."
            ) from error
        return self

    def place(self, kind: str, **ids: str) -> Place:
        """The path of a kind, for these ids."""
        return self.root / PATHS[kind].format(**{name: check_id(value) for name, value in ids.items()})

    @property
    def local(self) -> Path:
        """A folder on this machine for what needs a disk: the workspace itself, or a private one for its URL."""
        if isinstance(self.root, Path):
            return self.root
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "nelbo" / ("w" + hashlib.sha256(str(self.root).encode()).hexdigest()[:16])
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    @property
    def local_staging(self) -> Path:
        """Folder for unfinished files that need a disk."""
        return self.local / "_staging"

    @property
    def staging(self) -> Place:
        """Folder for unfinished files; readers never look there."""
        return self.root / "_staging"

    def unfinished(self, model_id: str, batch_id: str) -> Place:
        """Folder of a batch that is being scored."""
        return self.staging / f"shards.{check_id(model_id)}.{check_id(batch_id)}"

    @property
    def models(self) -> Place:
        """One folder per model."""
        return self.root / "models"

    @property
    def calibrations(self) -> Place:
        """One folder per calibration."""
        return self.root / "calibrations"

    @property
    def runs(self) -> Place:
        """One small file per run."""
        return self.root / "runs"

    @property
    def reviews(self) -> Place:
        """One small file per decision of a reviewer."""
        return self.root / "reviews"

    @property
    def latest(self) -> Place:
        """File that names the model last promoted, and each model's current calibration."""
        return self.root / "latest.json"

    def manifest(self, batch_id: str) -> Place:
        """The list of a batch's files."""
        return self.place("manifests", batch_id=batch_id)

    def found_parts(self, model_id: str) -> Place:
        """Picture of parts that were found in a model's training images, if it looks for parts."""
        return self.card(model_id).with_name(f"{check_id(model_id)}-parts.png")

    def variants(self, model_id: str) -> Place:
        """Picture of a model's training images of each variant, if there are several."""
        return self.card(model_id).with_name(f"{check_id(model_id)}-variants.png")

    def strangest(self, model_id: str) -> Place:
        """Picture of the normal images that a model finds the least normal."""
        return self.card(model_id).with_name(f"{check_id(model_id)}-strangest.png")

    def simulated_shown(self, model_id: str) -> Place:
        """Picture of simulated defects that a model finds, and of others that it misses."""
        return self.card(model_id).with_name(f"{check_id(model_id)}-simulated.png")

    def history(self, model_id: str) -> Place:
        """A model's training, one row per epoch."""
        return self.root / "history" / f"{check_id(model_id)}.parquet"

    def simulated(self, model_id: str) -> Place:
        """A model's scores of simulated defects, one row per image."""
        return self.root / "sensitivity" / f"{check_id(model_id)}.parquet"

    def looks(self, model_id: str) -> Place:
        """What a model's training images look like, place by place."""
        return self.root / "looks" / f"{check_id(model_id)}.parquet"

    def normals(self, model_id: str) -> Place:
        """Some of a model's training images, as thumbnails."""
        return self.root / "normals" / f"{check_id(model_id)}.parquet"

    def card(self, model_id: str) -> Place:
        """A model's page for people."""
        return self.root / "cards" / f"{check_id(model_id)}.md"

    def engine(self, model_id: str, engine: str) -> Place:
        """Folder of a model that was exported for an engine."""
        return self.root / "engines" / check_id(model_id) / check_id(engine)

    def speeds(self, model_id: str) -> Place:
        """File that says how fast a model's engines were on machines other than those that they were made on."""
        return self.root / "engines" / check_id(model_id) / "speeds.json"

    def checkpoint(self, training_id: str) -> Path:
        """Folder of an unfinished training, on this machine."""
        return self.local / "checkpoints" / check_id(training_id)

    def cache(self, cache_id: str) -> Path:
        """Folder, on this machine, of decoded training images that are kept."""
        return self.local / "cache" / check_id(cache_id)

    def scores(self, model_id: str, batch_id: str) -> Place:
        """The scores and verdicts of a batch."""
        return self.place("scores", model_id=model_id, batch_id=batch_id)

    def flagged(self, model_id: str, batch_id: str) -> Place:
        """The rows of a batch that are anomalous or for review, with maps and thumbnails."""
        return self.place("flagged", model_id=model_id, batch_id=batch_id)

    def audit(self, model_id: str, batch_id: str) -> Place:
        """Some of the other rows, drawn at random, with maps and thumbnails."""
        return self.place("audit", model_id=model_id, batch_id=batch_id)

    def near(self, model_id: str, batch_id: str) -> Place:
        """The other rows with the highest scores, with maps and thumbnails."""
        return self.place("near", model_id=model_id, batch_id=batch_id)

    def regions(self, model_id: str, batch_id: str) -> Place:
        """The unusual regions of a batch's flagged images."""
        return self.place("regions", model_id=model_id, batch_id=batch_id)

    def evaluation(self, model_id: str, batch_id: str) -> Place:
        """How well a batch's verdicts and maps find real defects."""
        return self.place("evaluations", model_id=model_id, batch_id=batch_id)

    def report(self, batch_id: str) -> Place:
        """The page of a batch."""
        return self.place("reports", batch_id=batch_id)

    def ledger(self, root: str) -> Place:
        """The ledger of a landing folder: its files that have been taken into a batch."""
        return self.place("ledgers", ledger=f"l{hashlib.sha256(root.encode()).hexdigest()[:16]}")

    def kept_rows(self, ledger: str, batch_id: str) -> Path:
        """Folder, on this machine, with the rows of a batch that a watched folder still fills."""
        return self.local_staging / f"{KEPT_ROWS}{check_id(ledger)}.{check_id(batch_id)}"

    @contextmanager
    def lock(self, name: str | None = None, shared: bool = False, wait: bool = True) -> Iterator[None]:
        """Hold a lock among threads and processes; the system frees it if its holder is killed.

        Object stores have no locks, nor do some network disks: there the last writer wins.

        Args:
            name: a file below the workspace that stands for the lock, and is left there; None is the lock of
                ``latest.json`` and of what is published.
            shared: whether others may share it; then nobody has it alone.
            wait: whether to wait until it is free.

        Raises:
            BlockingIOError: it is not free, and `wait` is False.
        """
        if not isinstance(self.root, Path):
            yield
            return
        with locked(self.root / name if name else self.root, shared, wait):
            yield

    @contextmanager
    def using(self, batch_id: str) -> Iterator[None]:
        """Keep `prune` away from a manifest, which need not exist yet; many may use it at once."""
        folder = self.manifest(batch_id).parent
        with locked(folder, shared=True) if isinstance(folder, Path) else nullcontext():
            yield

    @contextmanager
    def unused(self, batch_id: str) -> Iterator[bool]:
        """Whether nobody uses a manifest, which then stays so for the block; in a store, uses cannot be known."""
        folder = self.manifest(batch_id).parent
        with ExitStack() as held:
            try:
                held.enter_context(locked(folder, wait=False) if isinstance(folder, Path) else nullcontext())
                is_free = True
            except BlockingIOError:
                is_free = False
            yield is_free


@lru_cache(maxsize=16)
def _open(name: str) -> Place:
    """The root of a workspace; each process checks one time whether a store can be reached."""
    try:
        root = open_place(name)
        if not isinstance(root, Path):
            root.fs.ls(root.path)
    except InputError as error:
        raise UsageError(f"workspace: {error}") from error
    except ImportError as error:
        scheme = name.partition("://")[0]
        # fsspec names the package for a store for which nelbo has no extra.
        said = re.search(r"[Ii]nstall (\w+)", str(error))
        extra = "nelbo[s3]" if scheme in ("s3", "s3a") else said[1] if said else f"fsspec[{scheme}]"
        raise UsageError(
            f"workspace {name} needs a package that is missing. Get it with: pip install '{extra}'"
        ) from error
    except store_errors() as error:
        # An empty prefix is also "not found"; only a store's own answer has a cause.
        if isinstance(error, FileNotFoundError) and error.__cause__ is None:
            return root
        raise UsageError(
            f"workspace {name} cannot be reached ({_why(error)}). Check the bucket's name, the network, and the "
            "credentials in the environment."
        ) from error
    return root


def _why(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return without_credentials(" ".join(text.split()))


def is_id(text: str) -> bool:
    """Whether a name is an id; nelbo ignores everything else that lies in a workspace."""
    return re.fullmatch(ID, text) is not None


def check_id(text: str) -> str:
    """The text, if it can be a folder's name on every system and in every reader; UsageError otherwise."""
    if not is_id(text):
        raise UsageError(f"id {text!r}: expected a letter, then letters, digits, '-' or '_', 100 at most.")
    return text


def new_run_id() -> str:
    """A fresh id that sorts by time."""
    return f"r{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def some(names: list[str], shown: int = 5) -> str:
    """The first few of some names, and how many more there are."""
    if not names:
        return "none"
    text = ", ".join(names[:shown])
    return text if len(names) <= shown else f"{text} and {len(names) - shown} more"
