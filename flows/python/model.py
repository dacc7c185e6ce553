"""A model of a workspace."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nelbo.flows.evaluation.sensitivity import seen
from nelbo.flows.python.direct import carry_out
from nelbo.flows.report.card import read_card
from nelbo.flows.steps.ingest import read_manifest
from nelbo.flows.workspace.calibrations.calibration import Calibration, calibration_of
from nelbo.flows.workspace.layout import Workspace


@dataclass(frozen=True)
class Model:
    """A trained model, and the calibration that now decides its verdicts."""

    model_id: str
    workspace: Workspace = field(repr=False)

    @property
    def calibration(self) -> Calibration | None:
        """The current calibration: threshold, promise, scores of normal images; None if the model has none."""
        return calibration_of(self.workspace, self.model_id)

    @property
    def threshold(self) -> float | None:
        """Images with a higher anomaly score are anomalous; None without a calibration."""
        return None if self.calibration is None else self.calibration.threshold.value

    @property
    def card(self) -> str:
        """The model card in Markdown: what it was made of and how, what it is worth and what it does not see."""
        return read_card(self.workspace, self.model_id)

    @property
    def sensitivity(self) -> dict[str, Any] | None:
        """What it sees of simulated defects, as in ``nelbo sensitivity --json``; None if none were painted."""
        sees = seen(self.workspace, self.model_id)
        return None if sees is None else sees.to_dict()

    def _repr_markdown_(self) -> str:
        return self.card

    def calibrate(self, normal: str | Path | None = None, **options: Any) -> "Model":
        """Set another threshold, as ``nelbo calibrate`` does; the weights do not change.

        Args:
            normal: normal images; by default those behind the current calibration, which must be where they were.
            options: options of the command: ``fpr``, ``review_fpr``, ``labels`` and ``objective``, ``use`` ...

        Returns:
            The same model, with the new threshold; if that stays a candidate, a warning says why.

        Raises:
            ValueError: an unknown option, a bad value, or images that are too few or cannot be used.
        """
        with tempfile.TemporaryDirectory(prefix="nelbo-") as aside:
            if normal is None and not options.keys() & {"labels", "use"}:
                options |= self._images_behind(Path(aside))
            elif normal is not None:
                options["normal"] = normal
            carry_out("calibrate", workspace=str(self.workspace.root), model=self.model_id, **options)
        return self

    def _images_behind(self, folder: Path) -> dict[str, Any]:
        """Options that name the images of the current calibration: a table of them, and the root of its paths."""
        if self.calibration is None:
            return {}
        manifest = read_manifest(self.workspace, self.calibration.batch_id)
        table = manifest.table.select(["relative_path", "group", "variant"]).rename_columns(
            ["path", "group", "variant"]
        )
        pq.write_table(table, folder / "normal.parquet")
        return {"normal": folder / "normal.parquet", "root": manifest.root}
