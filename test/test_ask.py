"""`spd ask`: a photograph, a question, metres; and where the focal length of a photograph comes from."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features
from PIL.TiffImagePlugin import IFDRational

from spd_cli import main
from spd_cli.parser import gathered
from spd_cli.sources import about_the_camera, pictures
from spd_cli.viewing import view
from spd_core import Camera, Predictor
from spd_core.data.bag import BagFrame
from spd_core.data.bag_writing import write_bag
from spd_core.data.images import TURNED, read_colour
from spd_core.data.rgbd import RGBDFolder
from spd_core.errors import SPDError
from spd_core.intrinsics import IntrinsicsError, KnownCamera, camera_of_picture, read_calibration
from spd_core.pictures import draw_overlay

SIZE = (96, 128)
F35, MM, ACROSS, DOWN, PER_UNIT, UNIT, ORIENTATION = 0xA405, 0x920A, 0xA002, 0xA003, 0xA20E, 0xA210, 0x0112
PIXELS = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)


def photograph(file, exif=(), size=SIZE, orientation=None):
    """A JPEG as a camera writes it. `exif`: what it says in the Exif directory."""
    picture, tags = Image.fromarray(cv2.resize(PIXELS, size[::-1])), Image.Exif()
    if orientation:
        tags[ORIENTATION] = orientation
    tags.get_ifd(0x8769).update(dict(exif))
    picture.save(file, exif=tags, quality=95)
    return file


def spd(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["spd", "ask", *map(str, arguments)])
    main()


def records(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


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
    for content, fault in (("0.9 0.9 64 48", "not mm"), ("200 200 127.5 95.5", "of a 256x192 picture")):
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
    size = read_colour(file, TURNED).shape[:2]
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
        pytest.param(OF_ROS + "distortion_model:\nd: [0.1, -0.2, 0, 0, 0]\n", BENT, id="no model"),
        pytest.param(OF_OPENCV, BENT, id="OpenCV"),
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
        ("camera_matrix:\n", "it has the keys camera_matrix; expected camera_matrix, image_width and image_height"),
        (
            OF_ROS + "distortion_model: 3\nd: [0.1]\n",
            "the distortion model '3' with 1 coefficients; expected plumb_bob",
        ),
        ("[" * 2000, "is text that begins with .*; expected four numbers fx fy cx cy in px, or the YAML"),
    ],
)
def test_calibrations_that_say_no_camera_say_what_they_have(tmp_path, content, fault):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(IntrinsicsError, match=rf"c\.yaml.* {fault}"):
        read_calibration(tmp_path / "c.yaml", SIZE)


@pytest.mark.skipif(not (features.check("avif") and cv2.haveImageWriter("p.avif")), reason="libraries without AVIF")
@pytest.mark.parametrize("orientation", [1, 2, 3, 6])
def test_camera_txt_is_turned_with_no_picture_that_is_not(tmp_path, orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    smooth = cv2.resize(PIXELS[:6, :8], SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    Image.fromarray(smooth).save(tmp_path / "p.avif", exif=tags, quality=95)
    rgb = read_colour(tmp_path / "p.avif", TURNED)
    assert np.abs(rgb.astype(float) - smooth).mean() < 10
    (tmp_path / "camera.txt").write_text("100 110 50 52")
    assert camera_of_picture(tmp_path / "p.avif", rgb.shape[:2]).camera == Camera(100, 110, 50, 52)


@pytest.mark.parametrize(
    ("told", "fov_deg", "message"),
    [
        ("1,2,3", None, "expected fx,fy,cx,cy in px, or a file, got '1,2,3'"),
        ("-1,2,3,4", None, "positive focal lengths"),
        ("100,100,900,40", None, "optical axis of 100,100,900,40 is at 900,40, outside the picture of 128x96"),
        ("200,200,127.5,95.5", None, "like the calibration of a 256x192 picture, .* 128x96 px; .* times 0.5"),
        ("50,50,31.5,23.5", None, "at 31.5,23.5: it looks like the calibration of a 64x48 picture"),
        ("none.yaml", None, "none.yaml does not exist"),
        ("1," * 200, None, "expected fx,fy,cx,cy in px, or a file, got '1,1,"),
        ("90,91,50,40", 60.0, "not both"),
        (None, 0.0, "1 to 170 degrees, got 0"),
        (
            "0.9,0.9,64,48",
            None,
            "focal length of 0.9,0.9,64,48 is 0.9 px .* 128x96 px; expected .* not mm: 1.28 to",
        ),
        ("tabs.txt", None, "optical axis of .*tabs.txt is at 900,40, outside the picture of 128x96"),
    ],
)
def test_a_camera_that_cannot_be_is_named(tmp_path, monkeypatch, told, fov_deg, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tabs.txt").write_text("100\t100\t900\t40\n")
    with pytest.raises(ValueError, match=message):
        camera_of_picture(tmp_path / "p.jpg", SIZE, told, fov_deg)


def test_answers_are_the_predictors_in_a_table_and_in_json(tmp_path, monkeypatch, capsys):
    file = photograph(tmp_path / "p.jpg")
    points = np.array([[20, 30], [100.5, 60.25]])
    rgb = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    expected = (
        Predictor.load("embedded", "cpu", runtime="torch").encode(rgb, Camera(100, 100, 63.5, 47.5)).answer(points)
    )
    spd(monkeypatch, file, "20,30", "100.5,60.25", "--camera", "100,100,63.5,47.5", "--json")
    (record,) = records(capsys)
    assert (record["size"], record["focal_px"], record["focal_from"]) == (
        [128, 96],
        100,
        "the intrinsics 100,100,63.5,47.5",
    )
    for i, point in enumerate(record["points"]):
        assert [point["u"], point["v"]] == list(points[i])
        assert point["status"] == "OK"
        np.testing.assert_allclose(point["depth_m"], expected.depth_m[i], atol=1e-4)
        np.testing.assert_allclose(point["sigma_m"], expected.sigma_m[i], atol=1e-4)
        np.testing.assert_allclose(point["xyz_m"], expected.xyz_m[i], atol=1e-4)
    spd(monkeypatch, file, "20,30", "--fov=65.2")
    said = capsys.readouterr().out
    assert "focal length 100 px (65 degrees wide), from an angle of view of 65.2 degrees" in said
    assert f"{expected.depth_m[0]:.2f}" in said
    spd(monkeypatch, file)
    assert "nothing says the focal length" in (said := capsys.readouterr().out)
    assert " 63 " in said


def test_the_picture_is_as_it_is_shown(tmp_path, monkeypatch, capsys):
    """A phone held upright writes the sensor's rows and a note to turn them."""
    spd(monkeypatch, photograph(tmp_path / "p.jpg", {F35: 26}, orientation=6), "--grid", "2x3", "--json")
    (record,) = records(capsys)
    assert record["size"] == [96, 128]
    assert record["focal_px"] == pytest.approx(26 * 160 / 43.267, rel=1e-3)
    assert len(record["points"]) == 6
    assert record["points"][0]["u"] == pytest.approx(23.5)
    assert record["points"][0]["v"] == pytest.approx(128 / 6 - 0.5)


@pytest.mark.parametrize("kind", ["grey", "16 bit", "RGBA", "20 megapixels", "portrait", "flat"])
def test_pictures_of_every_kind_are_answered(tmp_path, monkeypatch, capsys, kind):
    pixels = {
        "grey": PIXELS[..., 0],
        "16 bit": PIXELS.astype(np.uint16) * 257,
        "RGBA": np.dstack([PIXELS, PIXELS[..., 0]]),
        "20 megapixels": np.zeros((3648, 5472, 3), np.uint8),
        "portrait": PIXELS.transpose(1, 0, 2),
        "flat": PIXELS[:8],
    }[kind]
    cv2.imwrite(str(tmp_path / "p.png"), pixels)
    spd(monkeypatch, tmp_path / "p.png", "5,0", "--fov", 60, "--json")
    (record,) = records(capsys)
    assert record["size"] == list(pixels.shape[1::-1])
    assert record["points"][0]["depth_m"] > 0


def test_folders_videos_and_written_pictures(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.jpg", "a.png", "._a.png", "a.depth.png"):
        cv2.imwrite(str(folder / name), PIXELS)
    (folder / "notes.txt").write_text("20,30")
    spd(monkeypatch, folder, "20,30", "--out", tmp_path / "out", "--json")
    assert [record["image"] for record in records(capsys)] == [str(folder / name) for name in ("a.png", "b.jpg")]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert cv2.imread(str(tmp_path / "out" / "a.png")).shape == PIXELS.shape

    recorded(tmp_path / "v.avi")
    spd(monkeypatch, tmp_path / "v.avi", "20,30", "700,30", "--frames", "2", "--fov", "60")
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("focal length 111 px (60 degrees wide), from an angle of view of 60 degrees")
    assert [line.split()[1] for line in lines] == ["#0", "#1"]
    assert all("20,30: " in line and " ± " in line and line.endswith("700,30: none") for line in lines)


def recorded(file):
    video = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE[::-1])
    for _ in range(3):
        video.write(PIXELS)
    video.release()


def test_a_video_has_the_camera_beside_it_and_no_exif(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    recorded(tmp_path / "in" / "v.avi")
    (tmp_path / "camera.txt").write_text("50 50 60 40")  # of the folder that one is in
    monkeypatch.chdir(tmp_path)
    assert {picture.known_camera(SIZE, None, None, {}).camera for picture in pictures(["in/v.avi"])} == {None}
    (tmp_path / "in" / "camera.txt").write_text("100 100 60 40")
    stream = pictures(["in/v.avi"])
    first = next(stream)
    (tmp_path / "in" / "camera.txt").unlink()  # it is read once
    for picture in (first, *stream):
        known = picture.known_camera(SIZE, None, None, {})
        assert (known.camera, known.source) == (Camera(100, 100, 60, 40), "in/camera.txt")
    for content, fault in (("0.9 0.9 60 40", "not mm"), ("200 200 127.5 95.5", "calibration of a 256x192 picture")):
        (tmp_path / "in" / "camera.txt").write_text(content)
        picture = next(pictures(["in/v.avi"]))
        with pytest.raises(SPDError, match=rf"in/camera\.txt .*{fault}"):
            picture.known_camera(SIZE, None, None, {})
        assert picture.known_camera(SIZE, "100,100,60,40", None, {}).camera == Camera(100, 100, 60, 40)


def test_one_camera_is_of_pictures_of_one_size(tmp_path):
    """Numbers in px are; an angle of view, EXIF and the YAML of a calibration are of each picture."""
    files = [
        photograph(tmp_path / f"{i}.jpg", {F35: 26}, (width * 3 // 4, width)) for i, width in enumerate((128, 112))
    ]
    (tmp_path / "ost.yaml").write_text(
        "{image_width: 128, image_height: 96, camera_matrix: {data: [100, 0, 63.5, 0, 100, 47.5, 0, 0, 1]}}"
    )

    def ask_both(told=None, fov_deg=None):
        sizes = {}
        for picture in pictures(map(str, files)):
            picture.known_camera(picture.read().shape[:2], told, fov_deg, sizes)

    ask_both()
    ask_both(fov_deg=60)
    ask_both(str(tmp_path / "ost.yaml"))
    with pytest.raises(SPDError, match=r"1\.jpg is 112x84 px and a picture before it 128x96 px: the intrinsics 100,1"):
        ask_both("100,100,63.5,47.5")
    (tmp_path / "camera.txt").write_text("100 100 63.5 47.5")
    with pytest.raises(SPDError, match=r"1\.jpg is 112x84 px .*camera\.txt cannot be of both"):
        ask_both()


def test_no_picture_takes_the_place_of_another(tmp_path, monkeypatch, capsys):
    for name in ("a/x.png", "b/x.jpg"):
        (tmp_path / name).parent.mkdir()
        cv2.imwrite(str(tmp_path / name), PIXELS)
    before = (tmp_path / "a" / "x.png").read_bytes()
    spd(monkeypatch, tmp_path / "a" / "x.png", tmp_path / "b" / "x.jpg", "--out", tmp_path / "o", "--json")
    assert sorted(file.name for file in (tmp_path / "o").iterdir()) == ["x.png", "x_2.png"]
    for arguments in (
        [tmp_path / "a", "--out", tmp_path / "a"],
        [tmp_path / "a/x.png", "--out", tmp_path / "b/../a/x.png"],
        [tmp_path / "b/x.jpg", tmp_path / "a/x.png", "--out", tmp_path / "a"],
    ):
        with pytest.raises(SystemExit):
            spd(monkeypatch, *arguments, "--json")
        assert "x.png, which is asked about or beside that; expected" in " ".join(capsys.readouterr().err.split())
        assert (tmp_path / "a" / "x.png").read_bytes() == before


def test_a_name_that_nobody_gave_replaces_no_picture(tmp_path, monkeypatch, capsys):
    """Into the folder of a.jpg go names that its user did not choose."""
    cv2.imwrite(str(tmp_path / "a.png"), PIXELS)
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(SystemExit):
        spd(monkeypatch, photograph(tmp_path / "a.jpg"), "--out", tmp_path, "--json")
    assert "a.png, which is asked about or beside that; expected another place" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == before
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        spd(monkeypatch, "a.jpg", "--out", "", "--json")
    assert "expected the name of a file or a folder, got ''" in capsys.readouterr().err
    for _ in range(2):  # a name that was given may be given again
        spd(monkeypatch, "a.jpg", "--out", "b.png", "--json")


def test_a_broken_picture_does_not_end_the_others(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photograph(folder / name)
    (folder / "b.jpg").write_bytes(b"hello")
    with pytest.raises(SystemExit) as stop:
        spd(monkeypatch, folder, "20, 30", "--json")  # of which the shell makes one word
    said = capsys.readouterr()
    assert stop.value.code == 1
    answered = [json.loads(line) for line in said.out.splitlines()]
    assert [record["image"] for record in answered] == [str(folder / name) for name in ("a.jpg", "c.jpg")]
    assert [(point["u"], point["v"]) for record in answered for point in record["points"]] == [(20, 30)] * 2
    broken, last = said.err.strip().splitlines()
    assert broken.startswith(f"error: {folder / 'b.jpg'} ")
    assert last == "error: 1 of 3 pictures were not answered; the reasons are above"


def test_a_picture_is_written_into_a_folder_that_is_there(tmp_path, monkeypatch, capsys):
    (tmp_path / "o").mkdir()
    spd(monkeypatch, photograph(tmp_path / "p.jpg"), "--out", tmp_path / "o", "--json")
    assert cv2.imread(str(tmp_path / "o" / "p.png")).shape == PIXELS.shape
    capsys.readouterr()
    with pytest.raises(SystemExit):
        spd(monkeypatch, tmp_path / "p.jpg", "--out", tmp_path / "o.xyz")
    said = capsys.readouterr()
    assert "o.xyz has no suffix of a picture" in " ".join(said.err.split())
    assert said.out == "", "said before an answer, which would be lost"


@pytest.mark.parametrize("suffix", [".pbm", ".exr"])  # black and white alone; in OpenCV, but switched off
def test_a_format_that_holds_no_colour_is_refused_before_an_answer(tmp_path, monkeypatch, capsys, suffix):
    with pytest.raises(SystemExit):
        spd(monkeypatch, photograph(tmp_path / "p.jpg"), "--out", tmp_path / f"o{suffix}", "--json")
    said = capsys.readouterr()
    assert f"o{suffix} has no suffix of a picture in colour" in " ".join(said.err.split())
    assert said.out == ""


@pytest.mark.parametrize("content", ["picture", "words"])
def test_a_pipe_is_read_once(tmp_path, content):
    os.mkfifo(tmp_path / "p.jpg")
    data = photograph(tmp_path / "q.jpg").read_bytes() if content == "picture" else b"hello"
    code = (
        f"from spd_cli import main; import sys; sys.argv = ['spd', 'ask', {str(tmp_path / 'p.jpg')!r}, '9,9']; main()"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    (tmp_path / "p.jpg").write_bytes(data)  # once the other end is open
    try:
        said, error = asking.communicate(timeout=200)
    finally:
        asking.kill()
    if content == "picture":
        assert b"nothing says the focal length" in said, error
    else:
        assert b"p.jpg is a pipe or a device, and gave nothing that can be read" in error


def test_a_name_that_is_no_text_is_named(monkeypatch, capsys):
    for arguments in ([os.fsdecode(b"b\xff.jpg"), "9,9"], ["p.jpg", "--camera", os.fsdecode(b"b\xff.txt")]):
        with pytest.raises(SystemExit) as stop:
            spd(monkeypatch, *arguments)
        assert stop.value.code == 1
        said = capsys.readouterr().err
        assert re.fullmatch(r"error: the name b\\udcff\.\w+ is not UTF-8; expected one that is: rename it\n", said)


def test_a_pixel_outside_a_picture_is_told_whatever_comes_after_it(tmp_path, monkeypatch, capsys):
    recorded(tmp_path / "v.avi")
    with pytest.raises(SystemExit):
        spd(monkeypatch, photograph(tmp_path / "p.jpg"), "1e999,3", tmp_path / "v.avi", "--frames", "1", "--json")
    said = capsys.readouterr()
    assert "no such pixel: inf,3 of" in said.err
    for line in said.out.splitlines():
        point = json.loads(line, parse_constant=pytest.fail)["points"][0]
        assert (point["u"], point["v"], point["depth_m"]) == (None, 3, None)


def test_a_fisheye_is_not_so_wide_as_its_focal_length_says(tmp_path):
    frame = Predictor.load("embedded", "cpu", runtime="torch").encode(PIXELS, Camera(100, 100, 63.5, 47.5))
    fisheye = Camera(100, 100, 63.5, 47.5, (0.1, 0, 0, 0), "equidistant")
    assert about_the_camera(KnownCamera(fisheye, "a file"), frame).startswith("focal length 100 px, from a file")


def test_help_and_flags_take_no_picture(monkeypatch, capsys):
    words = gathered(["view", "--browser", "p.jpg", "--node", "q.jpg", "--browser", "false", "-h"], view)
    assert words == ["view", '["p.jpg", "q.jpg"]', "--browser=true", "--node=true", "--browser", "false", "-h"]
    with pytest.raises(SystemExit) as stop:
        spd(monkeypatch, "-h")
    assert stop.value.code == 0
    assert "usage: spd" in capsys.readouterr().out


def test_a_bag_is_asked_frame_by_frame_with_its_own_camera(tmp_path, monkeypatch, capsys):
    frames = [BagFrame((1 + i) * 10**9, PIXELS, None, Camera(100, 100, 63.5, 47.5), []) for i in range(3)]
    write_bag(tmp_path / "bag", frames)
    spd(monkeypatch, tmp_path / "bag", "20,30", "--frames", "2", "--json")
    from_bag = records(capsys)
    assert [(record["focal_px"], record["focal_from"]) for record in from_bag] == [(100, "the bag's camera_info")] * 2
    cv2.imwrite(str(tmp_path / "p.png"), PIXELS[..., ::-1])
    spd(monkeypatch, tmp_path / "p.png", "20,30", "--camera", "100,100,63.5,47.5", "--json")
    assert from_bag[0]["points"] == records(capsys)[0]["points"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["p.jpg", "128,5", "3,3"], "no such pixel: 128,5 of .*, which is 128x96 px; u is 0 to 127, v 0 to 95"),
        (["p.jpg", "1e,5"], "pixels are u,v, say 320,240; got 1e,5"),
        (["p.jpg", "--grid", "8"], "a grid is columns x rows, say 8x6, .*got '8'"),
        (["20,30"], "no picture was named"),
        (["p.jpg", "10", "20"], "pixels are u,v: did you mean 10,20?"),
        (["p.jpg", "10.5,", "20"], "pixels are u,v: did you mean 10.5,20?"),
        (["p.jpg", "--frames", "0"], "frames must be positive, got 0"),
        (["20240131120000", "20,30"], "20240131120000 does not exist"),
        (["x" * 300, "20,30"], r"x cannot be opened \(File name too long\)"),
        (["none.jpg", "20,30"], r"none\.jpg does not exist"),
        (["notes.txt", "20,30"], "is text that begins with 'hello'"),
        (["empty.png", "20,30"], "is empty"),
        (["photo.heic", "20,30"], "is a HEIC file: save it as JPEG or PNG"),
        (["empty folder", "20,30"], "has no pictures"),
        (["none.mp4", "20,30"], r"none\.mp4 does not exist"),
        (["notes.mp4", "20,30"], "is text that begins with 'hello'; OpenCV reads no picture from it"),
        (["--camera", "97", "20,30"], "camera 97 cannot be opened"),
    ],
)
def test_what_cannot_be_answered_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    photograph(tmp_path / "p.jpg")
    for name in ("notes.txt", "notes.mp4"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (tmp_path / "empty folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        spd(monkeypatch, *arguments)
    assert stop.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(20):
        cv2.imwrite(str(folder / f"{i}.png"), PIXELS)
    asking = subprocess.Popen(
        [sys.executable, "-m", "spd_cli", "ask", str(folder), "--grid", "40x40", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    asking.stdout.readline()
    asking.stdout.close()
    assert asking.stderr.read() == b""
    assert asking.wait() == 141


def test_many_points_are_drawn_without_looking_for_room_for_all(tmp_path, monkeypatch):
    asked, put = [], cv2.getTextSize
    monkeypatch.setattr(cv2, "getTextSize", lambda *what: asked.append(what) or put(*what))
    spd(monkeypatch, photograph(tmp_path / "p.jpg"), "--grid", "50x50", "--out", tmp_path / "o.png", "--json")
    assert 100 < len(asked) < 1000


def test_labels_cover_neither_each_other_nor_the_scale_bar(monkeypatch):
    written, put = [], cv2.putText

    def note(picture, text, at, font, scale, colour, *rest):
        if colour == (255, 255, 255):
            (w, h), _ = cv2.getTextSize(text, font, scale, 1)
            written.append((text, at[0], at[1] - h, at[0] + w, at[1]))
        return put(picture, text, at, font, scale, colour, *rest)

    monkeypatch.setattr(cv2, "putText", note)
    uv = np.array([[u, v] for u in range(10, 640, 30) for v in range(10, 480, 22)], float)
    draw_overlay(
        np.zeros((480, 640, 3), np.uint8), uv, np.linspace(1, 5, len(uv)), labels=len(uv), caption="scale 1.02"
    )
    assert len(written) > 100
    assert [text for text, *_ in written[:4]] == ["5.0 m", "3.0 m", "1.0 m", "scale 1.02"]
    for i, (text, left, top, right, bottom) in enumerate(written):
        assert left >= 0, text
        assert right <= 640, text
        for _, other_left, other_top, other_right, other_bottom in written[:i]:
            assert left >= other_right or right <= other_left or top >= other_bottom or bottom <= other_top, text
        if i > 3:
            assert right <= 570 or top >= 180, text  # the bar
