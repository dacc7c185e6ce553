"""What settings on ``auto`` become: the training images decide, in one look before anything that depends on them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data import File, Manifest, first_coloured, may_have_colour
from flows.ingestion import read_manifest
from flows.parts import first_of_each
from flows.progress import progress
from flows.settings import AUTO, TrainOptions
from flows.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """Options with no setting left open.

    why: what the images show, of each setting that they decided.
    """

    options: TrainOptions
    why: dict[str, str] = field(default_factory=dict)


class _Found(NamedTuple):
    """What a setting becomes, and why."""

    value: Any
    why: str


def settle(options: TrainOptions, batch_id: str) -> Settled:
    """Look at the training images for what `options` leave open.

    The same images decide alike, so a training that was killed goes on with the same settings.
    """
    left_open = [name for name in _FIND if getattr(options, name) == AUTO]
    if not left_open:
        return Settled(options)
    manifest = read_manifest(Workspace.at(options.workspace), batch_id)
    found = {name: _FIND[name](manifest, options) for name in left_open}
    for name, (value, why) in found.items():
        log.info("%s=%s: %s", name, value, why)
    values = {name: value for name, (value, _) in found.items()}
    return Settled(options.model_copy(update=values), {name: why for name, (_, why) in found.items()})


def _channels(manifest: Manifest, options: TrainOptions) -> _Found:
    """Three where an image has colour: one is enough, and the others after it are not decoded."""
    modes = manifest.table["mode"].to_pylist()
    files = manifest.files
    perhaps = [files[row] for row in first_of_each(manifest.table).values() if may_have_colour(modes[row])]
    with progress("looking for colour", len(perhaps)) as advance:
        found = first_coloured(perhaps, limits=options.limits, workers=options.workers, advance=advance)
    if found is None:
        return _Found(1, "no training image has colour")
    path = found.path if isinstance(found, File) else found
    return _Found(3, f"colour varies in the training images, first in {path}")


#: Settings that may be left open, and who finds out.
_FIND: dict[str, Callable[[Manifest, TrainOptions], _Found]] = {"channels": _channels}
