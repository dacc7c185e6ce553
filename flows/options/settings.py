"""Groups of settings: the same names in nelbo.toml, ``NELBO_*``, ``--set`` and the flows.

Settings with a flag are also options of each command that takes them.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from nelbo.data.area.area import Area
from nelbo.data.decoder.limits import Limits
from nelbo.data.part.frame import Frame
from nelbo.flows.options.flags import Flag, Flagged
from nelbo.flows.options.types import (
    AUTO,
    EngineName,
    MadeFor,
    PathRule,
    PathText,
    SchedulerAddress,
    Text,
    names_or_auto,
    numbers,
    rows,
)
from nelbo.flows.workspace.errors import UsageError


def _whole_number(value: Any) -> Any:
    """The number in a text, which ``--set`` and the environment give; other values unchanged."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


class Settings(BaseModel):
    """Fields that pydantic checks; it builds the checks when a command first needs them."""

    model_config = ConfigDict(defer_build=True)


class DecodingSettings(Settings):
    """How folders and files are read."""

    folder_labels: bool = Field(
        True, description="Where good/ lies beside other folders, take folders as labels, and learn from good/ alone."
    )
    max_pixels: int = Field(64_000_000, ge=1, le=178_000_000, description="Larger images are not scored.")
    min_side_px: int = Field(1, ge=1, description="Images with a shorter side are not scored.")
    max_bytes: int = Field(1 << 30, ge=1, description="Larger files are not read.")
    max_seconds: float = Field(30.0, gt=0, le=86_400, description="Decoding an image is stopped after so many seconds.")
    workers: int | None = Field(
        None, ge=1, le=256, description="Decoding processes; by default one for each CPU that may be used."
    )

    @property
    def limits(self) -> Limits:
        """What one image may cost."""
        return Limits(self.max_pixels, self.min_side_px, self.max_bytes, self.max_seconds)


class ModelSettings(Settings):
    """What is trained. ``vae_core.VAEConfig`` checks words and combinations."""

    image_size: tuple[int, int] = Field((256, 256), description="Height and width in pixels: 256, or 192x256.")
    channels: Annotated[Literal["auto", 1, 3], BeforeValidator(_whole_number)] = Field(
        AUTO, description="1 grey, 3 RGB; auto is 3 where colour varies in the training images."
    )
    tile: int | None = Field(
        None, ge=64, le=1024, description="See images in tiles of so many pixels, at their own resolution."
    )
    overlap: int | None = Field(None, ge=0, description="Pixels that tiles share; by default an eighth of a tile.")
    scale: float = Field(1.0, gt=0, le=4, description="Factor by which images are resized before tiles are cut.")
    locate: Literal["auto", "on", "off"] = Field(
        AUTO,
        description="Look for the part, turn it upright and crop to it; auto does where the training images show one "
        "rigid part before a plain background.",
    )
    fit: Literal["stretch", "pad"] = Field(
        "stretch", description="How an image is resized to image_size: stretched, or padded to keep its shape."
    )
    ignore: PathText | None = Field(
        None, description="Picture that is white where images are to be ignored; it has their shape, and any size."
    )
    crop: Annotated[tuple[int, int, int, int] | None, BeforeValidator(numbers)] = Field(
        None, description="Look only at this part of images of one size, in pixels: left, upper, width, height."
    )
    binarize: float | None = Field(None, gt=0, lt=1, description="Level above which values become 1, all others 0.")
    value_range: tuple[float, float] | None = Field(
        None, description="Values that become black and white in images of more than 8 bits: 0,4095."
    )
    float_range: Literal["auto"] | tuple[float, float] = Field(
        AUTO, description="The same for images in floats; auto maps the training images to [0, 1]."
    )
    preset: Text = Field(
        "auto", description="Architecture: features, conv_1x1x16, conv_spatial or resnet; auto suits the size."
    )
    backbone: Text | None = Field(
        None,
        description="For the preset features: efficientnet_lite0 where its weights are installed, else filters; or "
        "self_trained, or one whose weights you have.",
    )
    head: Text | None = Field(
        None, description="For the preset features: linear, linear_image or deep; by default what suits the backbone."
    )
    subject: Text | None = Field(
        None, description="For the head linear: aligned or free; by default the one that makes unseen images likelier."
    )
    likelihood: Text = Field("auto", description="p(x given z); auto suits the preset.")
    sigma: float | None = Field(None, gt=0, description="Standard deviation of the likelihood gaussian_fixed_sigma.")
    statistic: Text = Field("auto", description="What is thresholded: joint (of features), peak or nelbo.")
    of: Text = Field("nelbo", description="What the map behind joint and peak shows: nelbo or distortion.")
    pooling: Text | None = Field(
        None,
        description="How a linear head puts a network's maps on one grid: around, mean, or in tiles beside; by default "
        "what suits whole images, or tiles.",
    )
    smoothing_px: int = Field(
        0,
        ge=0,
        description="Side of the box that smooths the map before its peak is taken; 0 suits the preset.",
    )
    noise_draws: int = Field(1, ge=1, le=1000, description="Draws of noise that a score is averaged over.")

    #: Found in the training images where parts are located, see `nelbo.flows.steps.settle`.
    _frame: Frame | None = PrivateAttr(default=None)
    #: What `ignore` and `crop` leave of each image; known once the training images have been looked at.
    _area: Area | None = PrivateAttr(default=None)

    @property
    def frame(self) -> Frame | None:
        """What aligns parts; None where images are used as they are, and until the training images have decided."""
        return self._frame

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the model's input: as many pixels as `image_size` has, in the shape of the part."""
        if self.tile is not None:
            return self.tile, self.tile
        height, width = self.image_size
        return self.image_size if self._frame is None else self._frame.crop_size(height * width)

    def located(self, frame: Frame | None) -> Self:
        """A copy that locates parts by this frame, or does not locate them where it is None."""
        settled = self.model_copy(update={"locate": "off" if frame is None else "on"})
        settled._frame = frame
        return settled

    @property
    def area(self) -> Area | None:
        """The area of each image that is looked at; None for all of it, and until the training images have decided."""
        return self._area

    def looking_at(self, area: Area | None) -> Self:
        """A copy that looks at this area of each image."""
        settled = self.model_copy()
        settled._area = area
        return settled

    @property
    def tile_overlap(self) -> int | None:
        """Pixels that neighbouring tiles share; None where images are seen as a whole."""
        if self.tile is None:
            return None
        return self.tile // 8 if self.overlap is None else self.overlap

    @property
    def n_channels(self) -> int:
        """Channels of the input; grey until the training images have decided, see `nelbo.flows.steps.settle`."""
        return 1 if self.channels == AUTO else self.channels

    @property
    def float_ends(self) -> tuple[float, float] | None:
        """The range of floats; None, for each image's own, until the training images have decided."""
        return None if self.float_range == AUTO else self.float_range

    @model_validator(mode="after")
    def _tiles(self) -> Self:
        fields = type(self).model_fields
        changed = {name for name in ("image_size", "overlap", "scale") if getattr(self, name) != fields[name].default}
        if self.tile is None:
            for name in sorted(changed - {"image_size"}):
                raise UsageError(f"{name}={getattr(self, name)} goes with tiles, and tile is off. Set tile=256, too.")
            return self
        if "image_size" in changed:
            raise UsageError(f"image_size={self.image_size} does not go with tile={self.tile}: leave one of them out.")
        for name, value in (("locate", "on"), ("fit", "pad")):
            if getattr(self, name) == value:
                raise UsageError(f"{name}={value} does not go with tile={self.tile}: leave one of them out.")
        return self

    @model_validator(mode="after")
    def _areas(self) -> Self:
        for name in ("ignore", "crop"):
            if getattr(self, name) is None:
                continue
            for other, value in (("locate", "on"), ("fit", "pad")):
                if getattr(self, other) == value:
                    raise UsageError(f"{other}={value} does not go with {name}: leave one of them out.")
        return self

    @field_validator("image_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        """64, "64", "48x64" (height x width) or [48, 64]."""
        if isinstance(value, str):
            value = [int(part) if part.strip().isdigit() else part for part in value.lower().split("x")]
        if isinstance(value, int):
            value = [value]
        return [value[0], value[0]] if isinstance(value, list) and len(value) == 1 else value

    @field_validator("value_range", "float_range", mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        """[0, 4095], or its numbers with a comma between them; or "auto"."""
        return [part.strip() for part in value.split(",")] if isinstance(value, str) and value != AUTO else value

    @field_validator("value_range", "float_range")
    @classmethod
    def _rising(cls, value: Any) -> Any:
        # NaN is not below anything.
        if isinstance(value, tuple) and not -math.inf < value[0] < value[1] < math.inf:
            raise ValueError("expected two finite numbers, the lower one first")
        return value


class TrainingSettings(Settings):
    """How a model is trained; the names are those of ``vae_core.TrainConfig``, which checks words and combinations."""

    epochs: int = Field(150, ge=1, description="Largest number of passes over the training images.")
    patience: int = Field(20, ge=1, description="Epochs without improvement before training stops.")
    batch_size: int = Field(32, ge=1, description="Images per training step.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Learning rate of Adam.")
    learning_rate_schedule: Text = Field("constant", description="constant, or cosine down to 0.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of kernels.")
    clip_norm: float | None = Field(None, gt=0, description="Largest global norm of the gradients.")
    beta: float = Field(1.0, gt=0, description="Weight of the rate in the loss; scores never contain it.")
    warmup_epochs: int = Field(0, ge=0, description="Epochs over which beta rises linearly.")
    free_bits: float = Field(0.0, ge=0, description="Nats of rate that each latent channel has for free in the loss.")
    latent_l2: float = Field(0.0, ge=0, description="Weight of L2 on the kernels of z_mean and z_log_var.")
    denoising: float = Field(0.0, ge=0, le=1, description="Share of images that the encoder sees with a defect.")
    flip: Text = Field("none", description="Mirroring that keeps an image normal: horizontal, vertical or both.")
    shift_px: int = Field(0, ge=0, description="Largest shift in pixels that keeps an image normal.")
    precision: Flagged[Text] = Field(
        "float32",
        description="For features: int8 adds a second, faster fit; auto does if it agrees with float32. For networks "
        "that are trained: float32 or mixed_bfloat16.",
    )
    rotations: int = Field(1, description="For the head linear_image: 4 shows it each image in four rotations.")
    variants: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], BeforeValidator(_whole_number)] = Field(
        AUTO,
        description="For a linear head: number of variants of the product, each with a model; auto is several where "
        "the training images show them.",
    )
    pretext_steps: int = Field(1500, ge=1, description="Batches that the backbone self_trained learns from.")
    backbone_weights: PathText | None = Field(None, description="File with the weights of another backbone.")
    devices: int = Field(1, ge=1, description="Number of devices that share each batch.")
    deterministic: bool = Field(False, description="Use only operations that repeat bit for bit.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed for weights, splits and noise.")
    keep_cache: bool = Field(False, description="Keep the decoded images for the next training.")


class GroupSettings(Settings):
    """Which images are not independent."""

    group_by: Annotated[PathRule | None, Flag("folder|REGEX")] = Field(
        None,
        description="What names the group of an image, which stays on one side of every split: folder, or a regular "
        "expression for paths.",
    )


class SplitSettings(GroupSettings):
    """How training images are split."""

    variant_by: Annotated[PathRule | None, Flag("folder|REGEX")] = Field(
        None, description="What names the variant that an image shows: folder, or a regular expression for paths."
    )
    calibrate_on: Literal["auto", "held_out", "cross"] = Field(
        AUTO,
        description="What sets the threshold: held_out images, whose rate is exact; or cross, where each image is "
        "scored by a model of others and the final model learns from all; auto is held_out from 200 images on.",
    )
    group_alike: bool = Field(
        True,
        description="Where no groups are named, keep near-duplicates, such as views of one part, on one side of every "
        "split.",
    )


class PromotionSettings(Settings):
    """What becomes of a model once it is trained."""

    engines: Annotated[tuple[MadeFor, ...] | None, BeforeValidator(names_or_auto)] = Field(
        None, description="Engines to export a model for before it is promoted; by default openvino for features."
    )


class CalibrationSettings(Settings):
    """What is promised."""

    fpr: Flagged[float] = Field(0.05, ge=1e-9, lt=1, description="Promised false-alarm rate on fresh normal images.")
    confidence: Flagged[float | None] = Field(
        None,
        gt=0,
        lt=1,
        description="Share of calibration sets for which the promise holds; by default it holds on average over them.",
    )
    contamination: Flagged[float] = Field(
        0.0, ge=0, lt=0.5, description="Share of anomalies in the calibration images; above 0, nothing is promised."
    )
    review_fpr: Flagged[float | None] = Field(
        None, gt=0, lt=1, description="False-alarm rate at the lower end of a review band."
    )
    promise_per: Literal["image", "group"] = Field(
        "image",
        description="Where images come in groups, such as views of one part, what the rate is promised for: an image "
        "of a fresh group, or all images of the group together.",
    )

    @model_validator(mode="after")
    def _together(self) -> "CalibrationSettings":
        if self.review_fpr is not None and self.review_fpr <= self.fpr:
            raise UsageError(f"review_fpr={self.review_fpr}: expected a rate above fpr={self.fpr}.")
        if self.contamination and self.confidence is not None:
            raise UsageError(
                f"confidence={self.confidence} does not go with contamination={self.contamination}: a trimmed set "
                "promises nothing. Leave one of the two out."
            )
        return self


class LabelSettings(Settings):
    """How labels choose a threshold; see ``detectors.labelled_threshold``."""

    objective: Flagged[Literal["f1", "f_beta", "youden", "cost", "recall", "fpr", "precision"] | None] = Field(
        None, description="With labels: what the threshold optimises."
    )
    target: Flagged[float | None] = Field(
        None,
        description="Target of the objective: beta for f_beta, largest fpr for recall, least recall for fpr, "
        "least precision for precision.",
    )
    costs: Annotated[tuple[tuple[float, float], tuple[float, float]], BeforeValidator(rows), Flag("ROWS")] = Field(
        ((0.0, 1.0), (1.0, 0.0)),
        description="For the objective cost: a row for normal and one for anomalous images, a column for each verdict.",
    )
    review_recall: Flagged[float | None] = Field(
        None, gt=0, le=1, description="Share of anomalies above the lower end of a review band."
    )


class SimulationSettings(Settings):
    """Simulated defects on which a model that has seen no defect is tried."""

    defect_px: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(numbers), Flag("PIXELS")] = Field(
        (),
        max_length=5,
        description="Lengths of simulated defects in pixels of the images' files; by default 5, 10 and 20 % of the "
        "shorter side.",
    )


class ScoringSettings(Settings):
    """How a batch is scored."""

    engine: Flagged[Literal["auto", EngineName]] = Field(
        AUTO, description="What computes the scores; auto takes the fastest that the model was exported for."
    )
    shard_size: int | None = Field(
        None, ge=1, description="Images per shard; by default a fiftieth of the batch, 256 to 4,096."
    )
    fdr: Flagged[float | None] = Field(
        None, gt=0, lt=1, description="Count the images that may be listed at this false discovery rate."
    )
    audit: int = Field(
        10,
        ge=0,
        le=10_000,
        description="Images drawn at random from those not flagged, for people to look at; 0 draws none.",
    )
    audit_seed: int = Field(0, ge=0, lt=2**31, description="Seed for that draw.")
    drift_alpha: float = Field(0.01, gt=0, lt=1, description="Rate of false drift alarms per batch.")
    drift_batches: int = Field(30, ge=0, le=1000, description="Earlier batches in which slow drift is looked for.")


class WatchSettings(Settings):
    """When a file that has just landed is scored, and its batch published."""

    settle_ms: int = Field(
        500,
        ge=0,
        le=3_600_000,
        description="Milliseconds for which a file that was not renamed into place must be unchanged to be scored.",
    )
    list_s: float = Field(
        10.0,
        gt=0,
        le=86_400,
        description="Seconds between listings of the folder, which find what the system does not announce, as on "
        "network drives.",
    )
    batch_images: Flagged[int] = Field(1000, ge=1, le=100_000, description="Publish a batch once it has so many files.")
    batch_minutes: Flagged[float] = Field(
        60.0, gt=0, le=10_080, description="Publish a batch so many minutes after its first file."
    )


class ClusterSettings(Settings):
    """Where a batch is scored."""

    runner: Flagged[Literal["local", "dask"]] = Field("local", description="Where shards are scored.")
    dask_address: Flagged[SchedulerAddress | None] = Field(
        None, description="Address of a Dask scheduler: tcp://host:8786."
    )


class RecipeSettings(
    DecodingSettings,
    SplitSettings,
    ModelSettings,
    TrainingSettings,
    CalibrationSettings,
    PromotionSettings,
    SimulationSettings,
):
    """Everything that determines a model: how images are read and split, what is trained, what is promised."""


class AllSettings(RecipeSettings, ScoringSettings, WatchSettings, ClusterSettings):
    """Everything that a configuration file, the environment or ``--set`` may set, except the workspace."""
