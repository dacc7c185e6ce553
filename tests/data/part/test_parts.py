"""Parts in any pose are found, turned upright and cropped in the same way; they are rendered, so the pose is known."""

import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from parts import SHAPES, Pose, Scene, drawn, picture
from PIL import Image

from nelbo.data import Frame, Part, Preprocessing, image_of, look_for_parts, read_images
from nelbo.data.part.framing import Facts, against, choose_frame, learn_frame
from nelbo.data.part.part import Seen, crop, crop_matrix, look
from nelbo.data.part.part import _part as part_of_seen
from nelbo.data.part.segmentation import segment

SCENES = {shape: Scene(shape) for shape in SHAPES} | {
    "dark on light": Scene("screw", light=(0.2,), dark=(0.85,)),
    "colour": Scene("key", light=(0.5, 0.3, 0.2), dark=(0.3, 0.4, 0.5)),
    "shadow": Scene("screw", shadow=0.5, dark=(0.4,)),
    "uneven light": Scene("screw", slope=0.5),
    "noise": Scene("screw", noise=0.08),
    "little contrast": Scene("screw", light=(0.35,), noise=0.02),
    "small": Scene("screw", length=0.15, width=640, height=480),
}
#: Degrees after which a part looks the same; a washer looks the same at any angle.
SYMMETRY = {"rod": 180, "cross": 90}
N = 16


def pictures(scene: Scene, random: np.random.Generator, n: int = N) -> tuple[list[Pose], list[Seen]]:
    poses = [drawn(random, scene) for _ in range(n)]
    return poses, [look(picture(scene, pose, random)) for pose in poses]


@pytest.mark.parametrize("name", SCENES)
def test_a_part_is_found_where_it_lies(name: str, random: np.random.Generator) -> None:
    scene = SCENES[name]
    plain = replace(scene, light=(1.0,), dark=(0.0,), noise=0, shadow=0, slope=0)
    for pose in [drawn(random, scene) for _ in range(4)]:
        seen = look(picture(scene, pose, random))
        truth = segment(look(picture(plain, pose, random)).small).mask
        overlap = (seen.segment.mask & truth).sum() / (seen.segment.mask | truth).sum()
        assert overlap > 0.8
        assert (seen.segment.n_rivals, seen.segment.touches) == (0, False)


@pytest.mark.parametrize("name", [name for name in SCENES if name != "washer"])
def test_parts_are_turned_upright_within_two_degrees(name: str, random: np.random.Generator) -> None:
    poses, seen = pictures(SCENES[name], random)
    frame, _ = learn_frame(seen)
    assert frame is not None
    assert frame.mean
    turned = np.array([pose.degrees + _part(one, frame).degrees for pose, one in zip(poses, seen, strict=True)])
    fold = SYMMETRY.get(name, 360)
    around = np.exp(2j * np.pi * turned / fold)
    off = np.abs(np.angle(around / around.mean())) * fold / 360 * 180 / np.pi
    assert off.max() < 2


def _part(seen: Seen, frame: Frame) -> object:
    return part_of_seen(seen, frame, seen.small.shape)


def test_a_part_that_looks_the_same_at_any_angle_is_not_turned(random: np.random.Generator) -> None:
    _, seen = pictures(SCENES["washer"], random)
    frame, facts = learn_frame(seen)
    assert frame is not None
    assert (frame.mean, against(facts)) == ("", [])
    assert {_part(one, frame).degrees for one in seen} == {0.0}


@pytest.mark.parametrize("name", ["key", "dark on light", "colour", "shadow", "disc"])
def test_crops_look_alike_unless_a_part_is_mirrored(name: str, random: np.random.Generator) -> None:
    scene = replace(SCENES[name], width=640, height=480, noise=0.005)
    _, seen = pictures(scene, random)
    frame, _ = learn_frame(seen)
    assert frame is not None
    height, width = frame.crop_size(128 * 128)
    poses = [drawn(random, scene) for _ in range(4)]
    crops = [crop(picture(scene, pose, random), frame, height, width)[0] for pose in poses]
    apart = [np.abs(one - crops[0]).mean() for one in crops[1:]]
    assert max(apart) < 0.02
    if scene.shape == "key":
        mirrored, _ = crop(picture(scene, replace(poses[0], mirrored=True), random), frame, height, width)
        assert np.abs(mirrored - crops[0]).mean() > 1.5 * max(apart)


def test_the_crop_matrix_maps_places_to_the_picture(random: np.random.Generator) -> None:
    """A bright dot on the part lies where the matrix says, also in a smaller copy."""
    scene = Scene("key", width=640, height=480)
    _, seen = pictures(scene, random)
    frame, _ = learn_frame(seen)
    assert frame is not None
    size = frame.crop_size(256 * 256)
    for pose in [drawn(random, scene) for _ in range(5)]:
        values = picture(scene, pose, random)
        # The dot is on the key's shaft, a fifth of its length to the right of the middle.
        angle = np.deg2rad(pose.degrees)
        there = np.array([pose.x + 0.2 * 288 * np.cos(angle), pose.y - 0.2 * 288 * np.sin(angle)])
        cv2.circle(values, (round(there[0]), round(there[1])), 4, (1.0,), -1)
        found, part = crop(values, frame, *size)
        row, column = np.unravel_index(cv2.blur(found, (5, 5)).reshape(size).argmax(), size)
        for factor in (1.0, 0.5):
            matrix = crop_matrix(part, frame, size, (round(480 * factor), round(640 * factor)))
            np.testing.assert_allclose(matrix @ [column, row, 1], factor * there, atol=4)


def test_missing_several_or_misshaped_parts_have_a_status(random: np.random.Generator) -> None:
    scene = Scene("screw", length=0.3)
    _, seen = pictures(scene, random)
    frame, _ = learn_frame(seen)
    assert frame is not None
    one, other = Pose(90, 60, 20), Pose(230, 180, 75)
    nothing = np.full((240, 320, 1), 0.25, np.float32) + random.normal(0, 0.01, (240, 320, 1)).astype(np.float32)
    two = np.maximum(picture(scene, one, random), picture(scene, other, random))
    larger = picture(replace(scene, length=0.36), Pose(160, 120, 40), random)
    piece = picture(scene, one, random)
    # The remains of a broken part.
    piece[:, 80:] = nothing[:, 80:]
    usual = crop(picture(scene, other, random), frame, *frame.crop_size(64 * 64))[1]
    assert (usual.status, usual.size_z) == ("found", 0.0)
    found = [crop(values, frame, *frame.crop_size(64 * 64))[1] for values in (nothing, two, larger, piece)]
    assert [part.status for part in found] == ["missing", "several", "size", "size"]
    assert all(part.size_z > 5 for part in found)
    assert found[0].area == 0.0
    values, part = crop(nothing, frame, *frame.crop_size(64 * 64))
    assert (values.shape, part.status) == (frame.crop_size(64 * 64), "missing")


def test_sizes_of_normal_parts_change_no_verdict(random: np.random.Generator) -> None:
    """Every tenth part reaches over the edge, and is normal."""
    scene = Scene("screw", length=0.3)
    poses = [drawn(random, scene) for _ in range(40)]
    poses[::10] = [replace(pose, x=6.0) for pose in poses[::10]]
    seen = [look(picture(scene, pose, random)) for pose in poses]
    frame, facts = learn_frame(seen)
    assert frame is not None
    assert (facts.touches, against(facts)) == (0.1, [])
    off = np.array([_part(one, frame).size_z for one in seen])
    assert (off > 0).mean() <= 0.05


@pytest.mark.parametrize(
    "scene",
    [Scene("screw", at_edge=True), Scene("screw", light=(0.252,), noise=0.03), Scene("disc", length=1.6)],
    ids=["at the edge", "nothing to see", "a mark on what fills the picture"],
)
def test_parts_are_not_located_without_whole_parts_on_a_plain_background(
    scene: Scene, random: np.random.Generator
) -> None:
    seen = [
        look(picture(scene, Pose(160, 120, 30) if not scene.at_edge else drawn(random, scene), random))
        for _ in range(N)
    ]
    frame, why = choose_frame(seen, "auto")
    assert frame is None
    assert why.startswith("not one rigid part before a plain background: ")


def test_textures_and_objects_of_all_sizes_are_not_one_rigid_part(random: np.random.Generator) -> None:
    texture = [look(cv2.GaussianBlur(random.uniform(0, 1, (240, 320)).astype(np.float32), (0, 0), 4)) for _ in range(N)]
    assert choose_frame(texture, "auto")[0] is None
    sizes = [
        look(picture(Scene("disc", length=length), Pose(160, 120, 0), random)) for length in np.linspace(0.2, 0.7, N)
    ]
    frame, why = choose_frame(sizes, "auto")
    assert frame is None
    assert "area_varies is" in why
    # The user can override the choice.
    assert choose_frame(sizes, "on")[0] is not None
    with pytest.raises(ValueError, match=r"locate=on: of 16 pictures .* Leave it out"):
        choose_frame([look(np.zeros((64, 64), np.uint8))] * N, "on")


def test_each_fact_alone_prevents_locating() -> None:
    good = Facts(50, 1.0, 0.0, 0.09, 0.14, 0.07, 0.03, 0.95, 40.0, 0.01, 0.1, 80.0)
    assert against(good) == []
    assert against(replace(good, moves=0.0)) == []
    (reason,) = against(replace(good, moves=0.0, turns=0.1))
    assert reason.startswith("all lie alike")
    for name, value in {
        "found": 0.9,
        "rivals": 0.2,
        "touches": 0.3,
        "area": 0.8,
        "area_varies": 0.2,
        "length_varies": 0.1,
        "agree": 0.7,
        "contrast": 5.0,
        "clutter": 0.2,
    }.items():
        (reason,) = against(replace(good, **{name: value}))
        assert reason.startswith(f"{name} is {value:.2g}")


@pytest.fixture(scope="module")
def frame() -> Frame:
    """A frame learnt from keys in colour."""
    found, _ = learn_frame(pictures(SCENES["colour"], np.random.default_rng(42))[1])
    assert found is not None
    return found


def test_preprocessing_with_a_frame_survives_json(frame: Frame) -> None:
    height, width = frame.crop_size(64 * 96)
    made = Preprocessing(height, width, frame=frame)
    assert Preprocessing(**json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"area": 0.0},
        {"area_spread": -1.0},
        {"radius": float("nan")},
        {"box": (0.1, -0.1, -0.1, 0.1)},
        {"box": (-1e9, -0.1, 1e9, 0.1)},
        {"box": (0.0, -0.1, 1e-300, 0.1)},
        {"mean": "00"},
        {"mean": "xy"},
    ],
)
def test_a_frame_of_a_hostile_bundle_is_refused(frame: Frame, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"part|parts|hexadecimal"):
        replace(frame, **changes)  # type: ignore[arg-type]


def assert_same_part(found: Part | None, expected: Part) -> None:
    """Compare two parts up to rounding, because processes may sum float32 in another order."""
    assert found is not None
    assert found.alike == pytest.approx(expected.alike, abs=1e-6)
    assert found._replace(alike=expected.alike) == expected


def test_files_of_any_kind_are_cropped_like_arrays(frame: Frame, tmp_path: Path, random: np.random.Generator) -> None:
    """PNG of 8 bits, TIFF of 16 bits, a JPEG that may be decoded smaller, and one that EXIF turns."""
    scene = replace(SCENES["colour"], width=960, height=720)
    values = picture(scene, Pose(500, 350, 30), random)
    levels = np.rint(values * 255).astype(np.uint8)
    size = frame.crop_size(128 * 128)
    how = Preprocessing(*size, channels=3, frame=frame)
    in_memory = image_of(levels, how)
    (expected,), (part,) = in_memory.pixels, in_memory.parts
    assert part is not None
    assert part.status == "found"
    Image.fromarray(levels).save(tmp_path / "a.png")
    Image.fromarray(levels).save(tmp_path / "b.jpg", quality=95)
    exif = Image.Exif()
    # Stored on its side, with an EXIF orientation.
    exif[0x0112] = 6
    Image.fromarray(np.rot90(levels).copy()).save(tmp_path / "c.jpg", quality=95, exif=exif)
    buffer = io.BytesIO()
    import tifffile

    tifffile.imwrite(buffer, levels.astype(np.uint16) * 257, photometric="rgb")
    (tmp_path / "d.tif").write_bytes(buffer.getvalue())
    (tmp_path / "e.png").write_bytes(b"no image")
    found = read_images([tmp_path / name for name in ("a.png", "b.jpg", "c.jpg", "d.tif", "e.png")], how)
    assert found.reasons == [None] * 4 + ["not_an_image"]
    np.testing.assert_array_equal(found.pixels[0], expected)
    assert_same_part(found.parts[0], part)
    for row in (1, 2, 3):
        assert np.abs(found.pixels[row] - expected).mean() < 0.02
        other = found.parts[row]
        assert other is not None
        assert (other.status, round(other.area, 1)) == ("found", round(part.area, 1))
        np.testing.assert_allclose([other.x, other.y], [part.x, part.y], atol=0.01)
    grey = read_images([tmp_path / "a.png"], replace(how, channels=1))
    # The part is located in colour, but the crop is grey.
    assert_same_part(grey.parts[0], part)
    assert (grey.pixels.shape, grey.drops_colour.tolist()) == ((1, *size, 1), [True])


def test_files_are_measured_like_arrays(tmp_path: Path, random: np.random.Generator) -> None:
    scene = SCENES["key"]
    paths = []
    for i in range(4):
        levels = np.rint(picture(scene, drawn(random, scene), random) * 255).astype(np.uint8)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(levels[..., 0]).save(paths[-1])
    seen = look_for_parts([*paths, tmp_path / "missing.png"])
    assert len(seen) == 4
    for path, one in zip(paths, seen, strict=True):
        mask = look(np.asarray(Image.open(path))).segment.mask
        assert (one.segment.mask != mask).mean() < 0.005


@pytest.mark.parametrize("height", [1, 2, 7, 33])
@pytest.mark.parametrize("width", [1, 3, 31, 1500])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_any_picture_gives_a_crop(
    frame: Frame, height: int, width: int, channels: tuple[int, ...], random: np.random.Generator
) -> None:
    """Noise, a single level, dust and slopes of any size give finite numbers without a warning or error."""
    shape = (height, width, *channels)
    slope = np.broadcast_to(np.linspace(0, 255, width).reshape(1, width, *([1] * len(channels))), shape)
    for values in (random.integers(0, 256, shape), np.zeros(shape), 255 * (random.random(shape) > 0.98), slope):
        for picture_ in (values.astype(np.uint8), (values / 255).astype(np.float32)):
            found, part = crop(picture_, frame, 64, 96)
            assert found.shape == (64, 96, *channels)
            assert np.isfinite(found).all()
            assert np.isfinite([part.size_z, part.area, part.x, part.y, part.degrees, part.alike]).all()
