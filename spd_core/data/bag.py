"""RGB-D sequences from recordings: opened once, asked for their topics and their frames. No ROS is needed.

Only what is asked for is read: other topics, their types and definitions do not matter. What cannot be read is left
out, counted, and told by `Bag.left_out`.
"""

from __future__ import annotations

import heapq
import struct
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..camera import Camera
from ..camera_info import camera_from_info, is_rectified_topic
from ..files import expanded
from ..messages import (
    MessageError,
    compressed_depth_to_metres,
    compressed_to_rgb,
    depth_to_metres,
    image_to_rgb,
    query_points,
)
from .pairing import TOLERANCE_S, Pairing, Series, pair, same_stamp
from .samples import DataError, unit_fault
from .serialised import Recorded, Topic, deserialised, stamp_ns_of
from .storage import open_files
from .topics import CLOUD, COMPRESSED, IMAGE, INFO, Choice, Content, Topics, choose, content_of, may_be_query

MOST_HELD = 30  # frames that wait for one with a part that is late, a second at 30 Hz: of raw 4K up to 1.7 GB
MOST_NS = 2**31 * 10**9  # what the seconds of a stamp have bits for; a clock may say more


@dataclass(frozen=True)
class BagFrame:
    """One image of a sequence, its ground truth and the queries asked about it.

    `rgb` uint8 [H, W, 3], `depth_m` float32 [H, W] (0 where unknown) or None, `camera` or None, `queries`: arrays (uv
    [K, 2] px, ids [K]).
    """

    stamp_ns: int
    rgb: np.ndarray
    depth_m: np.ndarray | None
    camera: Camera | None
    queries: list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class RecordedFrame(BagFrame):
    """A frame that was read, with the CDR serialisation of its image (of type `image_type`) and of its camera_info."""

    image_type: str
    image_data: bytes
    info_data: bytes | None


class Bag:
    """A recording: a rosbag2 folder, one of its files (MCAP or sqlite3), or a ROS 1 bag.

    Raises:
        DataError: nothing of it can be read; the message says why, and what repairs it.
    """

    def __init__(self, path: str | Path):
        self.path = expanded(path)
        self._files, self.faults = open_files(self.path)
        self.topics: dict[str, Topic] = {}
        for file in self._files:
            self.faults += file.faults
            for name, topic in file.topics.items():
                count = self.topics[name].count if name in self.topics else 0
                self.topics[name] = Topic(topic.type_name, count + topic.count)
        self._left_out: dict[str, tuple[int, str]] = {}

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files:
            file.close()

    def count(self, topic: str) -> int:
        """Messages of a topic that can be read."""
        return len(self._series(topic).stamps)

    def choose(
        self,
        image: str | None = None,
        depth: str | None = None,
        camera_info: str | None = None,
        query: str | None = None,
    ) -> Choice:
        """The topics that are colour, depth, calibration and queries, and why others are not; a name that is given is
        taken instead."""
        given = {"image": image, "depth": depth, "camera_info": camera_info, "query": query}

        def matched(image: str, depth: str) -> float:
            pairing = self.pairing(Topics(image, depth))
            return len(pairing.partner) / max(pairing.images, 1)

        contents = [content for _, content, _ in self._index.values()]
        try:
            return choose(self.path, contents, given, matched)
        except DataError as error:
            raise DataError("; ".join([str(error), *self.faults, *self.left_out()])) from error

    def pairing(self, topics: Topics, tolerance_s: float = TOLERANCE_S, depth_offset_s: float = 0.0) -> Pairing:
        """The depth image of each image; `depth_offset_s` is added to the stamps of depth."""
        return pair(self._series(topics.image), self._series(topics.depth), tolerance_s, depth_offset_s)

    def frames(
        self, topics: Topics, tolerance_s: float = TOLERANCE_S, depth_offset_s: float = 0.0
    ) -> Iterator[RecordedFrame]:
        """The images, in order, with the depth image nearest in stamp, and the camera_info and the queries of their own
        stamp. One that lacks something still when MOST_HELD wait comes later.

        Images without a camera_info of their own take the latest before them, those before the first take that one.
        What is damaged costs what it is: an image its frame, depth and calibration themselves.
        """
        self._left_out = {}
        partner = self.pairing(topics, tolerance_s, depth_offset_s).partner
        images_of = {
            topics.depth: {depth: image for image, depth in partner.items()},
            topics.query: self._queried(topics),
            topics.camera_info: same_stamp(self._series(topics.camera_info), self._series(topics.image)),
        }
        missing = Counter(image for images in images_of.values() for image in images.values())
        parts: dict[int, list[Recorded]] = {}  # of the frames that are not complete yet
        latest: dict[int, Recorded | None] = {}  # camera_info when the image came
        info = self._index[topics.camera_info][2] if topics.camera_info else None
        names = {name for name in vars(topics).values() if name}
        places = {name: _places(self._series(name)) for name in names}
        for message in self._messages(names):
            is_damaged, of_time = False, places[message.topic][stamp_ns_of(message), message.log_ns]
            if not of_time:  # it could not be read when they were counted
                self._leave_out(f"messages on {message.topic}", stamp_ns_of(message), "it stands in a damaged part")
                continue
            place = of_time.pop()
            if message.topic == topics.camera_info:
                is_damaged = self._read(message, lambda m: m) is None
                info = info if is_damaged else message
            if message.topic == topics.image:
                image, latest[place] = place, info
            elif place in (partners := images_of[message.topic]):
                image = partners[place]
                missing[image] -= 1
            else:
                continue
            if not is_damaged:
                parts.setdefault(image, []).append(message)
            while (ready := _ready(latest, missing)) is not None:
                yield from self._frame(parts.pop(ready), latest.pop(ready), topics)
        for image, info in latest.items():  # of a part that was there when it was counted
            yield from self._frame(parts[image], info, topics)

    def left_out(self) -> list[str]:
        """What the last `frames` could not use, one line for each kind of thing."""
        losses = Counter[str]()
        for file in self._files:
            losses += file.losses
        return [
            *(f"left out: {count} {text}" for text, count in losses.items()),
            *(f"left out: {count} {kind}; the first {reason}" for kind, (count, reason) in self._left_out.items()),
        ]

    # --- what the topics hold

    @cached_property
    def _index(self) -> dict[str, tuple[Series, Content, Recorded | None]]:
        """Of every topic that may be of use: its stamps, what it holds and its first message. One pass."""
        used = {name for name, topic in self.topics.items() if topic.type_name in (IMAGE, COMPRESSED, INFO)}
        for name, topic in self.topics.items():  # clouds are large, and few are queries
            firsts_of = islice(self._messages({name}), 5) if topic.type_name == CLOUD else ()
            if any(may_be_query(content_of(message, topic)) for message in firsts_of):
                used.add(name)
        stamps: dict[str, list[tuple[int, int]]] = {name: [] for name in used}
        contents: dict[str, Content] = {}
        firsts: dict[str, Recorded] = {}
        for message in self._messages(used):
            times = stamps[message.topic]
            times.append((stamp_ns_of(message), message.log_ns))
            known = contents.get(message.topic)
            if known is None or (known.fault and len(times) <= 20):
                contents[message.topic] = content_of(message, self.topics[message.topic])
                firsts[message.topic] = message
        index = {}
        for name, topic in self.topics.items():
            series = Series(*np.array(stamps.get(name, []), np.int64).reshape(-1, 2).T)
            fault = "none of its messages is left" if name in used and topic.count else ""
            content = contents.get(name, Content(name, topic.type_name, topic.count, fault=fault))
            count = len(series.stamps) or topic.count
            index[name] = series, replace(content, count=count), firsts.get(name)
        return index

    def _series(self, topic: str | None) -> Series:
        return self._index[topic][0] if topic else Series(np.zeros(0, np.int64), np.zeros(0, np.int64))

    def _messages(self, topics: set[str]) -> Iterator[Recorded]:
        """The messages of some topics in the order of recording."""
        return heapq.merge(*(file.messages(topics) for file in self._files), key=lambda m: m.log_ns)

    def _queried(self, topics: Topics) -> dict[int, int]:
        """The image that each query asks about: that of its stamp, or, without one, the newest."""
        images, queries = self._series(topics.image), self._series(topics.query)
        newest = np.searchsorted(np.sort(images.logged), queries.logged, side="right") - 1
        found = same_stamp(queries, images)
        for place, (stamp, logged) in enumerate(zip(*queries)):
            if place in found:
                continue
            if stamp == logged and newest[place] >= 0:
                found[place] = int(newest[place])
            else:
                self._leave_out(f"queries on {topics.query}", stamp, "names no image of the bag")
        return found

    # --- a frame of its parts

    def _frame(self, messages: list[Recorded], latest: Recorded | None, topics: Topics) -> Iterator[RecordedFrame]:
        """The frame of its parts; none where its image cannot be read."""
        [image] = (message for message in messages if message.topic == topics.image)
        depth = next((message for message in messages if message.topic == topics.depth), None)
        stamp_ns, image_type = stamp_ns_of(image), self.topics[image.topic].type_name
        rgb = self._read(image, image_to_rgb if image_type == IMAGE else compressed_to_rgb)
        if rgb is None:
            return
        size, rectified = rgb.shape[:2], is_rectified_topic(image.topic)
        camera = info = None
        for info in [m for m in messages if m.topic == topics.camera_info] or filter(None, [latest]):
            camera = self._read(info, lambda m: camera_from_info(m, size, rectified), stamp_ns)
            if camera is not None:
                break
        depth_m = None if depth is None else self._read(depth, lambda m: _registered(m, size))
        asked = (self._read(message, query_points) for message in messages if message.topic == topics.query)
        queries = [points for points in asked if points is not None]
        data = image.data
        if data[4:12] == bytes(8):  # no stamp: a node that is shown it needs one to be asked about it
            order = "<" if data[1] == 1 else ">"
            data = data[:4] + struct.pack(f"{order}iI", *divmod(stamp_ns % MOST_NS, 10**9)) + data[12:]
        yield RecordedFrame(stamp_ns, rgb, depth_m, camera, queries, image_type, data, info.data if info else None)

    def _read(self, message: Recorded, use: Callable[[Any], Any], stamp_ns: int | None = None) -> Any:
        """What `use` makes of the message; None, counted, where that cannot be."""
        type_name = self.topics[message.topic].type_name
        try:
            return use(deserialised(message, type_name))
        except MessageError as error:
            what = f"{type_name.rpartition('/')[2]} messages on {message.topic}"
            self._leave_out(what, stamp_ns_of(message) if stamp_ns is None else stamp_ns, str(error))
            return None

    def _leave_out(self, kind: str, stamp_ns: int, reason: str) -> None:
        count, first = self._left_out.get(kind, (0, f"at {stamp_ns / 1e9:.3f} s: {reason}"))
        self._left_out[kind] = count + 1, first


def _places(series: Series) -> defaultdict[tuple[int, int], list[int]]:
    """The places of messages in their topic by stamp and time of recording, the first at the end: one that could be
    read when they were counted, and now cannot, moves no other."""
    places: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    stamps_ns, logged_ns = (column.tolist() for column in series)
    for place in reversed(range(len(stamps_ns))):
        places[stamps_ns[place], logged_ns[place]].append(place)
    return places


def _ready(waiting: Collection[int], missing: Counter[int]) -> int | None:
    """The image whose frame comes next: the first, as soon as it lacks nothing; or the first that lacks nothing where
    MOST_HELD wait for it, as a query may ask about the first of the recording at its end."""
    among = islice(waiting, 1 if len(waiting) < MOST_HELD else None)
    return next((image for image in among if not missing[image]), None)


def _registered(message: Any, size: tuple[int, int]) -> np.ndarray:
    depth_m = (depth_to_metres if hasattr(message, "encoding") else compressed_depth_to_metres)(message)
    if depth_m.shape != size:
        raise MessageError(
            f"depth is {list(depth_m.shape)} px and colour {list(size)}; depth must be registered to colour"
        )
    if fault := unit_fault(depth_m):
        raise MessageError(f"{fault} Depth of 32FC1 must be metres, that of 16UC1 millimetres")
    return depth_m


def find_topics(path: str | Path) -> Topics:
    """The topics of a recording by their names and by what they hold.

    Raises:
        DataError: no bag, or no colour image; the message lists what the bag has.
    """
    with Bag(path) as bag:
        return bag.choose().topics


def read_frames(path: str | Path, topics: Topics) -> Iterator[RecordedFrame]:
    """`Bag.frames` of the recording at `path`; what is left out is warned of at its end, a line for each kind."""
    with Bag(path) as bag:
        yield from bag.frames(topics)
        for line in [*bag.faults, *bag.left_out()]:
            warnings.warn(f"{path}: {line}", stacklevel=2)
