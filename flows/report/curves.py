"""Training curves as SVG."""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

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
        # Far outside the picture the exact place does not matter, but browsers calculate with few digits.
        return np.clip(self.start + share * (self.end - self.start), -5000, 5000)

    def ticks(self, about: int, least: float = 0.0) -> list[tuple[float, str]]:
        """Coordinates and texts of `about` so many round values, at least `least` apart."""
        rough = max((self.high - self.low) / about, least)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= 0.999 * rough)
        decimals = max(0, -math.floor(math.log10(1.001 * step)))
        values = np.arange(math.ceil(self.low / step), math.floor(self.high / step) + 1) * step
        # Adding 0 turns -0 into 0.
        return [(float(self.at(value)), fixed(value + 0.0, decimals)) for value in values]


def render_curves(history: pa.Table) -> str:
    """The nelbo of training and validation images by epoch, as a self-contained SVG.

    Args:
        history: of the training, one row an epoch.
    """
    n, table = history.num_rows, history.to_pandas().set_index("epoch")
    curves = {word: table[name][np.isfinite(table[name])] for name, word in _CURVES.items() if name in table}
    x = Axis(1, n, _LEFT, _RIGHT) if n > 1 else Axis(0.5, 1.5, _LEFT, _RIGHT)
    y = Axis(*_nats_range(pd.concat([pd.Series(dtype=float), *curves.values()]), n), _BOTTOM, _TOP)
    context = {
        "size": (WIDTH, HEIGHT),
        "plot": (_LEFT, _RIGHT, _TOP, _BOTTOM),
        "x_ticks": x.ticks(8, least=1),
        "y_ticks": y.ticks(5),
        "lines": [(word, list(zip(x.at(nats.index), y.at(nats), strict=True))) for word, nats in curves.items()],
        "dotted": n <= _DOTTED_EPOCHS,
        "best": _best(curves["validation"], x, y) if len(curves.get("validation", ())) else None,
        "is_cut": any((nats > y.high).any() for nats in curves.values()),
        "summary": " ".join(_summary(word, nats) for word, nats in curves.items() if len(nats)),
    }
    return template("curves.svg.j2").render(context)


def _nats_range(nats: "pd.Series[float]", n: int) -> tuple[float, float]:
    """The range of the axis: it shows the best and nearly all later values, not the first epochs or rare failures."""
    if nats.empty:
        return 0.0, 1.0
    late = nats[nats.index > 0.2 * n]
    low = float(nats.min())
    # A value of the data: among up to 20 the largest, so that a short training shows all its later epochs.
    high = float((nats if late.empty else late).quantile(0.95, interpolation="higher"))
    if high - low <= 1e-6 * max(1.0, abs(low)):
        margin = max(1.0, 1e-3 * abs(low))
        return low - margin, low + margin
    return low - 0.05 * (high - low), high + 0.1 * (high - low)


def _best(nats: "pd.Series[float]", x: Axis, y: Axis) -> dict[str, Any]:
    """The first epoch with the least validation nelbo, as a mark in the picture."""
    epoch, least = nats.idxmin(), nats.min()
    return {"x": x.at(epoch), "y": y.at(least), "text": f"best: epoch {epoch}, {fixed(least, 1)} nats"}


def _summary(word: str, nats: "pd.Series[float]") -> str:
    first, last = (fixed(nats.iloc[i], 1) for i in (0, -1))
    return f"{word.capitalize()}: {first} nats in epoch {nats.index[0]}, {last} in epoch {nats.index[-1]}."
