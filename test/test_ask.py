"""`spd ask`: a photograph, a question, metres."""

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from support.photographs import F35, PIXELS, photograph, records, video

from spd_core import Camera
from spd_core.data.bag import BagFrame
from spd_core.data.bag_writing import write_bag


def test_answers_are_the_predictors_in_a_table_and_in_json(embedded, tmp_path, spd):
    file = photograph(tmp_path / "p.jpg")
    points = np.array([[20, 30], [100.5, 60.25]])
    rgb = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    expected = embedded.encode(rgb, Camera(100, 100, 63.5, 47.5)).answer(points)
    (record,) = records(spd("ask", file, "20,30", "100.5,60.25", "--camera", "100,100,63.5,47.5", "--json"))
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
    said = spd("ask", file, "20,30", "--fov=65.2").out
    assert "focal length 100 px (65 degrees wide), from an angle of view of 65.2 degrees" in said
    assert f"{expected.depth_m[0]:.2f}" in said
    assert "nothing says the focal length" in (said := spd("ask", file).out)
    assert " 63 " in said


def test_the_calibration_of_another_mode_is_taken_and_doubted(tmp_path, spd):
    """640x480 and 1280x720 of one webcam; refused only where width and height say the same size."""
    said = spd("ask", photograph(tmp_path / "p.jpg"), "--camera", "50,50,31.5,17.5").out
    assert "but the optical axis at 31.5,17.5 px is far" in " ".join(said.split())
    said = spd("ask", tmp_path / "p.jpg", "--camera", "50,50,31.5,17.5", "--json")
    assert len(records(said)) == 1
    assert "warning: " in said.err
    assert "p.jpg: the optical axis at 31.5,17.5 px is far" in said.err


@pytest.mark.parametrize("grid", ["2x3", "2,3"])
def test_the_picture_is_as_it_is_shown(tmp_path, spd, grid):
    """A phone held upright writes the sensor's rows and a note to turn them."""
    (record,) = records(spd("ask", photograph(tmp_path / "p.jpg", {F35: 26}, orientation=6), "--grid", grid, "--json"))
    assert record["size"] == [96, 128]
    assert record["focal_px"] == pytest.approx(26 * 160 / 43.267, rel=1e-3)
    assert len(record["points"]) == 6
    assert record["points"][0]["u"] == pytest.approx(23.5)
    assert record["points"][0]["v"] == pytest.approx(128 / 6 - 0.5)


def test_why_exif_is_not_taken_is_said(tmp_path, spd):
    file = photograph(tmp_path / "p.jpg", {F35: 26, 0xA002: 640, 0xA003: 640})
    said = " ".join(spd("ask", file, "20,30").out.split())
    assert "nothing says the focal length (EXIF is of 640x640 px, and this picture of 128x96 px was cut out of" in said
    assert "it): 104 px (63 degrees wide) is assumed; --fov or --camera tells it. " in said
    assert said.endswith("Without it there is no x y z.")


@pytest.mark.parametrize("kind", ["grey", "16 bit", "RGBA", "20 megapixels", "portrait", "flat"])
def test_pictures_of_every_kind_are_answered(tmp_path, spd, kind):
    pixels = {
        "grey": PIXELS[..., 0],
        "16 bit": PIXELS.astype(np.uint16) * 257,
        "RGBA": np.dstack([PIXELS, PIXELS[..., 0]]),
        "20 megapixels": np.zeros((3648, 5472, 3), np.uint8),
        "portrait": PIXELS.transpose(1, 0, 2),
        "flat": PIXELS[:8],
    }[kind]
    picture = tmp_path / "\N{CAMERA WITH FLASH} \x7f\x85\ufffe.png"
    cv2.imwrite(str(picture), pixels)
    (record,) = records(spd("ask", "--fov", 60, "--json", "--", picture, "5,0", "-.5,0"))
    assert record["size"] == list(pixels.shape[1::-1])
    assert [point["status"] for point in record["points"]] == ["OK", "OK"]
    assert record["points"][0]["depth_m"] > 0


def test_folders_videos_and_written_pictures(tmp_path, spd):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.jpg", "a.png", "._a.png", "a.depth.png"):
        cv2.imwrite(str(folder / name), PIXELS)
    (folder / "notes.txt").write_text("20,30")
    found = records(spd("ask", folder, "20,30", "--out", tmp_path / "out", "--json"))
    assert [record["image"] for record in found] == [str(folder / name) for name in ("a.png", "b.jpg")]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert cv2.imread(str(tmp_path / "out" / "a.png")).shape == PIXELS.shape

    video(tmp_path / "v.avi")
    first, *lines = spd("ask", tmp_path / "v.avi", "20,30", "700,30", "--frames", "2", "--fov", "60").out.splitlines()
    assert first.startswith("focal length 111 px (60 degrees wide), from an angle of view of 60 degrees")
    assert [line.split()[1] for line in lines] == ["#0", "#1"]
    assert all("20,30: " in line and " ± " in line and line.endswith("700,30: none") for line in lines)


def test_no_picture_takes_the_place_of_another(tmp_path, spd, failing):
    for name in ("a/x.png", "b/x.jpg"):
        (tmp_path / name).parent.mkdir()
        cv2.imwrite(str(tmp_path / name), PIXELS)
    before = (tmp_path / "a" / "x.png").read_bytes()
    spd("ask", tmp_path / "a" / "x.png", tmp_path / "b" / "x.jpg", "--out", tmp_path / "o", "--json")
    assert sorted(file.name for file in (tmp_path / "o").iterdir()) == ["x.png", "x_2.png"]
    (tmp_path / "o" / "x.png").write_bytes(before)
    spd("ask", tmp_path / "b" / "x.jpg", "--out", tmp_path / "o", "--json")
    assert sorted(file.name for file in (tmp_path / "o").iterdir()) == ["x.png", "x_2.png", "x_3.png"]
    assert (tmp_path / "o" / "x.png").read_bytes() == before
    for arguments in (
        [tmp_path / "a", "--out", tmp_path / "a"],
        [tmp_path / "a/x.png", "--out", tmp_path / "b/../a/x.png"],
        [tmp_path / "b/x.jpg", tmp_path / "a/x.png", "--out", tmp_path / "a"],
    ):
        said = failing("ask", *arguments, "--json")
        assert "x.png, which is asked about or beside that; expected" in said
        assert (tmp_path / "a" / "x.png").read_bytes() == before


def test_a_name_that_nobody_gave_replaces_no_picture(tmp_path, monkeypatch, spd, failing):
    """Into the folder of a.jpg go names that its user did not choose."""
    cv2.imwrite(str(tmp_path / "a.png"), PIXELS)
    before = (tmp_path / "a.png").read_bytes()
    said = failing("ask", photograph(tmp_path / "a.jpg"), "--out", tmp_path, "--json")
    assert "a.png, which is asked about or beside that; expected another place" in said
    assert (tmp_path / "a.png").read_bytes() == before
    monkeypatch.chdir(tmp_path)
    assert "expected the name of a file or a folder, got ''" in failing("ask", "a.jpg", "--out", "", "--json", code=2)
    for _ in range(2):  # a name that was given may be given again
        spd("ask", "a.jpg", "--out", "b.png", "--json")


def test_a_broken_picture_does_not_end_the_others(tmp_path, spd):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photograph(folder / name)
    (folder / "b.jpg").write_bytes(b"hello")
    said = spd("ask", folder, "20, 30", "--json", code=1)  # of which the shell makes one word
    answered = records(said)
    assert [record["image"] for record in answered] == [str(folder / name) for name in ("a.jpg", "c.jpg")]
    assert [(point["u"], point["v"]) for record in answered for point in record["points"]] == [(20, 30)] * 2
    broken, last = said.err.strip().splitlines()
    assert broken.startswith(f"error: {folder / 'b.jpg'} ")
    assert last == "error: 1 of 3 pictures were not answered; the reasons are above"


def test_a_picture_is_written_into_a_folder_that_is_there(tmp_path, spd):
    (tmp_path / "o").mkdir()
    spd("ask", photograph(tmp_path / "p.jpg"), "--out", tmp_path / "o", "--json")
    assert cv2.imread(str(tmp_path / "o" / "p.png")).shape == PIXELS.shape


# No format; one of black and white alone; one that is in OpenCV, but switched off.
@pytest.mark.parametrize("suffix", [".xyz", ".pbm", ".exr"])
def test_a_format_that_holds_no_colour_is_refused_before_an_answer(tmp_path, spd, suffix):
    said = spd("ask", photograph(tmp_path / "p.jpg"), "--out", tmp_path / f"o{suffix}", "--json", code=1)
    assert f"o{suffix} has no suffix of a picture in colour" in said.err
    assert said.out == "", "said before an answer, which would be lost"


def test_a_pixel_outside_a_picture_is_told_whatever_comes_after_it(tmp_path, spd):
    video(tmp_path / "v.avi")
    said = spd("ask", photograph(tmp_path / "p.jpg"), "1e999,3", tmp_path / "v.avi", "--frames", "1", "--json", code=1)
    assert "no such pixel: inf,3 of" in said.err
    for line in said.out.splitlines():
        point = json.loads(line, parse_constant=pytest.fail)["points"][0]
        assert (point["u"], point["v"], point["depth_m"]) == (None, 3, None)


def test_a_bag_is_asked_frame_by_frame_with_its_own_camera(tmp_path, spd):
    frames = [BagFrame((1 + i) * 10**9, PIXELS, None, Camera(100, 100, 63.5, 47.5), []) for i in range(3)]
    write_bag(tmp_path / "bag", frames)
    from_bag = records(spd("ask", tmp_path / "bag", "20,30", "--frames", "2", "--json"))
    assert [(record["focal_px"], record["focal_from"]) for record in from_bag] == [(100, "the bag's camera_info")] * 2
    assert [record["frame"] for record in from_bag] == [0, 1]
    cv2.imwrite(str(tmp_path / "p.png"), PIXELS[..., ::-1])
    [of_file] = records(spd("ask", tmp_path / "p.png", "20,30", "--camera", "100,100,63.5,47.5", "--json"))
    assert from_bag[0]["points"] == of_file["points"]


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
        (["half.ppm", "20,30"], r"half\.ppm is damaged, or was not written or copied to its end \([\d,]+ bytes\)"),
        (["half.dat", "20,30"], r"half\.dat is a PNM picture; it cannot be decoded"),
        (["photo.heic", "20,30"], "is a HEIC file: save it as JPEG or PNG"),
        (["empty folder", "20,30"], "has no pictures"),
        (["none.mp4", "20,30"], r"none\.mp4 does not exist"),
        (["notes.mp4", "20,30"], "is text that begins with 'hello'; OpenCV reads no picture from it"),
        (["--camera", "97", "20,30"], "camera 97 cannot be opened"),
        (["97", "20,30"], "camera 97 cannot be opened: there is none"),
    ],
)
def test_what_cannot_be_answered_is_one_line(tmp_path, monkeypatch, failing, arguments, message):
    photograph(tmp_path / "p.jpg")
    for name in ("notes.txt", "notes.mp4"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "empty.png").touch()
    for name in ("half.ppm", "half.dat"):
        (tmp_path / name).write_bytes(cv2.imencode(".ppm", PIXELS)[1].tobytes()[:-9999])
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (tmp_path / "empty folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert re.search(message, failing("ask", *arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["320x240"], "pixels are u,v; got '320x240', did you mean 320,240?"),
        (["(320,240)"], "pixels are u,v; got '(320,240)', did you mean 320,240?"),
        (["320;240"], "pixels are u,v; got '320;240', did you mean 320,240?"),
        (["320 , 240"], "pixels are u,v; got '320 , 240', did you mean 320,240?"),
        (["[.5, -1e2]"], "pixels are u,v; got '[.5, -1e2]', did you mean .5,-1e2?"),
        (["5,5", "320,240,1"], "pixels are u,v, two numbers, say 320,240; got '320,240,1'"),
        (["nan,5"], "pixels are u,v, two numbers, say 320,240; got 'nan,5'"),
        (["5,-INF"], "pixels are u,v, two numbers, say 320,240; got '5,-INF'"),
        (
            ["5,5", "--camera", "519"],
            "camera 519 cannot be opened: there is none, and no file of that name; cameras to look",
        ),
        (["https://a.org/b.jpg"], "https://a.org/b.jpg is an address; expected a file: save what is there, and name"),
        (["file:///b.jpg", "5,5"], "file:///b.jpg is an address; expected a file"),
        (["", "5,5"], "expected the name of a picture, a folder, a video or a bag, got ''"),
    ],
)
def test_words_that_name_no_picture_are_told_before_an_answer(tmp_path, spd, arguments, message):
    said = spd("ask", photograph(tmp_path / "p.jpg"), *arguments, code=1)
    assert said.out == ""
    assert said.err.startswith(f"error: {message}")
    assert said.err.count("\n") == 1


def test_many_points_are_drawn_without_looking_for_room_for_all(tmp_path, monkeypatch, spd):
    asked, put = [], cv2.getTextSize
    monkeypatch.setattr(cv2, "getTextSize", lambda *what: asked.append(what) or put(*what))
    spd("ask", photograph(tmp_path / "p.jpg"), "--grid", "50x50", "--out", tmp_path / "o.png", "--json")
    assert 100 < len(asked) < 1000


def test_of_a_damaged_picture_our_line_alone_is_said(tmp_path):
    """OpenCV writes lines of its own past Python's streams."""
    (tmp_path / "p.tif").write_bytes(b"II*\0" + b"a" * 12)
    command = [sys.executable, "-m", "spd_cli", "ask", tmp_path / "p.tif", "3,3", "--fov", "60"]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stderr
    assert re.fullmatch(r"error: .*p\.tif is damaged or of another format .*\n", said), said
