"""The pixel-centre rule and the pinhole camera."""

from decimal import Decimal

import numpy as np
import pytest

from spd_core.camera import Camera, CameraError, focal_correction, inside_image, scale_points
from spd_core.errors import SPDError
from spd_core.plausibility import check_camera, doubt

CAMERA = Camera(500.0, 510.0, 320.0, 240.0)


def test_scaling_moves_pixel_corners_to_pixel_corners():
    corners = np.array([[-0.5, -0.5], [639.5, 479.5]])
    assert scale_points(corners, 0.4) == pytest.approx(np.array([[-0.5, -0.5], [255.5, 191.5]]))
    assert scale_points(np.array([1.0, 2.0]), 2.0) == pytest.approx([2.5, 4.5])


def test_inside_is_up_to_half_a_pixel_beyond_the_outer_centres():
    points = np.array([[-0.5, 0], [-0.51, 0], [9.5, 4.5], [9.6, 0], [0, 4.51], [np.nan, 1], [1, np.inf]])
    assert inside_image(points, (5, 10)).tolist() == [True, False, True, False, False, False, False]


def test_a_point_keeps_its_coordinates_through_scale_and_crop():
    xyz = np.array([[0.4, -0.2, 2.0], [-1.0, 0.7, 3.5]])
    uv = CAMERA.project(xyz)
    assert CAMERA.unproject(uv, xyz[:, 2]) == pytest.approx(xyz)
    smaller = CAMERA.scaled(0.4)
    assert smaller.project(xyz) == pytest.approx(scale_points(uv, 0.4))
    assert smaller.cropped(10, 20).project(xyz) == pytest.approx(scale_points(uv, 0.4) - [10, 20])


def test_points_behind_the_camera_have_no_pixel():
    assert np.isnan(CAMERA.project(np.array([0.0, 0.0, -1.0]))).all()


def test_focal_correction_is_the_ratio_of_focal_lengths():
    assert focal_correction(Camera(400, 400, 0, 0), 200.0) == 2.0
    assert focal_correction(Camera(400, 100, 0, 0), 200.0) == 1.0  # geometric mean


@pytest.mark.parametrize(
    "values",
    [
        (0, 1, 2, 3),
        (1, -1, 2, 3),
        (float("nan"), 1, 2, 3),
        (1, 1, float("inf"), 3),
        (1e-200, 1e-200, 1, 1),  # their mean is no float
        (1e200, 1e200, 1, 1),
    ],
)
def test_impossible_intrinsics_are_refused(values):
    with pytest.raises(CameraError, match="finite with positive focal lengths"):
        Camera(*values)


@pytest.mark.parametrize("values", [("5", "5", 1, 1), (None, 1, 1, 1), (10**400, 1, 1, 1), (1, 1, 1, 1j)])
def test_intrinsics_that_are_no_numbers_are_refused(values):
    with pytest.raises(CameraError, match="must be numbers, got"):
        Camera(*values)


def test_intrinsics_are_floats_whatever_numbers_they_were():
    camera = Camera(Decimal("500.5"), np.float32(500.5), 320, np.int64(240))
    assert camera.scaled(0.5) == Camera(250.25, 250.25, 159.75, 119.75)
    assert all(type(number) is float for number in (camera.fx, camera.fy, camera.cx, camera.cy))


def test_distortion_may_be_as_opencv_returns_it():
    row = np.array([[-0.1, 0.02, 0.001, 0.002, 0]])
    assert Camera(500, 500, 320, 240, row) == Camera(500, 500, 320, 240, row.T) == Camera(500, 500, 320, 240, row[0])


@pytest.mark.parametrize("distortion", [None, "abcd", (0.1, None, 0, 0)])
def test_distortion_that_is_no_numbers_is_refused(distortion):
    with pytest.raises(CameraError, match="must be numbers, got"):
        Camera(500, 500, 320, 240, distortion)


@pytest.mark.parametrize(
    ("numbers", "what"),
    [
        ((519, 519, 319.5, 239.5), ""),
        ((519, 519, 360, 210), ""),  # a lens that is not quite over its sensor
        ((519, 519, -300, 900), ""),  # a part of an image, cut out of it on purpose
        ((519, 519, 319.5, 479.5), ""),  # its upper half
        ((1038, 1038, 639.5, 479.5), "the calibration of a 1280x960 image"),
        ((259, 259, 159.5, 119.5), "the calibration of a 320x240 image"),
        ((1038, 1038, 639.5, 359.5), "the calibration of a 1280x720 image"),
        ((519, 519, 1e308, 1e308), "far from the middle of 640x480 px"),
        ((519, 319.5, 519, 239.5), "look like fx cx fy cy"),
        ((519, 400, 519, 239.5), ""),  # whose pixels would not be square either way
    ],
)
def test_intrinsics_that_are_hardly_those_of_an_image(numbers, what):
    said = doubt(Camera(*numbers), (480, 640))
    assert what in said
    assert bool(what) == bool(said)


@pytest.mark.parametrize("aspect", [0.2, 5])
def test_pixels_of_no_sensor_are_refused_for_a_picture(aspect):
    """Of what a user gives, as of camera_info: `check_plausible` is one."""
    camera = Camera(500, 500 * aspect, 319.5, 239.5)
    with pytest.raises(SPDError, match=rf"^c\.txt has fx = 500 px and fy = {500 * aspect:g} px; expected .* 4 times"):
        check_camera(camera, (480, 640), "c.txt")
    check_camera(Camera(500, 2000, 319.5, 239.5), (480, 640), "c.txt")


def test_what_a_mask_hides_is_no_point():
    camera = Camera(500.0, 500.0, 320.0, 240.0)
    hidden = np.ma.masked_array([3.0, 3.0], mask=[True, False])
    assert np.isnan(camera.unproject([[1, 2], [1, 2]], hidden)[:, 2]).tolist() == [True, False]
    points_m = np.ma.masked_array(np.ones((2, 3)), mask=[[False] * 3, [True] * 3])
    assert np.isnan(camera.project(points_m)).tolist() == [[False] * 2, [True] * 2]
