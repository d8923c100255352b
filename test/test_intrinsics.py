"""Where the focal length of a photograph comes from: what is told, camera.txt, calibrations, EXIF."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import IFDRational
from support.photographs import F35, ORIENTATION, SIZE, photograph

from spd_core import Camera
from spd_core.data.images import read_colour
from spd_core.data.rgbd import RGBDFolder
from spd_core.intrinsics import IntrinsicsError, camera_of_picture, read_calibration

MM, ACROSS, DOWN, PER_UNIT, UNIT = 0x920A, 0xA002, 0xA003, 0xA20E, 0xA210
ZOOM, RENDERED = 0xA404, 0xA401


# By hand: f35 * diagonal / 43.267 mm, or f * px per mm. What is in the file is smaller; its tags are those of a camera.
@pytest.mark.parametrize(
    ("exif", "taken_at", "focal_px"),
    [
        pytest.param({MM: 5.7, F35: 26}, (3024, 4032), 3028.7, id="phone, 4:3"),
        pytest.param({MM: 6.81, F35: 24}, (4080, 3072), 2832.9, id="phone, portrait"),
        pytest.param({MM: 2.2, F35: 13}, (3000, 4000), 1502.3, id="phone, ultra-wide"),
        pytest.param({MM: 35, F35: 35}, (4016, 6016), 5851.2, id="full frame"),
        pytest.param({MM: 16, F35: 24, ACROSS: 6000, DOWN: 4000}, (1000, 1500), 1000.0, id="APS-C, made smaller"),
        pytest.param({MM: 3, F35: 15}, (3000, 4000), 1733.4, id="action camera"),
        pytest.param(
            {MM: 50, PER_UNIT: IFDRational(5472000, 899), UNIT: 2, ACROSS: 5472, DOWN: 3648},
            (3648, 5472),
            11981.8,
            id="SLR, px per inch",
        ),
        pytest.param(
            {MM: 7.4, PER_UNIT: 1422.2, UNIT: 3, ACROSS: 1024, DOWN: 768}, (768, 1024), 1052.4, id="px per cm"
        ),
        pytest.param(
            {MM: 50, PER_UNIT: IFDRational(5472000, 899), UNIT: 2, ACROSS: 5472, DOWN: 3648},
            (1824, 2736),
            5990.9,
            id="SLR, made smaller",
        ),
        pytest.param({MM: 7.4, F35: 0, PER_UNIT: 142.22, UNIT: 4}, (768, 1024), 1052.4, id="no equivalent, px per mm"),
        pytest.param({MM: 7.4, PER_UNIT: 142.22, UNIT: 4, ZOOM: 2}, (768, 1024), 2104.9, id="zoomed by its pixels"),
        pytest.param({MM: 7.4, PER_UNIT: 142.22, UNIT: 4, ZOOM: 0}, (768, 1024), 1052.4, id="not zoomed"),
        pytest.param({MM: 7.4, PER_UNIT: 142.22, UNIT: 4, ACROSS: 1024}, (768, 1024), 1052.4, id="its width alone"),
        pytest.param({MM: 5.7, F35: 0}, (3024, 4032), None, id="no sensor size"),
        pytest.param({F35: 60000}, (3024, 4032), None, id="nonsense"),
        pytest.param({}, (3024, 4032), None, id="nothing"),
    ],
)
def test_focal_lengths_of_exif_are_those_by_hand(tmp_path, exif, taken_at, focal_px):
    file = photograph(tmp_path / "p.jpg", exif, (24, 32))
    known = camera_of_picture(file, taken_at)
    if focal_px is None:
        assert (known.camera, known.source) == (None, "nothing")
    else:
        assert known.camera.focal_px == pytest.approx(focal_px, rel=1e-3)
        assert (known.camera.cx, known.camera.cy) == ((taken_at[1] - 1) / 2, (taken_at[0] - 1) / 2)
        assert known.source.startswith("EXIF (")


# Of a picture of 4:3 or 16:9 as a camera takes it; sizes are (height, width), as they are looked at.
@pytest.mark.parametrize(
    ("exif_size", "size", "is_told"),
    [
        ((480, 640), (160, 160), False),
        ((480, 640), (160, 240), False),
        ((480, 640), (240, 160), False),
        ((480, 640), (360, 640), False),
        ((480, 640), (480, 640), True),
        ((480, 640), (240, 320), True),
        ((480, 640), (640, 480), True),  # turned, when it is shown or by a program that left its tags
        ((640, 480), (240, 320), True),
        ((480, 640), (960, 1280), True),
        ((3024, 4032), (95, 127), True),
        ((2268, 4032), (1080, 1920), True),
        ((2250, 4000), (1088, 1920), True),  # rows in multiples of 16
        ((4000, 6000), (107, 160), True),
        ((4000, 6000), (120, 160), False),
        ((0, 640), (160, 160), True),
        ((None, None), (160, 160), True),
    ],
)
@pytest.mark.parametrize("tags", [{F35: 26}, {MM: 40, PER_UNIT: 142.22, UNIT: 4}])
def test_exif_of_a_picture_that_was_cut_out_of_another_says_no_focal_length(tmp_path, tags, exif_size, size, is_told):
    sizes = {tag: number for tag, number in zip((DOWN, ACROSS), exif_size) if number is not None}
    known = camera_of_picture(photograph(tmp_path / "p.jpg", tags | sizes), size)
    assert (known.camera is not None) == is_told
    if not is_told:
        (down, across), (height, width) = exif_size, size
        whole, part = f"{across}x{down} px", f"{width}x{height} px"
        assert known.source == f"nothing (EXIF is of {whole}, and this picture of {part} was cut out of it)"


@pytest.mark.parametrize(
    ("tags", "size", "is_told"),
    [
        ({}, (3000, 12000), False),
        ({}, (12000, 3000), False),
        ({RENDERED: 6}, (3000, 7000), False),
        ({RENDERED: 1}, (3000, 7000), True),  # one shot, in the shape of a cinema's
    ],
)
def test_exif_of_a_panorama_says_no_focal_length(tmp_path, tags, size, is_told):
    known = camera_of_picture(photograph(tmp_path / "p.jpg", {F35: 26, **tags}, (24, 32)), size)
    assert (known.camera is not None) == is_told
    assert ("a panorama" in known.source) != is_told


def test_exif_of_a_sphere_says_no_focal_length(tmp_path):
    file = photograph(tmp_path / "p.jpg", {F35: 26}, (32, 64))
    assert camera_of_picture(file, (32, 64)).camera is not None
    with Image.open(file) as picture:
        xmp = b'<x:xmpmeta><rdf:Description GPano:ProjectionType="equirectangular"/></x:xmpmeta>'
        picture.save(tmp_path / "sphere.jpg", exif=picture.getexif(), xmp=xmp)
    known = camera_of_picture(tmp_path / "sphere.jpg", (32, 64))
    assert known.camera is None
    assert "a panorama" in known.source


def test_the_size_in_exif_that_says_no_focal_length_is_no_reason(tmp_path):
    known = camera_of_picture(photograph(tmp_path / "p.jpg", {ACROSS: 640, DOWN: 480}), (160, 160))
    assert (known.camera, known.source) == (None, "nothing")


def test_damaged_exif_costs_the_focal_length_alone(tmp_path):
    file = photograph(tmp_path / "p.jpg", {F35: 26})
    raw = bytearray(file.read_bytes())
    for at in range(raw.index(b"Exif") + 6, raw.index(b"Exif") + 40):
        broken = raw.copy()
        broken[at] = 0xFF
        file.write_bytes(broken)
        camera_of_picture(file, SIZE)
    assert camera_of_picture(tmp_path / "none.mp4", SIZE).camera is None


def test_what_is_told_comes_before_camera_txt_and_that_before_exif(tmp_path):
    file = photograph(tmp_path / "p.jpg", {F35: 26})
    assert "EXIF" in camera_of_picture(file, SIZE).source
    (tmp_path / "camera.txt").write_text("100 101 60 40")
    assert camera_of_picture(file, SIZE).camera == Camera(100, 101, 60, 40)
    assert camera_of_picture(file, SIZE, "90,91,50,40").camera == Camera(90, 91, 50, 40)
    assert camera_of_picture(file, SIZE, fov_deg=90).camera.fx == pytest.approx(64)


def test_camera_txt_of_another_picture_is_refused_as_what_is_told_is(tmp_path):
    file = photograph(tmp_path / "p.jpg")
    for content, fault in (
        ("0.9 0.9 64 48", "not mm"),
        ("200 200 127.5 95.5", "of a 256x192 picture"),
        ("100 100 47.5 63.5", "before it was turned"),  # as a program saved it
    ):
        (tmp_path / "camera.txt").write_text(content)
        with pytest.raises(IntrinsicsError, match=rf"camera\.txt .*{fault}"):
            camera_of_picture(file, SIZE)
    (tmp_path / "camera.txt").write_text("100 100 20 70")  # of a part of what the camera saw
    assert camera_of_picture(file, SIZE).camera == Camera(100, 100, 20, 70)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_camera_txt_is_turned_with_the_picture(tmp_path, orientation):
    """A pixel of a data set, which is as it is stored, and of the picture as it is shown has the same ray, turned."""
    file = photograph(tmp_path / "p.jpg", orientation=orientation)
    (tmp_path / "camera.txt").write_text("100 110 60 52")
    (stored,) = (sample.camera for sample in RGBDFolder(tmp_path))
    size = read_colour(file, turned=True).shape[:2]
    shown = camera_of_picture(file, size).camera
    places = Image.fromarray(np.dstack([*np.indices(SIZE)[::-1], np.zeros(SIZE)]).astype(np.uint8))
    places.getexif()[ORIENTATION] = orientation
    turned = np.asarray(ImageOps.exif_transpose(places))  # where each pixel is stored
    for y, x in ((0, 0), (5, 40), (80, 3)):
        rays = shown.unproject(np.array([[x, y]]), np.ones(1)), stored.unproject(turned[y, x][None, :2], np.ones(1))
        np.testing.assert_allclose(*(np.sort(np.abs(ray)) for ray in rays))
    if orientation >= 5:
        (tmp_path / "camera.txt").write_text("110 100 46 66")  # of the picture as it is shown
        assert camera_of_picture(file, size).camera == Camera(110, 100, 46, 66)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_that_is_told_is_turned_as_camera_txt_is(tmp_path, orientation):
    file = photograph(tmp_path / "p.jpg", orientation=orientation)
    size = read_colour(file, turned=True).shape[:2]
    (tmp_path / "camera.txt").write_text("100 110 60 52")
    shown = camera_of_picture(file, size).camera
    (tmp_path / "camera.txt").rename(tmp_path / "told.txt")
    assert camera_of_picture(file, size, str(tmp_path / "told.txt")).camera == shown
    of_stored = OF_ROS + "d: [0, 0, 0.01, 0.02]\n"
    (tmp_path / "c.yaml").write_text(of_stored)
    turned = camera_of_picture(file, size, str(tmp_path / "c.yaml")).camera
    assert sorted(np.abs(turned.distortion)) == [0, 0, 0.01, 0.02]
    assert (abs(turned.distortion[2]) == 0.02) == (orientation >= 5)
    if orientation >= 5:
        of_shown = of_stored.replace("width: 256", "width: 192").replace("ght: 192", "ght: 256")
        (tmp_path / "c.yaml").write_text(of_shown.replace(K, "[200, 0, 95.5, 0, 202, 127.5, 0, 0, 1]"))
        upright = camera_of_picture(file, size, str(tmp_path / "c.yaml")).camera  # it says so
        assert upright == Camera(100, 101, 47.5, 63.5, (0, 0, 0.01, 0.02))


def test_a_calibration_of_ros_is_read_and_scaled(tmp_path):
    (tmp_path / "ost.yaml").write_text(
        "image_width: 256\nimage_height: 192\ncamera_name: front\n"
        "camera_matrix: {rows: 3, cols: 3, data: [200., 0., 127.5, 0., 202., 95.5, 0., 0., 1.]}\n"
        "distortion_model: plumb_bob\ndistortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0., 0., 0.]}\n"
    )
    camera = read_calibration(tmp_path / "ost.yaml", SIZE)
    assert camera == Camera(100, 101, 63.5, 47.5, (0.1, -0.2, 0, 0, 0), "plumb_bob")
    (tmp_path / "tabs.txt").write_text("100\t101\t63.5\t47.5\n")
    assert read_calibration(tmp_path / "tabs.txt", SIZE) == Camera(100, 101, 63.5, 47.5)
    for content in (
        "image_width: .inf",
        "-1 2 3 4",
        "a: [",
        "camera_matrix: 3",
        "1 2 3",
        "<html>",
        "",
        "image_width: 20\ncamera_matrix: {data: [0]}",
    ):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(IntrinsicsError, match=r"bad\.yaml"):
            read_calibration(tmp_path / "bad.yaml", SIZE)


K = "[200, 0, 127.5, 0, 202, 95.5, 0, 0, 1]"
HALF = Camera(100, 101, 63.5, 47.5)
BENT = replace(HALF, distortion=(0.1, -0.2, 0, 0, 0), distortion_model="plumb_bob")
OF_ROS = f"camera_matrix: {{data: {K}}}\nimage_width: 256\nimage_height: 192\n"
OF_OPENCV = f"""%YAML:1.0
---
image_width: 256
image_height: 192
camera_matrix: !!opencv-matrix {{rows: 3, cols: 3, dt: d, data: {K}}}
distortion_coefficients: !!opencv-matrix {{rows: 1, cols: 5, dt: d, data: [0.1, -0.2, 0., 0., 0.]}}
"""
OF_KALIBR = """cam0:
  camera_model: pinhole
  distortion_model: radtan
  distortion_coeffs: [0.1, -0.2, 0, 0]
  intrinsics: [200, 202, 127.5, 95.5]
  resolution: [256, 192]
"""


@pytest.mark.parametrize(
    ("content", "camera"),
    [
        pytest.param(f"width: 256\nheight: 192\nk: {K}\nd: [0.1, -0.2, 0, 0, 0]\n---\n", BENT, id="ros2 topic echo"),
        pytest.param(f"width: 256\nheight: 192\nK: {K}\nD: [0.1, -0.2, 0, 0, 0]\n", BENT, id="ROS 1"),
        pytest.param(
            "width: 512\nheight: 384\nk: [400, 0, 255.5, 0, 404, 191.5, 0, 0, 1]\nbinning_x: 2\nbinning_y: 2\n"
            "roi: {x_offset: 128, y_offset: 96, width: 256, height: 192}\n",
            Camera(200, 202, 63.5, 47.5),
            id="a part, binned",
        ),
        pytest.param(OF_ROS + "distortion_coefficients:\n", HALF, id="no coefficients"),
        pytest.param(
            OF_ROS + "k1: 0.0\np1: 0\nlens_distortion: false\nradial_distortion: {data: [0, 0]}\nd: {k1: 0}\n",
            HALF,
            id="no lens, key by key",
        ),
        pytest.param(
            OF_ROS + "distortion_coefficients: {data: []}\nd: [0.1, -0.2, 0, 0, 0]\n", BENT, id="under another name"
        ),
        pytest.param(OF_ROS + "P1: [1, 2, 3]\n", HALF, id="the first projection of a stereo pair"),
        pytest.param(OF_ROS + "distortion_model:\nd: [0.1, -0.2, 0, 0, 0]\n", BENT, id="no model"),
        pytest.param(OF_OPENCV, BENT, id="OpenCV"),
        pytest.param(
            OF_OPENCV.replace("cols: 5", "cols: 4").replace(", 0.]", "]") + "fisheye_model: 1\n",
            replace(HALF, distortion=(0.1, -0.2, 0, 0), distortion_model="equidistant"),
            id="OpenCV's fisheye",
        ),
        pytest.param(OF_OPENCV + "fisheye_model: 0\n", BENT, id="OpenCV, no fisheye"),
        pytest.param(OF_OPENCV.replace("distortion_coefficients", "dist_coeff"), BENT, id="OpenCV's tutorials"),
        pytest.param(OF_ROS + "dist_coeffs: [[0.1, -0.2, 0, 0, 0]]\n", BENT, id="rows of rows"),
        pytest.param(OF_KALIBR, replace(BENT, distortion=(0.1, -0.2, 0, 0)), id="Kalibr"),
        pytest.param(
            OF_KALIBR.replace("radtan", "equidistant"),
            replace(HALF, distortion=(0.1, -0.2, 0, 0), distortion_model="equidistant"),
            id="Kalibr's fisheye",
        ),
        pytest.param(
            OF_ROS + "distortion_model: equidistant\n",
            replace(HALF, distortion=(0,) * 4, distortion_model="equidistant"),
            id="a fisheye without coefficients",
        ),
    ],
)
def test_calibrations_by_other_names_are_read(tmp_path, content, camera):
    (tmp_path / "c.yaml").write_text(content)
    assert read_calibration(tmp_path / "c.yaml", SIZE) == camera


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (
            "{width: 640, height: 480, fx: 518.0, ppx: 319.5}",
            "it has the keys width, height, fx, ppx; expected camera_ma",
        ),
        (
            "cam0:\n  intrinsics: [518.0, 518.0, 319.5, 239.5]\n",
            "it has the keys cam0; expected camera_matrix, image_wi",
        ),
        (OF_KALIBR + OF_KALIBR.replace("cam0", "cam1"), "it is Kalibr's, of pinhole, pinhole; expected one camera"),
        (
            OF_KALIBR.replace("[200", "[-0.2, 0.6, 200").replace("pinhole", "ds"),
            "it is Kalibr's, of ds; expected one camera, a pinhole with fx fy cx cy",
        ),
        ("camera_matrix:\n", "it has the keys camera_matrix; expected camera_matrix, image_width and image_height"),
        (
            OF_ROS + "distortion_model: 3\nd: [0.1]\n",
            "the distortion model '3' with 1 coefficients; expected plumb_bob",
        ),
        (
            OF_ROS + "distortion: [0.1]\n",
            "it has the key 'distortion'; expected a lens as distortion_coefficients or d",
        ),
        (OF_ROS + "k1: 0.1\nk2: -0.2\n", "it has the key 'k1'; expected a lens as distortion_coefficients or d"),
        (
            OF_ROS + "d: {k1: 0.1, k2: -0.2, p1: 0, p2: 0}\n",
            "it has k1, k2, p1, p2; expected d as a list of numbers",
        ),
        (
            "K: [518.0, 518.0, 319.5, 239.5]",
            r"its camera matrix is \[518.0, .* 239.5\]; expected nine numbers, fx 0 cx",
        ),
        ("K: [200, 20, 127.5, 0, 202, 95.5, 0, 0, 1]", "its camera matrix is .*; expected nine numbers, fx 0 cx 0"),
        ("200 20 127.5 0 202 95.5 0 0 1", "is text that begins with .*; expected four numbers fx fy cx cy in px"),
        ("K: [200, 0, 0, 0, 202, 0, 127.5, 95.5, 1]", "its camera matrix is .*; expected nine numbers, fx 0 cx 0"),
        ("<?xml version='1.0'?>\n<opencv_storage>", "is OpenCV's XML: write it as YAML"),
        ("[" * 2000, "is text that begins with .*; expected four numbers fx fy cx cy in px, or the YAML"),
    ],
)
def test_calibrations_that_say_no_camera_say_what_they_have(tmp_path, content, fault):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(IntrinsicsError, match=rf"c\.yaml.* {fault}"):
        read_calibration(tmp_path / "c.yaml", SIZE)


@pytest.mark.parametrize(
    ("told", "fov_deg", "message"),
    [
        ("1,2,3", None, "expected fx,fy,cx,cy in px, or a file, got '1,2,3'"),
        ("-1,2,3,4", None, "positive focal lengths"),
        ("100,100,900,40", None, "optical axis of 100,100,900,40 is at 900,40, outside the picture of 128x96"),
        ("200,200,127.5,95.5", None, "like the calibration of a 256x192 picture, .* 128x96 px; .* times 0.5"),
        ("50,50,31.5,23.5", None, "at 31.5,23.5: it looks like the calibration of a 64x48 picture"),
        ("100,100,47.5,63.5", None, "at 47.5,63.5, the middle of the picture before it was turned"),
        ("none.yaml", None, "none.yaml does not exist"),
        ("1," * 200, None, "expected fx,fy,cx,cy in px, or a file, got '1,1,"),
        ("90,91,50,40", 60.0, "not both"),
        (None, 0.0, "1 to 170 degrees, got 0"),
        ("0.9,0.9,64,48", None, "focal length of 0.9,0.9,64,48 is 0.9 px .* 128x96 px; expected .* not mm: 1.28 to"),
        ("tabs.txt", None, "optical axis of .*tabs.txt is at 900,40, outside the picture of 128x96"),
    ],
)
def test_a_camera_that_cannot_be_is_named(tmp_path, monkeypatch, told, fov_deg, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tabs.txt").write_text("100\t100\t900\t40\n")
    with pytest.raises(ValueError, match=message):
        camera_of_picture(tmp_path / "p.jpg", SIZE, told, fov_deg)
