"""One camera model from end to end: rooms look equally far through every lens, when the intrinsics are given."""

import cv2
import numpy as np
import pytest

from spd_core import Camera, Predictor
from spd_core.camera import MOST_PIXEL_ASPECT, scale_points
from spd_core.preprocess import ImageTransform
from spd_rooms.rooms import random_room
from spd_rooms.synthetic import draw, random_frame, random_pose

ROOMS, POSES = range(11, 17), 3  # one room alone looks nearer or farther with what is in view
TRAINING_FOCAL_RATIO = 0.8107  # focal length / image width


@pytest.fixture(scope="module")
def s_star():
    """Median truth / answer over rooms and over points in them, seen from a few poses by a camera of `focal_px` at 640
    px and of `size`."""
    predictor = Predictor.load("embedded", "cpu")
    reference = Camera(TRAINING_FOCAL_RATIO * 256, TRAINING_FOCAL_RATIO * 256, 127.5, 95.5)

    def measure(focal_px: float, size: tuple[int, int]) -> float:
        height, width = size
        focal_px = focal_px * width / 640
        camera = Camera(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2)
        of_rooms = []
        uv = np.stack(np.meshgrid(np.arange(4, width, 12), np.arange(4, height, 12)), axis=-1).reshape(-1, 2)
        for number in ROOMS:
            room, rng, ratios = random_room(number), np.random.default_rng(number), []
            for seed in range(POSES):  # the same poses for every camera
                frame = draw(room, camera, random_pose(room, rng, reference, (192, 256)), size, seed)
                ratios.append(frame.depth_m[uv[:, 1], uv[:, 0]] / predictor.encode(frame.rgb, camera).depth_at(uv))
            of_rooms.append(np.median(ratios))
        return float(np.median(of_rooms))

    return measure


@pytest.fixture(scope="module")
def at_the_training_focal_length(s_star):
    return s_star(640 * TRAINING_FOCAL_RATIO, (192, 256))


@pytest.mark.parametrize(("focal_px", "size"), [(350, (192, 256)), (620, (240, 320)), (900, (288, 384))])
def test_answers_do_not_shrink_with_the_focal_length(s_star, at_the_training_focal_length, focal_px, size):
    assert s_star(focal_px, size) == pytest.approx(at_the_training_focal_length, rel=0.05)


@pytest.mark.parametrize("scale_x", [0.5, 0.75, 2.0])
def test_pixels_need_not_be_square(scale_x):
    predictor = Predictor.load("embedded", "cpu")
    square = random_frame(5, (480, 640))
    uv = np.stack(np.meshgrid(np.arange(8, 632, 16), np.arange(8, 472, 16)), axis=-1).reshape(-1, 2)
    expected = predictor.encode(square.rgb, square.camera).depth_at(uv)
    squeezed = cv2.resize(square.rgb, None, fx=scale_x, fy=1, interpolation=cv2.INTER_AREA)
    found = predictor.encode(squeezed, square.camera.scaled(scale_x, 1)).depth_at(
        scale_points(uv, np.array([scale_x, 1]))
    )
    assert np.median(np.abs(np.log(found / expected))) < 0.02
    assert abs(np.median(np.log(found / expected))) < 0.01


def test_the_network_size_of_pixels_that_no_camera_has_is_bounded():
    model = Predictor.load("embedded", "cpu").model
    for fx, fy in ((1e-3, 1e4), (1e4, 1e-3)):
        height, width = ImageTransform.for_image(model, (480, 640), Camera(fx, fy, 319.5, 239.5)).size
        assert max(height, width) <= 640 * MOST_PIXEL_ASPECT
    nearly = ImageTransform.for_image(model, (480, 640), Camera(520, 516, 319.5, 239.5))
    assert nearly.size == ImageTransform.for_image(model, (480, 640), Camera(518, 518, 319.5, 239.5)).size
