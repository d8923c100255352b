"""Replay over ROS 2: the frames of a bag to a node, in their own time, and its answers back."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import rclpy
from ament_index_python.packages import get_package_share_directory
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rich.progress import track
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from spd_core.data.bag import FRAME_ID, BagFrame
from spd_core.messages import cloud_to_array
from spd_core.replay import Answer, Replayed

from .conversions import query_cloud

WAIT_FOR_NODE_S, WAIT_FOR_ANSWERS_S = 60.0, 5.0
IMAGE, INFO, QUERY, DEPTHS = "/camera/image_raw", "/camera/camera_info", "/spd/query_points", "/spd/depths"
# Fast DDS 3 (Kilted) renamed the variable and warns about the old name.
PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE" if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy") else "FASTDDS_DEFAULT_PROFILES_FILE"


def fastdds_profile() -> Path:
    """config/fastdds.xml, of the source tree or of the installed package."""
    source = Path(__file__).parent.parent / "config" / "fastdds.xml"
    return source if source.exists() else Path(get_package_share_directory("spd_ros")) / "config" / "fastdds.xml"


def isolate() -> None:
    """Settings that child processes inherit: the Fast DDS profile, and a DDS domain of our own on this machine."""
    os.environ.setdefault(PROFILE_VARIABLE, str(fastdds_profile()))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(1, 100))


def start_node(remappings: dict[str, str] | None = None, parameters: dict[str, object] | None = None, **kwargs) -> subprocess.Popen:
    """`spd_node` as a process of its own."""
    arguments = [part for source, target in (remappings or {}).items() for part in ("-r", f"{source}:={target}")]
    arguments += [part for name, value in (parameters or {}).items() for part in ("-p", f"{name}:={value}")]
    return subprocess.Popen([sys.executable, "-m", "spd_ros.node", "--ros-args", *arguments], **kwargs)


def stop_node(process: subprocess.Popen) -> int:
    """End it as `ros2 launch` does; its exit code."""
    process.send_signal(signal.SIGINT)
    return process.wait(timeout=30)


class Player(Node):
    """Publishes frames and queries, and collects what comes back."""

    def __init__(self, is_compressed: bool):
        super().__init__("spd_replay")
        image_type, image_topic = (CompressedImage, f"{IMAGE}/compressed") if is_compressed else (Image, IMAGE)
        self.images = self.create_publisher(image_type, image_topic, 5)
        self.infos = self.create_publisher(CameraInfo, INFO, 5)
        self.queries = self.create_publisher(PointCloud2, QUERY, 50)
        self.create_subscription(PointCloud2, DEPTHS, self._receive, 200)
        self.on_answer: Callable[[PointCloud2], None] = lambda msg: None

    def _receive(self, msg: PointCloud2) -> None:
        self.on_answer(msg)

    def spin(self, until: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not until() and time.monotonic() < deadline:
            rclpy.spin_once(self, timeout_sec=0.005)
        return until()

    def is_connected(self) -> bool:
        return all(p.get_subscription_count() for p in (self.images, self.infos, self.queries)) and self.count_publishers(DEPTHS) > 0

    def show(self, frame: BagFrame) -> None:
        if frame.camera_info_data is not None:
            self.infos.publish(frame.camera_info_data)
        self.images.publish(frame.image_message.data)

    def warm_up(self, frame: BagFrame) -> None:
        """Show the first image until a query about the newest frame is answered, so that the first latency is not a cold start's."""
        answered = []
        self.on_answer = answered.append
        deadline = time.monotonic() + WAIT_FOR_NODE_S
        while not answered and time.monotonic() < deadline:
            self.show(frame)
            self.queries.publish(query_cloud(_POINT, Header(frame_id=FRAME_ID)))
            self.spin(lambda: bool(answered), 2.0)
        self.spin(lambda: False, 0.5)  # late answers to the warm-up


_POINT = [[0.0, 0.0]]


def replay_live(frames: Iterable[BagFrame], rate: float = 1.0, node: subprocess.Popen | None = None) -> list[Replayed]:
    """Publish each frame and its queries at the recorded rate times `rate`, and wait for the answers.

    A node that dies on the way leaves a gap; the replay goes on (someone may start it again) and ends by itself.

    Args:
        node: the process of a node started for this replay, to tell a dead one from a slow one.

    Raises:
        ConnectionError: no node is there within a minute.
        RuntimeError: a query was answered twice.
    """
    frames = list(frames)
    if not frames:
        return []
    played = [Replayed.of(frame, keep_picture=index == len(frames) - 1) for index, frame in enumerate(frames)]
    where = {int(ids[0]): (number, i) for number, frame in enumerate(played) for i, ids in enumerate(frame.ids)}
    sent_s: dict[int, float] = {}
    waiting: set[int] = set()

    def receive(msg: PointCloud2) -> None:
        points = cloud_to_array(msg)
        first = int(points["id"][0]) if len(points) else -1
        if first not in sent_s or len(points) != len(played[where[first][0]].uv[where[first][1]]):
            return  # someone else's question
        if first not in waiting:
            raise RuntimeError(f"the query of point {first} was answered twice")
        waiting.discard(first)
        number, i = where[first]
        played[number].answers[i] = Answer(points["depth"].copy(), points["status"].copy(), time.monotonic() - sent_s[first])

    rclpy.init()
    player = Player(frames[0].image_message.type_name.endswith("CompressedImage"))
    try:
        player.spin(lambda: player.is_connected() or (node is not None and node.poll() is not None), WAIT_FOR_NODE_S)
        if not player.is_connected():
            hint = "its output above says why" if node is not None else "start one with these topics: ros2 launch spd_ros spd.launch.py"
            raise ConnectionError(f"no node listens to {player.images.topic_name}, {INFO} and {QUERY}; {hint}")
        player.warm_up(frames[0])
        player.on_answer = receive
        started_s, recorded_ns = time.monotonic(), frames[0].stamp_ns
        for frame in track(frames, "playing", total=len(frames)):
            due_s = started_s + (frame.stamp_ns - recorded_ns) / 1e9 / rate
            player.spin(lambda due_s=due_s: time.monotonic() >= due_s, 3600)
            player.show(frame)
            header = deserialize_message(frame.image_message.data, player.images.msg_type).header
            for uv, ids in frame.queries:
                first = int(ids[0])
                sent_s[first] = time.monotonic()
                waiting.add(first)
                player.queries.publish(query_cloud(uv, header, ids))
        player.spin(lambda: not waiting, WAIT_FOR_ANSWERS_S)
    finally:
        player.destroy_node()
        rclpy.try_shutdown()
    return played
