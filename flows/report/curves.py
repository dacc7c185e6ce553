"""The curves of a training as SVG."""

import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nelbo.flows.numbers import fixed
from nelbo.flows.report.rendering import template

WIDTH, HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 700, 48, 310
#: With more epochs than this a dot for each would hide the lines.
_DOTTED_EPOCHS = 20
_CURVES = {"nelbo": "training", "val_nelbo": "validation"}


class Axis(NamedTuple):
    """Values from `low` to `high`, drawn between two SVG coordinates."""

    low: float
    high: float
    start: float
    end: float

    def at(self, values: Any) -> Any:
        """SVG coordinates."""
        share = (np.asarray(values) - self.low) / (self.high - self.low)
        # Far outside the picture it does not matter where, but browsers calculate in few digits.
        return np.clip(self.start + share * (self.end - self.start), -5000, 5000)

    def ticks(self, about: int, least: float = 0.0) -> list[tuple[float, str]]:
        """Coordinate and text of some round values, at least `least` apart."""
        rough = max((self.high - self.low) / about, least)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= 0.999 * rough)
        decimals = max(0, -math.floor(math.log10(1.001 * step)))
        values = np.arange(math.ceil(self.low / step), math.floor(self.high / step) + 1) * step
        # Adding 0 makes 0 of -0.
        return [(float(self.at(value)), fixed(value + 0.0, decimals)) for value in values]


class Curve(NamedTuple):
    """A measure by epoch; both arrays are finite."""

    name: str
    epochs: NDArray[np.int32]
    nats: NDArray[np.float64]


def render_curves(history: pa.Table) -> str:
    """The nelbo of training and validation images by epoch, as an SVG that stands alone.

    Args:
        history: of the training, one row an epoch.
    """
    curves = [_curve(history, name) for name in _CURVES if name in history.column_names]
    n = history.num_rows
    x = Axis(1, n, _LEFT, _RIGHT) if n > 1 else Axis(0.5, 1.5, _LEFT, _RIGHT)
    low, high = _nats_range(curves, n)
    y = Axis(low, high, _BOTTOM, _TOP)
    context = {
        "size": (WIDTH, HEIGHT),
        "plot": (_LEFT, _RIGHT, _TOP, _BOTTOM),
        "x_ticks": x.ticks(8, least=1),
        "y_ticks": y.ticks(5),
        "lines": [(curve.name, _points(curve, x, y)) for curve in curves],
        "dotted": n <= _DOTTED_EPOCHS,
        "best": _best(curves, x, y),
        "is_cut": any((curve.nats > y.high).any() for curve in curves),
        "summary": " ".join(map(_summary, curves)),
    }
    return template("curves.svg.j2").render(context)


def _curve(history: pa.Table, name: str) -> Curve:
    nats = history[name].to_numpy()
    finite = np.isfinite(nats)
    return Curve(_CURVES[name], history["epoch"].to_numpy()[finite], nats[finite])


def _points(curve: Curve, x: Axis, y: Axis) -> list[tuple[float, float]]:
    return list(zip(x.at(curve.epochs).tolist(), y.at(curve.nats).tolist(), strict=True))


def _nats_range(curves: list[Curve], n: int) -> tuple[float, float]:
    """What the axis shows: the best and nearly all later values, not the first epochs and rare failures."""
    nats = np.concatenate([np.empty(0), *(curve.nats for curve in curves)])
    late = np.concatenate([np.empty(0), *(curve.nats[curve.epochs > 0.2 * n] for curve in curves)])
    if not len(nats):
        return 0.0, 1.0
    low = float(nats.min())
    # A value that is there: of up to 20 the largest, so that a short training shows all its later epochs.
    high = float(np.quantile(late if len(late) else nats, 0.95, method="higher"))
    if high - low <= 1e-6 * max(1.0, abs(low)):
        margin = max(1.0, 1e-3 * abs(low))
        return low - margin, low + margin
    return low - 0.05 * (high - low), high + 0.1 * (high - low)


def _best(curves: list[Curve], x: Axis, y: Axis) -> dict[str, Any] | None:
    """Where the validation nelbo is least, the first time."""
    found = [curve for curve in curves if curve.name == "validation" and len(curve.nats)]
    if not found:
        return None
    i = int(found[0].nats.argmin())
    place = {"x": float(x.at(found[0].epochs[i])), "y": float(y.at(found[0].nats[i]))}
    return place | {"text": f"best: epoch {found[0].epochs[i]}, {fixed(found[0].nats[i], 1)} nats"}


def _summary(curve: Curve) -> str:
    if not len(curve.nats):
        return ""
    first, last = (fixed(curve.nats[i], 1) for i in (0, -1))
    return f"{curve.name.capitalize()}: {first} nats in epoch {curve.epochs[0]}, {last} in epoch {curve.epochs[-1]}."
