"""`spd ask`: a photograph, a question, metres."""

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
from support.photographs import PIXELS, SIZE, photograph

from spd_cli import main
from spd_cli.parser import gathered
from spd_cli.sources import about_the_camera, pictures
from spd_cli.viewing import view
from spd_core import Camera, Predictor
from spd_core.data.bag import BagFrame
from spd_core.data.bag_writing import write_bag
from spd_core.errors import SPDError
from spd_core.intrinsics import KnownCamera
from spd_core.names import IMAGE_TOPIC
from spd_core.pictures import draw_overlay

F35 = 0xA405  # tag of EXIF


def spd(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["spd", "ask", *map(str, arguments)])
    main()


def records(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


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


def test_the_calibration_of_another_mode_is_taken_and_doubted(tmp_path, monkeypatch, capsys):
    """640x480 and 1280x720 of one webcam; refused only where width and height say the same size."""
    spd(monkeypatch, photograph(tmp_path / "p.jpg"), "--camera", "50,50,31.5,17.5")
    assert "but the optical axis at 31.5,17.5 px is far" in " ".join(capsys.readouterr().out.split())


def test_the_picture_is_as_it_is_shown(tmp_path, monkeypatch, capsys):
    """A phone held upright writes the sensor's rows and a note to turn them."""
    spd(monkeypatch, photograph(tmp_path / "p.jpg", {F35: 26}, orientation=6), "--grid", "2x3", "--json")
    (record,) = records(capsys)
    assert record["size"] == [96, 128]
    assert record["focal_px"] == pytest.approx(26 * 160 / 43.267, rel=1e-3)
    assert len(record["points"]) == 6
    assert record["points"][0]["u"] == pytest.approx(23.5)
    assert record["points"][0]["v"] == pytest.approx(128 / 6 - 0.5)


def test_why_exif_is_not_taken_is_said(tmp_path, monkeypatch, capsys):
    spd(monkeypatch, photograph(tmp_path / "p.jpg", {F35: 26, 0xA002: 640, 0xA003: 640}), "20,30")
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing says the focal length (EXIF is of 640x640 px, and this picture of 128x96 px was cut out of" in said
    assert "it): 104 px (63 degrees wide) is assumed; --fov or --camera tells it. " in said
    assert said.endswith("Without it there is no x y z.")


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
    picture = tmp_path / "\N{CAMERA WITH FLASH} \x7f\x85\ufffe.png"
    cv2.imwrite(str(picture), pixels)
    spd(monkeypatch, "--fov", 60, "--json", "--", picture, "5,0", "-.5,0")
    (record,) = records(capsys)
    assert record["size"] == list(pixels.shape[1::-1])
    assert [point["status"] for point in record["points"]] == ["OK", "OK"]
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


def recorded(file, count=3):
    video = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE[::-1])
    for _ in range(count):
        video.write(PIXELS)
    video.release()


@pytest.mark.parametrize("name", ["2026-11-30T12:30:05.mkv", "file:v.mkv", "100%d.mkv"])
def test_names_of_videos_are_no_addresses(tmp_path, monkeypatch, name):
    recorded(tmp_path / "v.mkv")
    (tmp_path / "v.mkv").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(pictures([name]))) == 3


def test_a_damaged_video_is_read_on_and_told(tmp_path, monkeypatch, capsys):
    recorded(tmp_path / "a.avi", 30)
    whole = (tmp_path / "a.avi").read_bytes()
    frames = [match.start() for match in re.finditer(b"00dc", whole)][:30]
    damaged = bytearray(whole)
    for start in frames[10:13]:
        size = int.from_bytes(whole[start + 4 : start + 8], "little")
        damaged[start + 8 : start + 8 + size] = bytes(size)
    # Of one that is cut off, FFmpeg leaves out the last picture, whole or not.
    for name, content, count in (("a", whole, 30), ("b", bytes(damaged), 27), ("c", whole[: frames[15]], 14)):
        file = tmp_path / f"{name}.avi"
        file.write_bytes(content)
        spd(monkeypatch, file, "20,30", "--fov", "60", "--json")
        captured = capsys.readouterr()
        assert len(captured.out.splitlines()) == count
        assert (f"{file}: {count} of 30 pictures could be read; it is damaged" in captured.err) == (count < 30)


def test_a_video_of_a_changing_rate_is_whole(tmp_path, monkeypatch, capsys):
    """Matroska announces its length times its nominal rate, which phones and screen recorders rarely reach."""
    recorded(tmp_path / "v.mkv", 30)
    content = (tmp_path / "v.mkv").read_bytes()
    duration = bytes.fromhex("23e38384")  # DefaultDuration, of four bytes: ns
    assert content.count(duration + (10**8).to_bytes(4, "big")) == 1
    (tmp_path / "v.mkv").write_bytes(
        content.replace(duration + (10**8).to_bytes(4, "big"), duration + (10**7).to_bytes(4, "big"))
    )
    assert cv2.VideoCapture(str(tmp_path / "v.mkv")).get(cv2.CAP_PROP_FRAME_COUNT) == 300
    spd(monkeypatch, tmp_path / "v.mkv", "20,30", "--fov", "60", "--json")
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 30
    assert "damaged" not in captured.err


def test_a_bag_stays_one_with_the_report_of_its_replay_in_it(tmp_path, monkeypatch, capsys):
    write_bag(tmp_path / "bag", [BagFrame(10**9, PIXELS[..., ::-1], None, Camera(100, 100, 60, 40), [])])
    cv2.imwrite(str(tmp_path / "bag" / "report.png"), PIXELS)
    spd(monkeypatch, tmp_path / "bag", "20,30")
    assert "focal length 100 px" in capsys.readouterr().out
    spd(monkeypatch, tmp_path / "bag", "20,30", "--image", IMAGE_TOPIC)
    assert "focal length 100 px" in capsys.readouterr().out
    for what, message in (
        (tmp_path / "bag", "/rear/image_raw"),
        (photograph(tmp_path / "p.jpg"), "--image /rear/image_raw is a topic of a bag, and "),
    ):
        with pytest.raises(SystemExit):
            spd(monkeypatch, what, "20,30", "--image", "/rear/image_raw")
        assert message in capsys.readouterr().err


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
    (tmp_path / "o" / "x.png").write_bytes(before)
    spd(monkeypatch, tmp_path / "b" / "x.jpg", "--out", tmp_path / "o", "--json")
    assert sorted(file.name for file in (tmp_path / "o").iterdir()) == ["x.png", "x_2.png", "x_3.png"]
    assert (tmp_path / "o" / "x.png").read_bytes() == before
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
def test_a_pipe_is_read_once(tmp_path, monkeypatch, capsys, content):
    os.mkfifo(tmp_path / "p.jpg")
    data = photograph(tmp_path / "q.jpg").read_bytes() if content == "picture" else b"hello"
    threading.Thread(target=(tmp_path / "p.jpg").write_bytes, args=[data], daemon=True).start()
    with nullcontext() if content == "picture" else pytest.raises(SystemExit):
        spd(monkeypatch, tmp_path / "p.jpg", "9,9")
    said = capsys.readouterr()
    if content == "picture":
        assert "nothing says the focal length" in " ".join(said.out.split())
    else:
        assert "p.jpg is a pipe or a device, and gave nothing that can be read" in " ".join(said.err.split())


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
def test_what_cannot_be_answered_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    photograph(tmp_path / "p.jpg")
    for name in ("notes.txt", "notes.mp4"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "empty.png").touch()
    for name in ("half.ppm", "half.dat"):
        (tmp_path / name).write_bytes(cv2.imencode(".ppm", PIXELS)[1].tobytes()[:-9999])
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (tmp_path / "empty folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        spd(monkeypatch, *arguments)
    assert stop.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error)


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
        (["5,5", "--camera", "519"], "camera 519 cannot be opened: there is none; --camera takes fx,fy,cx,cy in px, a"),
        (["https://a.org/b.jpg"], "https://a.org/b.jpg is an address; expected a file: save what is there, and name"),
        (["file:///b.jpg", "5,5"], "file:///b.jpg is an address; expected a file"),
        (["", "5,5"], "expected the name of a picture, a folder, a video or a bag, got ''"),
    ],
)
def test_words_that_name_no_picture_are_told_before_an_answer(tmp_path, monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        spd(monkeypatch, photograph(tmp_path / "p.jpg"), *arguments)
    said = capsys.readouterr()
    assert (stop.value.code, said.out) == (1, "")
    assert said.err.startswith(f"error: {message}")
    assert said.err.count("\n") == 1


def test_a_picture_may_have_the_name_of_a_pixel_or_an_address(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "https:").mkdir()
    photograph(tmp_path / "p.jpg").rename("320x240")
    photograph(tmp_path / "https:" / "p.jpg")
    spd(monkeypatch, "320x240", "https://p.jpg", "20,30", "--json")
    assert [record["image"] for record in records(capsys)] == ["320x240", "https://p.jpg"]


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(20):
        cv2.imwrite(str(folder / f"{i}.png"), PIXELS)
    command = [sys.executable, "-m", "spd_cli", "ask", str(folder), "--grid", "40x40", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
        asking.stdout.readline()
        asking.stdout.close()
        assert asking.stderr.read() == b""
    assert asking.returncode == 141


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
