"""Trainings of which the network is not the point, and the tables that name their images."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nelbo import vae_core

_known: dict[str, Any] = {}
_train = vae_core.train


def train_once(*images: Any, preprocessing: Any, names: Any = None, **_: Any) -> Any:
    """As `vae_core.train`, but a process trains one network for the same settings, whatever the images."""
    *pixels, config, settings = images
    key = json.dumps([config.to_dict(), settings.to_dict(), preprocessing])
    if key not in _known:
        _known[key] = _train(*pixels, config, settings, preprocessing=preprocessing, names=names)
    return _known[key]


def write_list(path: Path, columns: str, rows: Iterable[Sequence[object]]) -> Path:
    """A table of images, as CSV without quotes."""
    path.write_text("\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path
