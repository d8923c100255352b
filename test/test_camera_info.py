"""camera_info against references: lenses, binning, rectified images, and what is not calibrated."""

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo

from spd_core.camera import Camera
from spd_core.camera_info import camera_from_info, is_rectified_topic
from spd_core.errors import MessageError
from spd_core.message_fields import camera_info_fields


def info(width=640, height=480, **changes) -> CameraInfo:
    msg = CameraInfo(width=width, height=height, k=[500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0])
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


def test_camera_info_as_it_is_and_scaled():
    camera = camera_from_info(info(), (480, 640))
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (500, 510, 320, 240)
    half = camera_from_info(info(), (240, 320))
    assert (half.fx, half.fy, half.cx, half.cy) == (250, 255, 159.75, 119.75)


def test_binning_and_region_of_interest():
    msg = info(binning_x=2, binning_y=2)
    msg.roi.x_offset, msg.roi.y_offset, msg.roi.width, msg.roi.height = 100, 40, 400, 400
    camera = camera_from_info(msg, (200, 200))
    assert (camera.fx, camera.fy) == (250, 255)
    assert (camera.cx, camera.cy) == ((220.5) / 2 - 0.5, 200.5 / 2 - 0.5)


@pytest.mark.parametrize(("x", "y", "width", "height"), [(0, 0, 320, 240), (160, 120, 320, 240), (9, 0, 0, 0)])
def test_a_region_that_an_image_of_the_whole_sensor_has_not(x, y, width, height):
    """Drivers leave it in camera_info; taken, it is a zoom."""
    msg = info()
    msg.roi.x_offset, msg.roi.y_offset, msg.roi.width, msg.roi.height = x, y, width, height
    assert camera_from_info(msg, (480, 640)) == Camera(500, 510, 320, 240)
    if width:
        assert camera_from_info(msg, (240, 320)) == Camera(500, 510, 320 - x, 240 - y)
        assert camera_from_info(msg, (120, 160)).fx == 250
    msg.binning_x = msg.binning_y = 2
    assert camera_from_info(msg, (240, 320)) == Camera(500, 510, 320, 240).scaled(0.5)


def test_a_region_beyond_the_sensor_is_refused():
    msg = info()
    msg.roi.x_offset, msg.roi.y_offset, msg.roi.width, msg.roi.height = 600, 400, 640, 480
    with pytest.raises(MessageError, match="region of interest of 640x480 px at 600,400; expected a part of its 640x4"):
        camera_from_info(msg, (480, 640))
    msg.width = msg.height = 0  # a driver that does not say
    assert camera_from_info(msg, (480, 640)) == Camera(500, 510, -280, -160)


@pytest.mark.parametrize(
    ("k", "fault"),
    [
        ([525.0, 0, 0, 0, 525.0, 0, 0, 0, 1], "fx = 525, fy = 525, cx = 0, cy = 0 in K: the camera is not calibrated"),
        ([525.0, 0, 0, 0, 525.0, 0, 320, 240, 1], "cx = 0, cy = 0 in K"),  # columns for rows
        ([525.0, 0, 1e6, 0, 525.0, 240, 0, 0, 1], r"optical axis at 1e\+06,240 px, far outside the 640x480 px"),
        ([525.0, 0, 320, 0, 525.0, -481, 0, 0, 1], "optical axis at 320,-481 px"),
        ([52500.0, 0, 320, 0, 5.25, 240, 0, 0, 1], "fx = 52500 px and fy = 5.25 px; expected .* at most 4 times"),
        ([100.0, 0, 320, 0, 500.0, 240, 0, 0, 1], "fx = 100 px and fy = 500 px"),
    ],
)
def test_intrinsics_of_no_camera(k, fault):
    with pytest.raises(MessageError, match=fault):
        camera_from_info(info(k=[float(v) for v in k]), (480, 640))


def test_odd_and_right_calibrations_are_taken():
    """A part cut out far from the axis, with a region of interest and without; pixels four times as wide as high."""
    corner = info(k=[500.0, 0.0, 2000.0, 0.0, 500.0, 1500.0, 0.0, 0.0, 1.0], width=4000, height=3000)
    corner.roi.width = corner.roi.height = 100
    assert camera_from_info(corner, (100, 100)) == Camera(500, 500, 2000, 1500)
    cut_out = info(k=[500.0, 0.0, -300.0, 0.0, 500.0, 900.0, 0.0, 0.0, 1.0])
    assert camera_from_info(cut_out, (480, 640)) == Camera(500, 500, -300, 900)
    wide = info(k=[125.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0])
    assert camera_from_info(wide, (480, 640)).pixel_aspect == 4
    assert camera_from_info(info(binning_x=1, binning_y=4), (120, 640)).pixel_aspect == pytest.approx(0.255)


@pytest.mark.parametrize("k", [[0.0] * 9, [float("nan")] + [1.0] * 8, [-5.0, 0, 1, 0, 5.0, 1, 0, 0, 1]])
def test_uncalibrated_camera(k):
    with pytest.raises(MessageError, match="not calibrated"):
        camera_from_info(info(k=[float(v) for v in k]), (480, 640))


D = {
    "plumb_bob": [-0.28, 0.07, 0.0011, -0.0007, 0.01],
    "rational_polynomial": [0.6, -0.3, 0.0004, -0.0002, 0.02, 0.9, -0.2, 0.01],
    "equidistant": [-0.02, 0.004, -0.003, 0.0006],
}


@pytest.mark.parametrize("model", D)
def test_distortion_does_not_scale_with_the_image(model):
    camera = camera_from_info(info(d=D[model], distortion_model=model), (240, 320))
    assert camera == Camera(250, 255, 159.75, 119.75, tuple(D[model]), model)


def test_distortion_of_zeros_is_none_and_an_unknown_model_an_error():
    assert camera_from_info(info(d=[0.0] * 5, distortion_model="whatever"), (480, 640)) == Camera(500, 510, 320, 240)
    for d, name, expected in (
        ([0.1] * 5, "mystery", r"model 'mystery' with 5 coefficients; expected plumb_bob \(4 or 5"),
        ([0.1] * 3, "plumb_bob", "'plumb_bob' with 3 coefficients"),
        ([0.1] * 5, "fisheye", "'fisheye' with 5 coefficients"),
        ([0.1] * 4, "Inverse Brown Conrady", "'Inverse Brown Conrady' with 4"),
        ([0.1, float("nan"), 0.0, 0.0], "plumb_bob", "not finite"),
    ):
        with pytest.raises(MessageError, match=expected):
            camera_from_info(info(d=d, distortion_model=name), (480, 640))


@pytest.mark.parametrize(
    ("name", "count", "model"),
    [
        ("", 5, "plumb_bob"),
        ("radtan", 4, "plumb_bob"),
        ("Brown Conrady", 5, "plumb_bob"),
        ("plumb_bob", 8, "rational_polynomial"),
        ("rational_polynomial", 5, "plumb_bob"),
        ("fisheye", 4, "equidistant"),
        ("Kannala Brandt4", 4, "equidistant"),
        ("kannala-brandt", 4, "equidistant"),
    ],
)
def test_distortion_models_by_their_other_names(name, count, model):
    d = [0.01 * (i + 1) for i in range(count)]
    expected = Camera(500, 510, 320, 240, tuple(d), model)
    assert camera_from_info(info(d=d, distortion_model=name), (480, 640)) == expected
    filled_up = camera_from_info(info(d=[*d, 0.0], distortion_model=name), (480, 640))
    assert filled_up.distortion_model == model
    assert filled_up.distortion[:count] == tuple(d)
    assert not any(filled_up.distortion[count:])


@pytest.mark.parametrize(("name", "count"), [("equidistant", 4), ("fisheye", 4), ("equidistant", 5)])
def test_a_fisheye_without_coefficients_is_no_pinhole(name, count):
    camera = camera_from_info(info(d=[0.0] * count, distortion_model=name), (480, 640))
    assert camera == Camera(500, 510, 320, 240, (0.0,) * 4, "equidistant")
    ray = camera.unproject(np.array([[820.0, 240.0]]), np.ones(1))[0]
    assert ray[0] == pytest.approx(np.tan(1.0))  # a focal length from the axis is one radian
    assert camera_from_info(info(distortion_model=name), (480, 640)) == Camera(500, 510, 320, 240)


@pytest.mark.parametrize("name", ["double_sphere", "omnidirectional", "FOV", "eucm"])
@pytest.mark.parametrize("d", [[], [0.0, 0.0]])
def test_a_lens_that_is_no_pinhole_is_refused_without_coefficients_too(name, d):
    with pytest.raises(MessageError, match=rf"the distortion model '{name}' with {len(d)} coefficients; expected"):
        camera_from_info(info(d=d, distortion_model=name), (480, 640))


def test_a_camera_without_distortion_is_none_of_any_model():
    for model in ("equidistant", "plumb_bob", "rational_polynomial"):
        camera = Camera(500, 510, 320, 240, (), model)
        assert camera_from_info(CameraInfo(**camera_info_fields(camera, (480, 640))), (480, 640)) == Camera(
            500, 510, 320, 240
        )


# of image_pipeline's calibration tests: a lens whose rectified picture has quite another focal length
RAW_K = [290.050152, 0.0, 399.938345, 0.0, 289.392837, 273.885669, 0.0, 0.0, 1.0]
RECTIFIED_P = [80.425769, 0.0, 287.422318, 0.0, 0.0, 80.243507, 32.874135, 0.0, 0.0, 0.0, 1.0, 0.0]
LENS = [-0.030464, -0.019695, 0.002098, 0.001030]


def test_a_rectified_image_has_the_camera_of_p():
    msg = info(800, 503, k=RAW_K, p=RECTIFIED_P, d=LENS, distortion_model="plumb_bob")
    raw, rectified = (camera_from_info(msg, (503, 800), rectified) for rectified in (False, True))
    assert raw == Camera(290.050152, 289.392837, 399.938345, 273.885669, tuple(LENS))
    assert rectified == Camera(80.425769, 80.243507, 287.422318, 32.874135)
    assert camera_from_info(msg, (1006, 1600), True) == rectified.scaled(2.0)
    msg.distortion_model = "mystery"  # of no interest where distortion was taken out
    assert camera_from_info(msg, (503, 800), True) == rectified


def test_a_rectified_image_without_p():
    assert camera_from_info(info(), (480, 640), rectified=True) == Camera(500, 510, 320, 240)  # no lens: K is P
    with pytest.raises(MessageError, match="fx = 0, fy = 0, cx = 0, cy = 0 in P: the camera is not calibrated"):
        camera_from_info(info(d=LENS, distortion_model="plumb_bob"), (480, 640), rectified=True)
    with pytest.raises(MessageError, match=r"in K: the camera is not calibrated; P is given: is the image rectified\?"):
        camera_from_info(info(k=[0.0] * 9, p=RECTIFIED_P), (480, 640))


@pytest.mark.parametrize(
    ("topic", "is_rectified"),
    [
        ("/camera/image_rect", True),
        ("/camera/image_rect_color/compressed", True),
        ("/zed/rgb/color/rect/image", True),
        ("/left/image_rectified", True),
        ("/camera/image_raw", False),
        ("/camera/direct/image", False),
        ("/camera/unrectified/image", False),
    ],
)
def test_topics_of_rectified_images(topic, is_rectified):
    assert is_rectified_topic(topic) == is_rectified


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (480, 640), (640, 400)])
def test_a_calibration_of_another_part_of_the_view_is_refused(width, height):
    with pytest.raises(MessageError, match=rf"image of {width}x{height} px, this one has 640x480 px"):
        camera_from_info(info(width, height), (480, 640))


@pytest.mark.parametrize(
    ("width", "height", "size"), [(1920, 1080, (1088, 1920)), (1280, 720, (45, 80)), (0, 0, (7, 9))]
)
def test_a_calibration_of_nearly_the_same_view_is_scaled(width, height, size):
    camera = camera_from_info(info(width, height), size)
    assert camera.fx == pytest.approx(500 * size[1] / (width or size[1]))
    assert camera.fy == pytest.approx(510 * size[0] / (height or size[0]))


@pytest.mark.parametrize(
    ("focal", "size", "expected"),
    [
        (1e308, (4800, 6400), "cannot be used"),
        (5e-324, (48, 64), "cannot be used"),
        (1e30, (480, 640), r"focal length of 1e\+30 px for an image of 640x480 px; the camera is not calibrated"),
        (1.0, (480, 640), "focal length of 1 px.*expected 6.4 to 640000 px"),
    ],
)
def test_a_calibration_of_impossible_focal_length(focal, size, expected):
    with pytest.raises(MessageError, match=expected):
        camera_from_info(info(k=[focal, 0.0, 320.0, 0.0, focal, 240.0, 0.0, 0.0, 1.0]), size)
