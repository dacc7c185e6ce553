"""Where everything lies in a workspace, and who has it to himself."""

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

#: Where each kind of thing lies, with ids in braces: `Workspace.place` goes from ids to a path, `catalog` back again.
PATHS = {
    "manifests": "manifests/batch_id={batch_id}/manifest.parquet",
    # A folder is there when the file that is written last is.
    "models": f"models/{{model_id}}/{COMMIT}",
    "calibrations": f"calibrations/{{calibration_id}}/{COMMIT}",
    "engines": f"engines/{{model_id}}/{{engine}}/{COMMIT}",
    # Of a folder the file that is deleted last: one that was half deleted has it, too.
    "model.json": "models/{model_id}/model.json",
    "calibration.json": "calibrations/{calibration_id}/calibration.json",
    "scores": "scores/model_id={model_id}/batch_id={batch_id}/scores.parquet",
    "flagged": "flagged/model_id={model_id}/batch_id={batch_id}/flagged.parquet",
    "audit": "audit/model_id={model_id}/batch_id={batch_id}/audit.parquet",
    "near": "near/model_id={model_id}/batch_id={batch_id}/near.parquet",
    "evaluations": "evaluations/model_id={model_id}/batch_id={batch_id}/evaluation.parquet",
    "reports": "reports/{batch_id}.html",
    "runs": "runs/{file}.parquet",
    "reviews": "reviews/{file}.parquet",
    "ledgers": "landing/{ledger}.parquet",
    "journal": "_staging/journal.{run_id}.json",
}


@dataclass(frozen=True)
class Workspace:
    """A folder of manifests, models, calibrations, scores and reports, on a disk or in an object store."""

    root: Place

    @classmethod
    def at(cls, name: str) -> "Workspace":
        """The workspace at a local path or an fsspec URL; it need not exist, but its bucket must."""
        return cls(_open(expand_home(name)))

    def prepare(self) -> "Workspace":
        """See that it can be written to, before any work is done; a local one's folder is made."""
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
        """Where the thing of a kind with these ids lies."""
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
        """Unfinished files that need a disk."""
        return self.local / "_staging"

    @property
    def staging(self) -> Place:
        """Unfinished files; readers never look there."""
        return self.root / "_staging"

    def unfinished(self, model_id: str, batch_id: str) -> Place:
        """Folder of a batch that is being scored."""
        return self.staging / f"shards.{check_id(model_id)}.{check_id(batch_id)}"

    @property
    def models(self) -> Place:
        """One folder a model."""
        return self.root / "models"

    @property
    def calibrations(self) -> Place:
        """One folder a calibration."""
        return self.root / "calibrations"

    @property
    def runs(self) -> Place:
        """One small file a run."""
        return self.root / "runs"

    @property
    def reviews(self) -> Place:
        """One small file a decision of a reviewer."""
        return self.root / "reviews"

    @property
    def latest(self) -> Place:
        """The model last promoted, and each model's current calibration."""
        return self.root / "latest.json"

    def manifest(self, batch_id: str) -> Place:
        """The files of a batch."""
        return self.place("manifests", batch_id=batch_id)

    def found_parts(self, model_id: str) -> Place:
        """Picture of parts that were found in its training images, where it looks for parts."""
        return self.card(model_id).with_name(f"{check_id(model_id)}-parts.png")

    def variants(self, model_id: str) -> Place:
        """Picture of training images of each variant, where there are several."""
        return self.card(model_id).with_name(f"{check_id(model_id)}-variants.png")

    def strangest(self, model_id: str) -> Place:
        """Picture of the normal images that it finds the least normal."""
        return self.card(model_id).with_name(f"{check_id(model_id)}-strangest.png")

    def simulated_shown(self, model_id: str) -> Place:
        """Picture of simulated defects that it finds, and of others that it misses."""
        return self.card(model_id).with_name(f"{check_id(model_id)}-simulated.png")

    def history(self, model_id: str) -> Place:
        """A model's training, one row an epoch."""
        return self.root / "history" / f"{check_id(model_id)}.parquet"

    def simulated(self, model_id: str) -> Place:
        """What a model says of simulated defects, one row an image."""
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
        """Folder of a model that was made ready for an engine."""
        return self.root / "engines" / check_id(model_id) / check_id(engine)

    def speeds(self, model_id: str) -> Place:
        """How fast a model's engines were on machines other than those that they were made on."""
        return self.root / "engines" / check_id(model_id) / "speeds.json"

    def checkpoint(self, training_id: str) -> Path:
        """Folder of an unfinished training, on this machine."""
        return self.local / "checkpoints" / check_id(training_id)

    def cache(self, cache_id: str) -> Path:
        """Folder of decoded training images that are kept, on this machine."""
        return self.local / "cache" / check_id(cache_id)

    def scores(self, model_id: str, batch_id: str) -> Place:
        """The verdicts of a batch."""
        return self.place("scores", model_id=model_id, batch_id=batch_id)

    def flagged(self, model_id: str, batch_id: str) -> Place:
        """Those of them that are anomalous or for review, with maps and thumbnails."""
        return self.place("flagged", model_id=model_id, batch_id=batch_id)

    def audit(self, model_id: str, batch_id: str) -> Place:
        """Some of the others, drawn at random, with the same."""
        return self.place("audit", model_id=model_id, batch_id=batch_id)

    def near(self, model_id: str, batch_id: str) -> Place:
        """Those of the others with the highest scores, with the same."""
        return self.place("near", model_id=model_id, batch_id=batch_id)

    def evaluation(self, model_id: str, batch_id: str) -> Place:
        """How well its verdicts and maps find real defects."""
        return self.place("evaluations", model_id=model_id, batch_id=batch_id)

    def report(self, batch_id: str) -> Place:
        """The page of a batch."""
        return self.place("reports", batch_id=batch_id)

    def ledger(self, root: str) -> Place:
        """What of a landing folder has been taken into a batch."""
        return self.place("ledgers", ledger=f"l{hashlib.sha256(root.encode()).hexdigest()[:16]}")

    @contextmanager
    def lock(self, name: str | None = None) -> Iterator[None]:
        """One at a time, among processes too; the system frees the lock if its holder is killed.

        Object stores have no locks, nor do some network disks: there the last writer wins.

        Args:
            name: a file below the workspace that stands for the lock, and is left there; None is the lock of
                ``latest.json`` and of what is published.
        """
        if not isinstance(self.root, Path):
            yield
            return
        with locked(self.root / name if name else self.root):
            yield

    @contextmanager
    def using(self, batch_id: str) -> Iterator[None]:
        """Keep `prune` away from a manifest, which need not be there yet; many may use it at once."""
        folder = self.manifest(batch_id).parent
        with locked(folder, shared=True) if isinstance(folder, Path) else nullcontext():
            yield

    @contextmanager
    def unused(self, batch_id: str) -> Iterator[bool]:
        """Whether nobody uses a manifest, which then stays so for the block; of one in a store nobody knows."""
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
    """The root of a workspace; a store is asked once a process whether it can be reached."""
    try:
        root = open_place(name)
        if not isinstance(root, Path):
            root.fs.ls(root.path)
    except InputError as error:
        raise UsageError(f"workspace: {error}") from error
    except ImportError as error:
        scheme = name.partition("://")[0]
        # What fsspec says must be installed for a store that nelbo has no extra of its own for.
        said = re.search(r"[Ii]nstall (\w+)", str(error))
        extra = "nelbo[s3]" if scheme in ("s3", "s3a") else said[1] if said else f"fsspec[{scheme}]"
        raise UsageError(
            f"workspace {name} needs a package that is missing. Get it with: pip install '{extra}'"
        ) from error
    except store_errors() as error:
        # A prefix that is still empty is not found either; only a store's own answer has a cause.
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
    """Whether a name is an id; whatever else lies in a workspace is none of ours."""
    return re.fullmatch(ID, text) is not None


def check_id(text: str) -> str:
    """The same text, if it can be a folder's name on every system and in every reader."""
    if not is_id(text):
        raise UsageError(f"id {text!r}: expected a letter, then letters, digits, '-' or '_', 100 at most.")
    return text


def new_run_id() -> str:
    """A fresh id that sorts by time."""
    return f"r{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def some(names: list[str], shown: int = 5) -> str:
    """The first of some names, and how many more there are."""
    if not names:
        return "none"
    text = ", ".join(names[:shown])
    return text if len(names) <= shown else f"{text} and {len(names) - shown} more"
