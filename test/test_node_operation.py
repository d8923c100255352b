"""What a robot does to the node besides asking: waypoints, pictures, parameters, lifecycle, other QoS, loops, silence,
fuzz."""

from dataclasses import replace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Path
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from support.robot import CAMERA, TOPICS, client, connected, mutated, path, rgb, set_parameter  # noqa: F401

from spd_core.messages import cloud_to_array, depth_to_metres
from spd_core.status import Status
from spd_ros.conversions import query_cloud, rgb_to_image
from spd_ros.waypoints import rigid_transform

# base_link looks along the camera: x forward is z, y left is -x, z up is -y; the camera is 0.5 m above it
TRANSFORM = [0.0, 0.5, 0.0, 0.5, -0.5, 0.5, 0.5]


@pytest.fixture(scope="module")
def running(client):
    settings = {
        "query_timeout_s": 0.5,
        "diagnostics_period_s": 0.2,
        "waypoint_frame": "base_link",
        "waypoint_transform": TRANSFORM,
    }
    with connected(client, {"runtime": "torch", **settings}):
        yield client


@pytest.fixture(scope="module")
def ask_waypoints(running):
    publisher = running.create_publisher(Path, "/spd/waypoints", 10)
    answers = []
    running.create_subscription(PointCloud2, "/spd/waypoint_depths", answers.append, 10)
    running.spin(lambda: publisher.get_subscription_count() and running.count_publishers("/spd/waypoint_depths"))
    running.idle(0.5)

    def ask(points, frame_id, header) -> np.ndarray:
        answers.clear()
        publisher.publish(path(points, frame_id, header.stamp))
        running.spin(lambda: answers)
        running.idle(0.1)
        assert len(answers) == 1
        return cloud_to_array(answers[0])

    return ask


def test_rigid_transform_is_the_documented_one():
    rotation, translation = rigid_transform(TRANSFORM)
    np.testing.assert_allclose(rotation, [[0, -1, 0], [0, 0, -1], [1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(np.array([3.0, 0.2, 0.5]) @ rotation.T + translation, [-0.2, 0.0, 3.0], atol=1e-12)


@pytest.mark.parametrize("frame_id", ["camera_optical_frame", "base_link", ""])
def test_waypoints_are_projected_and_compared(running, rgb, ask_waypoints, frame_id):
    header = running.show(rgb)
    optical = np.array([[0.1, 0.2, 2.0], [-0.4, 0.1, 4.0], [0, 0, -1.0], [9.0, 0, 1.0], [np.nan, 0, 1]])
    rotation, translation = rigid_transform(TRANSFORM)
    points = (optical - translation) @ rotation if frame_id == "base_link" else optical
    answer = ask_waypoints(points, frame_id, header)
    assert answer["status"].tolist() == [
        Status.OK,
        Status.OK,
        Status.BEHIND_CAMERA,
        Status.OUTSIDE_IMAGE,
        Status.NOT_FINITE,
    ]
    uv = CAMERA.project(optical[:2])
    np.testing.assert_allclose(np.stack([answer["u"], answer["v"]], 1)[:2], uv, atol=1e-3)
    np.testing.assert_allclose(answer["waypoint_depth"][:4], optical[:4, 2], atol=1e-5)
    _, same = running.ask(uv, header)
    np.testing.assert_allclose(answer["depth"][:2], same["depth"], rtol=1e-4)
    assert np.isnan(answer["depth"][2:]).all()


def test_waypoints_in_an_unknown_frame(running, rgb, ask_waypoints):
    answer = ask_waypoints([[0, 0, 1]], "map", running.show(rgb))
    assert answer["status"].tolist() == [Status.NO_TRANSFORM]
    running.spin(lambda: "'map'" in running.diagnostics.message)
    assert ask_waypoints([], "map", running.show(rgb)).tolist() == []


def test_bursts_of_queries_and_paths_are_answered(running, rgb):
    """More at once than the scheduler lets wait: the answers say so, none is missing."""
    header, count = running.show(rgb), 2000
    assert running.statuses([[1, 1]], header) == [Status.OK]
    queries = running.create_publisher(PointCloud2, "/spd/query_points", count)
    paths, of_queries, of_paths = running.create_publisher(Path, "/spd/waypoints", count), [], []
    # As deep as the burst: what is too much for a reader's queue while it does not spin is dropped, whoever sent it.
    readers = [
        running.create_subscription(PointCloud2, topic, answers.append, count)
        for topic, answers in (("/spd/depths", of_queries), ("/spd/waypoint_depths", of_paths))
    ]
    running.spin(lambda: queries.get_subscription_count() and paths.get_subscription_count())
    running.idle(1.0)
    for publisher, message, answers in (
        (queries, query_cloud(np.ones((1, 2)), header), of_queries),
        (paths, path([[0, 0, 1]], header.frame_id, header.stamp), of_paths),
    ):
        for _ in range(count):
            publisher.publish(message)
        running.spin(lambda answers=answers: len(answers) >= count, 60)
        running.idle(0.2)
        assert len(answers) == count
        assert {int(cloud_to_array(msg)["status"][0]) for msg in answers} <= {Status.OK, Status.TIMED_OUT}
        running.destroy_publisher(publisher)
    for reader in readers:
        running.destroy_subscription(reader)
    running.answers.clear()


def test_waypoints_through_tf(running, rgb, ask_waypoints):
    """A robot that drives along its odometry's x at 2 m/s, and a transform that comes after the image."""
    tf2_ros = pytest.importorskip("tf2_ros", reason="TF comes with a ROS installation")
    broadcaster = tf2_ros.TransformBroadcaster(running)
    running.idle(0.5)
    header = running.show(rgb)

    def camera_in_odom(stamp_s: float, x_m: float) -> TransformStamped:
        link = TransformStamped(header=Header(frame_id="odom"), child_frame_id=header.frame_id)
        link.header.stamp.sec, link.header.stamp.nanosec = int(stamp_s), round(stamp_s % 1 * 1e9)
        link.transform.translation.x = x_m
        # the camera's axes in the robot's: z is forward (x), x is right (-y)
        q = link.transform.rotation
        q.x, q.y, q.z, q.w = -0.5, 0.5, -0.5, 0.5
        return link

    broadcaster.sendTransform(camera_in_odom(header.stamp.sec - 0.5, 9.0))
    running.idle(0.2)
    assert ask_waypoints([[13.0, 0.2, 0.1]], "odom", header)["status"].tolist() == [
        Status.NO_TRANSFORM
    ]  # TF does not reach the stamp
    later = running.create_timer(
        0.05, lambda: (later.cancel(), broadcaster.sendTransform(camera_in_odom(header.stamp.sec + 0.5, 11.0)))
    )
    answer = ask_waypoints([[13.0, 0.2, 0.1]], "odom", header)  # at the stamp the robot is at 10 m
    assert answer["status"].tolist() == [Status.OK]
    np.testing.assert_allclose(answer["waypoint_depth"], [3.0], atol=1e-5)
    np.testing.assert_allclose(
        [answer["u"][0], answer["v"][0]], CAMERA.project(np.array([[-0.2, -0.1, 3.0]]))[0], atol=1e-3
    )


def test_dense_depth_is_published_while_someone_listens(running, rgb):
    images = []
    subscription = running.create_subscription(Image, "/spd/dense", images.append, 2)
    running.idle(0.5)
    header = running.show(rgb)
    running.spin(lambda: images)
    depth_m = depth_to_metres(images[0])
    assert depth_m.shape == (480, 640)
    assert images[0].header == header
    _, points = running.ask([[100, 50], [600, 400]], header)
    np.testing.assert_allclose([depth_m[50, 100], depth_m[400, 600]], points["depth"], rtol=1e-4)
    running.destroy_subscription(subscription)


def test_a_distorted_camera_bends_the_rays(running, rgb):
    header = running.show(rgb)
    _, straight = running.ask([[600, 50]], header)
    header = running.show(rgb, replace(CAMERA, distortion=(-0.3, 0.1, 0.0, 0.0, 0.0)))
    _, bent = running.ask([[600, 50]], header)
    assert bent["depth"] == pytest.approx(straight["depth"], rel=1e-5)
    assert bent["x"] / bent["z"] > 1.05 * straight["x"] / straight["z"]  # barrel distortion draws the edges in


def test_parameters_at_run_time(running, rgb):
    assert set_parameter(running, "grid", [4, 3])[0]
    header = running.show(rgb)
    _, points = running.answer()
    assert len(points) == 12
    assert set_parameter(running, "grid", [2, 2])[0]
    running.show(rgb)
    assert len(running.answer()[1]) == 4
    assert set_parameter(running, "grid", [0, 0])[0]
    assert set_parameter(running, "stamp_tolerance_s", 0.5)[0]
    header = running.show(rgb)
    header.stamp.nanosec = 300_000_000
    assert running.statuses([[1, 1]], header) == [Status.OK]
    assert set_parameter(running, "stamp_tolerance_s", 0.0)[0]
    assert set_parameter(running, "query_timeout_s", 1)[0]  # as ROS users write 1.0
    assert set_parameter(running, "query_timeout_s", 0.5)[0]
    assert set_parameter(running, "rectified", True)[0]  # what YAML makes of the word true
    assert set_parameter(running, "rectified", "auto")[0]
    for name, value in (("image_history", 5), ("weights", "embedded"), ("waypoint_transform", TRANSFORM)):
        assert set_parameter(running, name, value)[0], "fixed, and what it is"
    refused = (
        ("grid", [1], "grid is [1]; expected two integers >= 0"),
        ("grid", [1.0, 2.0], "grid is [1.0, 2.0]; expected two integers >= 0"),
        ("grid", [100_000, 100_000], "at most 1048576 points"),
        ("grid", None, "grid is None; expected two integers"),
        ("overlay_rate_hz", 0, "overlay_rate_hz is 0; expected a number from 0.1 to 1000.0"),
        ("overlay_rate_hz", "fast", "overlay_rate_hz is 'fast'; expected a number"),
        ("overlay_rate_hz", float("nan"), "overlay_rate_hz is nan; expected a number"),
        ("query_timeout_s", float("inf"), "query_timeout_s is inf; expected a number"),
        ("query_timeout_s", True, "query_timeout_s is True; expected a number"),
        ("rectified", "maybe", "expected one of auto, true, false"),
        ("image_history", 6, "fixed while the node is configured"),
        ("weights", "x", "fixed while the node is configured"),
    )
    for name, value, reason in refused:
        accepted, said = set_parameter(running, name, value)
        assert not accepted
        assert reason in said
        assert "\n" not in said
    assert running.statuses([[1, 1]], running.show(rgb)) == [Status.OK]


def test_a_bag_that_loops(running, rgb):
    late = running.show(rgb)
    running.ask([[1, 1]], late)
    running.next_stamp, before = 10, running.next_stamp  # stamps start again
    header = running.show(rgb)
    assert running.statuses([[1, 1]], header) == [Status.OK]
    running.spin(lambda: any(v.key == "time jumps" and int(v.value) >= 1 for v in running.diagnostics.values))
    running.next_stamp = before
    assert running.statuses([[1, 1]], running.show(rgb)) == [Status.OK]


def test_two_cameras_on_one_topic_are_told(running, rgb):
    """Their clocks differ: each image of the one makes the node forget those of the other."""
    other = running.create_publisher(Image, TOPICS["image"], qos_profile_sensor_data)
    running.spin(lambda: other.get_subscription_count())
    ahead = running.show(rgb)
    ahead.stamp.sec += 5000
    for _ in range(3):
        other.publish(rgb_to_image(rgb, ahead))
        running.idle(0.2)
        running.show(rgb)
        running.idle(0.2)
    running.spin(lambda: "fell back: 2 publishers with clocks of their own?" in running.diagnostics.message)
    assert running.diagnostics.level == DiagnosticStatus.WARN
    running.destroy_publisher(other)
    running.answers.clear()


def test_malformed_messages_are_counted_and_survived(running, rgb):
    """A tenth of the soak (bench/node.py --fuzz sends 10,000): every query is answered, whatever it holds."""
    rng = np.random.default_rng(0)
    small = np.ascontiguousarray(rgb[::8, ::8])
    running.answers.clear()
    asked = 0
    for i in range(500):
        header = running.header()
        running.images.publish(mutated(rng, rgb_to_image(small, header)))
        if i % 2:
            running.queries.publish(mutated(rng, query_cloud(rng.uniform(0, 60, (8, 2)), header)))
            asked += 1
        running.idle(0.01)
    running.spin(lambda: len(running.answers) >= asked, 30)
    assert len(running.answers) == asked
    running.answers.clear()
    assert running.statuses([[1, 1]], running.show(rgb)) == [Status.OK]
    counts = {v.key: v.value for v in running.diagnostics.values}
    assert int(counts["images bad"]) > 50
    assert int(counts["queries bad"]) > 50
