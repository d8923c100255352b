"""What an answer is, without topics: which calibration an image has, what a Path is in, what no point at all gets."""

import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from spd_core import Camera
from spd_core.message_fields import camera_info_fields
from spd_core.messages import cloud_to_array
from spd_core.predictor import Answer
from spd_core.status import Status
from spd_ros import diagnostics
from spd_ros.answers import MOST_DRAWN, OVERLAY_PICTURES, REMEMBERED_INFOS, Answers, Calibration, CameraFrame
from spd_ros.conversions import query_cloud, rgb_to_image
from spd_ros.diagnostics import Problems, Statistics
from spd_ros.frames import PendingImage
from spd_ros.parameters import Settings
from spd_ros.scheduler import ANSWER, ENCODE

SIZE = (48, 64)
PICTURE = np.zeros((*SIZE, 3), np.uint8)


def at(stamp_s: int, frame_id: str = "camera") -> Header:
    return Header(frame_id=frame_id, stamp=Time(sec=stamp_s))


class Publisher:
    def __init__(self):
        self.sent = []

    def publish(self, message):
        self.sent.append(message)

    def get_subscription_count(self):
        return 1


class Scaling:
    """Writes down which frames it is told of."""

    def __init__(self):
        self.frames = []

    def scale(self):
        return None

    def on_frame(self, frame, header):
        self.frames.append(header.stamp.sec)


@pytest.fixture
def answers():
    statistics = Statistics()
    problems = Problems(statistics, lambda text: None)
    outputs = {name: Publisher() for name in ("depths", "waypoint_depths", "overlay", "dense")}
    calibration = Calibration("/camera/image_raw", statistics, problems)
    made = Answers(None, outputs, None, Scaling(), Settings(), calibration, statistics, problems)
    made._last_s["dense"] = np.inf  # not due
    return made


def info(stamp_s: int, focal_px: float) -> CameraInfo:
    camera = Camera(focal_px, focal_px, 31.5, 23.5)
    return CameraInfo(header=at(stamp_s), **camera_info_fields(camera, SIZE))


def test_an_image_has_the_calibration_of_its_stamp_else_the_newest(answers):
    """A zoom lens, and images that wait for the encoder while others' camera_infos come."""
    calibration = answers.calibration
    for stamp_s in range(1, REMEMBERED_INFOS + 3):
        calibration.receive(info(stamp_s, 40.0 + stamp_s))
    newest = 40 + REMEMBERED_INFOS + 2
    for stamp_s, focal_px in ((5, 45), (1, newest), (99, newest)):  # the first is no longer known
        assert calibration.camera(at(stamp_s), SIZE, "false").fx == focal_px


def test_a_calibration_that_comes_just_behind_its_image_is_its_own(answers):
    coming, encoded = [], []

    def encode(rgb, camera):
        encoded.append(camera and camera.fx)
        if coming:
            answers.calibration.receive(coming.pop())

    answers.predictor = SimpleNamespace(encode_quietly=encode)
    for stamp_s, focal_px, expected in ((1, 45.0, [None, 45.0]), (2, 90.0, [45.0, 90.0]), (3, 90.0, [90.0])):
        coming.append(info(stamp_s, focal_px))
        answers.encode(PendingImage(stamp_s, rgb_to_image(PICTURE, at(stamp_s))))
        assert encoded == expected
        encoded.clear()
    for stamp_s in (4, 5):
        coming.append(info(stamp_s, 45.0))
        coming[-1].k[0] = 0.0
    answers.calibration.receive(coming.pop(0))
    answers.encode(PendingImage(5, rgb_to_image(PICTURE, at(5))))
    assert answers.statistics.snapshot()["images with a bad camera_info"] == "1"


def test_a_lens_of_a_known_name_is_said_only_where_the_name_is_not_ros_s(answers):
    """plumb_bob and rational_polynomial are one formula: coefficients of the other's number are nothing to warn of."""
    for name, count, told in (("plumb_bob", 8, 0), ("rational_polynomial", 5, 0), ("fisheye", 4, 1)):
        msg = info(1, 45.0)
        msg.distortion_model, msg.d = name, [0.05, 0.01] + [0.0] * (count - 2)
        answers.calibration.receive(msg)
        assert answers.calibration.camera(at(9), SIZE, "false").distortion
        assert len(answers.problems.texts()) == told


def test_a_bad_calibration_leaves_no_word_of_the_good_one(answers):
    for focal_px, is_known in ((45.0, True), (0.0, False)):
        answers.calibration.receive(info(1, 45.0))
        answers.calibration.infos[-1].k[0] = focal_px
        assert (answers.calibration.camera(at(9), SIZE, "false") is not None) == is_known
        assert ("camera" in answers.statistics.snapshot()) == is_known


def test_a_calibration_that_is_gone_leaves_no_word(answers):
    """Of a node that is active again: its statistics stay, what it heard of the camera does not."""
    answers.calibration.receive(info(1, 45.0))
    answers.calibration.camera(at(9), SIZE, "false")
    assert "camera" in answers.statistics.snapshot()
    again = Calibration("/camera/image_raw", answers.statistics, answers.problems)
    assert again.camera(at(9), SIZE, "false") is None
    assert "camera" not in answers.statistics.snapshot()


@pytest.mark.parametrize(
    ("of_info", "of_image", "told"), [("rear", "front", 1), ("front", "front", 0), ("", "front", 0), ("rear", "", 0)]
)
def test_a_calibration_of_another_frame_is_taken_and_told(answers, of_info, of_image, told):
    msg = info(1, 45.0)
    msg.header.frame_id = of_info
    answers.calibration.receive(msg)
    assert answers.calibration.camera(at(1, of_image), SIZE, "false").fx == 45.0
    assert ["'rear', the image of 'front': is it another" in text for text in answers.problems.texts()] == [True] * told


def test_a_calibration_of_another_size_is_taken_and_told(answers):
    """Of a driver that loads the calibration of one mode and fills in the size of another; but not of a part of the
    image, which a region of interest says."""
    twice = info(1, 90.0)
    twice.k[2], twice.k[5] = 63.5, 47.5
    answers.calibration.receive(twice)
    assert answers.calibration.camera(at(1), SIZE, "false").fx == 90.0
    assert ["the calibration of a 128x96 image" in text for text in answers.problems.texts()] == [True]
    part = info(2, 90.0)
    part.k[2], part.k[5], part.width, part.height = 63.5, 47.5, 128, 96
    part.roi.width, part.roi.height = SIZE[1], SIZE[0]
    answers.calibration.receive(part)
    assert answers.calibration.camera(at(2), SIZE, "false").cx == 63.5
    assert answers.problems.texts() == []


def test_a_rectified_image_is_judged_by_its_own_matrix(answers):
    """K of another size, not calibrated, or none; and P of another size."""
    msg = info(1, 45.0)
    for k, fx, told in ((msg.k, 45.0, 0), (msg.k * 2, 45.0, 0), (msg.k * 0, 45.0, 0), (msg.k, 90.0, 1)):
        msg.k = k
        msg.p[0], msg.p[5], msg.p[2], msg.p[6] = fx, fx, 31.5 * fx / 45, 23.5 * fx / 45
        answers.calibration.receive(msg)
        assert answers.calibration.camera(at(1), SIZE, "true").fx == fx
        assert ["calibration of a 127x95 image" in text for text in answers.problems.texts()] == [True] * told
        assert answers.statistics.snapshot()["camera"].startswith("P of camera_info")
    msg.p[:] = 0  # the same as K, says a driver
    msg.d = []
    assert answers.calibration.camera(at(1), SIZE, "true").fx == 45.0
    assert answers.statistics.snapshot()["camera"].startswith("K of camera_info")


@pytest.mark.parametrize(("d", "rectified", "told"), [([], "false", 1), ([0.0] * 4, "false", 0), ([], "true", 0)])
def test_a_fisheye_without_coefficients_is_told(answers, d, rectified, told):
    msg = info(1, 45.0)
    msg.distortion_model, msg.d = "equidistant", d
    answers.calibration.receive(msg)
    assert answers.calibration.camera(at(1), SIZE, rectified) is not None
    assert ["fisheye without coefficients" in text for text in answers.problems.texts()] == [True] * told


@pytest.mark.parametrize(
    ("of_path", "of_poses", "expected"),
    [
        ("map", ["map", "map"], "map"),
        ("map", ["odom", ""], "map"),
        ("", ["odom", "odom"], "odom"),
        ("", ["", ""], ""),
        ("", [], ""),
    ],
)
def test_a_path_is_in_the_frame_that_it_names(answers, of_path, of_poses, expected):
    poses = [PoseStamped(header=Header(frame_id=frame_id)) for frame_id in of_poses]
    query = answers.read_waypoints(Path(header=Header(frame_id=of_path), poses=poses))
    assert query.header.frame_id == expected
    assert query.failure is None


@pytest.mark.parametrize("of_poses", [["map", "odom"], ["map", ""]])
def test_a_path_in_several_frames_has_no_transform(answers, of_poses):
    poses = [PoseStamped(header=Header(frame_id=frame_id)) for frame_id in of_poses]
    query = answers.read_waypoints(Path(poses=poses))
    assert query.failure == Status.NO_TRANSFORM
    answers.refuse(query, query.failure)
    assert cloud_to_array(answers.outputs["waypoint_depths"].sent[0])["status"].tolist() == [Status.NO_TRANSFORM] * 2
    assert "names no frame, and its poses are in" in answers.problems.texts()[0]


def frame_of(stamp_s: int, received_s: float) -> CameraFrame:
    nothing = SimpleNamespace(
        depth_m=np.zeros(0), sigma_m=np.zeros(0), xyz_m=np.zeros((0, 3)), status=np.zeros(0, np.uint8)
    )
    encoded = SimpleNamespace(answer=lambda uv, scale: Answer(**vars(nothing)))
    return CameraFrame(at(stamp_s), weakref.ref(PICTURE), encoded, received_s)


def test_few_pictures_are_held_for_the_overlay_and_none_without_a_listener(answers):
    answers.predictor = SimpleNamespace(encode_quietly=lambda rgb, camera: None)
    for listeners, kept in ((1, OVERLAY_PICTURES), (0, 0)):
        answers.outputs["overlay"].get_subscription_count = lambda: listeners  # noqa: B023 it is asked in this round
        images = [PendingImage(i, rgb_to_image(PICTURE, at(i))) for i in range(2 * OVERLAY_PICTURES)]
        frames = [answers.encode(image) for image in images]
        assert [frame.rgb() is not None for frame in frames] == [False] * (len(frames) - kept) + [True] * kept


def test_a_bad_query_is_told_although_another_client_s_are_good(answers):
    good, bad = query_cloud(np.zeros((1, 2)), at(1)), query_cloud(np.zeros((1, 2)), at(1))
    bad.point_step = 0
    for msg, failure in ((bad, Status.BAD_QUERY), (good, None)):
        assert answers.read_query(msg).failure == failure
        assert len(answers.problems.texts()) == 1


@pytest.mark.parametrize("stamp_ns", [1, 10**9 + 1])
def test_a_query_whose_stamp_is_of_no_image_is_told(answers, stamp_ns):
    """A stamp that was rounded on its way, or is of another clock; before there is an image other things are said."""
    header = Header(stamp=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9))
    query = answers.read_query(query_cloud(np.zeros((1, 2)), header))
    answers.refuse(query, Status.NO_IMAGE)
    assert answers.problems.texts() == []
    answers.on_frame(frame_of(1, 0.0))
    answers.refuse(query, Status.NO_IMAGE)
    apart = "+1e-09" if stamp_ns > 1 else "-1"
    assert f"stamp is {apart} s from that of the newest; expected an image's own, or 0" in answers.problems.texts()[0]


@pytest.mark.parametrize("period_s", [1, 60])
def test_a_problem_is_told_once_at_least_and_then_forgotten(answers, monkeypatch, period_s):
    """Also where diagnostics come seldom."""
    now_s = 1000.0
    monkeypatch.setattr(diagnostics.time, "monotonic", lambda: now_s)
    assert answers.problems.texts() == []
    now_s += 0.5
    answers.problems.report("query", "a bad one")
    told = []
    for _ in range(20):
        now_s += period_s
        told += answers.problems.texts()
    assert told == ["a bad one"] * (9 if period_s == 1 else 1)
    answers.problems.report("query", "a bad one")
    answers.problems.start()
    assert answers.problems.texts() == []


def test_a_query_without_points_has_an_overlay_without_points(answers):
    frame = frame_of(1, 0.0)
    answers.answer(answers.read_query(query_cloud(np.zeros((0, 2)), frame.header)), frame)
    assert len(cloud_to_array(answers.outputs["depths"].sent[0])) == 0
    assert len(answers.outputs["overlay"].sent) == 1
    assert "errors" not in answers.statistics.snapshot()


def test_of_very_many_points_some_are_drawn(answers, monkeypatch):
    drawn, count = [], 200_000
    monkeypatch.setattr("spd_ros.answers.draw_overlay", lambda rgb, uv, depth_m, caption: drawn.append(uv) or rgb)
    nan = np.full((count, 3), np.nan)
    encoded = SimpleNamespace(answer=lambda uv, scale: Answer(nan[:, 0], nan[:, 0], nan, np.zeros(count, np.uint8)))
    frame = CameraFrame(at(1), weakref.ref(PICTURE), encoded, 0.0)
    answers.answer(answers.read_query(query_cloud(np.zeros((count, 2)), frame.header)), frame)
    assert len(cloud_to_array(answers.outputs["depths"].sent[0])) == count
    assert MOST_DRAWN / 2 < len(drawn[0]) <= MOST_DRAWN


def test_the_scale_is_told_of_frames_in_the_order_in_which_they_came(answers):
    """One that a query named is encoded late; its stamp would look like a bag that starts again."""
    for stamp_s, received_s in ((10, 1.0), (20, 3.0), (12, 2.0), (21, 4.0)):
        answers.on_frame(frame_of(stamp_s, received_s))
    assert answers.scaling.frames == [10, 20, 21]


@pytest.mark.parametrize("order", [(ENCODE, ANSWER), (ANSWER, ENCODE)])
def test_answers_take_half_of_the_threads_and_change_those_of_no_other(order):
    """torch keeps the number for each thread; on two cores an answer that waits for both costs twice."""
    before, counts, have_begun = torch.get_num_threads(), {}, threading.Barrier(3)

    def work(name):
        answers.on_start(name)
        have_begun.wait(10)
        have_begun.wait(10)
        torch.ones(2_000_000).add_(1)  # a thread's first parallel operation may take over what another has set
        counts[name] = torch.get_num_threads()

    try:
        torch.set_num_threads(6)
        answers = Answers(*[None] * 8)
        workers = [threading.Thread(target=work, args=[name]) for name in order]
        for worker in workers:
            worker.start()
            time.sleep(0.05)
        have_begun.wait(10)
        have_begun.wait(10)
        for worker in workers:
            worker.join()
        assert counts == {ENCODE: 6, ANSWER: 3}
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(before)
