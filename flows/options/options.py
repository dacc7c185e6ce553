"""What can be set, with defaults and bounds; the same names in nelbo.toml, ``NELBO_*``, ``--set`` and the flows.

Each flow has one options model, put together from groups of settings; unknown keys are refused everywhere.
"""

import codecs
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from nelbo.data.decoder.limits import Limits
from nelbo.data.errors import InputError
from nelbo.data.part.frame import Frame
from nelbo.data.path_rules import check_path_rule
from nelbo.data.sources.urls import HARMLESS, check_urls
from nelbo.flows.options.former import FORMER, without_former
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.home import expand_home

ENV_PREFIX = "NELBO_"

#: The dashboard's password: a secret, so it is in the environment alone and no setting.
PASSWORD = "NELBO_DASHBOARD_PASSWORD"  # noqa: S105 - its name


#: What suits the images, or another setting.
AUTO: Final = "auto"
ON: Final = "on"
OFF: Final = "off"


def _rows(value: Any) -> Any:
    """A matrix, or the text of one in JSON."""
    return json.loads(value) if isinstance(value, str) else value


def _names(value: Any) -> Any:
    """A list, or its names with commas between them."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _names_or_auto(value: Any) -> Any:
    """The same, or None for "auto"; an empty text is no name."""
    if not isinstance(value, str):
        return value
    return None if value == AUTO else [name for name in _names(value) if name]


#: What a model can be exported for, and scored with.
EngineName = Literal["keras", "openvino", "onnx"]

_SECONDS = {"h": 3600, "d": 86_400, "w": 604_800}


def duration_s(text: str, name: str = "older_than") -> int:
    """Seconds of a number of hours, days or weeks; the name is that of the setting.

    >>> duration_s("90d"), duration_s("12h")
    (7776000, 43200)
    """
    found = re.fullmatch(r"([1-9]\d{0,5})([hdw])", text, re.ASCII)
    if found is None:
        raise UsageError(f"{name}={text!r}: expected hours, days or weeks, such as 12h, 90d or 4w.")
    return int(found[1]) * _SECONDS[found[2]]


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("no file or id has a NUL character in its name")
    return text


#: Paths, URLs and ids; an empty one would mean the current folder. Pydantic refuses names that are not UTF-8. With the
#: pattern in a deployment's schema, Prefect's server itself refuses credentials, which it would otherwise have stored.
Text = Annotated[
    str,
    StringConstraints(min_length=1),
    AfterValidator(_without_nul),
    WithJsonSchema({"type": "string", "minLength": 1, "pattern": HARMLESS}),
]

#: A path, or a URL.
PathText = Annotated[Text, AfterValidator(expand_home)]


def _scheduler_address(text: str) -> str:
    if re.fullmatch(r"(tcp|tls)://[^/@\s]+:\d+", text) is None:
        raise UsageError(f"dask_address={text!r}: expected tcp://host:8786, or tls://host:8786.")
    return text


def _path_rule(text: str, info: ValidationInfo) -> str:
    try:
        check_path_rule(text)
    except ValueError as error:
        raise UsageError(
            f"{info.field_name}={text!r}: {error}. Expected folder, or a regular expression that finds a name in a "
            r"path, such as (part\d+)_."
        ) from error
    return text


class Options(BaseModel):
    """Base of all options."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    workspace: PathText = Field("./workspace", description="Folder or URL of everything that nelbo writes.")

    @model_validator(mode="before")
    @classmethod
    def _without_credentials(cls, values: Any) -> Any:
        """First of all, wherever the values come from: what follows may log, store or send them."""
        refuse_credentials(values)
        return without_former(values) if isinstance(values, dict) else values


class DecodingSettings(BaseModel):
    """How files are read."""

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

    image_size: Annotated[tuple[int, int], NoDecode] = Field(
        (256, 256), description="Height and width in pixels: 256, or 192x256."
    )
    # Texts, from --set and the environment, are numbers too.
    channels: Annotated[
        Literal["auto", 1, 3], BeforeValidator(lambda value: {"1": 1, "3": 3}.get(str(value), value))
    ] = Field(AUTO, description="1 grey, 3 RGB; auto is 3 where colour varies in the training images.")
    locate: Literal["auto", "on", "off"] = Field(
        AUTO,
        description="Look for the part, turn it upright and crop to it; auto does where the training images show one "
        "rigid part before a plain background.",
    )
    fit: Literal["stretch", "pad"] = Field("stretch", description="How an image is brought to that size.")
    binarize: float | None = Field(None, gt=0, lt=1, description="Level above which values become 1, all others 0.")
    value_range: Annotated[tuple[float, float] | None, NoDecode] = Field(
        None, description="Values of images of more than 8 bits that become black and white: 0,4095."
    )
    float_range: Annotated[Literal["auto"] | tuple[float, float], NoDecode] = Field(
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
        height, width = self.image_size
        return self.image_size if self._frame is None else self._frame.crop_size(height * width)

    def located(self, frame: Frame | None) -> Self:
        """The same, with parts looked for or not."""
        settled = self.model_copy(update={"locate": "off" if frame is None else "on"})
        settled._frame = frame
        return settled

    @property
    def n_channels(self) -> int:
        """Channels of the input; grey until the images have decided, see `nelbo.flows.steps.settle`."""
        return 1 if self.channels == AUTO else self.channels

    @property
    def float_ends(self) -> tuple[float, float] | None:
        """The range of floats; each image's own until the images have decided."""
        return None if self.float_range == AUTO else self.float_range

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
    # Texts, from --set and the environment, are numbers too.
    variants: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1)],
        BeforeValidator(lambda value: int(value) if isinstance(value, str) and value.isdigit() else value),
    ] = Field(
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


class SplitSettings(BaseModel):
    """How training images are shared out."""

    group_by: Annotated[Text, AfterValidator(_path_rule)] | None = Field(
        None, description="Images that stay on one side of every split: folder, or a regular expression of paths."
    )
    variant_by: Annotated[Text, AfterValidator(_path_rule)] | None = Field(
        None, description="The variant of the product that an image shows: folder, or a regular expression of paths."
    )
    calibrate_on: Literal["auto", "held_out", "cross"] = Field(
        AUTO,
        description="What sets the threshold: held_out images, which promises a rate exactly; or cross, where every "
        "image is scored by a model of others and is trained on, too; auto takes held_out from 200 on.",
    )


class PromotionSettings(BaseModel):
    """What becomes of a model once it is trained."""

    engines: Annotated[tuple[EngineName, ...] | None, NoDecode, BeforeValidator(_names_or_auto)] = Field(
        None, description="What it is exported for before it is promoted; by default openvino for features."
    )


class CalibrationSettings(BaseModel):
    """What is promised."""

    fpr: float = Field(0.05, ge=1e-9, lt=1, description="Promised false-positive rate on fresh normal images.")
    confidence: float | None = Field(
        None, gt=0, lt=1, description="Share of calibration sets for which that holds; by default on average over them."
    )
    contamination: float = Field(0.0, ge=0, lt=0.5, description="Share of the calibration images that are anomalous.")
    review_fpr: float | None = Field(None, gt=0, lt=1, description="Rate of the lower end of a band for review.")

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

    objective: Literal["f1", "f_beta", "youden", "cost", "recall", "fpr", "precision"] | None = None
    target: float | None = Field(None, description="Of the objectives f_beta, recall, fpr and precision.")
    costs: Annotated[tuple[tuple[float, float], tuple[float, float]], BeforeValidator(_rows)] = Field(
        ((0.0, 1.0), (1.0, 0.0)), description="Of the objective cost: rows normal and anomalous, columns as called."
    )
    review_recall: float | None = Field(None, gt=0, le=1, description="Share of anomalies above the review band's end.")


class ScoringSettings(BaseModel):
    """How a batch is worked through."""

    engine: Literal["auto", EngineName] = Field(
        AUTO, description="What computes the scores; auto takes the fastest that the model was exported for."
    )
    shard_size: int | None = Field(
        None, ge=1, description="Images in a shard; by default a fiftieth of the batch, 256 to 4,096."
    )
    fdr: float | None = Field(None, gt=0, lt=1, description="False discovery rate of the list that is counted.")
    drift_alpha: float = Field(0.01, gt=0, lt=1, description="Rate of false drift alarms a batch.")
    drift_batches: int = Field(30, ge=0, le=1000, description="Earlier batches that slow drift is looked for in.")


class ClusterSettings(BaseModel):
    """Where the work of a batch is done."""

    runner: Literal["local", "dask"] = Field("local", description="Where shards are scored.")
    dask_address: Annotated[Text, AfterValidator(_scheduler_address)] | None = Field(
        None, description="Of a Dask scheduler: tcp://host:8786."
    )


class IngestOptions(Options, DecodingSettings):
    """Of the flow and command ``ingest``."""

    images: PathText
    root: PathText | None = None
    batch_id: Text | None = None


class RecipeSettings(
    DecodingSettings, SplitSettings, ModelSettings, TrainingSettings, CalibrationSettings, PromotionSettings
):
    """All that makes a model: how images are read and shared out, what is trained, what is promised."""


class TrainOptions(Options, RecipeSettings):
    """Of the flow and command ``train``."""

    normal: PathText
    root: PathText | None = None
    promote: bool = True
    gate: PathText | None = Field(
        None, description="Held-out images on which a new model must not do worse to be promoted."
    )

    @model_validator(mode="after")
    def _cross(self) -> "TrainOptions":
        if self.calibrate_on == "cross" and self.confidence is not None:
            raise UsageError(
                f"confidence={self.confidence} does not go with calibrate_on=cross, whose rate is approximate. "
                "Leave one of the two out."
            )
        return self


class CalibrateOptions(Options, DecodingSettings, CalibrationSettings, LabelSettings):
    """Of the flow and command ``calibrate``: normals and a rate, labels and an objective, or one that is there."""

    model: Text = "latest"
    normal: PathText | None = None
    labels: PathText | None = None
    use: Text | None = None
    statistic: Text | None = None
    root: PathText | None = None


class ScoreOptions(Options, DecodingSettings, ScoringSettings, ClusterSettings):
    """Of the flow and command ``score``."""

    images: PathText
    new: bool = Field(False, description="Without a batch id: only what no earlier batch of that folder holds.")
    min_age_s: float = Field(10.0, ge=0, le=86_400, description="With new: files changed more recently than that wait.")
    model: Text = "latest"
    calibration: Text | None = None
    uncalibrated: bool = False
    batch_id: Text | None = None
    root: PathText | None = None

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


class ReportOptions(Options, DecodingSettings):
    """Of the flow and command ``report``."""

    batch: Text | None = None
    model: Text | None = None
    fdr: float | None = Field(None, gt=0, lt=1, description="False discovery rate of the list that is counted.")


class ExportOptions(Options, DecodingSettings):
    """Of the flow and command ``export``."""

    model: Text = "latest"
    engine: EngineName
    normal: PathText | None = Field(None, description="Images to compare with Keras on; by default the calibration's.")
    root: PathText | None = None
    tolerance: float = Field(1e-5, gt=0, le=0.01, description="Largest difference, relative to |distortion| + rate.")


class PruneOptions(Options):
    """Of the flow and command ``prune``."""

    older_than: Text
    apply: bool = False
    models: bool = False

    @property
    def older_than_s(self) -> int:
        """The age in seconds."""
        return duration_s(self.older_than)

    @field_validator("older_than")
    @classmethod
    def _duration(cls, value: str) -> str:
        duration_s(value)
        return value


class CompactOptions(Options):
    """Of the flow and command ``compact``."""


#: Of the flows and commands by name.
OPTIONS: dict[str, type[Options]] = {
    "ingest": IngestOptions,
    "train": TrainOptions,
    "calibrate": CalibrateOptions,
    "score": ScoreOptions,
    "export": ExportOptions,
    "report": ReportOptions,
    "prune": PruneOptions,
    "compact": CompactOptions,
}


class Settings(BaseSettings, Options, RecipeSettings, ScoringSettings, ClusterSettings):
    """All that a configuration file, the environment or ``--set`` may say."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix=ENV_PREFIX, hide_input_in_errors=True)


def refuse_credentials(values: Any) -> None:
    """Refuse credentials in the URLs among options.

    Raises:
        UsageError: an option holds some; the message repeats none.
    """
    try:
        check_urls(values)
    except InputError as error:
        raise UsageError(str(error)) from None


AnyOptions = TypeVar("AnyOptions", bound=Options)


def make_options(
    kind: type[AnyOptions],
    given: Mapping[str, Any],
    config: Path | None = None,
    assignments: Sequence[str] = (),
) -> AnyOptions:
    """Options of one command: file < environment < ``--set`` < what was given on the command line.

    Args:
        kind: the options model of the command.
        given: options given on the command line; None means not given.
        config: a TOML file, or None.
        assignments: texts "key=value".

    Raises:
        UsageError: an unknown key or a bad value. Variables of the environment that are no settings are passed over:
            others set them, too.
    """
    given = {key: value for key, value in given.items() if value is not None}
    refuse_credentials([*assignments, given])
    said = dict(_assignment(text) for text in assignments)
    _refuse_unknown("--set", list(said))
    try:
        settings = _settings(config, said)
        common = settings.model_fields_set & set(kind.model_fields)
        return check_options(kind, {key: getattr(settings, key) for key in common} | given)
    except UsageError as error:
        raise _naming_variable(error, {*given, *said}) from error.__cause__


def check_options(kind: type[AnyOptions], values: Mapping[str, Any]) -> AnyOptions:
    """The options model made of `values`, or a UsageError that names the first bad one."""
    try:
        return kind(**values)
    except ValidationError as error:
        # Not from it: it repeats what it was given.
        raise _usage_error(error) from None


def setting_of(variable: str) -> str | None:
    """The setting that a variable of the environment is of, in capitals or not; None if it is none.

    >>> setting_of("NELBO_FPR"), setting_of("NELBO_PORT")
    ('fpr', None)
    """
    prefix, name = variable[: len(ENV_PREFIX)].upper(), variable[len(ENV_PREFIX) :].lower()
    return name if prefix == ENV_PREFIX and name in Settings.model_fields else None


def strange_variables() -> list[str]:
    """Variables of the environment that begin as settings do and are none, such as Kubernetes' of a Service nelbo."""
    ours = (name for name in os.environ if name.upper().startswith(ENV_PREFIX) and name != PASSWORD)
    return sorted(name for name in ours if setting_of(name) is None and _former_setting_of(name) is None)


def _former_setting_of(variable: str) -> str | None:
    return next((name for name in FORMER if variable.upper() == f"{ENV_PREFIX}{name}".upper()), None)


def _settings(config: Path | None, said: Mapping[str, Any]) -> Settings:
    content = {} if config is None else _read_toml(config)
    # Pydantic looks for no variable that is no field.
    content |= {name: value for variable, value in os.environ.items() if (name := _former_setting_of(variable))}

    class WithFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic names it
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            """``--set``, then the environment, then the file; first come, first served."""
            return init_settings, env_settings, InitSettingsSource(settings_cls, content)

    try:
        return WithFile(**said)
    except ValidationError as error:
        # Not from it: it repeats what it was given.
        raise _usage_error(error) from None


def _read_toml(config: Path) -> dict[str, Any]:
    if not config.is_file():
        raise UsageError(f"--config {config}: no such file. Give a TOML file, or leave it out.")
    try:
        content = config.read_bytes()
        # What Windows calls Unicode.
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
            raise UsageError(f"--config {config} is UTF-16, and TOML is UTF-8. Save it as UTF-8.")
        return tomllib.loads(content.decode("utf-8-sig"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {config} is not readable TOML ({error}). Mend it, or leave it out.") from error


def _usage_error(error: ValidationError) -> UsageError:
    first = error.errors()[0]
    if isinstance(first.get("ctx", {}).get("error"), UsageError):
        return first["ctx"]["error"]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return UsageError(f"unknown key {name!r}. Known are {', '.join(sorted(Settings.model_fields))}.")
    return UsageError(f"{name}={first['input']!r}: {first['msg']}.")


def _naming_variable(error: UsageError, elsewhere: set[str]) -> UsageError:
    """The same error; where it begins with a setting that the environment has set, the variable stands for it.

    Args:
        elsewhere: settings that were said with more weight.
    """
    name = re.split(r"\W", str(error), maxsplit=1)[0]
    variable = next((found for found in os.environ if setting_of(found) == name), None)
    if variable is None or name in elsewhere:
        return error
    return UsageError(variable + str(error).removeprefix(name))


def _refuse_unknown(origin: str, keys: Sequence[str]) -> None:
    unknown = [key for key in keys if key not in Settings.model_fields and key not in FORMER]
    if unknown:
        known = ", ".join(sorted(Settings.model_fields))
        raise UsageError(f"{origin}: unknown key {unknown[0]!r}. Known are {known}.")


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}: expected key=value, for example --set epochs=50.")
    return key.strip(), value.strip()
