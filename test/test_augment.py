"""Augmentation keeps geometry: a 3-D point stays where it is (or is mirrored, or turned with the camera) in every
augmented image."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from support.planes import CAMERA, NO_COLOUR, plane, planes, rgb

from spd_core.camera import Camera
from spd_core.data.augment import Augmentation, rotation, seen_by
from spd_core.data.loader import AugmentedSamples
from spd_core.data.samples import DataError, Sample
from spd_core.errors import SPDError


def on_plane(points_m: np.ndarray, mirrored: bool = False) -> np.ndarray:
    """Residual of points [..., 3] against that plane."""
    x, y, z = np.moveaxis(points_m, -1, 0)
    return z - 3 - (-0.5 if mirrored else 0.5) * x + 0.4 * y


def points(depth_m: np.ndarray, camera: Camera) -> np.ndarray:
    y, x = np.mgrid[: depth_m.shape[0], : depth_m.shape[1]]
    return camera.unproject(np.stack([x, y], -1), depth_m)[depth_m > 0]


def texture(camera: Camera, size: tuple[int, int]) -> np.ndarray:
    """A smooth picture that is a function of the direction of the ray alone: uint8 [H, W, 3]."""
    y, x = np.mgrid[: size[0], : size[1]]
    ray = np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, np.ones(size)], axis=-1)
    return colour_of(ray)


def colour_of(ray: np.ndarray) -> np.ndarray:
    ray = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    return (127 + 110 * np.sin(ray * [5.0, 6.0, 9.0])).round().astype(np.uint8)


@pytest.mark.parametrize("scale", [0.53, 0.73, 1.0, 1.4])
@pytest.mark.parametrize("angles_deg", [(0, 0, 0), (0, 0, 12), (8, -6, 10)])
def test_a_turned_camera_sees_the_same_points_and_colours(scale, angles_deg):
    turn = rotation(*np.radians(angles_deg))
    view = Camera(300 * scale, 300 * scale, 70.3, 55.7)
    seen, depth_m = seen_by(view, turn, (120, 150), texture(CAMERA, (240, 320)), plane(), CAMERA)
    known = depth_m > 0
    assert known.mean() > 0.5
    back = points(depth_m, view) @ turn.T
    slope = np.abs(np.diff(plane(), axis=1)).max() + np.abs(np.diff(plane(), axis=0)).max()
    assert np.abs(on_plane(back)).max() < 0.8 * slope * max(1, 1 / scale)  # the nearest pixel is half a pixel away
    assert abs(on_plane(back).mean()) < 0.02 * slope  # and not to one side
    y, x = np.mgrid[:120, :150]
    ray = np.stack([(x - view.cx) / view.fx, (y - view.cy) / view.fy, np.ones((120, 150))], axis=-1) @ turn.T
    inner = cv2.erode(known.astype(np.uint8), np.ones((9, 9))) > 0
    assert np.abs(seen.astype(int) - colour_of(ray))[inner].max() <= 3


def test_beyond_the_picture_there_is_no_depth():
    turn = rotation(0.0, np.radians(40), 0.0)
    seen, depth_m = seen_by(CAMERA, turn, (240, 320), rgb(plane()), plane(), CAMERA)
    assert (depth_m == 0).mean() > 0.3
    assert seen[depth_m == 0].mean() > 5  # but a picture: a black corner would say where the edge is


def test_a_mirror_image_mirrors_points():
    sample = Sample("s", rgb(plane()), plane(), CAMERA)
    augment = Augmentation(rotate_deg=0, flip=1.0, crop=(200, 300), **NO_COLOUR)
    out = augment(sample, np.random.default_rng(0))
    assert np.abs(on_plane(points(out.depth_m, out.camera), mirrored=True)).max() < 1e-4


def test_every_random_view_keeps_points():
    sample = Sample("s", rgb(plane()), plane(), CAMERA)
    augment = Augmentation(border_px=6, rotate_deg=0, scale=(0.9, 1.4), flip=0, crop=(160, 200), **NO_COLOUR)
    for seed in range(20):
        out = augment(sample, np.random.default_rng(seed))
        assert 0.9 <= out.camera.focal_px / CAMERA.focal_px <= 1.4
        assert np.abs(on_plane(points(out.depth_m, out.camera))).max() < 0.05
    tilted = replace(augment, rotate_deg=15.0, tilt_deg=8.0)
    shares = [(tilted(sample, np.random.default_rng(seed)).depth_m > 0).mean() for seed in range(20)]
    assert min(shares) > 0.7  # it looks where the picture is


def test_some_pictures_are_askew():
    """The roll of a view, from the direction in which a plane rises in it."""
    sample = Sample("s", rgb(plane()), plane(), CAMERA)
    augment = Augmentation(rotate_deg=5.0, askew=0.4, flip=0, crop=(160, 200), **NO_COLOUR)
    rolls_deg = []
    for seed in range(100):
        out = augment(sample, np.random.default_rng(seed))
        at = points(out.depth_m, out.camera)
        slope = np.linalg.lstsq(np.c_[at[:, :2], np.ones(len(at))], at[:, 2], rcond=None)[0][:2]
        rolls_deg.append(np.degrees(np.arctan2(*slope[::-1]) - np.arctan2(-0.4, 0.5)))
    beyond = np.abs(rolls_deg) > 5.5
    assert 0.25 < beyond.mean() < 0.5  # 0.4 * 40 / 45 of them
    assert max(rolls_deg) > 35
    assert -46 < min(rolls_deg) < -35


@pytest.mark.parametrize("fx", [100, 150, 400])
def test_a_view_has_square_pixels(fx):
    camera, size = Camera(fx, 200, fx * 0.8, 119.5), (240, round(fx * 1.6))
    depth_m = plane(camera, size)
    sample = Sample("s", texture(camera, size), depth_m, camera)
    for crop, focal_px in ((None, None), ((120, 150), None), ((60, 100), 90.0)):
        augment = Augmentation(rotate_deg=0, scale=(1.0, 1.0), flip=0, crop=crop, **NO_COLOUR)
        out = augment(sample, np.random.default_rng(1), focal_px)
        assert out.camera.fx == pytest.approx(out.camera.fy)
        assert out.camera.fy == pytest.approx(focal_px or 200)
        assert out.depth_m.shape == (crop or (240, 320))
        slope = np.abs(np.diff(depth_m, axis=1)).max() + np.abs(np.diff(depth_m, axis=0)).max()
        assert np.abs(on_plane(points(out.depth_m, out.camera))).max() < 2.5 * slope
        off = np.abs(out.rgb.astype(int) - texture(out.camera, out.depth_m.shape))[4:-4, 4:-4]
        assert off.max() <= 6


def test_whole_chain_on_nyu_size():
    camera = Camera(518.86, 518.86, 325.6, 253.7)
    depth_m = plane(camera, (480, 640))
    sample = Sample("s", rgb(depth_m), depth_m, camera)
    augment = Augmentation(border_crop=True, rotate_deg=0, crop=(416, 544), scale=(1.0, 1.0), flip=0, **NO_COLOUR)
    out = augment(sample, np.random.default_rng(3))
    assert (out.rgb.shape, out.depth_m.shape) == ((416, 544, 3), (416, 544))
    assert out.camera.focal_px == camera.focal_px
    assert np.abs(on_plane(points(out.depth_m, out.camera))).max() < 1e-3


def test_colour_stays_in_its_ranges_and_depth_untouched():
    sample = Sample("s", np.full((64, 64, 3), 100, np.uint8), np.ones((64, 64), np.float32), CAMERA)
    augment = Augmentation(rotate_deg=0, flip=0, colour=1.0)
    low, high = 255 * (100 / 255) ** 1.1 * 0.75 * 0.9, 255 * (100 / 255) ** 0.9 * 1.25 * 1.1
    means = np.array([augment(sample, np.random.default_rng(i)).rgb.reshape(-1, 3).mean(0) for i in range(200)])
    assert means.min() >= low - 1
    assert means.max() <= high + 1
    assert means.std(axis=0).min() > 5
    assert (augment(sample, np.random.default_rng(0)).depth_m == 1).all()


def test_exposures_change_the_picture_and_nothing_else():
    depth_m = plane()
    picture = texture(CAMERA, depth_m.shape)
    picture[::8] = 20  # lines, to see a blur
    sample = Sample("s", picture, depth_m, CAMERA)
    still = {"rotate_deg": 0.0, "flip": 0.0, **NO_COLOUR}
    for change in ({"grey": 1.0}, {"jpeg": 1.0}, {"blur_px": 2.0}, {"noise": 12.0}):
        changed = [Augmentation(**still, **change)(sample, np.random.default_rng(seed)) for seed in range(12)]
        differs = [np.abs(s.rgb.astype(int) - sample.rgb).mean() for s in changed]
        assert max(differs) > 0.3, change
        assert max(differs) < 80, change
        assert all((s.depth_m == depth_m).all() and s.camera == CAMERA for s in changed)
    grey = Augmentation(**still, grey=1.0)(sample, np.random.default_rng(0)).rgb
    assert (grey == grey[..., :1]).all()


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            Sample("small", np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), np.float32), CAMERA),
            r"small: \[64, 64\] px, scaled by 1, are fewer than the crop \[100, 100\]",
        ),
        (Sample("x", np.zeros((200, 200, 3), np.uint8), None, CAMERA), "x: training needs depth"),
        (
            Sample("x", np.zeros((200, 200, 3), np.uint8), np.ones((200, 200), np.float32), None),
            "x: training needs intrinsics",
        ),
    ],
)
def test_what_cannot_be_augmented(sample, message):
    with pytest.raises(DataError, match=message):
        Augmentation(crop=(100, 100))(sample, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (0.0, 1.0)}, r"augment\.scale must be two positive numbers, .* got \(0\.0, 1\.0\)"),
        ({"scale": (2.0, 1.0)}, r"augment\.scale must be .* the smaller first, got \(2\.0, 1\.0\)"),
        ({"scale": (1.0, float("nan"))}, r"augment\.scale must be .* got \(1\.0, nan\)"),
        ({"gamma": (1.1, 0.9)}, r"augment\.gamma must be .* got \(1\.1, 0\.9\)"),
        ({"brightness": (-1, -1)}, r"augment\.brightness must be .* got \(-1, -1\)"),
        ({"gain": (1, float("inf"))}, r"augment\.gain must be .* got \(1, inf\)"),
        ({"crop": (0, 0)}, r"augment\.crop must be a height and a width, px, got \(0, 0\)"),
        *(
            ({name: value}, rf"augment\.{name} must be a probability, 0 to 1, got {value}")
            for name, value in {
                "askew": 1.5,
                "flip": 50,
                "colour": -1,
                "grey": float("nan"),
                "jpeg": 3,
                "cut_depth": 1.1,
                "frame": 2,
            }.items()
        ),
        ({"crop_variation": 1.0}, r"augment\.crop_variation must be a share below 1, got 1\.0"),
        ({"tilt_deg": float("inf")}, r"augment\.tilt_deg must be at most 45, got inf"),
        ({"noise": -4}, r"augment\.noise must be at least 0, got -4"),
        ({"rotate_deg": float("nan")}, r"augment\.rotate_deg must be at least 0, got nan"),
        ({"border_px": -1}, "got border_px=-1 and border_crop=False"),
        ({"border_px": 14, "border_crop": True}, "got border_px=14 and border_crop=True"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(SPDError, match=message):
        Augmentation(**settings)


def test_a_border_larger_than_the_image():
    sample = Sample("s", rgb(plane()), plane(), CAMERA)
    with pytest.raises(DataError, match=r"s: border_px=120 leaves nothing of an image of \[240, 320\] px"):
        Augmentation(border_px=120)(sample, np.random.default_rng(0))


@pytest.mark.parametrize(("focal_px", "reached_px"), [(240.0, 240.0), (60.0, 120.0)])
def test_images_are_scaled_to_the_training_focal_length(focal_px, reached_px):
    """As far as the crop allows: at 60 px the image would be smaller than it, and the target makes up what is left."""
    augment = Augmentation(rotate_deg=0, flip=0, crop=(96, 128), **NO_COLOUR)
    sample = augment(Sample("plane", rgb(plane()), plane(), CAMERA), np.random.default_rng(0), focal_px=focal_px)
    assert sample.camera.focal_px == pytest.approx(reached_px)
    assert np.abs(on_plane(points(sample.depth_m, sample.camera))).max() < 0.1
    item = AugmentedSamples([(planes(), 1.0)], augment, focal_px, seed=0, to_focal=True)[0]
    truth_m, share = plane() + int(item["name"][-1]), focal_px / reached_px
    assert share * truth_m.min() <= item["depth_m"].min() <= item["depth_m"].max() <= share * truth_m.max()


def test_no_crop_of_a_batch_is_larger_than_asked_for():
    """Whatever the steps are that its size goes in."""
    augmentation = Augmentation(crop=(228, 300), crop_variation=0.1)
    drawn = [augmentation.of_batch(np.random.default_rng(i)).crop for i in range(99)]
    assert np.max(drawn, axis=0).tolist() == [228, 300]
    assert (np.min(drawn, axis=0) >= [205, 270]).all()


def test_a_stripe_shows_depth_instead_of_the_picture():
    depth_m = plane()
    augment = Augmentation(rotate_deg=0, flip=0, colour=0, cut_depth=1.0)
    sample = Sample("plane", np.full((240, 320, 3), 200, np.uint8), depth_m, CAMERA)
    widths = []
    for seed in range(50):
        seen = augment(sample, np.random.default_rng(seed))
        np.testing.assert_array_equal(seen.depth_m, depth_m)
        columns = np.flatnonzero((seen.rgb != 200).any(axis=(0, 2)))
        widths.append(len(columns))
        shown = np.clip(depth_m[:, columns] * 255 / 10, 0, 255).astype(np.uint8)
        assert (np.diff(columns) == 1).all()
        np.testing.assert_allclose(seen.rgb[:, columns, 1], shown, atol=1)
    assert min(widths) >= 1
    assert 40 < np.mean(widths) < 80  # 0.75 x 1/2 of what is right of a uniform column


def test_a_frame_of_one_grey_has_no_depth():
    augment = Augmentation(rotate_deg=0, flip=0, colour=0, frame=1.0)
    picture = np.random.default_rng(0).integers(1, 255, (240, 320, 3), dtype=np.uint8)
    widths, greys = [], set()
    for seed in range(60):
        seen = augment(Sample("plane", picture, plane(), CAMERA), np.random.default_rng(seed))
        inside = seen.depth_m > 0
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        widths.append([rows[0], 239 - rows[-1], columns[0], 319 - columns[-1]])
        assert inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        np.testing.assert_array_equal(seen.rgb[inside], picture[inside])
        np.testing.assert_array_equal(seen.depth_m[inside], plane()[inside])
        greys |= set(np.unique(seen.rgb[~inside]))
    assert np.min(widths) == 0
    np.testing.assert_array_equal(np.max(widths, axis=0), [7, 7, 9, 9])  # 3 % of 240 and 320 px
    assert {0, 255} < greys
