"""Pictures of parts on a plain background, at any place and angle; they are rendered, so the pose is known."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

SHAPES = ("screw", "key", "plate", "rod", "cross", "washer", "disc")


@dataclass(frozen=True)
class Scene:
    """How parts are photographed; lengths are shares of the picture's width.

    light, dark: levels of part and background, by colour channel.
    shadow, slope, noise: depth of a soft shadow; how much light falls off across the picture; standard deviation.
    at_edge: parts may reach over the edge.
    """

    shape: str
    width: int = 320
    height: int = 240
    length: float = 0.45
    light: tuple[float, ...] = (0.75,)
    dark: tuple[float, ...] = (0.25,)
    shadow: float = 0.0
    slope: float = 0.0
    noise: float = 0.01
    at_edge: bool = False


@dataclass(frozen=True)
class Pose:
    """Where a part lies: middle in pixels, degrees counter-clockwise as seen, whether it is its own mirror image."""

    x: float
    y: float
    degrees: float
    mirrored: bool = False


def drawn(random: np.random.Generator, scene: Scene, **changes: Any) -> Pose:
    """A pose at random."""
    reach = 0.0 if scene.at_edge else 0.55 * scene.length * scene.width
    x = random.uniform(reach, scene.width - reach)
    y = random.uniform(min(reach, scene.height / 2), max(scene.height - reach, scene.height / 2))
    return replace(Pose(x, y, random.uniform(0, 360)), **changes)


def picture(scene: Scene, pose: Pose, random: np.random.Generator, defect: str | None = None) -> np.ndarray:
    """(h, w, c) float32 in [0, 1]; the defect is "missing", "scratch", "dent" or "bent"."""
    rows, columns = np.mgrid[: scene.height, : scene.width].astype(np.float64)
    angle = np.deg2rad(pose.degrees)
    size = scene.length * scene.width
    dx, dy = (columns - pose.x) / size, (rows - pose.y) / size
    x, y = np.cos(angle) * dx - np.sin(angle) * dy, np.sin(angle) * dx + np.cos(angle) * dy
    if pose.mirrored:
        y = -y
    if defect == "bent":
        y = y + 0.5 * np.maximum(x - 0.1, 0) ** 2
    depth, shade = _SHAPES[scene.shape](x, y)
    if defect == "missing":
        depth = np.minimum(depth, 0.42 - x)
    if defect == "dent":
        depth = np.minimum(depth, np.hypot(x - 0.2, y - 0.06) - 0.035)
    if defect == "scratch":
        near = np.abs((y - 0.01) - 0.4 * (x - 0.1)) < 0.008
        shade = np.where(near & (np.abs(x - 0.1) < 0.07), shade - 0.45, shade)
    inside = np.clip(depth * size + 0.5, 0, 1)[..., None]
    background = np.asarray(scene.dark) * (1 - scene.shadow * _blurred_shadow(depth, size))[..., None]
    values = inside * (np.asarray(scene.light) * shade[..., None]) + (1 - inside) * background
    values = (
        values
        * (1 + scene.slope * (columns / scene.width - 0.5) + 0.5 * scene.slope * (rows / scene.height))[..., None]
    )
    return np.clip(values + random.normal(0, scene.noise, values.shape), 0, 1).astype(np.float32)


def _blurred_shadow(depth: np.ndarray, size: float) -> np.ndarray:
    """The depth of a soft shadow on one side of the part."""
    from scipy.ndimage import gaussian_filter, shift

    return np.asarray(gaussian_filter(shift((depth > 0).astype(np.float64), (0.05 * size, 0.07 * size)), 0.04 * size))


def _box(x: np.ndarray, y: np.ndarray, left: float, right: float, half: float) -> np.ndarray:
    """Depth within a rectangle, negative outside; nearly a distance."""
    return np.minimum(np.minimum(x - left, right - x), half - np.abs(y))


def _screw(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    head = _box(x, y, -0.5, -0.38, 0.14)
    thread = 0.055 + 0.012 * np.sin(x * 150) * (x > -0.1)
    shaft = np.minimum(np.minimum(x + 0.4, 0.5 - x), thread - np.abs(y))
    return np.maximum(head, shaft), 1 - 0.25 * np.abs(y) / 0.14 + 0.1 * np.sin(x * 150) * (x > -0.1)


def _key(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bow = np.minimum(0.17 - np.hypot(x + 0.33, y), np.hypot(x + 0.33, y) - 0.07)
    teeth = _box(x, y - 0.07, 0.3, 0.36, 0.05)
    more = _box(x, y - 0.06, 0.42, 0.46, 0.04)
    return np.maximum.reduce([bow, _box(x, y, -0.2, 0.5, 0.035), teeth, more]), np.ones_like(x)


def _plate(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle; only a mark on it tells its ends apart."""
    mark = np.hypot(x - 0.3, y + 0.05) < 0.07
    return _box(x, y, -0.5, 0.5, 0.2), np.where(mark, 0.55, 1.0)


def _rod(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _box(x, y, -0.5, 0.5, 0.02), np.ones_like(x)


def _cross(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(_box(x, y, -0.5, 0.5, 0.12), _box(y, x, -0.5, 0.5, 0.12)), np.ones_like(x)


def _washer(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    radius = np.hypot(x, y)
    return np.minimum(0.5 - radius, radius - 0.25), np.ones_like(x)


def _disc(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round, with a mark off its middle."""
    radius = np.hypot(x, y)
    return 0.4 - radius, np.where(np.hypot(x - 0.22, y) < 0.08, 0.55, 1.0)


_SHAPES = {
    "screw": _screw,
    "key": _key,
    "plate": _plate,
    "rod": _rod,
    "cross": _cross,
    "washer": _washer,
    "disc": _disc,
}
