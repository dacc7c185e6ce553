"""A model's card: a page in Markdown for people, with the training curves beside it."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa

from nelbo.data import Place, atomic_path, read_table
from nelbo.detectors import Sensitivity
from nelbo.flows.evaluation.metrics import real_figures
from nelbo.flows.evaluation.remedies import remedies
from nelbo.flows.evaluation.sensitivity import KINDS, Seen, seen
from nelbo.flows.numbers import fixed
from nelbo.flows.options.settings import TrainingSettings
from nelbo.flows.report.curves import render_curves
from nelbo.flows.report.rendering import template
from nelbo.flows.report.simulated import write_simulated
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace, check_id
from nelbo.vae_core.config import INT8, PROBABILITIES

#: What each likelihood assumes.
LIKELIHOODS = {
    "gaussian_fixed_sigma": "Each value is the decoder's mean plus Gaussian noise of one given standard deviation.",
    "gaussian_learned_sigma": "Each value is the decoder's mean plus Gaussian noise of one standard deviation, "
    "which is learnt and the same for all values.",
    "gaussian_pixel_sigma": "Each value is the decoder's mean plus Gaussian noise whose standard deviation the "
    "decoder gives, too, for each value.",
    "discretised_logistic": "Each value is one of the 256 levels of an 8-bit image, drawn from a logistic "
    "distribution around the decoder's mean with one learnt scale.",
    "continuous_bernoulli": "Each value lies between 0 and 1, and one number of the decoder says both where it lies "
    "and how certain that is.",
    "bernoulli": "Each value is 0 or 1, and the decoder gives the probability of a 1.",
}

PRESETS = {
    "conv_1x1x16": "convolutions, 16 latents for the whole image",
    "conv_spatial": "convolutions, 8 latents for each 8 x 8 pixels",
    "resnet": "residual blocks, 16 latents for each 16 x 16 pixels",
    "features": "features of a frozen backbone, whitened position by position, and 16 latents for all of them",
}
#: What models the features of the preset "features"; the text of the preset describes the head "deep".
HEADS = {
    "linear": "for each place a linear VAE of {n_latents} latents: it knows how the features of a frozen backbone "
    "usually are there, and the {n_latents} directions in which they vary on normal images. It explains an image as "
    "far as these directions go; what is left over, and how far along them it had to go, are the nats of that place",
    "linear_image": "one linear VAE of {n_latents} latents for all places together: it knows how the features of a "
    "frozen backbone usually are, and the {n_latents} patterns over the whole image in which they vary on normal "
    "images. It explains an image as far as these patterns go; what is left over, and how far along them it had to go, "
    "are its nats",
}
SUBJECTS = {
    "aligned": "parts lie alike, so each place varies in its own way",
    "free": "parts lie in any position, so all places vary in the same way",
}
STATISTICS = {
    "nelbo": "the negative ELBO of the whole image",
    "joint": "a sum of three of the smoothed local negative ELBO: its peak, the mean of its worst tenth and its mean, "
    "each in standard deviations of what is usual, so that one spot counts, and an image that is odd as a whole",
    "peak": "the peak of the smoothed local negative ELBO, in standard deviations of what is usual at that place",
}

SHOWN_EPOCHS = 11
_COLUMNS = {"nelbo": 1, "distortion": 1, "rate": 1, "sigma": 4, "val_nelbo": 1}


def write_card(workspace: Workspace, model_id: str) -> Place:
    """Write a model's card and curves from its ``model.json`` and its history, and return the card's path."""
    target = workspace.card(model_id)
    curves = target.with_suffix(".svg")
    sees = seen(workspace, model_id)
    if sees is not None:
        write_simulated(workspace, model_id)
    beside = {
        "parts": workspace.found_parts(model_id),
        "variants": workspace.variants(model_id),
        "strangest": workspace.strangest(model_id),
        "simulated": workspace.simulated_shown(model_id),
    }
    pictures = {name: place.name for name, place in beside.items() if place.exists()}
    card = _read(workspace, model_id, {"curves": curves.name, **pictures}, sees)
    # The curves come first, so that a card never shows a broken link.
    for file, text in ((curves, render_curves(read_table(workspace.history(model_id)))), (target, card)):
        with atomic_path(file, workspace.staging) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return target


def read_card(workspace: Workspace, model_id: str, pictures: Mapping[str, str] = MappingProxyType({})) -> str:
    """A model's card as Markdown, from its ``model.json`` and its history; see `render_card`."""
    return _read(workspace, model_id, pictures, seen(workspace, model_id))


def _read(workspace: Workspace, model_id: str, pictures: Mapping[str, str], sees: Seen | None) -> str:
    path = workspace.models / check_id(model_id) / "model.json"
    history = read_table(workspace.history(model_id))
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        second = pointers.current_calibration(workspace, model_id, INT8)
        return render_card(description, history, pictures, sees, second)
    except (OSError, LookupError, TypeError, ValueError, jinja2.UndefinedError) as error:
        raise UsageError(
            f"{path} does not say what a card needs ({error!r}). Restore it from a copy, or train again."
        ) from error


def render_card(
    description: Mapping[str, Any],
    history: pa.Table,
    pictures: Mapping[str, str] = MappingProxyType({}),
    sees: Seen | None = None,
    second: str | None = None,
) -> str:
    """The card as Markdown; the user's texts are escaped.

    Args:
        description: the content of ``model.json``.
        history: of the training, one row an epoch.
        pictures: addresses of the pictures that exist: ``curves``, found ``parts``, images of each of the
            ``variants``, the ``strangest`` normal images, and ``simulated`` defects.
        sees: how well the model sees simulated defects; None where none were painted.
        second: the calibration of the model's second fit; None where there is none.
    """
    training, config = description["training"], description["config"]
    train_config = training["train_config"]
    changed = _changed(train_config)
    named = {row[0] for row in changed}
    context = {
        "model_id": check_id(description["model_id"]),
        "pictures": pictures,
        "second": second,
        "sees": sees,
        "real": None if sees is None else real_figures(sees.judged),
        "sees_rows": [] if sees is None else _sees(sees),
        "remedies": remedies(config, training) if sees is not None and sees.blind else [],
        # Models from before there were variants do not name any.
        "variants": training.get("variants", {}),
        "findings": [one for one in training.get("data", []) if one["name"] != "strange"],
        "strange": next((one["files"] for one in training.get("data", []) if one["name"] == "strange"), []),
        "curve": training.get("curve"),
        "frame": description["preprocessing"].get("frame"),
        "config": config,
        "preprocessing": description["preprocessing"],
        "training": training,
        "trained_at": f"{datetime.fromisoformat(training['trained_at_utc']):%Y-%m-%d %H:%M}",
        "n_repeats": _n_repeats(training),
        # Models of version 0.1 name no head.
        "network": HEADS.get(config.get("head"), PRESETS[config["preset"]]).format(n_latents=config.get("n_latents")),
        "head": config.get("head"),
        # Bundles from before there were tiles lack the field.
        "tiled": config.get("tile_overlap") is not None,
        "solved": config.get("head") in ("linear", "linear_image"),
        "subject": SUBJECTS.get(config.get("subject")),
        "likelihood": LIKELIHOODS[config["likelihood"]],
        "is_density": config["likelihood"] not in PROBABILITIES,
        # Bundles from before there were backbones do not name one.
        "backbone": config.get("backbone"),
        # Models of version 0.1 and of features keep the weights of a single step.
        "averaged": config.get("pixel_mean") is not None,
        "statistic": STATISTICS[config["statistic"]],
        "changed": changed,
        "unchanged": ", ".join(f"{name} {_setting(train_config[name])}" for name in train_config if name not in named),
        "images_per_s": np.median(history["images_per_s"]) if "images_per_s" in history.column_names else None,
        "columns": [name for name in (*_COLUMNS, "learning_rate") if name in history.column_names],
        "rows": list(_epochs(history, training["best_epoch"])),
        "val_nelbo": history["val_nelbo"][0].as_py() if "val_nelbo" in history.column_names else None,
        "gap": _gap(history, training["best_epoch"]),
        "n_values": config["height"] * config["width"] * config["channels"],
    }
    # Escaping HTML would not be enough: everything printed goes through `escape_markdown`.
    return template("card.md.j2", autoescape=False, finalize=escape_markdown).render(context)


#: Marks with a meaning in Markdown, HTML or a template language, anywhere or at the start of a line.
_MARKS = re.compile(r"[]\"#$&*<=>@[\\^`{|}~]|:(?=/)|(?<=www)\.|^[:+-]|^\d+[.)](?= |$)", re.IGNORECASE)


def escape_markdown(value: object) -> str:
    r"""One line of Markdown that shows a text literally, even at the start of a line.

    >>> print(escape_markdown("# a_b\n<c>"))
    &#35; a\_b &#60;c&#62;
    """
    line = " ".join(str(value).split())
    # Control characters, marks that turn the writing direction, halves of surrogate pairs.
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    # Character references are never structure, in any dialect; a backslash is easier to read where it is safe.
    escaped = _MARKS.sub(lambda found: "".join(f"&#{ord(character)};" for character in found[0]), line)
    return escaped.replace("_", r"\_")


def _n_repeats(training: Mapping[str, Any]) -> int:
    used = sum(training[f"n_{part}"] for part in ("train", "validation", "calibration"))
    return training["n_listed"] - training["n_unusable"] - used


def _sees(sees: Seen) -> list[tuple[str, Sensitivity]]:
    """How well each group of simulated defects is seen, with the group's name."""
    return [
        *((KINDS[kind], one) for kind, one in sees.kinds.items()),
        *((f"{size:g} pixels long", one) for size, one in sees.sizes.items()),
        *((f"{contrast:g} deviations from what is around", one) for contrast, one in sees.contrasts.items()),
        ("all", sees.whole),
    ]


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


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _epochs(history: pa.Table, best: int) -> Iterator[list[str]]:
    """A few epochs, as texts: the first, some evenly spaced, the best, the last."""
    shown = np.linspace(0, history.num_rows - 1, SHOWN_EPOCHS).round().astype(int)
    for row in history.take(np.unique([*shown, best - 1])).to_pylist():
        cells = [fixed(row[name], decimals) for name, decimals in _COLUMNS.items() if name in row]
        cells += [f"{row['learning_rate']:.3g}"] if "learning_rate" in row else []
        yield [f"{row['epoch']} (best)" if row["epoch"] == best else f"{row['epoch']}", *cells]


def _gap(history: pa.Table, best: int) -> float | None:
    """Nats by which validation images are worse than training images in the best epoch."""
    if not {"nelbo", "val_nelbo"} <= set(history.column_names):
        return None
    return history["val_nelbo"][best - 1].as_py() - history["nelbo"][best - 1].as_py()
