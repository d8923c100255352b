"""Bags as drivers record them, message by message: whatever topics, types, encodings, storage and compression."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from spd_core.camera import Camera
from spd_core.data.bag_writing import camera_info_message, header, image_message
from spd_core.data.serialised import TYPES

IMAGE, COMPRESSED, INFO = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo"))
SIZE = (48, 64)
CAMERA = Camera(60.0, 60.0, 31.5, 23.5)
T0_NS = 1_700_000_000 * 10**9
# topic, time of recording (ns), message (of rosbags' types) or its bytes with their type
Message = tuple[str, int, Any]


def picture(i: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """An RGB image [H, W, 3] that differs by `i`."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([x * 3 + i, y * 4, 200 - x - y + 5 * i], axis=-1).clip(0, 255).astype(np.uint8)


def depth_mm(i: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Depth uint16 [H, W] with holes."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.where((x + y) % 17 == 0, 0, 900 + 20 * y + 3 * x + 10 * i).astype(np.uint16)


def stamp(i: int) -> int:
    return T0_NS + i * 10**8


def image(ns: int, pixels: np.ndarray, encoding: str, frame_id: str = "cam"):
    message = image_message(ns, pixels, encoding)
    message.header.frame_id = frame_id
    return message


def info(ns: int, size: tuple[int, int] = SIZE, frame_id: str = "cam", camera: Camera = CAMERA, **fields):
    message = camera_info_message(ns, camera, size)
    message.header.frame_id = frame_id
    for name, value in fields.items():
        setattr(message, name, np.array(value, np.float64) if isinstance(value, list) else value)
    return message


def compressed(ns: int, form: str, data: bytes, frame_id: str = "cam"):
    return TYPES.types[COMPRESSED](header(ns, frame_id), form, np.frombuffer(data, np.uint8))


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def usual(count: int = 3, depth_offset_ns: int = 0, with_info: bool = True, **info_fields) -> Iterator[Message]:
    """What a RealSense records: colour, depth aligned to it, calibration."""
    for i in range(count):
        ns = stamp(i)
        if with_info:
            yield "/camera/color/camera_info", ns, info(ns, **info_fields)
        yield "/camera/color/image_raw", ns, image(ns, picture(i), "rgb8")
        topic = "/camera/aligned_depth_to_color/image_raw"
        yield topic, ns + 1000, image(ns + depth_offset_ns, depth_mm(i), "16UC1")


def write(
    path: Path,
    messages: Iterable[Message],
    storage: str = "mcap",
    compression: CompressionMode | None = None,
    definitions: dict[str, str] | None = None,
) -> Path:
    """A bag; messages of types that ROS does not have are (type, bytes), their definition is in `definitions`."""
    shutil.rmtree(path, ignore_errors=True)
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    connections: dict[str, Any] = {}
    with writer:
        for topic, log_ns, message in messages:
            type_name, data = message if isinstance(message, tuple) else (message.__msgtype__, None)
            if topic not in connections and data is None:
                connections[topic] = writer.add_connection(topic, type_name, typestore=TYPES)
            elif topic not in connections:
                definition = (definitions or {}).get(type_name, " ")
                connections[topic] = writer.add_connection(
                    topic, type_name, msgdef=definition, rihs01="RIHS01_" + 64 * "0"
                )
            writer.write(connections[topic], log_ns, data or TYPES.serialize_cdr(message, type_name))
    return path


def write_ros1(path: Path, messages: Iterable[Message], by_message: bool = False) -> Path:
    """The same as a ROS 1 bag; `by_message`: each in a chunk of its own, which is compressed."""
    store, writer = get_typestore(Stores.ROS1_NOETIC), Ros1Writer(path)
    if by_message:
        writer.set_compression(Ros1Writer.CompressionFormat.BZ2)
        writer.chunk_threshold = 1
    with writer:
        connections: dict[str, Any] = {}
        for sequence, (topic, log_ns, message) in enumerate(messages):
            type_name = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, type_name, typestore=store)
            fields = {name.upper() if name in "dkrp" else name: value for name, value in vars(message).items()}
            stamped = message.header
            time = store.types["builtin_interfaces/msg/Time"](stamped.stamp.sec, stamped.stamp.nanosec)
            fields["header"] = store.types["std_msgs/msg/Header"](sequence, time, stamped.frame_id)
            if "roi" in fields:
                fields["roi"] = store.types["sensor_msgs/msg/RegionOfInterest"](**_plain(fields["roi"]))
            fields = {name: value for name, value in fields.items() if not name.startswith("__")}
            data = store.serialize_ros1(store.types[type_name](**fields), type_name)
            writer.write(connections[topic], log_ns, data)
    return path


def _plain(message: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(message).items() if not name.startswith("__")}


def rvl(depth: np.ndarray) -> bytes:
    """A depth image uint16 [H, W] in RVL, nibble by nibble as its paper writes them: the encoder to hold the decoder
    against."""
    nibbles: list[int] = []

    def put(number: int) -> None:
        while number > 7:
            nibbles.append(number & 7 | 8)
            number >>= 3
        nibbles.append(number)

    values, at, previous = depth.reshape(-1).tolist(), 0, 0
    while at < len(values):
        zeros = next((i for i, v in enumerate(values[at:]) if v), len(values) - at)
        at += zeros
        count = next((i for i, v in enumerate(values[at:]) if not v), len(values) - at)
        put(zeros)
        put(count)
        for value in values[at : at + count]:
            delta = value - previous
            put(2 * delta if delta >= 0 else -2 * delta - 1)
            previous = value
        at += count
    nibbles += [0] * (-len(nibbles) % 8)
    words = (sum(n << (28 - 4 * i) for i, n in enumerate(nibbles[k : k + 8])) for k in range(0, len(nibbles), 8))
    return b"".join(struct.pack("<I", word) for word in words)


def rvl_message(depth: np.ndarray, a: float = 0.0, b: float = 0.0) -> bytes:
    """Of a compressedDepth message: its header, columns and rows, and the code."""
    return struct.pack("<iffii", 0, a, b, depth.shape[1], depth.shape[0]) + rvl(depth)


def write_mcap(
    path: Path, messages: Iterable[Message], by_chunk: int = 0, compression: str = "", has_index: bool = False
) -> list[tuple[int, int]]:
    """An MCAP file as its specification says: `by_chunk` messages in a chunk (0: no chunks) with its checksum, and an
    index at the end or not. Where each chunk, or message, begins and ends in the file."""
    import lz4.frame
    from backports import zstd

    pack = {"": bytes, "zstd": zstd.compress, "lz4": lz4.frame.compress}[compression]
    out, places, numbers, chunk, times, index = (
        [b"\x89MCAP0\r\n" + _record(1, _text("ros2") + _text(""))],
        [],
        {},
        [],
        [],
        [],
    )

    def position() -> int:
        return sum(map(len, out))

    def close_chunk() -> None:
        content = b"".join(chunk)
        packed = pack(content)
        head = struct.pack("<QQQI", min(times), max(times), len(content), zlib.crc32(content))
        record = _record(6, head + _text(compression) + struct.pack("<Q", len(packed)) + packed)
        places.append((position(), position() + len(record)))
        entry = struct.pack("<QQQQI", min(times), max(times), position(), len(record), 0)
        index.append(
            _record(
                8, entry + struct.pack("<Q", 0) + _text(compression) + struct.pack("<QQ", len(packed), len(content))
            )
        )
        out.append(record)
        chunk.clear()
        times.clear()

    definitions = []
    for topic, log_ns, message in messages:
        if topic not in numbers:
            numbers[topic] = len(numbers) + 1
            both = struct.pack("<HH", numbers[topic], numbers[topic])
            definitions.append(_record(3, both[:2] + _text(message.__msgtype__) + _text("ros2msg") + _text("")))
            definitions.append(_record(4, both + _text(topic) + _text("cdr") + struct.pack("<I", 0)))
            (chunk if by_chunk else out).extend(definitions[-2:])
        data = bytes(TYPES.serialize_cdr(message, message.__msgtype__))
        record = _record(5, struct.pack("<HIQQ", numbers[topic], 0, log_ns, log_ns) + data)
        if by_chunk:
            chunk.append(record)
            times.append(log_ns)
            if len(times) == by_chunk:
                close_chunk()
        else:
            places.append((position(), position() + len(record)))
            out.append(record)
    if times:
        close_chunk()
    out.append(_record(15, struct.pack("<I", 0)))
    start = position() if has_index else 0
    out += [*definitions, *index] if has_index else []
    footer = b"\x02" + struct.pack("<QQQ", 20, start, 0)
    crc = zlib.crc32(b"".join(out)[start:] + footer) if has_index else 0
    path.write_bytes(b"".join(out) + footer + struct.pack("<I", crc) + b"\x89MCAP0\r\n")
    return places


def _record(opcode: int, content: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(content)) + content


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()
