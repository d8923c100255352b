"""The node's scale over real DDS: references of every kind, a scale that jumps, the floor, and outliers."""

import math
import time

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from numpy.lib import recfunctions
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, LaserScan, PointCloud2, Range
from std_msgs.msg import Header
from support.robot import CAMERA, TOPICS, client, connected, mutated, set_parameter  # noqa: F401

from spd_core import Predictor
from spd_core.message_fields import camera_info_fields
from spd_core.messages import cloud_to_array
from spd_core.status import Status
from spd_rooms.synthetic import random_frame
from spd_ros.conversions import array_to_cloud, query_cloud, rgb_to_image

UV = np.array([[60.0, 200.0], [300.5, 240.25], [600.0, 400.0]])
# The optical frame is at a sensor whose frame is "sensor" (x forward, y left, z up): its x y z in it, as a quaternion.
SENSOR = [0.0, 0.0, 0.0, 0.5, -0.5, 0.5, 0.5]


@pytest.fixture(scope="module")
def room():
    return random_frame(4_100_003, (480, 640))


@pytest.fixture(scope="module")
def running(client):
    """A node that learns its scale, the client connected to it and to its reference topics."""
    parameters = {
        "scale": "references",
        "query_timeout_s": 0.5,
        "diagnostics_period_s": 0.2,
        "waypoint_frame": "sensor",
        "waypoint_transform": SENSOR,
    }
    client.sources = {
        name: client.create_publisher(type_, f"/spd/{name}", qos_profile_sensor_data)
        for name, type_ in (
            ("reference_depths", PointCloud2),
            ("reference_scan", LaserScan),
            ("reference_range", Range),
        )
    }
    with connected(client, parameters):
        client.spin(lambda: all(p.get_subscription_count() for p in client.sources.values()))
        yield client


@pytest.fixture(scope="module")
def network_m(room):
    return Predictor.load("embedded", device="cpu").encode(room.rgb, CAMERA).dense_depth()


def header_at(stamp_s, frame_id="camera_optical_frame"):
    return Header(frame_id=frame_id, stamp=Time(sec=int(stamp_s), nanosec=round(stamp_s % 1 * 1e9)))


def cloud(header, **fields):
    values = recfunctions.merge_arrays([np.asarray(v, "<f4") for v in fields.values()])
    values.dtype.names = tuple(fields)
    return array_to_cloud(values, header)


class Robot:
    """Sends images and references with stamps of its own clock, and a query with each image."""

    def __init__(self, client, rgb, start_s):
        self.client, self.rgb, self.now_s, self.asked = client, rgb, start_s, 0
        self.image_s = self.reference_s = start_s

    def run(self, seconds, refer, image_hz=15, reference_hz=10):
        end_s, real_s = self.now_s + seconds, time.monotonic()
        begin_s = self.now_s
        while self.now_s < end_s:
            self.now_s = begin_s + time.monotonic() - real_s
            if self.now_s >= self.image_s:
                self.image_s += 1 / image_hz
                header = header_at(self.now_s)
                self.client.infos.publish(CameraInfo(header=header, **camera_info_fields(CAMERA, (480, 640))))
                self.client.images.publish(rgb_to_image(self.rgb, header))
                self.client.queries.publish(query_cloud(UV, header))
                self.asked += 1
            if self.now_s >= self.reference_s:
                self.reference_s += 1 / reference_hz
                refer(header_at(self.now_s))
            self.client.idle(0.005)

    def answers(self):
        """All answers, once they are there."""
        self.client.spin(lambda: len(self.client.answers) >= self.asked)
        self.client.idle(0.3)
        answers = [cloud_to_array(msg) for msg in self.client.answers]
        self.client.answers.clear()
        assert len(answers) == self.asked
        self.asked = 0
        return answers


def fact(client, name):
    return next((v.value for v in client.diagnostics.values if v.key == name), None)


def test_a_jump_of_the_true_scale_is_followed_and_every_query_answered_once(running, room, network_m):
    rng, robot = np.random.default_rng(0), Robot(running, room.rgb, 1000.0)

    def refer(factor):
        def send(header):
            u, v = rng.integers(0, [640, 480], (20, 2)).T
            depth = network_m[v, u] * factor * np.exp(0.05 * rng.standard_normal(20))
            depth = np.where(rng.random(20) < 0.2, rng.uniform(0.3, 10, 20), depth)
            running.sources["reference_depths"].publish(cloud(header, u=u, v=v, depth=depth))

        return send

    robot.run(3, refer(1.0))  # of which the last half counts: on a busy machine most images are skipped
    before = [a["scale"].mean() for a in robot.answers()[-22:] if (a["status"] == Status.OK).all()]
    robot.run(2, refer(1.3))
    robot.answers()
    robot.run(1.5, refer(1.3))
    after = [a for a in robot.answers() if (a["status"] == Status.OK).all()]
    assert len(before) > 2
    assert len(after) > 2
    assert np.mean([a["scale"].mean() for a in after]) / np.mean(before) == pytest.approx(1.3, rel=0.05)
    u, v = UV.round().astype(int).T
    for answer in after:
        np.testing.assert_allclose(answer["depth"] / answer["scale"], network_m[v, u], rtol=0.05)
        np.testing.assert_allclose(answer["z"], answer["depth"], rtol=1e-6)
    running.spin(lambda: 1.2 < float(fact(running, "scale") or 0) < 1.45)
    assert 0.01 < float(fact(running, "scale sigma")) < 0.15
    assert int(fact(running, "references used")) > 500


def test_a_scan_and_a_sonar_are_references_too(running, room, network_m):
    """Of a sensor in the camera's place, by the transform of the parameters."""
    assert set_parameter(running, "scale", "off")[0]
    assert set_parameter(running, "scale", "references")[0]
    angles = -0.5 + 0.02 * np.arange(50)
    u, v = np.clip(CAMERA.fx * np.tan(-angles) + CAMERA.cx, 0, 639), np.full(50, CAMERA.cy)
    ranges = 1.2 * network_m[v.round().astype(int), u.round().astype(int)] / np.cos(angles)
    ranges[::10] = math.inf

    def scan(header):
        header.frame_id = "sensor"
        msg = LaserScan(header=header, angle_min=-0.5, angle_increment=0.02, range_min=0.05, range_max=50.0)
        msg.ranges = ranges.astype(np.float32).tolist()
        running.sources["reference_scan"].publish(msg)

    robot = Robot(running, room.rgb, 2000.0)
    robot.run(2, scan)
    robot.answers()
    running.spin(lambda: float(fact(running, "scale") or 0) > 1.12)

    def sonar(header):
        header.frame_id = "sensor"
        distance = float(0.8 * network_m[240, 320])  # straight ahead
        running.sources["reference_range"].publish(
            Range(header=header, field_of_view=0.0, min_range=0.05, max_range=20.0, range=distance)
        )

    before = float(fact(running, "scale"))
    robot.run(3, sonar)
    robot.answers()
    running.idle(0.5)
    assert float(fact(running, "scale")) < before - 0.03
    assert int(fact(running, "reference_range received")) > 10


def test_the_floor_is_learned_from_where_the_pose_is_given(running, room):
    assert set_parameter(running, "scale", "floor")[0]
    robot = Robot(running, room.rgb, 3000.0)
    robot.run(1.5, lambda header: None)
    robot.answers()
    running.spin(lambda: "camera_height_m" in running.diagnostics.message)
    tilt_deg = -math.degrees(room.pose.pitch)
    assert set_parameter(running, "camera_tilt_deg", tilt_deg)[0]
    assert set_parameter(running, "camera_height_m", float(room.pose.position[1]))[0]
    robot.run(2, lambda header: None)
    answers = robot.answers()
    running.idle(0.5)
    assert int(fact(running, "floor seen") or 0) > 3
    assert (answers[-1]["status"] == Status.OK).all()


def test_a_fixed_scale_multiplies(running, room, network_m):
    assert set_parameter(running, "scale", "off")[0]
    assert set_parameter(running, "scale_factor", 1.5)[0]
    header = running.show(room.rgb)
    _, points = running.ask(UV, header)
    u, v = UV.round().astype(int).T
    np.testing.assert_allclose(points["scale"], 1.5)
    np.testing.assert_allclose(points["depth"], 1.5 * network_m[v, u], rtol=0.05)
    assert not set_parameter(running, "scale_factor", 0.0)[0]
    assert not set_parameter(running, "scale", "guess")[0]
    assert set_parameter(running, "scale_factor", 1.0)[0]


def test_references_that_cannot_be_used_are_counted_and_survived(running, room):
    assert set_parameter(running, "scale", "references")[0]
    rng, robot = np.random.default_rng(1), Robot(running, room.rgb, 4000.0)
    odd = [0.0, -1.0, math.nan, math.inf, -math.inf, 1e38, 1e-38, 1.0, 2.5]

    def numbers(count):
        return rng.choice(odd, count).tolist()

    def refer(header):
        pixels = cloud(header, u=[1, 2], v=[3, 4], depth=numbers(2), sigma=numbers(2))
        points = cloud(header, x=numbers(2), y=numbers(2), z=numbers(2))
        for good in (pixels, points):
            running.sources["reference_depths"].publish(mutated(rng, good))
        header.frame_id = str(rng.choice(["", "sensor", "nowhere", "camera_optical_frame"]))
        low, high, start, step, seen = numbers(5)
        scan = LaserScan(header=header, angle_min=start, angle_increment=step, range_min=low, range_max=high)
        scan.ranges = numbers(int(rng.integers(0, 4)))
        running.sources["reference_scan"].publish(scan)
        sonar = Range(header=header, field_of_view=abs(start), min_range=low, max_range=high, range=seen)
        running.sources["reference_range"].publish(sonar)

    robot.run(4, refer, reference_hz=20)
    for answer in robot.answers():
        assert np.isfinite(answer["depth"][answer["status"] == Status.OK]).all()
    running.spin(lambda: int(fact(running, "reference_depths bad") or 0) > 0)
    header = running.show(room.rgb)
    assert (running.ask(UV, header)[1]["status"] == Status.OK).all()
