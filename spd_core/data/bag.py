"""RGB-D sequences as ROS 2 bags (MCAP), written and read without ROS."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from ..camera import Camera

IMAGE_TOPIC, INFO_TOPIC, DEPTH_TOPIC, QUERY_TOPIC = "/camera/image_raw", "/camera/camera_info", "/camera/depth", "/spd/query_points"
FRAME_ID = "camera_optical_frame"
_STORE = get_typestore(Stores.ROS2_JAZZY)
_TYPES = {
    IMAGE_TOPIC: "sensor_msgs/msg/Image",
    INFO_TOPIC: "sensor_msgs/msg/CameraInfo",
    DEPTH_TOPIC: "sensor_msgs/msg/Image",
    QUERY_TOPIC: "sensor_msgs/msg/PointCloud2",
}
_QUERY = np.dtype([("u", "<f4"), ("v", "<f4"), ("id", "<u4")])


@dataclass(frozen=True)
class BagFrame:
    """One image of a sequence, its ground truth and the queries asked about it.

    `rgb` uint8 [H, W, 3], `depth_m` float32 [H, W] (0 where unknown) or None, `camera` or None, `queries`: arrays (uv [K, 2] px, ids [K]).
    """

    stamp_ns: int
    rgb: np.ndarray
    depth_m: np.ndarray | None
    camera: Camera | None
    queries: list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class BagMessage:
    """A message as it was recorded: `data` is its CDR serialisation."""

    stamp_ns: int
    topic: str
    type_name: str
    data: bytes


def write_bag(path: str | Path, frames: Iterable[BagFrame]) -> None:
    """Write a bag folder at `path`; one that is already there is replaced."""
    path = Path(path)
    if path.exists():
        if not (path / "metadata.yaml").exists():
            raise FileExistsError(f"{path} exists and is not a bag; choose another folder")
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {topic: writer.add_connection(topic, type_name, typestore=_STORE) for topic, type_name in _TYPES.items()}

        def write(topic: str, stamp_ns: int, message) -> None:
            writer.write(connections[topic], stamp_ns, _STORE.serialize_cdr(message, _TYPES[topic]))

        for frame in frames:
            header, stamp = _header(frame.stamp_ns), frame.stamp_ns
            if frame.camera is not None:
                write(INFO_TOPIC, stamp, _camera_info(header, frame.camera, frame.rgb.shape[:2]))
            write(IMAGE_TOPIC, stamp, _image(header, frame.rgb, "rgb8"))
            if frame.depth_m is not None:
                write(DEPTH_TOPIC, stamp, _image(header, frame.depth_m.astype(np.float32)[..., None], "32FC1"))
            for i, (uv, ids) in enumerate(frame.queries):
                write(QUERY_TOPIC, stamp + i + 1, _query(header, uv, ids))


def read_messages(path: str | Path) -> Iterator[BagMessage]:
    """The messages of a bag in the order of their stamps."""
    with Reader(path) as reader:
        for connection, stamp_ns, data in reader.messages():
            yield BagMessage(stamp_ns, connection.topic, connection.msgtype, bytes(data))


def _type(name: str):
    return _STORE.types[name]


def _header(stamp_ns: int):
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    return _type("std_msgs/msg/Header")(_type("builtin_interfaces/msg/Time")(seconds, nanoseconds), FRAME_ID)


def _image(header, pixels: np.ndarray, encoding: str):  # [H, W, C]
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    return _type("sensor_msgs/msg/Image")(header, height, width, encoding, 0, data.size // height, data)


def _camera_info(header, camera: Camera, size: tuple[int, int]):
    k = np.array([camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1], dtype=np.float64)
    p = np.concatenate([k.reshape(3, 3), np.zeros((3, 1))], axis=1).reshape(-1)
    roi = _type("sensor_msgs/msg/RegionOfInterest")(0, 0, 0, 0, False)
    return _type("sensor_msgs/msg/CameraInfo")(header, size[0], size[1], "plumb_bob", np.zeros(5), k, np.eye(3).reshape(-1), p, 0, 0, roi)


def _query(header, uv: np.ndarray, ids: np.ndarray):
    points = np.zeros(len(uv), dtype=_QUERY)
    points["u"], points["v"] = uv.T
    points["id"] = ids
    field = _type("sensor_msgs/msg/PointField")
    fields = [field("u", 0, 7, 1), field("v", 4, 7, 1), field("id", 8, 6, 1)]
    size = _QUERY.itemsize
    return _type("sensor_msgs/msg/PointCloud2")(header, 1, len(uv), fields, False, size, size * len(uv), points.view(np.uint8), True)
