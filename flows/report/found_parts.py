"""Pictures beside a model's card of what was found in training images, so that people see whether it went right."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from nelbo.data import CachedPixels, Part, Place, atomic_path
from nelbo.flows.report.heatmap import png
from nelbo.flows.report.sheet import COLUMNS, GAP_PX, WIDTH_PX, sheet
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core.pixels import PixelRows, to_unit

N_SHOWN = 12


def write_found_parts(workspace: Workspace, model_id: str, pixels: CachedPixels, found: Sequence[Part | None]) -> None:
    """Put it beside the model's card.

    Args:
        pixels: (n, h, w, c) as the model takes them.
        found: (n) what was found in each.
    """
    parts = [(row, part) for row, part in enumerate(found) if part is not None]
    worst = sorted(parts, key=lambda one: (-one[1].size_z, one[1].alike))[:N_SHOWN]
    _write(to_unit(pixels[[row for row, _ in worst]]), workspace.found_parts(model_id), workspace)


def write_variants(workspace: Workspace, model_id: str, pixels: PixelRows, variants: np.ndarray) -> None:
    """Three images of each variant in a row, the variants in their order.

    Args:
        pixels: (n, h, w, c) as the model takes them.
        variants: (n,) number of each image's.
    """
    rows = [np.flatnonzero(variants == number) for number in np.unique(variants)]
    some = np.concatenate([own[np.linspace(0, len(own) - 1, COLUMNS).astype(int)] for own in rows])
    _write(np.concatenate([to_unit(pixels[[row]]) for row in some]), workspace.variants(model_id), workspace)


def write_strangest(workspace: Workspace, model_id: str, pixels: CachedPixels) -> None:
    """The normal images that look the least normal, (n, h, w, c) as the model takes them, the strangest first."""
    _write(to_unit(pixels[:]), workspace.strangest(model_id), workspace)


def _write(pixels: np.ndarray, target: Place, workspace: Workspace) -> None:
    """Put (n, h, w, c) pictures in [0, 1] on a sheet."""
    levels = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    height = round(WIDTH_PX * levels.shape[1] / levels.shape[2])
    # Grey ones get three channels alike.
    levels = np.broadcast_to(levels, (*levels.shape[:3], 3))
    pictures = [Image.fromarray(one).resize((WIDTH_PX, height)) for one in levels]
    with atomic_path(target, workspace.staging) as unfinished:
        unfinished.write_bytes(png(sheet(pictures, GAP_PX, "grey")))
