"""A robot's side of the node's topics, for tests over real DDS."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path as NavPath
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from spd_core import Camera
from spd_core.message_fields import camera_info_fields
from spd_core.messages import cloud_to_array
from spd_core.names import IMAGE_TOPIC, INFO_TOPIC
from spd_core.status import Status
from spd_rooms.synthetic import random_frame
from spd_ros.conversions import query_cloud, rgb_to_image
from spd_ros.processes import PROFILE_VARIABLE, fastdds_profile, running_node

os.environ[PROFILE_VARIABLE] = str(fastdds_profile())
CAMERA = Camera(525.0, 525.0, 319.5, 239.5)
TOPICS = {"image": IMAGE_TOPIC, "camera_info": INFO_TOPIC}


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
        self.spin(
            lambda: (
                process.poll() is not None
                or all(p.get_subscription_count() for p in (self.images, self.infos, self.queries))
            ),
            60,
        )
        assert process.poll() is None, "the node died"
        self.spin(lambda: self.count_publishers("/spd/depths") == 1)
        asked = 0
        while not self.answers and asked < 20:  # the answer channel may be matched on one side only: warm it up
            self.send(np.zeros((1, 2)), Header())
            asked += 1
            end = time.monotonic() + 2
            while not self.answers and time.monotonic() < end:
                rclpy.spin_once(self, timeout_sec=0.01)
        self.idle(0.2 if asked == 1 else 1.5)  # until late answers are here
        self.answers.clear()

    def match(self, timeout_s: float = 20.0) -> None:
        """Wait until a node hears queries, and its answers are heard."""
        self.spin(lambda: self.queries.get_subscription_count() and self.count_publishers("/spd/depths"), timeout_s)
        self.idle(1.0)
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
            self.infos.publish(CameraInfo(header=header, **camera_info_fields(camera, rgb.shape[:2])))
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


@contextmanager
def connected(client: Client, settings: dict) -> Iterator[Client]:
    """The client, connected to a node of these settings that no message ends."""
    with running_node(TOPICS, settings) as process:
        client.connect(process)
        yield client
        assert process.poll() is None, "the node died of a message"
    assert process.returncode == 0


def set_parameter(running, name, value) -> tuple[bool, str]:
    service = running.create_client(SetParameters, "/spd/set_parameters")
    assert service.wait_for_service(10)
    future = service.call_async(SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()]))
    running.spin(future.done)
    running.destroy_client(service)
    result = future.result().results[0]
    return result.successful, result.reason


def path(points, frame_id, stamp) -> NavPath:
    """A path through points [K, 3] m."""
    msg = NavPath(header=Header(frame_id=frame_id, stamp=stamp))
    for x, y, z in points:
        pose = PoseStamped()
        pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = map(float, (x, y, z))
        msg.poses.append(pose)
    return msg


def mutated(rng, msg):
    """A message of the same type with something wrong, or odd, in it."""
    data = bytearray(bytes(msg.data))
    kind = rng.integers(7)
    if kind == 0:
        data = data[: rng.integers(len(data) + 1)]
    elif kind == 1:
        data += bytes(int(rng.integers(1, 100)))
    elif kind == 2:
        msg.width = int(rng.choice([0, 1, 3, 63, 65, 2**31, 2**32 - 1]))
    elif kind == 3:
        msg.height = int(rng.choice([0, 1, 2, 47, 2**16, 2**32 - 1]))
    elif kind == 4 and isinstance(msg, Image):
        msg.step = int(rng.integers(0, 2**32))
    elif kind == 4:
        msg.point_step, msg.row_step = int(rng.integers(0, 100)), int(rng.integers(0, 2**32))
    elif kind == 5 and isinstance(msg, Image):
        msg.encoding = str(
            rng.choice(["", "bgr8", "mono16", "yuyv", "nv12", "bayer_rggb16", "32FC1", "\u00fc8", "rgba16", "8UC3"])
        )
        msg.is_bigendian = int(rng.integers(2))
    elif kind == 5:
        names, numbers = rng.choice(["u", "v", "x", "id", ""], 3), rng.integers(0, [20, 10, 4], (3, 3)).tolist()
        msg.fields = [
            PointField(name=str(name), offset=offset, datatype=datatype, count=count)
            for name, (offset, datatype, count) in zip(names, numbers)
        ]
        msg.is_bigendian = bool(rng.integers(2))
    else:
        for i in rng.integers(0, max(len(data), 1), 8):
            if data:
                data[i] = rng.integers(256)
    msg.data = bytes(data)
    return msg


def process_status(pid: int, name: str) -> str:
    """A value of /proc/<pid>/status, without its unit."""
    return Path(f"/proc/{pid}/status").read_text().split(f"{name}:")[1].split()[0]


def resident_mb(pid: int) -> float:
    return int(process_status(pid, "VmRSS")) / 1024


@pytest.fixture(scope="module")
def rgb():
    return random_frame(42, (480, 640)).rgb


@pytest.fixture(scope="module")
def client():
    rclpy.init()
    node = Client()
    yield node
    node.destroy_node()
    rclpy.try_shutdown()
