"""Pictures beside a model's card of what was found in training images, so that people see whether it went right."""

from collections.abc import Sequence

import numpy as np

from nelbo.data import CachedPixels, Part, Place, atomic_path
from nelbo.flows.inference.maps import Window, as_picture
from nelbo.flows.report.heatmap import png
from nelbo.flows.report.sheet import COLUMNS, GAP_PX, WIDTH_PX, sheet
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core.pixels import PixelRows, to_unit

N_SHOWN = 12


def write_found_parts(
    workspace: Workspace, model_id: str, pixels: CachedPixels, found: Sequence[Part | None], window: Window | None
) -> None:
    """Put it beside the model's card.

    Args:
        pixels: (n, h, w, c) as the model takes them.
        found: (n) what was found in each.
        window: of the model's pictures.
    """
    parts = [(row, part) for row, part in enumerate(found) if part is not None]
    worst = sorted(parts, key=lambda one: (-one[1].size_z, one[1].alike))[:N_SHOWN]
    _write(to_unit(pixels[[row for row, _ in worst]]), workspace.found_parts(model_id), workspace, window)


def write_variants(
    workspace: Workspace, model_id: str, pixels: PixelRows, variants: np.ndarray, window: Window | None
) -> None:
    """Three images of each variant in a row, the variants in their order.

    Args:
        pixels: (n, h, w, c) as the model takes them.
        variants: (n,) number of each image's.
        window: of the model's pictures.
    """
    rows = [np.flatnonzero(variants == number) for number in np.unique(variants)]
    some = np.concatenate([own[np.linspace(0, len(own) - 1, COLUMNS).astype(int)] for own in rows])
    shown = np.concatenate([to_unit(pixels[[row]]) for row in some])
    _write(shown, workspace.variants(model_id), workspace, window)


def write_strangest(workspace: Workspace, model_id: str, pixels: CachedPixels, window: Window | None) -> None:
    """The normal images that look the least normal, (n, h, w, c) as the model takes them, the strangest first."""
    _write(to_unit(pixels[:]), workspace.strangest(model_id), workspace, window)


def _write(pixels: np.ndarray, target: Place, workspace: Workspace, window: Window | None) -> None:
    """Put (n, h, w, c) pictures in [0, 1] on a sheet."""
    height = round(WIDTH_PX * pixels.shape[1] / pixels.shape[2])
    pictures = [as_picture(one, window).convert("RGB").resize((WIDTH_PX, height)) for one in pixels]
    with atomic_path(target, workspace.staging) as unfinished:
        unfinished.write_bytes(png(sheet(pictures, GAP_PX, "grey")))
