"""Lens distortion both ways, held against OpenCV's projections and against bisection, and where it ends."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from spd_core.camera import Camera, CameraError
from spd_core.lens import lens

# Published calibrations: size (width, height) px and camera.
USB_CAM = Camera(  # as reported to ros-drivers/usb_cam (#249)
    193.36241, 194.63608, 320.31501, 237.69045, (0.108415, -0.865421, 1.285079, -0.412555), "equidistant"
)
FISHEYE = Camera(
    266.03143, 264.33270, 307.16574, 244.27315, (0.0236292, 0.0100928, -0.0294664, 0.0082792), "equidistant"
)
WIDE = Camera(  # ros-perception/image_pipeline, fisheye_cal_reference/mono
    290.050152, 289.392837, 399.938345, 273.885669, (-0.030464, -0.019695, 0.002098, 0.001030)
)
OAK = Camera(  # as reported to luxonis/depthai-ros (#58)
    1033.0889,
    1031.7819,
    646.2429,
    369.3156,
    (1.26159, -57.753, 0.000871337, 0.00132823, 282.6455, 1.1072326, -56.353828, 277.47756),
    "rational_polynomial",
)
RATIONAL = (0.1, -0.05, -0.001, 0.002, 0.01, 0.02, 0.01, -0.004)
PRISM = (0.01, -0.02, 0.015, 0.005)
CAMERAS = {
    "usb_cam, equidistant": (USB_CAM, (640, 480)),
    "a fisheye, equidistant": (FISHEYE, (640, 480)),
    "an ideal fisheye": (Camera(200, 200, 320, 240, (0.0, 0.0, 0.0, 0.0), "equidistant"), (600, 480)),
    "image_pipeline, plumb_bob": (WIDE, (800, 503)),
    "depthai, rational": (OAK, (1280, 720)),
    "Kinect, plumb_bob": (
        Camera(525, 525, 319.5, 239.5, (0.262383, -0.953104, -0.005358, 0.002628, 1.163314)),
        (640, 480),
    ),
    "four coefficients": (Camera(400, 410, 320, 240, (-0.28, 0.07, 0.0002, 0.00002)), (640, 480)),
    "radial alone": (Camera(400, 400, 320, 240, (-0.3, 0.1, 0.0, 0.0, -0.02)), (640, 480)),
    "thin prism": (Camera(400, 400, 320, 240, (*RATIONAL, *PRISM), "rational_polynomial"), (640, 480)),
    "tilt": (Camera(400, 400, 320, 240, (*RATIONAL, *PRISM, 0.1, -0.07), "rational_polynomial"), (640, 480)),
    "steeper tilt": (Camera(400, 400, 320, 240, (*RATIONAL, 0, 0, 0, 0, -0.5, 0.3), "rational_polynomial"), (640, 480)),
}
# Share of the pixels nearer to the axis than where the model turns or a right angle; of the others all.
PARTLY_SEEN = {"image_pipeline, plumb_bob": 0.842, "radial alone": 0.980, "an ideal fisheye": 0.908}
cameras = pytest.mark.parametrize("name", CAMERAS)


def pixels(size, step=5):
    u, v = np.meshgrid(np.arange(0, size[0], step, dtype=float), np.arange(0, size[1], step, dtype=float))
    return np.stack([u, v], axis=-1).reshape(-1, 2)


def opencv_pixels(camera, xyz):
    project = cv2.fisheye.projectPoints if camera.distortion_model == "equidistant" else cv2.projectPoints
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]], dtype=float)
    points = np.ascontiguousarray(xyz, dtype=float).reshape(-1, 1, 3)
    return project(points, np.zeros(3), np.zeros(3), matrix, np.array(camera.distortion))[0].reshape(-1, 2)


@cameras
def test_a_pixel_has_the_ray_that_opencv_projects_to_it_or_none(name):
    camera, size = CAMERAS[name]
    uv = pixels(size)
    depth_m = np.random.default_rng(0).uniform(0.5, 9.0, len(uv))
    xyz = camera.unproject(uv, depth_m)
    known = np.isfinite(xyz).all(axis=1)
    assert np.isnan(xyz[~known]).all()
    np.testing.assert_array_equal(xyz[known, 2], depth_m[known])
    np.testing.assert_allclose(camera.project(xyz[known]), uv[known], atol=1e-6)
    np.testing.assert_allclose(opencv_pixels(camera, xyz[known]), uv[known], atol=1e-6)
    assert known.mean() == pytest.approx(PARTLY_SEEN.get(name, 1.0), abs=0.002)


def bisected_ray(camera, uv):
    """The smallest angle whose image is as far out as the pixel, on the rising part of the polynomial alone."""
    k = camera.distortion

    def radius(t):
        return t * (1 + k[0] * t**2 + k[1] * t**4 + k[2] * t**6 + k[3] * t**8)

    angles = np.linspace(0, np.pi / 2 - 1e-4, 200_001)
    falling = np.flatnonzero(np.diff(radius(angles)) <= 0)
    end = angles[falling[0]] if len(falling) else angles[-1]
    image = (uv - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    wanted = np.linalg.norm(image, axis=1)
    low, high = np.zeros(len(uv)), np.full(len(uv), end)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = np.where(radius(middle) < wanted, middle, low), np.where(radius(middle) < wanted, high, middle)
    angle = np.where(wanted <= radius(end), high, np.nan)
    return image / wanted[:, None] * np.tan(angle)[:, None]


@pytest.mark.parametrize(
    "camera",
    [USB_CAM, FISHEYE, Camera(200, 200, 320, 240, (-0.25, 0.02, 0.0, 0.0), "equidistant")],
    ids=["usb_cam", "fisheye", "turns at 75 degrees"],
)
def test_the_ray_of_a_fisheye_is_that_of_the_rising_part(camera):
    uv = pixels((640, 480)) + 0.25
    expected, rays = bisected_ray(camera, uv), camera.unproject(uv, np.ones(len(uv)))
    near_edge = np.isnan(expected).any(axis=1) != np.isnan(rays).any(axis=1)
    assert near_edge.mean() < 0.001
    np.testing.assert_allclose(rays[~near_edge, :2], expected[~near_edge], rtol=1e-4, atol=1e-9)


def first_turn(camera, direction):
    """The angle at which OpenCV's own projection stops to keep its sense on the way out, by differences of pixels."""
    angles = np.linspace(0.001, 1.45, 4000)
    rays = np.tan(angles)[:, None] * direction
    step = 1e-6
    du, dv = (
        opencv_pixels(camera, np.c_[rays + offset, np.ones(len(rays))])
        - opencv_pixels(camera, np.c_[rays - offset, np.ones(len(rays))])
        for offset in (np.array([step, 0]), np.array([0, step]))
    )
    turned = np.flatnonzero(du[:, 0] * dv[:, 1] - du[:, 1] * dv[:, 0] <= 0)
    return angles[turned[0]] if len(turned) else None


@pytest.mark.parametrize(
    ("coefficients", "model"),
    [
        ((-0.3, 0.1, 0.0, 0.0, -0.02), "plumb_bob"),
        (WIDE.distortion, "plumb_bob"),
        ((-0.28, 0.0, 0.02, -0.01), "plumb_bob"),
        ((-0.4, 0.05, 0.001, -0.002, 0.01, 0.1, -0.03, 0.001, *PRISM), "rational_polynomial"),
        ((-0.4, 0.05, 0.001, -0.002, 0.01, 0.1, -0.03, 0.001, *PRISM, 0.06, 0.1), "rational_polynomial"),
        ((-0.25, 0.02, 0.0, 0.0), "equidistant"),
    ],
)
def test_beyond_the_turning_point_there_is_no_pixel(coefficients, model):
    camera = Camera(300, 300, 320, 240, coefficients, model)
    for turn in np.linspace(0, 2 * np.pi, 12, endpoint=False) + 0.1:
        direction = np.array([np.cos(turn), np.sin(turn)])
        end = first_turn(camera, direction)
        assert end is not None
        before = np.tan(np.linspace(0, end - 0.005, 50))[:, None] * direction
        xyz = np.c_[before, np.ones(50)]
        np.testing.assert_allclose(camera.project(xyz), opencv_pixels(camera, xyz), atol=1e-6)
        np.testing.assert_allclose(camera.unproject(camera.project(xyz), np.ones(50)), xyz, atol=1e-7)
        beyond = np.tan(np.linspace(end + 0.005, 1.45, 50))[:, None] * direction
        assert np.isfinite(opencv_pixels(camera, np.c_[beyond, np.ones(50)])).all(), "it folds back into the picture"
        assert np.isnan(camera.project(np.c_[beyond, np.ones(50)])).all()


def test_pixels_beyond_the_picture_of_the_lens_have_no_ray():
    camera = Camera(400, 400, 320, 240, (-0.3, 0.0, 0.0, 0.0))
    end = np.sqrt(1 / 0.9)  # where the derivative 1 - 0.9 r^2 of the image radius is zero
    farthest_px = 400 * end * (1 - 0.3 * end**2)
    inside, outside = ([320 + farthest_px * (1 + share), 240] for share in (-1e-6, 1e-6))
    assert camera.unproject(np.array(inside), np.array(1.0))[0] == pytest.approx(end, abs=2e-3)
    assert np.isnan(camera.unproject(np.array(outside), np.array(1.0))).all()


def test_a_pole_ends_the_rays():
    camera = Camera(
        400, 400, 320, 240, (0.0, 0.0, 0.0, 0.0, 0.0, -0.25, 0.0, 0.0), "rational_polynomial"
    )  # 1 - r^2 / 4
    assert camera.project(np.array([1.9, 0.0, 1.0]))[0] == pytest.approx(320 + 400 * 1.9 / (1 - 1.9**2 / 4))
    assert np.isnan(camera.project(np.array([2.1, 0.0, 1.0]))).all()
    uv = np.array([[320 - 1e4, 240.0]])
    assert camera.unproject(uv, np.ones(1))[0, 0] == pytest.approx((1 - np.sqrt(626)) / 12.5)  # x / (1 - x^2 / 4) = -25


@cameras
def test_what_is_seen_in_a_mirror_is_mirrored(name):
    camera, size = CAMERAS[name]
    rng = np.random.default_rng(1)
    xyz = np.c_[rng.uniform(-0.4, 0.4, (100, 2)), np.ones(100)]
    expected = camera.project(xyz)
    expected[:, 0] = size[0] - 1 - expected[:, 0]
    np.testing.assert_allclose(camera.mirrored(size[0]).project(xyz * [-1, 1, 1]), expected, atol=1e-9)


@cameras
def test_rows_become_columns(name):
    camera, _ = CAMERAS[name]
    if len(camera.distortion) == 14:
        camera = replace(camera, distortion=(*camera.distortion[:13], 0.0))  # tilted one way
    xyz = np.c_[np.random.default_rng(1).uniform(-0.4, 0.4, (100, 2)), np.ones(100)]
    seen = camera.transposed().project(xyz[:, [1, 0, 2]])
    np.testing.assert_allclose(seen, camera.project(xyz)[:, ::-1], atol=1e-9)
    assert camera.transposed().transposed() == camera


@cameras
def test_what_is_not_finite_stays_so_and_shapes_are_kept(name):
    camera, _ = CAMERAS[name]
    assert camera.unproject(np.zeros((0, 2)), np.zeros(0)).shape == (0, 3)
    assert camera.project(np.zeros((0, 3))).shape == (0, 2)
    uv = np.full((2, 3, 2), 200.0)
    uv[0, 0, 0], uv[1, 1, 1], uv[1, 2, 0] = np.nan, np.inf, -np.inf
    xyz = camera.unproject(uv, np.ones((2, 3)))
    assert np.isnan(xyz).all(axis=-1).tolist() == [[True, False, False], [False, True, True]]
    assert not np.isnan(xyz[0, 1]).any()
    centre = camera.unproject(np.array([camera.cx, camera.cy]), np.array(2.0))
    np.testing.assert_allclose(centre, [0, 0, 2], atol=1e-12)
    assert np.isnan(camera.project(np.array([[0, 0, 0.0], [0, 0, -1], [np.nan, 0, 1]]))).all()


def test_the_ends_of_a_lens_are_found_once():
    camera = Camera(400, 400, 320, 240, (-0.28, 0.07, 0.0002, 0.00002))
    found = lens(camera.distortion_model, camera.distortion)
    assert lens(camera.scaled(0.5).distortion_model, camera.cropped(3, 4).distortion) is found


@pytest.mark.parametrize(
    ("coefficients", "model"),
    [((0.1, 0.2, 0.3), "plumb_bob"), ((0.1,) * 4, "unicorn"), ((0.1, 0.2, 0.3, np.nan), "equidistant")],
)
def test_distortion_of_no_model_is_refused(coefficients, model):
    with pytest.raises(CameraError, match=r"distortion must be the finite coefficients of one of plumb_bob \(4 or 5\)"):
        Camera(400, 400, 320, 240, coefficients, model)
