"""The batches that a watched folder fills: one is open, and the next one opens while it is being published."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from nelbo.data import InputError, remove_folder
from nelbo.flows.options.options import WatchOptions
from nelbo.flows.runner import Direct
from nelbo.flows.steps.land import UNFINISHED, Ledger, Taken
from nelbo.flows.steps.report import write_missing_pages
from nelbo.flows.steps.score import score_unfinished
from nelbo.flows.watching.open_batch import OpenBatch
from nelbo.flows.watching.scoring import Scorer, Scoring, meant
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.errors import bad_input, store_errors

log = logging.getLogger(__name__)

#: Seconds until a batch that could not be published is tried again.
_AGAIN_S = 60

_COUNTS = ("n_images", "n_not_scored", "n_anomalous", "n_review")


class Batches:
    """Scores files into the open batch, and publishes the batch on another thread when it is over.

    Args:
        ledger: the folder's ledger, which no other process follows.
        is_there: whether a file may be in the folder now, by its path.
        publisher: an executor with one thread.

    Attributes:
        changed: the files of the last call of `score` that had changed or were gone, and have no row.
    """

    def __init__(
        self,
        options: WatchOptions,
        ledger: Ledger,
        is_there: Callable[[str], bool],
        publisher: ThreadPoolExecutor,
    ) -> None:
        self._options, self._ledger, self._is_there, self._publisher = options, ledger, is_there, publisher
        self.changed: set[str] = set()
        # The batches that are over, in the order in which the ledger takes them; the first one is being published.
        self._over: list[OpenBatch] = []
        self._publishing: Future[dict[str, Any]] | None = None
        self._again_s, self._failure = 0.0, ""
        # Why the model that is current could not be loaded when it was last tried.
        self._refused = ""
        self._results: list[dict[str, Any]] = []
        self._scoring = Scoring.load(options.scoring)
        write_missing_pages(options.scoring, Direct())
        left = self._left_behind()
        self._taken = Taken(ledger.rows())
        self._over = [batch for batch in left if self._is_taken(batch) or self._is_still_new(batch)]
        for batch in self._over:
            for rows in batch.listed:
                self._taken.add(rows)
        # A batch that stands in the ledger is over.
        goes_on = self._over[-1:] and self._over[-1].goes_on_with(self._scoring) and not self._is_taken(self._over[-1])
        self._batch = self._over.pop() if goes_on else OpenBatch.begin(ledger, self._scoring)
        self._scorer = Scorer(self._scoring, self._batch.batch_id)

    @property
    def scored_with(self) -> dict[str, Any]:
        """Ids of model and calibration, and the engine's name."""
        of = self._scoring
        return {"model_id": of.model_id, "calibration_id": of.calibration_id, "engine": of.options.engine}

    def score(self, listed: pa.Table) -> list[dict[str, Any]]:
        """What to print for each new file, once its row is on the disk.

        Args:
            listed: rows of a manifest, in the order of their paths.
        """
        self.changed = set()
        new = self._taken.noted(listed.filter(self._taken.lacks(listed)))
        if not len(new):
            return []
        paths = set(new["relative_path"].to_pylist())
        # A batch cannot hold a path twice.
        if paths & self._batch.paths:
            self._publish()
        if not len(self._batch):
            self._settle_on_model()
        started = time.perf_counter()
        listed, scored = self._scorer.rows(new, self._ledger.root)
        self._batch.busy_s += time.perf_counter() - started
        self.changed = paths - set(listed["relative_path"].to_pylist())
        if not len(listed):
            return []
        self._batch.add(listed, scored)
        self._taken.add(listed)
        about = scored.select(["relative_path", "image_id", "reason", "why"]).to_pylist()
        verdicts = self._scorer.judged(scored).select(["verdict", "anomaly_score", "p_value"]).to_pylist()
        return [
            {**row, **verdict, "batch_id": self._batch.batch_id} for row, verdict in zip(about, verdicts, strict=True)
        ]

    def move_on(self) -> None:
        """Publish what is due, and collect what has been published.

        What cannot be published is kept and tried again later: verdicts do not wait for it.
        """
        if self._batch.is_over(self._options.batch_images, self._options.batch_minutes, time.time()):
            self._publish()
        if self._publishing is not None and self._publishing.done():
            try:
                self._collect(self._publishing)
            except Exception as error:  # Whatever keeps a batch from its place, the files that land can be scored.
                self._put_off(error)
        if self._over and self._publishing is None and time.monotonic() >= self._again_s:
            self._publishing = self._hand_over()

    def ended(self) -> dict[str, Any]:
        """Publish everything that is scored; returns a summary of all batches.

        Raises:
            Exception: publishing failed; the rows are kept, and the next watcher publishes them.
        """
        if len(self._batch):
            self._publish()
        while self._over:
            self._collect(self._publishing or self._hand_over())
        last = self._results[-1] if self._results else {}
        return {
            **{name: sum(result[name] for result in self._results) for name in _COUNTS},
            "batches": [result["batch_id"] for result in self._results],
            **self.scored_with,
            "report": last.get("report"),
        }

    def _publish(self) -> None:
        """Let the open batch be published, and begin another one."""
        self._over.append(self._batch)
        self._begin()

    def _begin(self) -> None:
        self._batch = OpenBatch.begin(self._ledger, self._scoring)
        self._scorer = Scorer(self._scoring, self._batch.batch_id)

    def _settle_on_model(self) -> None:
        """Before a batch gets its first rows, load the model and the calibration that the options mean by now.

        If these cannot be loaded, the loaded ones go on: files keep landing, and their promise still holds.
        """
        try:
            if meant(self._options.scoring) == (self._scoring.model_id, self._scoring.calibrations):
                self._refused = ""
                return
            scoring = Scoring.load(self._options.scoring)
        except (*bad_input(), *store_errors()) as error:
            if str(error) != self._refused:
                self._refused = str(error)
                log.error(
                    "the current model or calibration cannot be used (%s: %s). Model %s goes on with calibration %s",
                    type(error).__name__,
                    error,
                    self._scoring.model_id,
                    self._scoring.calibration_id,
                )
            return
        self._scoring, self._refused = scoring, ""
        self._begin()
        log.warning(
            "from batch %s on, model %s scores with calibration %s",
            self._batch.batch_id,
            self._scoring.model_id,
            self._scoring.calibration_id,
        )

    def _hand_over(self) -> Future[dict[str, Any]]:
        """Start publishing the first batch that is over."""
        return self._publisher.submit(self._over[0].close, self._ledger, self._is_there, Direct())

    def _collect(self, publishing: Future[dict[str, Any]]) -> None:
        """Wait for the first batch that is over, which is being published."""
        self._publishing = None
        result = publishing.result()
        del self._over[0]
        self._failure = ""
        self._results.append(result)
        log.info("batch %s of %d files is published", result["batch_id"], result["n_images"])

    def _put_off(self, error: Exception) -> None:
        """Say once why nothing can be published, and wait before it is tried again."""
        self._again_s = time.monotonic() + _AGAIN_S
        if str(error) != self._failure:
            self._failure = str(error)
            log.error(
                "batch %s cannot be published (%s: %s). Its rows are kept, files that land are scored, and publishing "
                "is tried again every %d s",
                self._over[0].batch_id,
                type(error).__name__,
                error,
                _AGAIN_S,
            )

    def _left_behind(self) -> list[OpenBatch]:
        """Batches that an earlier process has not published, the one in the ledger first, then the oldest.

        If this machine keeps no rows of the one in the ledger, that batch is scored and published now.
        """
        taken = self._ledger.said().get(UNFINISHED)
        left = [*self._kept(taken)]
        if taken and taken not in [batch.batch_id for batch in left]:
            of = self._scoring
            result = score_unfinished(of.options, of.model_id, of.calibrations, Direct())
            self._results += [result] if result else []
        return sorted(left, key=lambda batch: (not self._is_taken(batch), batch.opened_s))

    def _is_taken(self, batch: OpenBatch) -> bool:
        return self._ledger.said().get(UNFINISHED) == batch.batch_id

    def _is_still_new(self, batch: OpenBatch) -> bool:
        """Whether a batch outside the ledger still has rows, other than those that `score` has taken meanwhile."""
        batch.keep(self._taken.lacks)
        if not len(batch):
            batch.drop()
        return len(batch) > 0

    def _kept(self, taken: str | None) -> Iterator[OpenBatch]:
        workspace, ledger = self._ledger.workspace, self._ledger.path.stem
        for batch_id in catalog.kept_batches(workspace, ledger):
            folder = workspace.kept_rows(ledger, batch_id)
            try:
                # If the batch is published, only the tidying up was cut short.
                is_over = batch_id != taken and catalog.find(workspace, "scores", batch_id=batch_id).num_rows
                batch = None if is_over else OpenBatch.read(self._ledger, self._options.scoring, batch_id)
            except InputError as error:
                log.warning(
                    "the rows kept of batch %s are dropped, and its files are scored again: %s", batch_id, error
                )
                batch = None
            if batch is None:
                remove_folder(folder)
            else:
                yield batch
