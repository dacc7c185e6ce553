"""Pictures beside a model's card of what was found in training images, for people to check."""

from collections.abc import Sequence

import numpy as np

from nelbo.data import CachedPixels, Part, Place, atomic_path
from nelbo.data.area.area import Area
from nelbo.flows.inference.area.hatch import laid_whole
from nelbo.flows.inference.maps import Window, as_picture
from nelbo.flows.report.heatmap import png
from nelbo.flows.report.sheet import COLUMNS, GAP_PX, WIDTH_PX, sheet
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core.pixels import PixelRows, to_unit

N_SHOWN = 12


def write_found_parts(
    workspace: Workspace, model_id: str, pixels: CachedPixels, found: Sequence[Part | None], window: Window | None
) -> None:
    """Write the worst of the found parts beside the model's card.

    Args:
        pixels: (n, h, w, c) as the model takes them.
        found: (n,) what was found in each image.
        window: of the model's pictures.
    """
    parts = [(row, part) for row, part in enumerate(found) if part is not None]
    worst = sorted(parts, key=lambda one: (-one[1].size_z, one[1].alike))[:N_SHOWN]
    _write(to_unit(pixels[[row for row, _ in worst]]), workspace.found_parts(model_id), workspace, window)


def write_variants(
    workspace: Workspace,
    model_id: str,
    pixels: PixelRows,
    variants: np.ndarray,
    window: Window | None,
    area: Area | None = None,
) -> None:
    """Write a row of three images for each variant, in the variants' order.

    Args:
        pixels: (n, h, w, c) as the model takes them.
        variants: (n,) number of each image's variant.
        window: of the model's pictures.
        area: of each image that the model looks at.
    """
    rows = [np.flatnonzero(variants == number) for number in np.unique(variants)]
    some = np.concatenate([own[np.linspace(0, len(own) - 1, COLUMNS).astype(int)] for own in rows])
    shown = np.concatenate([to_unit(pixels[[row]]) for row in some])
    _write(shown, workspace.variants(model_id), workspace, window, area)


def write_strangest(
    workspace: Workspace, model_id: str, pixels: CachedPixels, window: Window | None, area: Area | None = None
) -> None:
    """Write the normal images that look least normal, (n, h, w, c) as the model takes them, the strangest first."""
    _write(to_unit(pixels[:]), workspace.strangest(model_id), workspace, window, area)


def _write(
    pixels: np.ndarray, target: Place, workspace: Workspace, window: Window | None, area: Area | None = None
) -> None:
    """Write a sheet of (n, h, w, c) pictures in [0, 1]."""
    wholes = [laid_whole(as_picture(one, window), area) for one in pixels]
    pictures = [one.convert("RGB").resize((WIDTH_PX, round(WIDTH_PX * one.height / one.width))) for one in wholes]
    with atomic_path(target, workspace.staging) as unfinished:
        unfinished.write_bytes(png(sheet(pictures, GAP_PX, "grey")))
