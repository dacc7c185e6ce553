"""Groups of settings: the same names in nelbo.toml, ``NELBO_*``, ``--set`` and the flows.

Those with a flag are also said on the command line of each command that takes them.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from nelbo.data.decoder.limits import Limits
from nelbo.data.part.frame import Frame
from nelbo.flows.options.flags import Flag, Flagged
from nelbo.flows.options.types import (
    AUTO,
    EngineName,
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
    """A number, also where ``--set`` or the environment give it as a text."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


class DecodingSettings(BaseModel):
    """How folders and files are read."""

    folder_labels: bool = Field(
        True, description="Take good/ beside other folders as labels, and learn from good/ alone where there is one."
    )
    max_pixels: int = Field(64_000_000, ge=1, le=178_000_000, description="Larger images are not scored.")
    min_side_px: int = Field(1, ge=1, description="Images with a shorter side are not scored.")
    max_bytes: int = Field(1 << 30, ge=1, description="Larger files are not read.")
    max_seconds: float = Field(30.0, gt=0, le=86_400, description="Decoding an image is stopped after that.")
    workers: int | None = Field(
        None, ge=1, le=256, description="Decoding processes; by default one for each CPU that may be used."
    )

    @property
    def limits(self) -> Limits:
        """What one image may cost."""
        return Limits(self.max_pixels, self.min_side_px, self.max_bytes, self.max_seconds)


class ModelSettings(BaseModel):
    """What is trained. Words and combinations are checked by ``vae_core.VAEConfig``, in one place."""

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
    fit: Literal["stretch", "pad"] = Field("stretch", description="How an image is brought to that size.")
    binarize: float | None = Field(None, gt=0, lt=1, description="Level above which values become 1, all others 0.")
    value_range: tuple[float, float] | None = Field(
        None, description="Values of images of more than 8 bits that become black and white: 0,4095."
    )
    float_range: Literal["auto"] | tuple[float, float] = Field(
        AUTO, description="The same of floats; auto is what brings the training images to [0, 1]."
    )
    preset: Text = Field(
        "auto", description="Architecture: features, conv_1x1x16, conv_spatial or resnet; auto is what suits the size."
    )
    backbone: Text | None = Field(
        None,
        description="Of the preset features: efficientnet_lite0 where its weights are installed, else filters; or "
        "self_trained, or one with weights.",
    )
    head: Text | None = Field(
        None, description="Of the preset features: linear, linear_image or deep; by default what suits the backbone."
    )
    subject: Text | None = Field(
        None, description="Of the head linear: aligned or free; by default what unseen images are likelier under."
    )
    likelihood: Text = Field("auto", description="p(x given z); auto is what suits the preset.")
    sigma: float | None = Field(None, gt=0, description="Of the likelihood gaussian_fixed_sigma.")
    statistic: Text = Field("auto", description="What is thresholded: joint (of features), peak or nelbo.")
    of: Text = Field("nelbo", description="What the map under joint and peak is of: nelbo or distortion.")
    smoothing_px: int = Field(
        0,
        ge=0,
        description="Side of the box that smooths the map before its peak is taken; 0 is what suits the preset.",
    )
    noise_draws: int = Field(1, ge=1, le=1000, description="Draws of noise that a score is averaged over.")

    #: Found in the training images where parts are located, see `nelbo.flows.steps.settle`.
    _frame: Frame | None = PrivateAttr(default=None)

    @property
    def frame(self) -> Frame | None:
        """What brings parts to lie alike; None where images are taken as they are, and until they have decided."""
        return self._frame

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of what the model takes: as many pixels as `image_size` has, in the shape of the part."""
        if self.tile is not None:
            return self.tile, self.tile
        height, width = self.image_size
        return self.image_size if self._frame is None else self._frame.crop_size(height * width)

    def located(self, frame: Frame | None) -> Self:
        """The same, with parts looked for or not."""
        settled = self.model_copy(update={"locate": "off" if frame is None else "on"})
        settled._frame = frame
        return settled

    @property
    def tile_overlap(self) -> int | None:
        """Pixels that neighbouring tiles share; None where images are seen as a whole."""
        if self.tile is None:
            return None
        return self.tile // 8 if self.overlap is None else self.overlap

    @property
    def n_channels(self) -> int:
        """Channels of the input; grey until the images have decided, see `nelbo.flows.steps.settle`."""
        return 1 if self.channels == AUTO else self.channels

    @property
    def float_ends(self) -> tuple[float, float] | None:
        """The range of floats; each image's own until the images have decided."""
        return None if self.float_range == AUTO else self.float_range

    @model_validator(mode="after")
    def _tiles(self) -> Self:
        fields = type(self).model_fields
        changed = {name for name in ("image_size", "overlap", "scale") if getattr(self, name) != fields[name].default}
        if self.tile is None:
            for name in sorted(changed - {"image_size"}):
                raise UsageError(f"{name}={getattr(self, name)} is of tiles, and there are none. Set tile=256, too.")
            return self
        if "image_size" in changed:
            raise UsageError(f"image_size={self.image_size} does not go with tile={self.tile}: leave one of them out.")
        for name, value in (("locate", "on"), ("fit", "pad")):
            if getattr(self, name) == value:
                raise UsageError(f"{name}={value} does not go with tile={self.tile}: leave one of them out.")
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


class TrainingSettings(BaseModel):
    """How it is trained; the names are those of ``vae_core.TrainConfig``, which checks words and combinations."""

    epochs: int = Field(150, ge=1, description="Passes over the training images at most.")
    patience: int = Field(20, ge=1, description="Epochs without improvement before training stops.")
    batch_size: int = Field(32, ge=1, description="Images a training step.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Of Adam.")
    learning_rate_schedule: Text = Field("constant", description="constant, or cosine down to 0.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled, of kernels.")
    clip_norm: float | None = Field(None, gt=0, description="Largest joint norm of the gradients.")
    beta: float = Field(1.0, gt=0, description="Weight of the rate in the loss; scores never contain it.")
    warmup_epochs: int = Field(0, ge=0, description="Epochs in which that weight rises linearly.")
    free_bits: float = Field(0.0, ge=0, description="Nats of rate that each latent channel has for free in the loss.")
    latent_l2: float = Field(0.0, ge=0, description="Weight of L2 on the kernels of z_mean and z_log_var.")
    denoising: float = Field(0.0, ge=0, le=1, description="Share of images that the encoder sees with a defect.")
    flip: Text = Field("none", description="Mirror images that are normal too: horizontal, vertical or both.")
    shift_px: int = Field(0, ge=0, description="Largest shift that keeps an image normal.")
    precision: Text = Field("float32", description="Of the arithmetic in training: float32 or mixed_bfloat16.")
    rotations: int = Field(1, description="Of the head linear_image: 4 shows it each image in four turns.")
    variants: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], BeforeValidator(_whole_number)] = Field(
        AUTO,
        description="Of a linear head: models of so many variants of the product; auto is several where the training "
        "images show them.",
    )
    pretext_steps: int = Field(1500, ge=1, description="Batches that the backbone self_trained learns from.")
    backbone_weights: PathText | None = Field(None, description="File of the weights of another backbone.")
    devices: int = Field(1, ge=1, description="Over which each batch is spread.")
    deterministic: bool = Field(False, description="Only operations that repeat to the bit.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of weights, splits and noise.")
    keep_cache: bool = Field(False, description="Keep the decoded images for the next training.")


class GroupSettings(BaseModel):
    """Which images are not independent."""

    group_by: Annotated[PathRule | None, Flag("folder|REGEX")] = Field(
        None,
        description="Images of one group, which stay on one side of every split: folder, or a regular expression of "
        "paths.",
    )


class SplitSettings(GroupSettings):
    """How training images are shared out."""

    variant_by: Annotated[PathRule | None, Flag("folder|REGEX")] = Field(
        None, description="The variant of the product that an image shows: folder, or a regular expression of paths."
    )
    calibrate_on: Literal["auto", "held_out", "cross"] = Field(
        AUTO,
        description="What sets the threshold: held_out images, which promises a rate exactly; or cross, where every "
        "image is scored by a model of others and is trained on, too; auto takes held_out from 200 on.",
    )
    group_alike: bool = Field(
        True,
        description="Keep near-duplicates, such as views of one part, on one side of every split, where no group is "
        "named for them.",
    )


class PromotionSettings(BaseModel):
    """What becomes of a model once it is trained."""

    engines: Annotated[tuple[EngineName, ...] | None, BeforeValidator(names_or_auto)] = Field(
        None, description="What it is exported for before it is promoted; by default openvino for features."
    )


class CalibrationSettings(BaseModel):
    """What is promised."""

    fpr: Flagged[float] = Field(0.05, ge=1e-9, lt=1, description="Promised false-positive rate on fresh normal images.")
    confidence: Flagged[float | None] = Field(
        None, gt=0, lt=1, description="Share of calibration sets for which that holds; by default on average over them."
    )
    contamination: Flagged[float] = Field(
        0.0, ge=0, lt=0.5, description="Share of anomalies in the calibration images; ends the promise."
    )
    review_fpr: Flagged[float | None] = Field(None, gt=0, lt=1, description="Rate at the lower end of a review band.")
    promise_per: Literal["image", "group"] = Field(
        "image",
        description="Where images come in groups, such as views of one part: what the rate is promised to, an image of "
        "a fresh group, or all images of it together.",
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


class LabelSettings(BaseModel):
    """How labels choose a threshold; see ``detectors.labelled_threshold``."""

    objective: Flagged[Literal["f1", "f_beta", "youden", "cost", "recall", "fpr", "precision"] | None] = Field(
        None, description="With labels: what the threshold is best at."
    )
    target: Flagged[float | None] = Field(
        None, description="Of f_beta (beta), recall (largest fpr), fpr (least recall), precision."
    )
    costs: Annotated[tuple[tuple[float, float], tuple[float, float]], BeforeValidator(rows), Flag("ROWS")] = Field(
        ((0.0, 1.0), (1.0, 0.0)), description="Of the objective cost: rows normal and anomalous, columns as called."
    )
    review_recall: Flagged[float | None] = Field(
        None, gt=0, le=1, description="Share of anomalies above the review band's end."
    )


class SimulationSettings(BaseModel):
    """What a model is tried on that has not seen a defect."""

    defect_px: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(numbers), Flag("PIXELS")] = Field(
        (),
        max_length=5,
        description="Lengths of simulated defects in pixels of the images' files; by default 5, 10 and 20 % of the "
        "shorter side.",
    )


class ScoringSettings(BaseModel):
    """How a batch is worked through."""

    engine: Flagged[Literal["auto", EngineName]] = Field(
        AUTO, description="What computes the scores; auto takes the fastest that the model was exported for."
    )
    shard_size: int | None = Field(
        None, ge=1, description="Images in a shard; by default a fiftieth of the batch, 256 to 4,096."
    )
    fdr: Flagged[float | None] = Field(None, gt=0, lt=1, description="False discovery rate of the counted list.")
    audit: int = Field(
        10,
        ge=0,
        le=10_000,
        description="Images that are not flagged and drawn at random to be looked at; 0 draws none.",
    )
    audit_seed: int = Field(0, ge=0, lt=2**31, description="Of that draw.")
    drift_alpha: float = Field(0.01, gt=0, lt=1, description="Rate of false drift alarms a batch.")
    drift_batches: int = Field(30, ge=0, le=1000, description="Earlier batches that slow drift is looked for in.")


class ClusterSettings(BaseModel):
    """Where the work of a batch is done."""

    runner: Flagged[Literal["local", "dask"]] = Field("local", description="Where shards are scored.")
    dask_address: Flagged[SchedulerAddress | None] = Field(None, description="Of a Dask scheduler: tcp://host:8786.")


class RecipeSettings(
    DecodingSettings,
    SplitSettings,
    ModelSettings,
    TrainingSettings,
    CalibrationSettings,
    PromotionSettings,
    SimulationSettings,
):
    """All that makes a model: how images are read and shared out, what is trained, what is promised."""


class AllSettings(RecipeSettings, ScoringSettings, ClusterSettings):
    """All that a configuration file, the environment or ``--set`` may say, but for the workspace."""
