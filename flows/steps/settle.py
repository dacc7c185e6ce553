"""Settles settings that are ``auto``: the training images decide, before anything that depends on these settings."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nelbo.data import File, Frame, Manifest, first_coloured, float_range, is_float, look_for_parts, may_have_colour
from nelbo.data.area.area import Area
from nelbo.flows.inference.area.reading import area_of, read_mask
from nelbo.flows.inference.progress import progress
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.options.types import AUTO, OFF, ON
from nelbo.flows.steps.ingest import read_manifest
from nelbo.flows.steps.parts import first_of_each
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """Options with no setting left open.

    why: setting -> what the images show, for each setting that they decided.
    """

    options: TrainOptions
    why: dict[str, str] = field(default_factory=dict)


#: What a setting becomes, and why; None if the images do not decide it.
_Found = tuple[Any, str | None]


def settle(options: TrainOptions, batch_id: str) -> Settled:
    """Look at the training images to decide what `options` leave open.

    The same images give the same decisions: a training that was killed continues with the same settings.
    """
    if options.tile is not None or options.ignore is not None or options.crop is not None:
        # Locating parts aligns whole images, and goes with none of these.
        options = options.located(None).looking_at(_area(options, batch_id))
    left_open = [name for name in _FIND if getattr(options, name) == AUTO]
    if not left_open and options.locate == OFF:
        return Settled(options)
    manifest = read_manifest(Workspace.at(options.workspace), batch_id)
    values, reasons = {}, {}
    for name in left_open:
        values[name], why = _FIND[name](manifest, options)
        if why is not None:
            reasons[name] = why
            log.info("%s=%s: %s", name, values[name], why)
    settled = options.model_copy(update=values)
    if options.locate == OFF:
        return Settled(settled, reasons)
    frame, why = _frame(manifest, options)
    log.info("locate=%s: %s", OFF if frame is None else ON, why)
    return Settled(settled.located(frame), reasons | {"locate": why})


def _area(options: TrainOptions, batch_id: str) -> Area | None:
    """The area of each image that is looked at; None for the whole image."""
    if options.ignore is None and options.crop is None:
        return None
    manifest = read_manifest(Workspace.at(options.workspace), batch_id)
    rows = list(first_of_each(manifest.table).values())
    return area_of(options.crop, read_mask(options.ignore, options), manifest, rows, options)


def _channels(manifest: Manifest, options: TrainOptions) -> _Found:
    """Three if an image has colour: the first such image is enough, and the rest are not decoded."""
    perhaps = _files(manifest, may_have_colour)
    with progress("looking for colour", len(perhaps)) as advance:
        found = first_coloured(perhaps, limits=options.limits, workers=options.workers, advance=advance)
    if found is None:
        return 1, "no training image has colour"
    path = found.path if isinstance(found, File) else found
    return 3, f"colour varies in the training images, first in {path}"


def _float_range(manifest: Manifest, options: TrainOptions) -> _Found:
    """The range that maps all images in floats to [0, 1]: all are read alike, and a bright one stays brighter."""
    floats = [] if options.value_range else _files(manifest, is_float)
    found = float_range(floats, limits=options.limits, workers=options.workers)
    if found is None:
        return (0.0, 1.0), None
    low, high = found
    return found, f"{len(floats)} training images are in floats, from {low:g} to {high:g}"


def _frame(manifest: Manifest, options: TrainOptions) -> tuple[Frame | None, str]:
    """The frame that aligns parts, or None if they are not to be located; and what the images show.

    Raises:
        UsageError: parts are to be located, and the images show none.
    """
    # OpenCV takes a tenth of a second to load.
    from nelbo.data.part.framing import choose_frame, some_of

    files = _files(manifest, lambda _: True)
    some = some_of(files)
    with progress("looking for parts", len(some)) as advance:
        seen = look_for_parts(
            some, value_range=options.value_range, limits=options.limits, workers=options.workers, advance=advance
        )
    try:
        return choose_frame(seen, options.locate)
    except ValueError as error:
        raise UsageError(f"{options.normal}: {error}.") from error


def _files(manifest: Manifest, may_matter: Callable[[str], bool]) -> list[File]:
    """The files, one for each usable content, whose stored mode may matter."""
    modes, files = manifest.table["mode"].to_pylist(), manifest.files
    return [files[row] for row in first_of_each(manifest.table).values() if may_matter(modes[row])]


#: Settings that may be left open, and the functions that decide them.
_FIND: dict[str, Callable[[Manifest, TrainOptions], _Found]] = {"channels": _channels, "float_range": _float_range}
