"""What a saved detector has besides its model, as JSON: parameters, calibration, how rows are read as images."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import RandomState

from nelbo.detectors.calibration import Calibration
from nelbo.detectors.estimator.inputs import Rows
from nelbo.detectors.scale import Scale

FORMAT, FORMAT_VERSION = "nelbo-detector", 1
#: The fields of a detector that has no threshold.
_NO_CALIBRATION = {"fpr": None, "threshold": None, "calibration_scores": (), "cross": False, "variants": None}


class Record(NamedTuple):
    """A detector without its network.

    model_id: of the bundle beside it.
    params: of the estimator.
    calibration: None if there is none.
    rows: how rows are read as images; None for a detector of images.
    scale: how numbers are read; nelbo 0.1 did not keep it.
    feature_names: of the rows, or None.
    seen: content hashes of the images that it was trained or validated on.
    history: of the training, one entry for each epoch.
    """

    model_id: str
    params: dict[str, Any]
    calibration: Calibration | None
    rows: Rows | None
    scale: Scale
    feature_names: list[str] | None
    seen: list[str]
    history: dict[str, list[float]]

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON holds it, with format, version and the SHA-256 of the rest."""
        content = self._asdict() | {"scale": self.scale.dtype} | _NO_CALIBRATION
        if (calibration := content.pop("calibration")) is not None:
            content |= calibration._asdict() | {"threshold": calibration.threshold}
            content["calibration_scores"] = content.pop("scores")
        content = plain(content)
        return {"format": FORMAT, "format_version": FORMAT_VERSION, "content": content, "sha256": _digest(content)}


def read_record(folder: Path) -> Record:
    """The record of a saved detector, checked.

    Raises:
        ValueError: what is wrong, and what to do.
    """
    from nelbo.data.sources.files import open_regular

    path = folder / "detector.json"
    try:
        with open_regular(path) as file:
            return parse(file.read())
    except OSError as error:
        raise ValueError(f"{folder} is not a saved detector: {error}.") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}. Restore it from a copy, or fit again.") from error


def parse(text: bytes) -> Record:
    """A record from bytes that anyone may have written.

    Raises:
        ValueError: what is wrong.

    >>> how = (Calibration(0.05, np.arange(1.0, 20)), Rows((1, 2, 1), None), Scale("uint8"))
    >>> record = Record("m0123456789abcdef", {"epochs": 3}, *how, None, [], {})
    >>> parse(json.dumps(record.to_dict()).encode()).rows
    Rows(shape=(1, 2, 1), value_range=None)
    >>> parse(b"[]")
    Traceback (most recent call last):
        ...
    ValueError: it is not a nelbo-detector
    """
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise ValueError(f"it is not a {FORMAT}")
    if whole.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"it has format version {whole.get('format_version')}, this nelbo reads {FORMAT_VERSION}")
    try:
        content = whole["content"]
        if _digest(content) != whole["sha256"]:
            raise ValueError("its SHA-256 is not that of its content")
        return _checked(content)
    except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its content is not a detector's: {error!r}") from error


def plain(value: Any) -> Any:
    """A parameter as JSON holds it; a random state, which JSON cannot hold, becomes None.

    >>> plain({"image_size": (np.int64(3), 4), "random_state": RandomState(0)})
    {'image_size': [3, 4], 'random_state': None}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    return None if isinstance(value, RandomState | np.random.Generator) else value


def _checked(content: dict[str, Any]) -> Record:
    names = content["feature_names"]
    return Record(
        model_id=_text(content["model_id"], r"m[0-9a-f]{16}"),
        params={_text(name): value for name, value in content["params"].items()},
        calibration=_calibration(content),
        rows=_rows(content["rows"]),
        scale=Scale(None if content.get("scale") is None else _text(content["scale"], r"[a-z]+[0-9]*")),
        feature_names=None if names is None else [_text(name) for name in names],
        seen=[_text(image, r"[0-9a-f]+") for image in content["seen"]],
        history={_text(name): [_number(value) for value in values] for name, values in content["history"].items()},
    )


def _calibration(content: dict[str, Any]) -> Calibration | None:
    """None where there is none; a threshold that its scores do not give means that the file cannot be trusted."""
    scores = np.array([_number(score) for score in content["calibration_scores"]], np.float64)
    variants = content.get("variants")
    if variants is not None:
        if len(variants) != len(scores) or not all(type(number) is int and number >= 0 for number in variants):
            raise ValueError(f"its variants are not the numbers of {len(scores)} images' variants")
        variants = np.array(variants, np.int64)
    found = None
    if content["fpr"] is not None:
        found = Calibration(_number(content["fpr"]), scores, content.get("cross", False) is True, variants)
    expected = None if found is None else found.threshold
    if content["threshold"] != expected:
        raise ValueError(f"its threshold is {content['threshold']}, its calibration scores give {expected}")
    return found


def _rows(value: Any) -> Rows | None:
    if value is None:
        return None
    (height, width, channels), value_range = value
    if not all(type(side) is int and side >= 1 for side in (height, width, channels)):
        raise ValueError(f"its rows have shape {value[0]}")
    if value_range is not None:
        low, high = value_range = tuple(map(_number, value_range))
        if not 0 < high - low < math.inf:
            raise ValueError(f"its rows have values in {value_range}")
    return Rows((height, width, channels), value_range)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _text(value: Any, pattern: str = r".*") -> str:
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.DOTALL):
        raise ValueError(f"{value!r} is not a text of the form {pattern}")
    return value


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
