"""Options of the commands: one model for each, composed of groups of settings.

The fields are the parameters of the command's flow, except those with ``exclude``, which only the command line has.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from nelbo.flows.options.credentials import refuse_credentials
from nelbo.flows.options.flags import Flag, Flagged
from nelbo.flows.options.former import without_former
from nelbo.flows.options.settings import (
    AllSettings,
    CalibrationSettings,
    ClusterSettings,
    DecodingSettings,
    GroupSettings,
    LabelSettings,
    RecipeSettings,
    ScoringSettings,
    Settings,
    SimulationSettings,
    WatchSettings,
)
from nelbo.flows.options.types import AgeText, EngineName, MadeFor, PathText, Text, duration_s, names
from nelbo.flows.workspace.errors import UsageError

#: An optional folder.
Folder = Annotated[PathText | None, Flag("DIR")]


class Options(Settings):
    """What every command takes; commands that list, check or join what a workspace holds take nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    workspace: Annotated[PathText, Flag("PATH")] = Field(
        "./workspace", description="Folder or URL for everything that nelbo writes."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_credentials(cls, values: Any) -> Any:
        """Refuse credentials first, wherever the values come from: later code may log, store or send them."""
        refuse_credentials(values)
        return without_former(values) if isinstance(values, dict) else values


class SourceOptions(Options, DecodingSettings):
    """What commands that read images take."""

    root: Folder = Field(None, description="Folder that a manifest's paths are relative to; by default its own.")


class ModelOptions(Options):
    """What commands that use a model take."""

    model: Flagged[Text] = Field("latest", description="Model id, or its beginning; or latest.")


class BatchOptions(SourceOptions):
    """What commands that work on a batch of images take."""

    images: Annotated[PathText, Flag("DIR", positional=True)] = Field(
        description="Folder, CSV or Parquet manifest, or one image."
    )
    batch_id: Flagged[Text | None] = Field(None, description="Name of the batch; by default made from its contents.")


class IngestOptions(BatchOptions):
    """What ``ingest`` takes."""


class TrainOptions(SourceOptions, RecipeSettings):
    """What ``train`` takes."""

    normal: Annotated[PathText, Flag("DIR")] = Field(description="Normal images: folder or manifest.")
    promote: Flagged[bool] = Field(True, description="Make it the model that latest refers to.")
    gate: Folder = Field(None, description="Promote it only if it is no worse on these held-out images.")
    candidates: Annotated[tuple[Text, ...], BeforeValidator(names), Flag("NAMES", name="--try")] = Field(
        (),
        description="Train each of these presets or backbones, such as features,filters,conv_1x1x16, and keep the "
        "first unless another detects simulated defects better, beyond noise.",
    )

    @model_validator(mode="after")
    def _cross(self) -> "TrainOptions":
        if self.calibrate_on == "cross" and self.confidence is not None:
            raise UsageError(
                f"confidence={self.confidence} does not go with calibrate_on=cross, whose rate is approximate. "
                "Leave one of the two out."
            )
        return self


class CalibrateOptions(ModelOptions, SourceOptions, GroupSettings, CalibrationSettings, LabelSettings):
    """What ``calibrate`` takes: normal images and a rate, labels and an objective, or an existing calibration."""

    normal: Folder = Field(None, description="Normal images: folder or manifest.")
    labels: Annotated[PathText | None, Flag("CSV|reviews")] = Field(
        None, description="Manifest with labels 0 and 1, or reviewers' decisions."
    )
    use: Annotated[Text | None, Flag("ID")] = Field(None, description="Go back to a calibration, or adopt a candidate.")
    statistic: Flagged[Text | None] = Field(None, description="A statistic other than the model's.")
    compare: Flagged[bool] = Field(False, exclude=True, description="Compare all calibrations on a batch; change none.")
    batch: Flagged[Text | None] = Field(
        None, exclude=True, description="With compare: batch id, or its beginning; by default the one scored last."
    )
    joint: Annotated[Any, Flag(hidden=True)] = Field(None, exclude=True, description="Gone since 0.2, without effect.")


class ScoreOptions(ModelOptions, BatchOptions, ScoringSettings, ClusterSettings):
    """What ``score`` takes."""

    new: Flagged[bool] = Field(False, description="Score only files that no earlier batch of that folder holds.")
    min_age_s: Annotated[float, Flag("SECONDS", name="--min-age")] = Field(
        10.0, ge=0, le=86_400, description="With new: files changed more recently than this wait for a later run."
    )
    calibration: Flagged[Text | None] = Field(
        None, description="Calibration id, or its beginning; by default the current one."
    )
    uncalibrated: Flagged[bool] = Field(False, description="Scores only, no verdicts.")
    fail_on_anomaly: Flagged[bool] = Field(False, exclude=True, description="Exit with 3 if an image is anomalous.")
    csv: Annotated[PathText | None, Flag("FILE")] = Field(
        None, exclude=True, description="Write the rows to a CSV file, too; with new, it has a column batch_id."
    )

    @model_validator(mode="after")
    def _cluster(self) -> "ScoreOptions":
        if self.runner == "dask" and self.dask_address is None:
            raise UsageError("runner=dask needs the address of a Dask scheduler: --dask-address tcp://host:8786.")
        if self.runner != "dask" and self.dask_address is not None:
            raise UsageError(
                f"dask_address={self.dask_address} goes with runner=dask, not {self.runner}. "
                "Say --runner dask, or leave the address out."
            )
        return self


class WatchOptions(ModelOptions, DecodingSettings, ScoringSettings, WatchSettings):
    """What ``watch`` takes."""

    images: Annotated[PathText, Flag("DIR", positional=True)] = Field(description="Folder that images land in.")
    calibration: Flagged[Text | None] = Field(
        None, description="Calibration id, or its beginning; by default the current one."
    )
    uncalibrated: Flagged[bool] = Field(False, description="Scores only, no verdicts.")

    @property
    def scoring(self) -> ScoreOptions:
        """The options for scoring what lands in the folder."""
        shared = self.model_dump(exclude=set(WatchSettings.model_fields))
        return ScoreOptions(**shared, new=True)


class ReportOptions(Options, DecodingSettings):
    """What ``report`` takes."""

    batch: Flagged[Text | None] = Field(None, description="Batch id, or its beginning; by default the one scored last.")
    model: Flagged[Text | None] = Field(
        None, description="Model id, or its beginning; by default the one that scored it last."
    )
    fdr: float | None = Field(
        None, gt=0, lt=1, description="Count the images that may be listed at this false discovery rate."
    )


class EvaluateOptions(Options, DecodingSettings):
    """What ``evaluate`` takes."""

    batch: Flagged[Text | None] = Field(None, description="Batch id, or its beginning; by default the one scored last.")
    model: Flagged[Text | None] = Field(
        None, description="Model id, or its beginning; by default the one that scored it last."
    )
    labels: Annotated[PathText | None, Flag("CSV")] = Field(
        None, description="Manifest with labels 0 and 1; by default the batch's own labels, or its folders' names."
    )
    masks: Folder = Field(None, description="Masks that show where defects are, named like the images.")
    root: Folder = Field(None, description="Folder that the labels' paths are relative to; by default their own.")
    engine: Flagged[Literal["auto", EngineName]] = Field("auto", description="With masks: what computes the maps.")


class MasksOptions(Options):
    """What ``masks`` takes."""

    batch: Flagged[Text | None] = Field(None, description="Batch id, or its beginning; by default the one scored last.")
    model: Flagged[Text | None] = Field(
        None, description="Model id, or its beginning; by default the one that scored it last."
    )
    format: Flagged[Literal["png", "coco", "csv"]] = Field(
        "png", description="A mask of each flagged image, COCO annotations, or a table of regions."
    )
    out: Folder = Field(None, description="New folder to write into; by default masks- followed by the batch id.")


class ExportOptions(ModelOptions, SourceOptions):
    """What ``export`` takes."""

    engine: Flagged[MadeFor] = Field(description="What to export for; keras adds only a check at the start of runs.")
    normal: Folder = Field(None, description="Images on which to compare with Keras; by default the calibration's.")
    tolerance: Flagged[float] = Field(
        1e-5, gt=0, le=0.01, description="Largest difference relative to |distortion| + rate."
    )


class SensitivityOptions(ModelOptions, SourceOptions, SimulationSettings):
    """What ``sensitivity`` takes."""

    on: Folder = Field(None, description="Normal images to paint on; without it, the last result is shown.")
    seed: Flagged[int] = Field(0, ge=0, lt=2**31, description="Seed for what is painted where.")


class PruneOptions(Options):
    """What ``prune`` takes."""

    older_than: Annotated[AgeText, Flag("AGE")] = Field(description="Least age, such as 90d, 12h or 4w.")
    apply: Flagged[bool] = Field(False, description="Delete; without it, only list what would be deleted.")
    models: Flagged[bool] = Field(False, description="Delete models and calibrations that nothing uses, too.")

    @property
    def older_than_s(self) -> int:
        """The age in seconds."""
        return duration_s(self.older_than)


class UpgradeOptions(Options):
    """What ``upgrade`` takes."""

    apply: Flagged[bool] = Field(False, description="Make the changes; without it, only list them.")
    config: PathText | None = Field(None, description="The settings file that --config names.")


class CompactOptions(Options):
    """What ``compact`` takes."""


class DashboardOptions(Options):
    """What ``dashboard`` takes."""

    host: Flagged[Text] = Field(
        "127.0.0.1", description="Address to listen on; any but a loopback address needs a password."
    )
    port: Flagged[int] = Field(8501, ge=1, le=65535, description="Port to listen on.")


class LineOptions(Options, AllSettings):
    """What commands that set up scheduled runs take: a line's folders, and settings for the flows that have them."""

    images: Folder = Field(None, description="Landing folder of new images.")
    normal: Folder = Field(None, description="Normal images to learn from.")
    gate: Folder = Field(None, description="Held-out images on which a new model must be no worse.")
    line: Flagged[str | None] = Field(
        None, description="The line's name, part of all names on the server; by default the workspace's folder."
    )
    keep: Annotated[AgeText | None, Flag("AGE")] = Field(
        None, description="Each month, delete what is older; by default nothing."
    )


class ServeOptions(LineOptions):
    """What ``serve`` takes."""

    limit: Flagged[int] = Field(2, ge=1, description="Largest number of runs at the same time.")


class DeployOptions(LineOptions):
    """What ``deploy`` takes."""

    pool: Flagged[Text] = Field(description="Prefect work pool whose workers run them.")


class DemoOptions(Options, RecipeSettings):
    """What ``demo`` takes: the options of training, except the images."""

    prefect: Flagged[bool | None] = Field(
        None, description="Run through Prefect or directly; by default through Prefect if an API is configured."
    )
