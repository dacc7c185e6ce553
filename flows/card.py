"""A model's card: a page in Markdown for people, and the curves of its training as SVG."""

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data import atomic_path, read_table
from flows.errors import UsageError
from flows.settings import TrainingSettings
from flows.workspace import Workspace, check_id

#: What each likelihood assumes.
LIKELIHOODS = {
    "gaussian_fixed_sigma": "Each value is the decoder's mean plus Gaussian noise of one given standard deviation.",
    "gaussian_learned_sigma": "Each value is the decoder's mean plus Gaussian noise of one standard deviation, "
    "which is learnt and the same for all values.",
    "gaussian_pixel_sigma": "Each value is the decoder's mean plus Gaussian noise whose standard deviation the "
    "decoder gives too, value by value.",
    "discretised_logistic": "Each value is one of the 256 levels of an 8-bit image, drawn from a logistic "
    "distribution around the decoder's mean with one learnt scale.",
    "continuous_bernoulli": "Each value lies between 0 and 1, and the decoder's one number for it says both where "
    "and how certainly.",
    "bernoulli": "Each value is 0 or 1, and the decoder gives the probability of a 1.",
}
#: Those that give probabilities; the others are densities over [0, 1].
PROBABILITIES = ("discretised_logistic", "bernoulli")

PRESETS = {
    "conv_1x1x16": "convolutions, 16 latents for the whole image",
    "conv_spatial": "convolutions, 8 latents for each 8 x 8 pixels",
    "resnet": "residual blocks, 16 latents for each 16 x 16 pixels",
}
STATISTICS = {
    "nelbo": "the negative ELBO of the whole image",
    "peak": "the peak of the smoothed local negative ELBO, in standard deviations of what is usual at that place",
}

SHOWN_EPOCHS = 11
_COLUMNS = {"nelbo": 1, "distortion": 1, "rate": 1, "sigma": 4, "val_nelbo": 1}

WIDTH, HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 700, 48, 310
#: With more epochs than this a dot for each would hide the lines.
_DOTTED_EPOCHS = 20
_CURVES = {"nelbo": "training", "val_nelbo": "validation"}


def write_card(workspace: Workspace, model_id: str) -> Path:
    """Write a model's card and curves from its ``model.json`` and its history; the path of the card."""
    target = workspace.card(model_id)
    picture = target.with_suffix(".svg")
    card = read_card(workspace, model_id, picture.name)
    curves = render_curves(read_table(workspace.history(model_id)))
    # The picture first: a card never shows a broken link.
    for file, text in ((picture, curves), (target, card)):
        with atomic_path(file, workspace.staging) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return target


def read_card(workspace: Workspace, model_id: str, picture: str | None = None) -> str:
    """A model's card as Markdown, from its ``model.json`` and its history; see `render_card`."""
    path = workspace.models / check_id(model_id) / "model.json"
    history = read_table(workspace.history(model_id))
    try:
        return render_card(json.loads(path.read_text(encoding="utf-8")), history, picture)
    except (OSError, LookupError, TypeError, ValueError, jinja2.UndefinedError) as error:
        raise UsageError(
            f"{path} does not say what a card needs ({error!r}). Restore it from a copy, or train again."
        ) from error


def render_card(description: Mapping[str, Any], history: pa.Table, picture: str | None = None) -> str:
    """The card as Markdown; texts of the user are escaped.

    Args:
        description: the content of ``model.json``.
        history: of the training, one row an epoch.
        picture: name of the curves' file beside the card, or None for a card without it.
    """
    training, config = description["training"], description["config"]
    context = {
        "model_id": check_id(description["model_id"]),
        "picture": picture,
        "config": config,
        "preprocessing": description["preprocessing"],
        "training": training,
        "trained_at": f"{datetime.fromisoformat(training['trained_at_utc']):%Y-%m-%d %H:%M}",
        "n_repeats": _n_repeats(training),
        "preset": PRESETS[config["preset"]],
        "likelihood": LIKELIHOODS[config["likelihood"]],
        "is_density": config["likelihood"] not in PROBABILITIES,
        "statistic": STATISTICS[config["statistic"]],
        "changed": _changed(training["train_config"]),
        "unchanged": _unchanged(training["train_config"]),
        "images_per_s": _median(history, "images_per_s"),
        "columns": [name for name in (*_COLUMNS, "learning_rate") if name in history.column_names],
        "rows": _epochs(history, training["best_epoch"]),
        "gap": _gap(history, training["best_epoch"]),
        "n_values": config["height"] * config["width"] * config["channels"],
    }
    # Everything that the template prints goes through `escape_markdown`; HTML's escaping would not be enough.
    environment = _environment(autoescape=False, finalize=escape_markdown, keep_trailing_newline=True)
    environment.filters["number"] = _number
    return environment.get_template("card.md.j2").render(context)


#: What means something in Markdown, HTML or a template language, wherever it stands or at the start of a line.
_MARKS = re.compile(r"[]\"#$&*<=>@[\\^`{|}~]|:(?=/)|(?<=www)\.|^[:+-]|^\d+[.)](?= |$)", re.IGNORECASE)


def escape_markdown(value: object) -> str:
    r"""Text on one line of Markdown that shows it as it is and starts nothing, at the start of a line too.

    >>> print(escape_markdown("# a_b\n<c>"))
    &#35; a\_b &#60;c&#62;
    """
    line = " ".join(str(value).split())
    # Control characters, marks that turn the writing direction, halves of surrogate pairs.
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    # References to characters are never structure, in any dialect; a backslash reads better where it is sure.
    escaped = _MARKS.sub(lambda found: "".join(f"&#{ord(character)};" for character in found[0]), line)
    return escaped.replace("_", r"\_")


def _environment(**how: Any) -> jinja2.Environment:
    return jinja2.Environment(  # noqa: S701 - each caller says how it escapes
        loader=jinja2.PackageLoader("flows"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **how,
    )


def _number(value: float, decimals: int = 0) -> str:
    """1,234.5 with a minus that is not a hyphen."""
    return f"{value:,.{decimals}f}".replace("-", "\u2212")


def _n_repeats(training: Mapping[str, Any]) -> int:
    used = sum(training[f"n_{part}"] for part in ("train", "validation", "calibration"))
    return training["n_listed"] - training["n_unusable"] - used


def _changed(train_config: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(name, value, default, meaning) of each setting that is not the default, or has none."""
    rows = []
    for name, value in train_config.items():
        field = TrainingSettings.model_fields.get(name)
        if field is None:
            rows.append((name, _setting(value), "", ""))
        elif value != field.default:
            rows.append((name, _setting(value), _setting(field.default), field.description or ""))
    return rows


def _unchanged(train_config: Mapping[str, Any]) -> str:
    changed = {row[0] for row in _changed(train_config)}
    return ", ".join(f"{name} {_setting(value)}" for name, value in train_config.items() if name not in changed)


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _median(history: pa.Table, name: str) -> float | None:
    return float(np.median(history[name].to_numpy())) if name in history.column_names else None


def _epochs(history: pa.Table, best: int) -> list[list[str]]:
    """A few epochs, as texts: the first, some evenly spaced, the best, the last."""
    shown = np.linspace(0, history.num_rows - 1, SHOWN_EPOCHS).round().astype(int)
    shown = np.unique([*shown, best - 1])
    return [_row(row, best) for row in history.take(shown).to_pylist()]


def _row(row: dict[str, Any], best: int) -> list[str]:
    cells = [f"{row['epoch']} (best)" if row["epoch"] == best else f"{row['epoch']}"]
    cells += [_number(row[name], decimals) for name, decimals in _COLUMNS.items() if name in row]
    return cells + ([f"{row['learning_rate']:.3g}"] if "learning_rate" in row else [])


def _gap(history: pa.Table, best: int) -> float | None:
    """Nats by which validation images are worse than training images in the best epoch."""
    if not {"nelbo", "val_nelbo"} <= set(history.column_names):
        return None
    return history["val_nelbo"][best - 1].as_py() - history["nelbo"][best - 1].as_py()


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
        return [(float(self.at(value)), _number(value + 0.0, decimals)) for value in values]


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
    return _environment(autoescape=True, keep_trailing_newline=True).get_template("curves.svg.j2").render(context)


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
    return place | {"text": f"best: epoch {found[0].epochs[i]}, {_number(found[0].nats[i], 1)} nats"}


def _summary(curve: Curve) -> str:
    if not len(curve.nats):
        return ""
    first, last = (_number(curve.nats[i], 1) for i in (0, -1))
    return f"{curve.name.capitalize()}: {first} nats in epoch {curve.epochs[0]}, {last} in epoch {curve.epochs[-1]}."
