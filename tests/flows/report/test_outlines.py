"""Outlines of the unusual places of an image."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from nelbo.flows.inference.why.spots import find_spot
from nelbo.flows.report.outlines import Polygon, drawn, outline, svg_path


def within(polygons: list[Polygon], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which cells of a grid have their middle inside the lines."""
    height, width = shape
    lines = [polygon.astype(np.float32) for polygon in polygons]
    enclosed = [
        [sum(cv2.pointPolygonTest(line, ((x + 0.5) / width, (y + 0.5) / height), False) > 0 for line in lines) % 2]
        for y in range(height)
        for x in range(width)
    ]
    return np.array(enclosed, bool).reshape(shape)


@pytest.mark.parametrize("highest", [0.1, 1.0, 40.0])
def test_the_lines_enclose_the_spots_that_the_explanation_names(highest: float, random: np.random.Generator) -> None:
    for shape in ((16, 16), (12, 40), (33, 9)):
        levels = gaussian_filter(random.normal(size=shape), 1.5)
        levels *= highest / levels.max()
        enclosed = within(outline(levels), shape)
        assert enclosed[find_spot(levels).excess > 0].all()
        # The lines enclose only places that reach half as high.
        assert (enclosed == (levels >= highest / 2)).mean() > 0.98


def test_a_hole_has_a_line_of_its_own() -> None:
    levels = np.ones((9, 9))
    levels[3:6, 3:6] = 0
    outer, hole = sorted(outline(levels), key=lambda polygon: -np.ptp(polygon))
    assert np.ptp(outer, axis=0) == pytest.approx([1, 1], abs=0.01)
    # A map is linear between the middles of cells.
    assert np.ptp(hole, axis=0) == pytest.approx([1 / 3, 1 / 3], abs=0.01)


def test_a_map_without_unusual_places_is_enclosed_as_a_whole() -> None:
    for level in (0.0, -2.0, 0.3, 7.0):
        (polygon,) = outline(np.full((4, 6), level))
        assert np.ptp(polygon, axis=0) == pytest.approx([1, 1], abs=0.01)


def test_a_single_place_of_a_fine_map_has_a_line_around_it() -> None:
    levels = np.zeros((600, 400))
    levels[100, 300] = 1
    (polygon,) = outline(levels)
    assert polygon.mean(axis=0) == pytest.approx([300.5 / 400, 100.5 / 600])
    assert len(polygon) > 2


def test_of_many_spots_a_few_with_the_most_unusual_one_have_lines(random: np.random.Generator) -> None:
    levels = np.kron(np.pad(np.ones((1, 1)), 1), np.ones((2, 2)))
    levels = np.tile(0.8 * levels, (10, 10))
    levels[0, 0] = 1.0
    first, *others = outline(levels)
    assert len(others) == 29
    assert cv2.pointPolygonTest(first.astype(np.float32), (0.5 / 60, 0.5 / 60), False) > 0
    assert np.ptp(first) < min(np.ptp(other) for other in others)
    # Lines around noise are simplified.
    assert len(svg_path(outline(random.random((200, 200))))) < 5_000


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_lines_show_on_any_picture(grey: int) -> None:
    square = [np.array([[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]])]
    shown = np.asarray(drawn(Image.new("L", (50, 50), grey), square), int)
    assert np.abs(shown - grey).max() > 100
    assert (shown[15:35, 15:35] == grey).all()


def test_the_svg_path_equals_the_polygons() -> None:
    polygons = outline(np.eye(5))
    lines = svg_path(polygons).removesuffix("Z").split("Z")
    read = [np.array([pair.split() for pair in line[1:].split("L")], float) / 1000 for line in lines]
    assert len(read) == len(polygons)
    for found, polygon in zip(read, polygons, strict=True):
        assert found == pytest.approx(polygon, abs=0.0006)
