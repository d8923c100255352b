"""RGB-D sequences as ROS 2 bags (MCAP), written and read without ROS."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from ..camera import Camera
from ..messages import (
    MessageError,
    camera_from_info,
    compressed_depth_to_metres,
    compressed_to_rgb,
    depth_to_metres,
    image_to_rgb,
    query_points,
)
from .samples import DataError

IMAGE_TOPIC, INFO_TOPIC, DEPTH_TOPIC, QUERY_TOPIC = (
    "/camera/image_raw",
    "/camera/camera_info",
    "/camera/depth",
    "/spd/query_points",
)
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
class BagMessage:
    """A message as it was recorded: `data` is its CDR serialisation."""

    stamp_ns: int
    topic: str
    type_name: str
    data: bytes


@dataclass(frozen=True)
class BagFrame:
    """One image of a sequence, its ground truth and the queries asked about it.

    `rgb` uint8 [H, W, 3], `depth_m` float32 [H, W] (0 where unknown) or None, `camera` or None, `queries`: arrays (uv
    [K, 2] px, ids [K]). A frame that was read has the messages it was recorded as.
    """

    stamp_ns: int
    rgb: np.ndarray
    depth_m: np.ndarray | None
    camera: Camera | None
    queries: list[tuple[np.ndarray, np.ndarray]]
    image_message: BagMessage | None = None
    camera_info_data: bytes | None = None


def write_bag(path: str | Path, frames: Iterable[BagFrame], storage: str = "mcap") -> int:
    """Write a bag folder at `path` with the storage "mcap" or "sqlite3"; one that is already there is replaced. Returns
    the number of frames."""
    if storage not in ("mcap", "sqlite3"):
        raise ValueError(f"storage must be mcap or sqlite3, got {storage!r}")
    path = Path(path)
    if path.exists():
        if not (path / "metadata.yaml").exists():
            raise FileExistsError(f"{path} exists and is not a bag; choose another folder")
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connections = {
            topic: writer.add_connection(topic, type_name, typestore=_STORE) for topic, type_name in _TYPES.items()
        }

        def write(topic: str, stamp_ns: int, message) -> None:
            writer.write(connections[topic], stamp_ns, _STORE.serialize_cdr(message, _TYPES[topic]))

        count = 0
        for count, frame in enumerate(frames, start=1):  # noqa: B007
            header, stamp = _header(frame.stamp_ns), frame.stamp_ns
            if frame.camera is not None:
                write(INFO_TOPIC, stamp, _camera_info(header, frame.camera, frame.rgb.shape[:2]))
            write(IMAGE_TOPIC, stamp, _image(header, frame.rgb, "rgb8"))
            if frame.depth_m is not None:
                write(DEPTH_TOPIC, stamp, _image(header, frame.depth_m.astype(np.float32)[..., None], "32FC1"))
            for i, (uv, ids) in enumerate(frame.queries):
                write(QUERY_TOPIC, stamp + i + 1, _query(header, uv, ids))
    return count


@dataclass(frozen=True)
class Topics:
    """Names of a bag's topics; None where it has none of that kind."""

    image: str
    depth: str | None = None
    camera_info: str | None = None
    query: str | None = None


@contextmanager
def _open(path: str | Path) -> Iterator[AnyReader]:
    path = Path(path)
    if not path.exists():
        raise DataError(f"bag {path} does not exist")
    try:
        reader = AnyReader([path], default_typestore=_STORE)
        reader.open()
    except Exception as error:  # of rosbags, sqlite3, yaml, zstandard ...
        raise DataError(f"{path} is not a readable ROS 2 bag (sqlite3 or MCAP): {error}") from error
    try:
        yield reader
    finally:
        reader.close()


def find_topics(
    path: str | Path,
    image: str | None = None,
    depth: str | None = None,
    camera_info: str | None = None,
    query: str | None = None,
) -> Topics:
    """The topics of a bag by type and by what their first message holds; a name that is given is taken instead.

    Of several colour images the one with a camera_info beside it is taken, then the first by name.

    Raises:
        DataError: no bag, a named topic that it lacks, or no colour image; the message lists what the bag has.
    """
    with _open(path) as reader:
        kinds: dict[str, list[str]] = {"image": [], "depth": [], "camera_info": [], "query": []}
        for connection in sorted(reader.connections, key=lambda c: c.topic):
            first = next(reader.messages([connection]), None)
            kind = _kind(connection.msgtype, reader.deserialize(first[2], connection.msgtype)) if first else None
            if kind and connection.topic not in kinds[kind]:
                kinds[kind].append(connection.topic)
        content = ", ".join(f"{c.topic} ({c.msgtype}, {c.msgcount})" for c in reader.connections) or "nothing"
        names = {c.topic for c in reader.connections}
    given = {"image": image, "depth": depth, "camera_info": camera_info, "query": query}
    for kind, name in given.items():
        if name is not None and name not in names:
            raise DataError(f"the bag {path} has no topic {name} for {kind}; it has {content}")
    if image is None and not kinds["image"]:
        raise DataError(f"the bag {path} has no colour image; it has {content}")

    def beside(topic: str) -> str:
        return topic.rsplit("/", 1)[0] if not topic.endswith("/compressed") else topic.rsplit("/", 2)[0]

    folders = {beside(topic) for topic in kinds["camera_info"]}
    image = image or min(kinds["image"], key=lambda topic: (beside(topic) not in folders, topic))
    near = sorted(kinds["camera_info"], key=lambda topic: (beside(topic) != beside(image), topic))
    return Topics(
        image,
        depth or next(iter(kinds["depth"]), None),
        camera_info or next(iter(near), None),
        query or next(iter(kinds["query"]), None),
    )


def image_count(path: str | Path, topics: Topics) -> int:
    """Messages on the bag's image topic."""
    with _open(path) as reader:
        return sum(c.msgcount for c in reader.connections if c.topic == topics.image)


def _kind(type_name: str, message) -> str | None:
    if type_name == "sensor_msgs/msg/Image":
        return "depth" if message.encoding in ("16UC1", "32FC1") else "image"
    if type_name == "sensor_msgs/msg/CompressedImage":
        return "depth" if "compressedDepth" in message.format or message.format.startswith("16UC1") else "image"
    if type_name == "sensor_msgs/msg/PointCloud2":
        return (
            "query"
            if {"u", "v"} <= {field.name for field in message.fields}
            and "depth" not in {field.name for field in message.fields}
            else None
        )
    return "camera_info" if type_name == "sensor_msgs/msg/CameraInfo" else None


def read_frames(path: str | Path, topics: Topics, tolerance_s: float = 0.02) -> Iterator[BagFrame]:
    """The images of a bag with the depth image nearest in stamp (within `tolerance_s`), the latest camera_info and the
    queries of that stamp.

    Images that come before the first camera_info take that one. What cannot be decoded is left out with a warning.
    """
    wanted = {name for name in (topics.image, topics.depth, topics.camera_info, topics.query) if name}
    with _open(path) as reader:
        connections = [c for c in reader.connections if c.topic in wanted]
        stamps: dict[str, list[int]] = {name: [] for name in wanted}
        camera_info = None
        for connection, _, data in reader.messages(connections):
            stamps[connection.topic].append(_stamp_of(data))
            if camera_info is None and connection.topic == topics.camera_info:
                camera_info = (reader.deserialize(data, connection.msgtype), bytes(data))
        partner = _nearest(stamps[topics.image], stamps.get(topics.depth, []), round(tolerance_s * 1e9))
        depths_wanted = {d: i for i, d in partner.items()}
        queries_left = Counter(stamps.get(topics.query, []))
        frames: dict[int, dict] = {}  # image stamp -> what has come of it
        for connection, _, data in reader.messages(connections):
            stamp = _stamp_of(data)
            if connection.topic == topics.camera_info:
                camera_info = (reader.deserialize(data, connection.msgtype), bytes(data))
            elif connection.topic == topics.image:
                image = BagMessage(stamp, connection.topic, connection.msgtype, bytes(data))
                frames.setdefault(stamp, {"queries": []}).update(image=image, info=camera_info)
            elif connection.topic == topics.depth and stamp in depths_wanted:
                frames.setdefault(depths_wanted[stamp], {"queries": []})["depth"] = reader.deserialize(
                    data, connection.msgtype
                )
            elif connection.topic == topics.query:
                try:
                    frames.setdefault(stamp, {"queries": []})["queries"].append(
                        query_points(reader.deserialize(data, connection.msgtype))
                    )
                except MessageError as error:
                    warnings.warn(f"the query at {stamp / 1e9:.3f} s is left out: {error}", stacklevel=2)
                queries_left[stamp] -= 1
            done = [
                s
                for s, f in frames.items()
                if "image" in f and ("depth" in f or s not in partner) and queries_left[s] <= 0
            ]
            for s in done:
                if (frame := _frame(s, frames.pop(s), reader)) is not None:
                    yield frame


def _frame(stamp_ns: int, parts: dict, reader: AnyReader) -> BagFrame | None:
    image: BagMessage = parts["image"]
    message = reader.deserialize(image.data, image.type_name)
    try:
        rgb = (image_to_rgb if image.type_name.endswith("/Image") else compressed_to_rgb)(message)
        info, info_data = parts["info"] or (None, None)
        camera = camera_from_info(info, rgb.shape[:2]) if info is not None else None
        depth = parts.get("depth")
        depth_m = (
            None
            if depth is None
            else (depth_to_metres if hasattr(depth, "encoding") else compressed_depth_to_metres)(depth)
        )
        if depth_m is not None and depth_m.shape != rgb.shape[:2]:
            raise MessageError(
                f"depth is {list(depth_m.shape)} px and colour {list(rgb.shape[:2])}; depth must be registered to"
                " colour"
            )
    except MessageError as error:
        warnings.warn(f"the frame at {stamp_ns / 1e9:.3f} s is left out: {error}", stacklevel=2)
        return None
    return BagFrame(stamp_ns, rgb, depth_m, camera, parts["queries"], image, info_data)


def _stamp_of(data) -> int:
    """The header's stamp, ns, from the first bytes of a serialised message: every type used here begins with its
    header."""
    seconds, nanoseconds = np.frombuffer(bytes(data[4:12]), "<i4")
    return int(seconds) * 10**9 + int(nanoseconds)


def _nearest(stamps: list[int], others: list[int], tolerance: int) -> dict[int, int]:
    """For each of `stamps` the nearest of `others` within the tolerance, each of those at most once."""
    others, pairs = np.sort(np.array(others, dtype=np.int64)), {}
    taken: dict[int, int] = {}
    for stamp in stamps:
        at = np.searchsorted(others, stamp)
        near = [int(o) for o in others[max(at - 1, 0) : at + 1] if abs(int(o) - stamp) <= tolerance]
        if near:
            best = min(near, key=lambda o: abs(o - stamp))
            if best not in taken or abs(best - stamp) < abs(best - taken[best]):
                pairs.pop(taken.get(best), None)
                taken[best], pairs[stamp] = stamp, best
    return pairs


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
    return _type("sensor_msgs/msg/CameraInfo")(
        header, size[0], size[1], "plumb_bob", np.zeros(5), k, np.eye(3).reshape(-1), p, 0, 0, roi
    )


def _query(header, uv: np.ndarray, ids: np.ndarray):
    points = np.zeros(len(uv), dtype=_QUERY)
    points["u"], points["v"] = uv.T
    points["id"] = ids
    field = _type("sensor_msgs/msg/PointField")
    fields = [field("u", 0, 7, 1), field("v", 4, 7, 1), field("id", 8, 6, 1)]
    size = _QUERY.itemsize
    return _type("sensor_msgs/msg/PointCloud2")(
        header, 1, len(uv), fields, False, size, size * len(uv), points.view(np.uint8), True
    )
