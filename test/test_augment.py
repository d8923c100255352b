"""Augmentation keeps geometry: a 3-D point stays where it is (or is mirrored, or turned with the camera) in every
augmented image."""

import numpy as np
import pytest

from spd_core.camera import Camera
from spd_core.data.augment import Augmentation, crop, flip, resize, rotate
from spd_core.data.loader import AugmentedSamples, training_batches
from spd_core.data.samples import DataError, Sample

CAMERA = Camera(300.0, 300.0, 161.3, 118.7)
NO_COLOUR = {"colour": 0.0}


def plane(camera=CAMERA, size=(240, 320)) -> np.ndarray:
    """Depth of the plane z = 3 + 0.5 x - 0.4 y, analytically at every pixel."""
    y, x = np.mgrid[: size[0], : size[1]]
    return (3 / (1 - 0.5 * (x - camera.cx) / camera.fx + 0.4 * (y - camera.cy) / camera.fy)).astype(np.float32)


def on_plane(points_m: np.ndarray, mirrored: bool = False) -> np.ndarray:
    """Residual of points [..., 3] against that plane."""
    x, y, z = np.moveaxis(points_m, -1, 0)
    return z - 3 - (-0.5 if mirrored else 0.5) * x + 0.4 * y


def points(depth_m: np.ndarray, camera: Camera) -> np.ndarray:
    y, x = np.mgrid[: depth_m.shape[0], : depth_m.shape[1]]
    return camera.unproject(np.stack([x, y], -1), depth_m)[depth_m > 0]


def rgb(depth_m):
    return np.repeat((depth_m * 40).astype(np.uint8)[..., None], 3, -1)


def test_crop_keeps_points():
    _, depth_m, camera = crop(rgb(plane()), plane(), CAMERA, 13, 7, 301, 200)
    assert depth_m.shape == (193, 288)
    assert np.abs(on_plane(points(depth_m, camera))).max() < 1e-4


def test_flip_mirrors_points():
    _, depth_m, camera = flip(rgb(plane()), plane(), CAMERA)
    assert np.abs(on_plane(points(depth_m, camera), mirrored=True)).max() < 1e-4


@pytest.mark.parametrize("scale", [0.5, 0.73, 1.4])
def test_resize_keeps_points(scale):
    _, depth_m, camera = resize(rgb(plane()), plane(), CAMERA, scale)
    assert depth_m.shape == (round(240 * scale), round(320 * scale))
    slope = np.abs(np.diff(plane(), axis=1)).max() + np.abs(np.diff(plane(), axis=0)).max()
    assert np.abs(on_plane(points(depth_m, camera))).max() < 0.75 * slope * max(
        1, 1 / scale
    )  # the nearest pixel is at most half a pixel away
    assert abs(on_plane(points(depth_m, camera)).mean()) < 0.02 * slope  # and not to one side


def test_rotation_is_a_roll_of_the_camera():
    angle = 8.0
    _, depth_m = rotate(rgb(plane()), plane(), CAMERA, angle)
    turned = points(depth_m, CAMERA)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    back = turned @ np.array(
        [[c, s, 0], [-s, c, 0], [0, 0, 1]]
    )  # image y is down: OpenCV's positive angle turns x towards -y
    slope = np.abs(np.diff(plane(), axis=1)).max() + np.abs(np.diff(plane(), axis=0)).max()
    assert np.abs(on_plane(back)).max() < 1.5 * slope


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


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            Sample("small", np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), np.float32), CAMERA),
            r"small: \[64, 64\] px are fewer than the crop \[100, 100\]",
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


class Planes:
    """Six samples, number 2 broken."""

    layout = "planes"

    def __len__(self):
        return 6

    def name(self, index):
        return f"plane {index}"

    def __getitem__(self, index):
        if index == 2:
            raise DataError("plane 2 is broken")
        depth_m = plane() + index
        return Sample(f"plane {index}", rgb(depth_m), depth_m, CAMERA)


def test_target_is_the_depth_of_the_training_focal_length():
    samples = AugmentedSamples(
        Planes(),
        Augmentation(rotate_deg=0, scale=(0.5, 0.5), crop=(100, 100), **NO_COLOUR),
        training_focal_px=450.0,
        seed=0,
    )
    item = samples[0]
    index = int(item["name"][-1])
    # half the size halves the focal length: for a camera of 450 px the same picture is three times as far
    low, high = 3 * (plane() + index).min(), 3 * (plane() + index).max()
    assert low <= item["depth_m"].min() <= item["depth_m"].max() <= high


@pytest.mark.parametrize(("focal_px", "reached_px"), [(240.0, 240.0), (60.0, 120.0)])
def test_images_are_scaled_to_the_training_focal_length(focal_px, reached_px):
    """As far as the crop allows: at 60 px the image would be smaller than it, and the target makes up what is left."""
    augment = Augmentation(rotate_deg=0, flip=0, crop=(96, 128), **NO_COLOUR)
    sample = augment(Sample("plane", rgb(plane()), plane(), CAMERA), np.random.default_rng(0), focal_px=focal_px)
    assert sample.camera.focal_px == pytest.approx(reached_px)
    assert np.abs(on_plane(points(sample.depth_m, sample.camera))).max() < 0.1
    item = AugmentedSamples(Planes(), augment, focal_px, seed=0, to_focal=True)[0]
    truth_m, share = plane() + int(item["name"][-1]), focal_px / reached_px
    assert share * truth_m.min() <= item["depth_m"].min() <= item["depth_m"].max() <= share * truth_m.max()


def test_crops_of_a_batch_have_one_size_around_the_principal_point():
    augment = Augmentation(rotate_deg=0, flip=0, crop=(96, 128), crop_scale=(0.5, 1.8), **NO_COLOUR)
    samples = AugmentedSamples(Planes(), augment, 300.0, seed=5, batch_size=4)
    sizes = [tuple(batch["rgb"].shape[1:3]) for batch in training_batches(samples, 0, 6, 4)]
    assert len(set(sizes)) > 3
    assert all(48 <= height <= 176 and 64 <= width <= 232 and height % 8 == width % 8 == 0 for height, width in sizes)
    sample = augment(Sample("plane", rgb(plane()), plane(), CAMERA), np.random.default_rng(0), 0.7)
    assert sample.depth_m.shape == (64, 88)
    assert [sample.camera.cx, sample.camera.cy] == pytest.approx([43.5, 31.5], abs=0.51)
    assert np.abs(on_plane(points(sample.depth_m, sample.camera))).max() < 1e-3


def batches(first, last, batch_size, rank=0, world=1, workers=0):
    samples = AugmentedSamples(Planes(), Augmentation(crop=(96, 128)), 300.0, seed=5)
    return list(training_batches(samples, first, last, batch_size, rank, world, workers))


def test_samples_do_not_depend_on_workers_processes_or_interruptions():
    whole = batches(0, 4, 4)
    for other in (batches(0, 4, 4, workers=2), batches(0, 2, 4) + batches(2, 4, 4)):
        assert [b["names"] for b in other] == [b["names"] for b in whole]
        assert all((a["rgb"] == b["rgb"]).all() and (a["depth_m"] == b["depth_m"]).all() for a, b in zip(whole, other))
    ranks = [batches(0, 4, 2, rank, world=2) for rank in range(2)]
    assert [a["names"] + b["names"] for a, b in zip(*ranks)] == [b["names"] for b in whole]


def test_broken_samples_are_replaced_and_named():
    got = batches(0, 3, 4)  # 12 samples: each of the six twice
    assert [name for b in got for name in b["broken"]] == ["plane 2 is broken"] * 2
    names = [name for b in got for name in b["names"]]
    assert len(names) == 12
    assert "plane 2" not in names
    assert names.count("plane 3") == 4
