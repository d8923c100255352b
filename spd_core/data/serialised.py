"""Serialised messages: what ROS 2 and ROS 1 write of the types of ROS, without ROS."""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from rosbags.typesys import Stores, get_typestore

from ..messages import MessageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TYPES = get_typestore(Stores.ROS2_JAZZY)
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Topic:
    """A topic of a recording: its type and how many messages it says to have."""

    type_name: str
    count: int


class Recorded(NamedTuple):
    """A message as it was recorded: when it was received, and its CDR serialisation."""

    log_ns: int
    topic: str
    data: bytes


def deserialised(message: Recorded, type_name: str) -> Any:
    try:
        return TYPES.deserialize_cdr(message.data, type_name)
    except Exception as error:  # rosbags' generated parsers let their own errors through
        reason = str(error) or type(error).__name__
        raise MessageError(f"{len(message.data)} bytes are no {type_name}: {reason}") from error


def plain(data: bytes) -> bytes:
    """A message without rosbag2's compression by message; serialised messages begin with 0.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return zstd.decompress(data) if data[:4] == ZSTD_MAGIC else data
    except zstd.ZstdError as error:
        raise ValueError(f"compressed message: {error}") from error


def stamp_ns_of(message: Recorded) -> int:
    """The header's stamp, from the first bytes of the serialisation: every type used here begins with its header. The
    time of recording where there is none."""
    order = "<" if message.data[1:2] == b"\x01" else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", message.data, 4) if len(message.data) >= 12 else (0, 0)
    return seconds * 10**9 + nanoseconds or message.log_ns


def ros2_name(type_name: str) -> str:
    """sensor_msgs/Image, as ROS 1 writes it, to sensor_msgs/msg/Image."""
    return type_name if "/msg/" in type_name else type_name.replace("/", "/msg/", 1)


def from_ros1(data: bytes, type_name: str) -> bytes:
    """A message of ROS 1 as ROS 2 serialises it.

    Raises:
        ValueError: it is damaged, or of a type that ROS does not have.
    """
    try:
        return bytes(TYPES.ros1_to_cdr(data, type_name))
    except Exception as error:  # rosbags lets its parsers' own errors through
        raise ValueError(f"{type_name} cannot be converted: {error}") from error
