"""Writing bags (MCAP or sqlite3) without ROS."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from ..camera import Camera
from ..files import advice, expanded, make_folder
from ..message_fields import camera_info_fields, cloud_fields, image_fields, query_array
from ..names import DEPTH_TOPIC, FRAME_ID, IMAGE_TOPIC, INFO_TOPIC, QUERY_TOPIC
from .bag import BagFrame
from .samples import DataError
from .serialised import TYPES
from .storage import named_files
from .topics import CLOUD, IMAGE, INFO

_TYPE_NAMES = {IMAGE_TOPIC: IMAGE, INFO_TOPIC: INFO, DEPTH_TOPIC: IMAGE, QUERY_TOPIC: CLOUD}


def write_bag(path: str | Path, frames: Iterable[BagFrame], storage: str = "mcap") -> int:
    """Write a bag folder at `path`, or where that links to, with the storage "mcap" or "sqlite3". One that is already
    there is replaced at the end: an error on the way leaves it as it was. Returns the number of frames.

    Raises:
        DataError: something else is there, or a bag with other files in its folder; or it cannot be written.
    """
    if storage not in ("mcap", "sqlite3"):
        raise DataError(f"storage must be mcap or sqlite3, got {storage!r}")
    path = expanded(path).resolve()
    if path.exists():
        _check_is_bag(path)
    parent = make_folder(path.parent)
    try:
        with TemporaryDirectory(prefix=f"{path.name}.", dir=parent) as folder:
            written = Path(folder) / path.name  # files of a bag are called as their folder
            count = _write(written, frames, storage)
            if path.exists():
                path.rename(Path(folder) / "before")  # goes with the temporary folder
            written.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise DataError(f"{path} could not be written ({error}). {advice(error)}") from error
    return count


def _check_is_bag(folder: Path) -> None:
    """Raise DataError for what must not be removed: all but a bag's metadata and the files that it names."""
    try:
        own = {folder / "metadata.yaml", *named_files(folder)}
    except Exception as error:  # whatever a metadata.yaml of something else makes of it
        raise DataError(f"{folder} exists and is not a bag; choose another folder") from error
    if others := sorted(file.name for file in folder.iterdir() if file not in own):
        raise DataError(
            f"{folder} exists and is not a bag alone, it holds {', '.join(others[:3])} too; choose another folder"
        )


def _write(path: Path, frames: Iterable[BagFrame], storage: str) -> int:
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connections = {
            topic: writer.add_connection(topic, type_name, typestore=TYPES) for topic, type_name in _TYPE_NAMES.items()
        }

        def write(topic: str, stamp_ns: int, message: Any) -> None:
            writer.write(connections[topic], stamp_ns, TYPES.serialize_cdr(message, _TYPE_NAMES[topic]))

        count = 0
        for count, frame in enumerate(frames, start=1):  # noqa: B007
            stamp = frame.stamp_ns
            if frame.camera is not None:
                write(INFO_TOPIC, stamp, camera_info_message(stamp, frame.camera, frame.rgb.shape[:2]))
            write(IMAGE_TOPIC, stamp, image_message(stamp, frame.rgb, "rgb8"))
            if frame.depth_m is not None:
                write(DEPTH_TOPIC, stamp, image_message(stamp, frame.depth_m.astype(np.float32), "32FC1"))
            for i, (uv, ids) in enumerate(frame.queries):
                write(QUERY_TOPIC, stamp + i + 1, query_message(stamp, uv, ids))
    return count


def header(stamp_ns: int, frame_id: str = FRAME_ID) -> Any:
    """A Header of rosbags' types, as are the messages below."""
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    return TYPES.types["std_msgs/msg/Header"](
        TYPES.types["builtin_interfaces/msg/Time"](seconds, nanoseconds), frame_id
    )


def image_message(stamp_ns: int, pixels: np.ndarray, encoding: str) -> Any:
    return TYPES.types[IMAGE](header=header(stamp_ns), **image_fields(pixels, encoding))


def camera_info_message(stamp_ns: int, camera: Camera, size: tuple[int, int]) -> Any:
    roi = TYPES.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    fields = camera_info_fields(camera, size)
    return TYPES.types[INFO](header=header(stamp_ns), **fields, binning_x=0, binning_y=0, roi=roi)


def query_message(stamp_ns: int, uv: np.ndarray, ids: np.ndarray) -> Any:
    point_field = TYPES.types["sensor_msgs/msg/PointField"]
    return TYPES.types[CLOUD](header=header(stamp_ns), **cloud_fields(query_array(uv, ids), point_field))
