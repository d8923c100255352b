"""The node in its own process, over real DDS: every query message gets exactly one answer, whatever comes."""

import os
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from spd_core import Camera, Predictor
from spd_core.data.synthetic import random_frame
from spd_ros.conversions import Status, cloud_to_array, query_cloud, rgb_to_image
from spd_ros.demo import FASTDDS_PROFILE, start_node, stop_node

os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(FASTDDS_PROFILE)
CAMERA = Camera(525.0, 525.0, 319.5, 239.5)
TOPICS = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info"}


@pytest.fixture(scope="module")
def rgb():
    return random_frame(42, (480, 640)).rgb


class Client(Node):
    """A robot's side of the topics."""

    def __init__(self):
        super().__init__("spd_test_client")
        self.images = self.create_publisher(Image, TOPICS["image"], qos_profile_sensor_data)
        self.infos = self.create_publisher(CameraInfo, TOPICS["camera_info"], 5)
        self.queries = self.create_publisher(PointCloud2, "/spd/query_points", 50)
        self.answers: list[PointCloud2] = []
        self.overlays: list[Image] = []
        self.diagnostics = None
        self.create_subscription(PointCloud2, "/spd/depths", self.answers.append, 500)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 10)
        self.next_stamp = 1

    def _diagnose(self, msg):
        if msg.status[0].name == "/spd":
            self.diagnostics = msg.status[0]

    def spin(self, until, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, "nothing came in time"
            rclpy.spin_once(self, timeout_sec=0.01)

    def connect(self, process) -> None:
        self.spin(lambda: process.poll() is not None or all(p.get_subscription_count() for p in (self.images, self.infos, self.queries)), 60)
        assert process.poll() is None, "the node died"
        self.spin(lambda: self.count_publishers("/spd/depths") == 1)
        for _ in range(20):  # the answer channel may be matched on one side only: warm it up
            self.send(np.zeros((1, 2)), Header())
            end = time.monotonic() + 2
            while not self.answers and time.monotonic() < end:
                rclpy.spin_once(self, timeout_sec=0.01)
            if self.answers:
                break
        self.idle(1.5)
        self.answers.clear()

    def idle(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(self, timeout_sec=0.01)

    def header(self) -> Header:
        """A header with a new stamp."""
        self.next_stamp += 1
        header = Header(frame_id="camera_optical_frame")
        header.stamp.sec = self.next_stamp
        return header

    def show(self, rgb: np.ndarray, camera: Camera | None = CAMERA) -> Header:
        header = self.header()
        if camera is not None:
            k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
            self.infos.publish(CameraInfo(header=header, height=rgb.shape[0], width=rgb.shape[1], k=k))
            self.idle(0.05)
        self.images.publish(rgb_to_image(rgb, header))
        return header

    def send(self, uv, header: Header) -> None:
        self.queries.publish(query_cloud(np.asarray(uv, dtype=float), header))

    def answer(self) -> tuple[Header, np.ndarray]:
        """The one new answer."""
        self.spin(lambda: self.answers)
        self.idle(0.1)
        assert len(self.answers) == 1
        msg = self.answers.pop()
        return msg.header, cloud_to_array(msg)

    def ask(self, uv, header: Header) -> tuple[Header, np.ndarray]:
        self.send(uv, header)
        return self.answer()

    def statuses(self, uv, header: Header) -> list[int]:
        points = self.ask(uv, header)[1]
        assert len(points) == len(uv)
        assert (np.isnan(points["depth"]) == (points["status"] > Status.NO_CAMERA_INFO)).all()
        return points["status"].tolist()


@pytest.fixture(scope="module")
def client():
    rclpy.init()
    node = Client()
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture(scope="module")
def running(client):
    """A node with embedded weights, and the client connected to it."""
    process = start_node(TOPICS, {"query_timeout_s": 0.5, "diagnostics_period_s": 0.2})
    client.connect(process)
    yield client
    assert process.poll() is None, "the node died of a message"
    assert stop_node(process) == 0


def test_no_image_yet(running):
    assert running.statuses([[1, 2]], Header()) == [Status.NO_IMAGE]


def test_missing_camera_info_answers_depth_without_xyz(running, rgb):
    header = running.show(rgb, camera=None)
    _, points = running.ask([[100, 100], [-9, 0]], header)
    assert points["status"].tolist() == [Status.NO_CAMERA_INFO, Status.OUTSIDE_IMAGE]
    assert points["depth"][0] > 0
    assert np.isnan(points["x"]).all()
    running.spin(lambda: "no camera_info" in running.diagnostics.message)


def test_answers_are_the_predictors(running, rgb):
    uv = np.random.default_rng(0).uniform([0, 0], [639, 479], (128, 2)).astype(np.float32)
    header = running.show(rgb)
    answered, points = running.ask(uv, header)
    assert answered == header
    assert (points["status"] == Status.OK).all()
    frame = Predictor.load("embedded", device="cpu").encode(rgb, CAMERA)
    np.testing.assert_allclose(points["depth"], frame.depth_at(uv), rtol=1e-4)
    np.testing.assert_allclose(np.stack([points[c] for c in "xyz"], axis=1), frame.points_at(uv), rtol=1e-3, atol=1e-4)
    assert np.array_equal(np.stack([points["u"], points["v"]], axis=1), uv)
    assert points["id"].tolist() == list(range(128))


def test_zero_stamp_means_the_newest_image(running, rgb):
    shown = running.show(rgb)
    running.idle(0.5)
    answered, points = running.ask([[5, 5]], Header())
    assert answered.stamp == shown.stamp
    assert points["status"].tolist() == [Status.OK]


def test_points_that_cannot_be_answered(running, rgb):
    header = running.show(rgb)
    nan, inf = float("nan"), float("inf")
    uv = [[0, 0], [639, 479], [639.5, 479.5], [-0.6, 0], [640, 0], [0, 479.6], [nan, 1], [1, inf], [-inf, 1], [1e30, 1]]
    assert running.statuses(uv, header) == [0, 0, 0, *[Status.OUTSIDE_IMAGE] * 3, *[Status.NOT_FINITE] * 3, Status.OUTSIDE_IMAGE]


def test_no_points_and_very_many(running, rgb):
    header = running.show(rgb)
    assert running.statuses(np.zeros((0, 2)), header) == []
    uv = np.random.default_rng(0).uniform([0, 0], [639, 479], (200_000, 2))
    assert running.statuses(uv, header) == [Status.OK] * 200_000


def test_a_stamp_never_seen(running, rgb):
    running.show(rgb)
    running.idle(0.3)
    future, past = Header(), Header()
    future.stamp.sec, past.stamp.nanosec = 2_000_000, 77
    assert running.statuses([[1, 1]], future) == [Status.NO_IMAGE]
    assert running.statuses([[1, 1]], past) == [Status.NO_IMAGE]


def broken(msg: Image, **changes) -> Image:
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


BROKEN_IMAGES = {
    "short step": ({"step": 7}, "step is 7 bytes"),
    "wrong length": ({"data": b"123"}, "data has 3 bytes"),
    "unknown encoding": ({"encoding": "purple8"}, "'purple8' is not supported"),
    "depth encoding": ({"encoding": "32FC1"}, "depth image"),
    "no pixels": ({"height": 0, "width": 0, "step": 0, "data": b""}, "0x0 px"),
}


@pytest.mark.parametrize("name", BROKEN_IMAGES)
def test_broken_image(running, rgb, name):
    changes, complaint = BROKEN_IMAGES[name]
    header = running.header()
    running.images.publish(broken(rgb_to_image(rgb, header), **changes))
    assert running.statuses([[1, 1]], header) == [Status.BAD_IMAGE]
    running.spin(lambda: complaint in running.diagnostics.message)
    assert running.statuses([[1, 1]], running.show(rgb)) == [Status.OK]


def test_big_endian_and_changing_image_sizes(running, rgb):
    for size in ((240, 320), (720, 1280), (480, 640)):
        picture = np.resize(rgb, (*size, 3))
        camera = CAMERA.scaled(size[1] / 640, size[0] / 480)
        assert running.statuses([[size[1] - 1, size[0] - 1], [size[1], 0]], running.show(picture, camera)) == [Status.OK, Status.OUTSIDE_IMAGE]
    header = running.header()
    deep = (rgb.astype(">u2") * 256).view(np.uint8)
    running.images.publish(Image(header=header, height=480, width=640, encoding="rgb16", is_bigendian=1, step=3840, data=deep.tobytes()))
    _, points = running.ask([[100, 100]], header)
    _, same = running.ask([[100, 100]], running.show(rgb))
    assert points["depth"] == pytest.approx(same["depth"])


def field(name, offset, datatype=PointField.FLOAT32):
    return PointField(name=name, offset=offset, datatype=datatype, count=1)


BROKEN_QUERIES = {
    "no u, v": [field("a", 0), field("b", 4)],
    "integer fields": [field("u", 0, PointField.UINT32), field("v", 4, PointField.UINT32)],
    "fields outside the point": [field("u", 0), field("v", 6)],
    "no fields": [],
}


@pytest.mark.parametrize("name", BROKEN_QUERIES)
def test_broken_query(running, rgb, name):
    header = running.show(rgb)
    msg = query_cloud(np.ones((3, 2)), header)
    msg.fields = BROKEN_QUERIES[name]
    running.queries.publish(msg)
    answered, points = running.answer()
    assert answered.stamp == header.stamp
    assert points["status"].tolist() == [Status.BAD_QUERY] * 3
    assert np.isnan(points["u"]).all()


def test_query_that_lies_about_its_size(running, rgb):
    msg = query_cloud(np.ones((3, 2)), running.show(rgb))
    msg.width = 4_000_000_000
    running.queries.publish(msg)
    _, points = running.answer()
    assert set(points["status"].tolist()) == {Status.BAD_QUERY}


def test_diagnostics_tell_the_reasons(running, rgb):
    running.ask([[1, 1], [-5, 5]], running.show(rgb))
    running.diagnostics = None
    running.spin(lambda: running.diagnostics)
    values = {v.key: v.value for v in running.diagnostics.values}
    assert values["weights"] == "embedded"
    assert int(values["points OUTSIDE_IMAGE"]) >= 1
    assert int(values["queries received"]) == int(values["queries answered"])
    assert float(values["query latency p50 [ms]"]) > 0
    assert int(values["images bad"]) >= 1


def test_overlay_is_drawn_while_someone_listens(running, rgb):
    overlays = []
    subscription = running.create_subscription(Image, "/spd/overlay", overlays.append, 1)
    deadline = time.monotonic() + 15
    while not overlays and time.monotonic() < deadline:
        running.ask([[320, 240]], running.show(rgb))
    running.destroy_subscription(subscription)
    picture = np.frombuffer(overlays[0].data, np.uint8).reshape(480, 640, 3)
    assert not np.array_equal(picture, rgb)
    assert np.array_equal(picture[400:, :100], rgb[400:, :100])


def test_encoder_slower_than_the_camera(client, rgb):
    """300 images at 30 Hz with 128 points each; convnextv2_tiny takes a CPU several periods."""
    client.answers.clear()
    client.diagnostics = None
    process = start_node(TOPICS, {"weights": "v15", "device": "cpu", "diagnostics_period_s": 0.2})

    def resident_mb() -> float:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    try:
        client.connect(process)
        rng, sent, memory, start = np.random.default_rng(0), [], [], time.monotonic()
        client.show(rgb)
        for i in range(300):
            header = client.header()
            client.images.publish(rgb_to_image(rgb, header))
            client.send(rng.uniform([0, 0], [639, 479], (128, 2)), header)
            sent.append(header.stamp.sec)
            while time.monotonic() < start + (i + 1) / 30:
                rclpy.spin_once(client, timeout_sec=0.002)
            memory.append(resident_mb())
        client.spin(lambda: len(client.answers) >= 300, 30)
        client.idle(1.0)
        answered = [msg.header.stamp.sec for msg in client.answers]
        assert sorted(answered) == sorted(sent), "each query is answered exactly once"
        points = [cloud_to_array(msg) for msg in client.answers]
        assert all(len(p) == 128 for p in points)
        reasons = Counter(int(p["status"][0]) for p in points)
        assert reasons[Status.OK] >= 3
        assert reasons[Status.TIMED_OUT] + reasons[Status.FRAME_SKIPPED] + reasons[Status.NO_IMAGE] + reasons[Status.OK] == 300
        assert np.mean(memory[-50:]) < np.mean(memory[100:150]) + 60, "memory grows"
        values = {v.key: int(v.value) for v in client.diagnostics.values if v.value.isdigit()}
        assert values["images skipped"] + values["images encoded"] == pytest.approx(values["images received"], abs=2)
        assert values["images skipped"] > 100
        assert values["queries answered"] >= 300
    finally:
        assert stop_node(process) == 0
        client.answers.clear()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_clean_exit(client, rgb, signum):
    """Waiting queries are answered, the exit code is 0 and there is no traceback."""
    process = start_node(TOPICS, {"query_timeout_s": 30.0, "device": "cpu"}, stderr=-1, text=True)
    client.spin(lambda: client.queries.get_subscription_count() and client.count_publishers("/spd/depths"), 60)
    client.idle(1.0)
    client.answers.clear()
    future = Header()
    future.stamp.sec = 3_000_000
    client.send([[1, 1]], future)
    client.idle(0.5)
    process.send_signal(signum)
    _, points = client.answer()
    assert points["status"].tolist() == [Status.SHUTTING_DOWN]
    assert process.wait(timeout=20) == 0
    assert "Traceback" not in process.stderr.read()


def transition(client, transition_id: int) -> bool:
    service = client.create_client(ChangeState, "/spd/change_state")
    assert service.wait_for_service(timeout_sec=60)
    future = service.call_async(ChangeState.Request(transition=Transition(id=transition_id)))
    rclpy.spin_until_future_complete(client, future, timeout_sec=30)
    client.destroy_client(service)
    return future.result().success


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ("/nowhere/weights.safetensors", "weights file /nowhere/weights.safetensors does not exist; give an existing .safetensors file"),
        (__file__, "is not a readable safetensors file"),
    ],
    ids=["missing", "corrupt"],
)
def test_bad_weights_fail_to_configure(client, weights, complaint):
    process = start_node(TOPICS, {"weights": weights, "autostart": False}, stderr=-1, text=True)
    try:
        assert transition(client, Transition.TRANSITION_CONFIGURE) is False
        state = client.create_client(GetState, "/spd/get_state")
        future = state.call_async(GetState.Request())
        rclpy.spin_until_future_complete(client, future, timeout_sec=30)
        assert future.result().current_state.label == "unconfigured"
    finally:
        assert stop_node(process) == 0
    text = process.stderr.read()
    assert complaint in text
    assert "Traceback" not in text


def test_lifecycle_by_hand_and_grid(client, rgb):
    process = start_node(TOPICS, {"autostart": False, "grid": "[4,3]"})
    try:
        for _ in range(3):
            assert transition(client, Transition.TRANSITION_CONFIGURE)
            assert transition(client, Transition.TRANSITION_ACTIVATE)
            client.spin(lambda: client.images.get_subscription_count() and client.count_publishers("/spd/depths"))
            client.idle(1.0)
            client.answers.clear()
            header = client.show(rgb)
            answered, points = client.answer()
            assert answered == header
            assert len(points) == 12
            np.testing.assert_allclose(points["u"][:4], [79.5, 239.5, 399.5, 559.5])
            assert (points["status"] == Status.OK).all()
            assert transition(client, Transition.TRANSITION_DEACTIVATE)
            assert transition(client, Transition.TRANSITION_CLEANUP)
    finally:
        assert stop_node(process) == 0
