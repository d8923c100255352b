"""What a bag's messages become: damaged ones, calibrations, coded depth."""

import warnings

import cv2
import numpy as np
import pytest
from support import recorded
from support.bags import COLOUR, DEPTH, INFO, TOPICS, frames_of
from support.recorded import CAMERA, T0_NS, depth_mm, image, info, picture, stamp, usual

from spd_core.data.bag import Bag, find_topics, read_frames
from spd_core.data.samples import DataError
from spd_core.data.serialised import TYPES
from spd_core.data.topics import Topics


def test_an_empty_first_image_costs_itself_alone(tmp_path):
    nothing = image(stamp(0) - 10**9, picture(0), "rgb8")
    nothing.height = nothing.width = nothing.step = 0
    nothing.data = np.empty(0, np.uint8)
    path = recorded.write(tmp_path / "bag", [(COLOUR, stamp(0) - 10**9, nothing), *usual(4)])
    frames, _ = frames_of(path)
    assert len([frame for frame in frames if frame.depth_m is not None]) == 4


def test_a_damaged_message_costs_itself(tmp_path):
    messages = list(usual(6))
    spoiled = {(COLOUR, 1): "rgb8", (DEPTH, 3): "16UC1"}
    for i, (topic, log_ns, message) in enumerate(messages):
        number = (log_ns - T0_NS) // 10**8
        if (topic, number) in spoiled:
            message.data = message.data[:-5]
        if (topic, number) == (INFO, 4):
            messages[i] = (topic, log_ns, (recorded.INFO, bytes(TYPES.serialize_cdr(message, recorded.INFO))[:40]))
    frames, said = frames_of(recorded.write(tmp_path / "bag", messages), 5)
    assert [(f.stamp_ns - T0_NS) // 10**8 for f in frames] == [0, 2, 3, 4, 5]
    assert [f.depth_m is None for f in frames] == [False, False, True, False, False]
    assert all(f.camera == CAMERA for f in frames)
    assert len(said) == 3
    text = "\n".join(said)
    assert f"left out: 1 Image messages on {COLOUR}; the first at 1700000000.100 s: image data has" in text
    assert f"left out: 1 Image messages on {DEPTH}; the first at 1700000000.300 s: image data has" in text
    assert f"left out: 1 CameraInfo messages on {INFO}; the first at 1700000000.400 s: 40 bytes are no" in text


@pytest.mark.parametrize(
    "fields",
    [
        {"k": [0.0] * 9, "p": [0.0] * 12, "d": [], "distortion_model": ""},
        {"distortion_model": "double_sphere", "d": [0.1, 0.2]},
        {"k": [float("nan")] * 9},
        {"height": 0, "width": 0, "k": [0.0] * 9},
    ],
)
def test_a_calibration_that_cannot_be_used_leaves_frames_without_a_camera(tmp_path, fields):
    frames, said = frames_of(recorded.write(tmp_path / "bag", usual(4, **fields)), 4)
    assert all(f.camera is None and f.depth_m is not None for f in frames)
    assert len(said) == 1
    assert f"left out: 4 CameraInfo messages on {INFO}; the first at 1700000000.000 s: camera_info has" in said[0]


def test_a_rectified_image_takes_p(tmp_path):
    rectified = [55.0, 0, 30, 0, 0, 56, 22, 0, 0, 0, 1, 0]
    messages = [("/cam/image_rect", stamp(0), image(stamp(0), picture(), "rgb8"))]
    messages.append(("/cam/camera_info", stamp(0), info(stamp(0), p=rectified, d=[0.1, 0, 0, 0, 0])))
    path = recorded.write(tmp_path / "bag", messages)
    [frame] = read_frames(path, find_topics(path))
    assert (frame.camera.fx, frame.camera.fy, frame.camera.cx, frame.camera.cy) == (55, 56, 30, 22)
    assert frame.camera.distortion == ()


def test_read_frames_warns_of_what_is_left_out(tmp_path):
    messages = list(usual(3))
    messages[1][2].data = messages[1][2].data[:-1]
    path = recorded.write(tmp_path / "bag", messages)
    with pytest.warns(UserWarning, match=rf"{path}: left out: 1 Image messages on {COLOUR}"):
        assert len(list(read_frames(path, TOPICS))) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read_frames(recorded.write(tmp_path / "good", usual(3)), TOPICS))) == 3


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("16UC1; compressedDepth png", lambda d: bytes(12) + recorded.png(d)),
        ("16UC1; compressedDepth", lambda d: bytes(12) + recorded.png(d)),
        ("16UC1; compressedDepth rvl", recorded.rvl_message),
        ("16UC1; png compressed ", recorded.png),
    ],
)
def test_compressed_depth_is_read(tmp_path, form, data):
    topic = DEPTH + ("/compressedDepth" if "Depth" in form else "/compressed")
    messages = [m for m in usual(3) if m[0] != DEPTH]
    messages += [(topic, stamp(i), recorded.compressed(stamp(i), form, data(depth_mm(i)))) for i in range(3)]
    path = recorded.write(tmp_path / "bag", sorted(messages, key=lambda m: m[1]))
    topics = find_topics(path)
    assert topics.depth == topic
    for i, frame in enumerate(read_frames(path, topics)):
        np.testing.assert_allclose(frame.depth_m, depth_mm(i) / 1000, atol=1e-6)


def test_depth_that_went_through_jpeg_is_refused_in_a_line(tmp_path):
    jpeg = cv2.imencode(".jpg", (depth_mm() / 256).astype(np.uint8))[1].tobytes()
    topic = f"{DEPTH}/compressed"
    messages = [m for m in usual(1) if m[0] != DEPTH]
    messages.append((topic, stamp(0), recorded.compressed(stamp(0), "16UC1; jpeg compressed mono8", jpeg)))
    with Bag(recorded.write(tmp_path / "bag", messages)) as bag:
        choice = bag.choose()
        assert choice.topics.depth is None
        assert choice.expects_depth
        [line] = [line for line in choice.lines if line.startswith("not depth")]
        assert f"{topic} (mono8 64x48, 1): mono8 holds no metres" in line
        with pytest.raises(DataError, match="8-bit images and JPEG hold no metres"):
            bag.choose(depth=topic)
        frame = next(bag.frames(Topics(COLOUR, topic)))
        assert frame.depth_m is None
        assert "JPEG and 8-bit PNG lose it" in bag.left_out()[0]


def test_a_message_may_be_shorter_than_its_header(tmp_path):
    short = (recorded.IMAGE, b"\0\1\0\0" + bytes(3))
    _, said = frames_of(recorded.write(tmp_path / "bag", [*usual(3), (COLOUR, stamp(9), short)]), 3)
    assert f"left out: 1 Image messages on {COLOUR}; the first at 1700000000.900 s: 7 bytes are no" in said[0]
