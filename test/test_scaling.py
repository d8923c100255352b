"""The node's scale without topics: which references count when, where the floor is, and what is said of it."""

import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from numpy.lib import recfunctions
from sensor_msgs.msg import LaserScan, Range
from std_msgs.msg import Header

from spd_core.scale import FixedScale
from spd_rooms.synthetic import random_frame
from spd_ros import scaling
from spd_ros.conversions import array_to_cloud
from spd_ros.diagnostics import Problems, Statistics
from spd_ros.parameters import Settings
from spd_ros.scaling import Scaling
from spd_ros.waypoints import NoTransformError

IMAGE = Header(frame_id="camera")


class Transforms:
    """Knows how the floor's frame lies: the room's, x right, y up, z ahead, at its corner."""

    def __init__(self, pose):
        self.rotation, self.position = pose.rotation(), pose.position

    def to_optical(self, points_m, frame_id, image):
        if frame_id == image.frame_id:
            return points_m
        if frame_id != "floor":
            raise NoTransformError(f"nobody knows {frame_id}")
        up_is_y = np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])  # a floor's frame has z up
        return (points_m @ up_is_y.T - self.position) @ self.rotation


@pytest.fixture(scope="module")
def room():
    return random_frame(4_100_002, (240, 320))


@pytest.fixture(scope="module")
def frame(embedded, room):
    return embedded.encode(room.rgb, room.camera)


@pytest.fixture
def make(room, frame):
    def scaling_of(**settings):
        statistics = Statistics()
        problems = Problems(statistics, lambda text: None)
        made = Scaling(frame.predictor, Transforms(room.pose), replace(Settings(), **settings), statistics, problems)
        return SimpleNamespace(scaling=made, statistics=statistics, problems=problems)

    return scaling_of


def pixels(frame, factor, count=20, frame_id="camera"):
    uv = np.random.default_rng(0).integers(0, [320, 240], (count, 2))
    values = recfunctions.merge_arrays([np.asarray(v, "<f4") for v in (*uv.T, factor * frame.depth_at(uv))])
    values.dtype.names = ("u", "v", "depth")
    return array_to_cloud(values, Header(frame_id=frame_id))


def count(made, name):
    return int(made.statistics.snapshot().get(name, 0))


def test_off_takes_nothing_and_scales_nothing(make, frame):
    made = make()
    assert made.scaling.read("reference_depths", pixels(frame, 1.3)) is None
    made.scaling.on_frame(frame, IMAGE)
    assert made.scaling.scale() is None
    assert count(made, "reference_depths received") == 1


def test_a_fixed_factor_is_where_learning_starts(make, frame):
    made = make(scale_factor=1.2)
    assert made.scaling.scale() == FixedScale(1.2)
    learning = make(scale_factor=1.2, scale="references").scaling
    assert learning.scale().factor == pytest.approx(1.2)
    learning.take(learning.read("reference_depths", pixels(frame, 1.2)), frame, IMAGE)
    assert learning.scale().factor == pytest.approx(1.2, rel=0.01)


def test_references_of_a_frame_change_the_scale_and_are_counted(make, frame):
    made = make(scale="both", camera_height_m=1.0)
    note = made.scaling.read("reference_depths", pixels(frame, 1.3))
    made.scaling.take(note, frame, IMAGE)
    assert made.scaling.scale().factor == pytest.approx(1.3, rel=0.05)
    assert count(made, "references used") == 20
    facts = made.statistics.snapshot()
    assert float(facts["scale"]) == pytest.approx(made.scaling.scale().factor, abs=0.001)
    assert 0 < float(facts["scale sigma"]) < 0.2


def test_references_in_millimetres_are_told(make, frame):
    made = make(scale="references", scale_factor=1.2)
    for factor, messages, told in ((1.2, 1, 0), (1200.0, 2, 1), (1.2, 2, 0)):
        for _ in range(messages):
            made.scaling.take(made.scaling.read("reference_depths", pixels(frame, factor)), frame, IMAGE)
        assert len(made.problems.texts()) == told
        assert all("by more than a factor of 7: are they in metres" in text for text in made.problems.texts())


def test_references_fade_also_of_a_camera_without_stamps(make, frame, monkeypatch):
    made = make(scale="references").scaling
    prior, now_s = made.scale().sigma_log, 1000.0
    monkeypatch.setattr(scaling.time, "monotonic", lambda: now_s)
    made.take(made.read("reference_depths", pixels(frame, 1.3)), frame, IMAGE)
    assert made.scale().sigma_log < 0.5 * prior
    now_s += 10
    made.on_frame(frame, IMAGE)
    assert made.scale().sigma_log == pytest.approx(prior, rel=1e-3)


def test_another_mode_or_factor_starts_afresh_and_other_parameters_do_not(make, frame):
    made = make(scale="references").scaling
    made.take(made.read("reference_depths", pixels(frame, 1.3)), frame, IMAGE)
    made.change(replace(made.settings, camera_height_m=1.0))
    assert made.scale().factor == pytest.approx(1.3, rel=0.05)
    made.change(replace(made.settings, scale="off"))
    made.change(replace(made.settings, scale="references"))
    assert made.scale().factor == 1.0


def test_what_cannot_be_used_is_said(make, frame):
    made = make(scale="references")
    broken = pixels(frame, 1.0)
    broken.point_step = 1
    assert made.scaling.read("reference_depths", broken) is None
    assert count(made, "reference_depths bad") == 1
    assert "cloud" in made.problems.texts()[0]
    elsewhere = LaserScan(header=Header(frame_id="nowhere"), angle_increment=0.1, range_max=9.0, ranges=[1.0, 2.0])
    note = made.scaling.read("reference_scan", elsewhere)
    assert made.scaling.take(note, frame, IMAGE) is False
    assert "nobody knows nowhere" not in made.problems.texts(), "TF may say it yet"
    made.scaling.give_up([note, made.scaling.read("reference_scan", elsewhere)])
    assert count(made, "references without transform") == 1
    assert count(made, "references without image") == 1
    assert "nobody knows nowhere" in made.problems.texts()
    blind = SimpleNamespace(camera=None)
    made.scaling.take(made.scaling.read("reference_range", Range(header=IMAGE, max_range=9.0, range=1.0)), blind, IMAGE)
    assert count(made, "references without camera_info") == 1
    assert made.scaling.scale().factor == 1.0


@pytest.mark.parametrize(
    ("kind", "msg"),
    [
        ("reference_scan", LaserScan(angle_increment=0.1, range_max=9.0, ranges=[1.0, 2.0])),
        ("reference_range", Range(max_range=9.0, range=1.0)),
    ],
)
def test_a_scan_or_range_that_names_no_frame_is_told(make, kind, msg):
    made = make(scale="references")
    assert made.scaling.read(kind, msg) is None
    assert count(made, f"{kind} bad") == 1
    assert made.problems.texts() == [f"{kind} has no frame_id; expected the frame of its sensor, whose x is forward"]


def test_references_that_are_never_in_the_image_are_told(make, frame, monkeypatch):
    """A scan in the camera's own frame, whose x is to the right; and one that is only sometimes out of sight is not."""
    made, now_s = make(scale="references"), 1000.0
    monkeypatch.setattr(scaling.time, "monotonic", lambda: now_s)
    aside = LaserScan(header=IMAGE, angle_increment=0.01, range_max=9.0, ranges=[2.0] * 3)
    sonar = Range(header=IMAGE, field_of_view=0.2, max_range=9.0, range=1.0)
    ahead = array_to_cloud(np.array([(0, 0, 2)], [(name, "<f4") for name in "xyz"]), IMAGE)
    for wait_s, kind, msg, told in (
        (60, "reference_scan", aside, 0),  # the first after a silence may be out of sight by chance
        (6, "reference_scan", aside, 0),
        (6, "reference_range", sonar, 1),
        (0, "reference_depths", ahead, 0),
        (60, "reference_scan", aside, 0),
    ):
        now_s += wait_s
        made.scaling.take(made.scaling.read(kind, msg), frame, IMAGE)
        texts = made.problems.texts()
        assert texts == ["no reference is inside the image: is 'camera' the frame of their sensor?"] * told
    assert count(made, "references outside the image") == 3 + 3 + 1 + 3


def test_references_of_which_none_can_be_used_are_told(make, frame, monkeypatch):
    """Of a depth sensor that is covered, say: they come, and have no reading."""
    monkeypatch.setattr(scaling, "LASTING_S", 0.05)
    made = make(scale="references")
    for _ in range(3):
        made.scaling.take(made.scaling.read("reference_depths", pixels(frame, np.nan)), frame, IMAGE)
        time.sleep(0.03)
        made.scaling.on_frame(frame, IMAGE)
    assert "no references come that can be used" in made.problems.texts()[0]
    made.scaling.take(made.scaling.read("reference_depths", pixels(frame, 1.0)), frame, IMAGE)
    assert made.problems.texts() == []


def test_references_that_are_of_no_image_are_told(make, frame, monkeypatch):
    """Those of a LiDAR whose clock is another, and none at all."""
    monkeypatch.setattr(scaling, "LASTING_S", 0.05)
    made = make(scale="references")
    at_7s = Header(frame_id="camera", stamp=Time(sec=7))

    def said_of_a_frame():
        made.scaling.on_frame(frame, at_7s)
        time.sleep(0.06)
        return made.problems.texts()

    assert said_of_a_frame() == []  # not at once: they may be slower than the images
    assert "no references come that can be used: reference_depths, " in said_of_a_frame()[0]
    note = made.scaling.read("reference_depths", pixels(frame, 1.0))
    made.scaling.give_up([note])  # its stamp is 0
    assert "one came -7.0 s from the newest image; have they one clock?" in said_of_a_frame()[0]
    made.scaling.take(note, frame, at_7s)
    assert made.problems.texts() == []
    floor = make(scale="both", camera_height_m=1.0)
    for _ in range(2):
        floor.scaling.on_frame(frame, at_7s)
        time.sleep(0.06)
    assert floor.problems.texts() == []  # the floor may be all that there is to go by


def test_the_floors_frame_gives_height_and_tilt(make, room, frame, monkeypatch):
    """As the parameters do, for a camera that is not rolled."""
    made = make(scale="floor", floor_frame="floor")
    plane = made.scaling._plane(IMAGE)
    assert plane.height_m == pytest.approx(room.pose.position[1])
    np.testing.assert_allclose(plane.down, room.pose.rotation().T @ [0, -1, 0], atol=1e-9)
    given = make(scale="floor", camera_height_m=1.1, camera_tilt_deg=-math.degrees(room.pose.pitch)).scaling._plane(
        IMAGE
    )
    assert given.down[2] == pytest.approx(plane.down[2], abs=1e-6)
    monkeypatch.setattr(scaling, "FLOOR_PERIOD_S", 60.0)
    made.scaling.on_frame(frame, IMAGE)
    assert count(made, "floor seen") + count(made, "floor not seen") == 1
    made.scaling.on_frame(frame, IMAGE)  # not so soon again
    assert count(made, "floor seen") + count(made, "floor not seen") == 1


def test_the_floor_of_a_frame_waits_for_tf(make, frame, monkeypatch):
    """TF reaches the stamp of an image when the next image is there, always: nothing sleeps, and the floor is seen."""
    made = make(scale="floor", floor_frame="floor")
    transforms, looked_at = made.scaling.transforms, []

    def to_optical(points_m, frame_id, image):
        looked_at.append(image.stamp.sec)
        if image.stamp.sec >= newest:
            raise NoTransformError("TF does not reach so far")
        return Transforms.to_optical(transforms, points_m, frame_id, image)

    transforms.to_optical = to_optical
    monkeypatch.setattr(scaling, "FLOOR_PERIOD_S", 60.0)
    for newest in (1, 2, 3):
        made.scaling.on_frame(frame, Header(frame_id="camera", stamp=Time(sec=newest)))
    assert looked_at == [1, 1]
    assert count(made, "floor seen") + count(made, "floor not seen") == 1
    assert made.problems.texts() == []


@pytest.mark.parametrize(
    ("settings", "text"),
    [({}, "needs camera_height_m, or floor_frame and TF"), ({"floor_frame": "cellar"}, "nobody knows cellar")],
)
def test_a_floor_that_is_nowhere_is_said(make, frame, settings, text):
    made = make(scale="floor", **settings)
    for _ in range(2):
        made.scaling.on_frame(frame, IMAGE)
        made.scaling._looked_s = -np.inf  # as if a period had passed
    assert text in made.problems.texts()[0]
    assert count(made, "floor not seen") == 0
