"""Pictures, folders, videos, pipes and bags that `spd ask` and `spd view` look at, and the camera of each."""

import os
import re
import threading

import cv2
import pytest
from support.photographs import F35, PIXELS, SIZE, photograph, records, video

from spd_cli.sources import about_the_camera, pictures
from spd_core import Camera
from spd_core.data.bag import BagFrame
from spd_core.data.bag_writing import write_bag
from spd_core.errors import SPDError
from spd_core.intrinsics import KnownCamera
from spd_core.names import IMAGE_TOPIC


@pytest.mark.parametrize("name", ["2026-11-30T12:30:05.mkv", "file:v.mkv", "100%d.mkv"])
def test_names_of_videos_are_no_addresses(tmp_path, monkeypatch, name):
    video(tmp_path / "v.mkv")
    (tmp_path / "v.mkv").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(pictures([name]))) == 3


def test_a_path_goes_through_links(tmp_path, monkeypatch):
    """Where a link and .. stand in it, what it names is not what is left without them."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    video(tmp_path / "real" / "v.avi")
    monkeypatch.chdir(tmp_path)
    assert len(list(pictures(["link/../v.avi"]))) == 3


def test_a_damaged_video_is_read_on_and_told(tmp_path, spd):
    video(tmp_path / "a.avi", 30)
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
        captured = spd("ask", file, "20,30", "--fov", "60", "--json")
        assert len(captured.out.splitlines()) == count
        assert (f"{file}: {count} of 30 pictures could be read; it is damaged" in captured.err) == (count < 30)


def test_a_video_of_a_changing_rate_is_whole(tmp_path, spd):
    """Matroska announces its length times its nominal rate, which phones and screen recorders rarely reach."""
    video(tmp_path / "v.mkv", 30)
    content = (tmp_path / "v.mkv").read_bytes()
    duration = bytes.fromhex("23e38384")  # DefaultDuration, of four bytes: ns
    assert content.count(duration + (10**8).to_bytes(4, "big")) == 1
    (tmp_path / "v.mkv").write_bytes(
        content.replace(duration + (10**8).to_bytes(4, "big"), duration + (10**7).to_bytes(4, "big"))
    )
    assert cv2.VideoCapture(str(tmp_path / "v.mkv")).get(cv2.CAP_PROP_FRAME_COUNT) == 300
    captured = spd("ask", tmp_path / "v.mkv", "20,30", "--fov", "60", "--json")
    assert len(captured.out.splitlines()) == 30
    assert "damaged" not in captured.err


def test_a_bag_stays_one_with_the_report_of_its_replay_in_it(tmp_path, spd):
    write_bag(tmp_path / "bag", [BagFrame(10**9, PIXELS[..., ::-1], None, Camera(100, 100, 60, 40), [])])
    cv2.imwrite(str(tmp_path / "bag" / "report.png"), PIXELS)
    assert "focal length 100 px" in spd("ask", tmp_path / "bag", "20,30").out
    assert "focal length 100 px" in spd("ask", tmp_path / "bag", "20,30", "--image", IMAGE_TOPIC).out
    for what, message in (
        (tmp_path / "bag", "/rear/image_raw"),
        (photograph(tmp_path / "p.jpg"), "--image /rear/image_raw is a topic of a bag, and "),
    ):
        assert message in spd("ask", what, "20,30", "--image", "/rear/image_raw", code=1).err


def test_a_video_has_the_camera_beside_it_and_no_exif(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    video(tmp_path / "in" / "v.avi")
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


@pytest.mark.parametrize("content", ["picture", "words"])
def test_a_pipe_is_read_once(tmp_path, spd, content):
    os.mkfifo(tmp_path / "p.jpg")
    data = photograph(tmp_path / "q.jpg").read_bytes() if content == "picture" else b"hello"
    threading.Thread(target=(tmp_path / "p.jpg").write_bytes, args=[data], daemon=True).start()
    said = spd("ask", tmp_path / "p.jpg", "9,9", code=int(content != "picture"))
    if content == "picture":
        assert "nothing says the focal length" in " ".join(said.out.split())
    else:
        assert "p.jpg is a pipe or a device, and gave nothing that can be read" in " ".join(said.err.split())


def test_a_fisheye_is_not_so_wide_as_its_focal_length_says(embedded):
    frame = embedded.encode(PIXELS, Camera(100, 100, 63.5, 47.5))
    fisheye = Camera(100, 100, 63.5, 47.5, (0.1, 0, 0, 0), "equidistant")
    assert about_the_camera(KnownCamera(fisheye, "a file"), frame).startswith("focal length 100 px, from a file")


def test_a_picture_may_have_the_name_of_a_pixel_or_an_address(tmp_path, monkeypatch, spd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "https:").mkdir()
    photograph(tmp_path / "p.jpg").rename("320x240")
    photograph(tmp_path / "https:" / "p.jpg")
    found = records(spd("ask", "320x240", "https://p.jpg", "20,30", "--json"))
    assert [record["image"] for record in found] == ["320x240", "https://p.jpg"]
