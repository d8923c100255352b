"""What `spd ask` and `spd view` look at: pictures, folders of them, videos, cameras, bags; and what both say of it."""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from spd_core import files
from spd_core.camera import Camera
from spd_core.data.images import read_colour
from spd_core.data.layouts import BAGS
from spd_core.data.rgbd import pictures_in, read_camera
from spd_core.errors import SPDError
from spd_core.intrinsics import KnownCamera, camera_of_picture
from spd_core.plausibility import check_upright, doubt
from spd_core.predictor import EncodedFrame

from .console import say

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".gif")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".flv", ".3gp", ".ts", ".mts", ".wmv")
MOST_LOST = 250  # pictures of a video in a row that cannot be decoded
FEWEST = 0.95  # share of the pictures that a video announces, and of the time at which the last of them should come
CAMERA_INFO = "the bag's camera_info"


class SourceError(SPDError):
    """There is nothing to look at; the message says where, and what is."""


@dataclass(frozen=True)
class Picture:
    """A picture, or a frame of a video, a camera or a bag.

    Attributes:
        name: what the user called it, or its file in a folder.
        read: its pixels, RGB uint8 [H, W, 3], as they are looked at.
        is_moving: it is one of a stream.
        camera: of a stream, where something says it.
        camera_source: what says it.
    """

    name: str
    read: Callable[[], np.ndarray]
    is_moving: bool = False
    camera: Camera | None = None
    camera_source: str = CAMERA_INFO

    def version(self) -> tuple[int, int] | None:
        """Another one when its file has been replaced."""
        with suppress(OSError):
            found = files.expanded(self.name).stat()
            is_read_once = self.is_moving or not stat.S_ISREG(found.st_mode)
            return None if is_read_once else (found.st_mtime_ns, found.st_size)
        return None

    def known_camera(
        self, size: tuple[int, int], told: str | None, fov_deg: float | None, sizes: dict[KnownCamera, tuple[int, int]]
    ) -> KnownCamera:
        """The camera as `camera_of_picture` finds it; of a stream, its own where nothing else is told. `sizes` keeps of
        which size of picture each was: numbers in px are of one."""
        known = self._known_camera(size, told, fov_deg)
        if known.camera and (first := sizes.setdefault(known, size)) != size:
            (height, width), (first_height, first_width) = size, first
            raise SourceError(
                f"{self.name} is {width}x{height} px and a picture before it {first_width}x{first_height} px:"
                f" {known.source} cannot be of both; expected pictures of one size, those of each in a folder with a"
                " camera.txt of its own, or asked with a --camera of their own"
            )
        return known

    def _known_camera(self, size: tuple[int, int], told: str | None, fov_deg: float | None) -> KnownCamera:
        if self.is_moving and told is None and fov_deg is None:
            if self.camera and self.camera_source != CAMERA_INFO:  # which is checked where it is read
                check_upright(self.camera, size, self.camera_source)
            return KnownCamera(self.camera, self.camera_source if self.camera else "nothing")
        return camera_of_picture(files.expanded(self.name), size, told, fov_deg)


def named(error: SPDError, name: str) -> SPDError:
    """What is wrong with a picture, with its name."""
    return error if name in str(error) else SourceError(f"{name}: {error}")


def check_frames(most: int | None) -> None:
    """Say of a number of frames that there is none; before anything is read that takes long."""
    if most is not None and most < 1:
        raise SourceError(f"frames must be positive, got {most}")


def check_sources(sources: list[str]) -> None:
    """Before the first is opened, say of an address, as it was written, that it is no file (a path has no //); of a
    number that there is no such camera; of an empty variable of a shell that it is not the folder that one is in."""
    if "" in sources:
        raise SourceError("expected the name of a picture, a folder, a video or a bag, got ''")
    for source in sources:
        if "://" in source and not os.path.exists(files.expanded(source)):
            raise SourceError(f"{source} is an address; expected a file: save what is there, and name the file")
        is_there = os.path.exists(f"/dev/video{source}") if sys.platform == "linux" else len(source) < 3
        if _is_camera(source) and not is_there:
            raise SourceError(
                f"camera {source} cannot be opened: there is none, and no file of that name; cameras to look through"
                " count from 0, and intrinsics are fx,fy,cx,cy in px or a file with them"
            )


def _is_camera(source: str) -> bool:
    """The number of one; a longer one is a date."""
    return source.isdecimal() and len(source) < 10 and not files.expanded(source).exists()


def pictures(sources: list[str], most: int | None = None, topic: str | None = None) -> Iterator[Picture]:
    """All that is named: files, folders, videos, /dev/video0 or its number, bags. At most `most` of each stream, of a
    bag those of a `topic`, or of the one that `Bag.choose` finds.

    Raises:
        SourceError: there is no picture in one of them.
        DataError: a bag cannot be read.
    """
    for source in sources:
        try:
            yield from _pictures(source, most, topic)
        except OSError as error:  # a place that one may not enter
            raise SourceError(f"{source} cannot be opened ({error.strerror})") from error


def _pictures(source: str, most: int | None, topic: str | None) -> Iterator[Picture]:
    path = files.expanded(source)
    if _is_bag(path):
        yield from _recorded(source, path, most, topic)
    elif topic is not None:
        raise SourceError(f"--image {topic} is a topic of a bag, and {source} is none")
    elif _is_camera(source):
        yield from _captured(source, int(source), most)
    elif path.is_char_device() or path.suffix.lower() in VIDEOS:
        yield from _captured(source, str(path), most)
    elif not path.is_dir():
        yield Picture(source, partial(read_colour, path, turned=True))
    elif found := pictures_in(path, PICTURES):
        yield from (Picture(str(file), partial(read_colour, file, turned=True)) for file in found)
    else:
        raise SourceError(f"{source} has no pictures ({', '.join(PICTURES)}), and is no bag")


def _is_bag(path: Path) -> bool:
    """A recording, or a folder of one: with its metadata.yaml whatever else lies there, as reports of a replay do."""
    if not path.is_dir():
        return path.suffix.lower() in BAGS
    if not any(file.suffix.lower() in BAGS for file in path.iterdir()):
        return False
    return (path / "metadata.yaml").exists() or not pictures_in(path, PICTURES)


def _captured(name: str, source: int | str, most: int | None) -> Iterator[Picture]:
    if isinstance(source, str) and not Path(source).exists():
        raise SourceError(f"{source} does not exist")
    camera, camera_source = _beside(Path(source)) if isinstance(source, str) else (None, "")
    # A whole path: FFmpeg takes 2026-11-30T12:30:05.mp4 for an address, of the protocol 2026-11-30T12.
    capture = cv2.VideoCapture(str(Path(source).absolute()) if isinstance(source, str) else source)
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if isinstance(source, str) else 0
    rate_hz = capture.get(cv2.CAP_PROP_FPS)
    count = failed = lost = 0
    last_ms = longest_ms = 0.0  # when the last picture is shown, and the longest time for which one is
    try:
        while most is None or count < most:
            is_read, bgr = capture.read()
            if is_read:
                at_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
                longest_ms, last_ms = max(longest_ms, at_ms - last_ms), at_ms
                yield Picture(name, partial(cv2.cvtColor, bgr, cv2.COLOR_BGR2RGB), True, camera, camera_source)
                count, lost, failed = count + 1, lost + failed, 0
            elif count + lost + failed >= total or failed == MOST_LOST:  # the end, or none of the rest can be decoded
                break
            else:
                failed += 1
    finally:
        capture.release()
    # Of some containers the number is an estimate, from a rate that changes: whether time was lost counts, too.
    is_short = not rate_hz > 0 or (last_ms + longest_ms) / 1000 < FEWEST * total / rate_hz
    is_cut = (most is None or count < most) and count < FEWEST * total - 2 and is_short
    if lost or (count and is_cut):
        say(f"{name}: {count} of {total} pictures could be read; it is damaged, or was cut off", "yellow", stderr=True)
    if count == 0:
        if isinstance(source, int):
            raise SourceError(f"camera {source} gives OpenCV no picture: another program may use it, or you may not")
        what = f"{source} {files.problem(Path(source))}"
        raise SourceError(f"{what}; OpenCV reads no picture from it, as it is damaged, or of a codec that it lacks")


def _beside(path: Path) -> tuple[Camera | None, str]:
    """The camera.txt beside a recording; beside a device there is none."""
    return (None if path.is_char_device() else read_camera(path.parent)), str(path.parent / "camera.txt")


def _recorded(name: str, path: Path, most: int | None, topic: str | None) -> Iterator[Picture]:
    from spd_core.data.bag import Bag  # here: a photograph need not wait for what reads bags

    with Bag(path) as bag:
        choice = bag.choose(topic)
        for line in [*bag.faults, *choice.lines]:
            say(line, stderr=True)
        count, beside = 0, _beside(path)
        for frame in bag.frames(choice.topics):
            if count == most:
                break
            camera = (frame.camera, CAMERA_INFO) if frame.camera else beside
            yield Picture(name, partial(np.asarray, frame.rgb), True, *camera)
            count += 1
        for line in bag.left_out():
            say(line, "yellow", stderr=True)
    if count == 0:
        raise SourceError(f"{name} has no frame that can be read on {choice.topics.image}")


def about_the_camera(known: KnownCamera, frame: EncodedFrame) -> str:
    """Where the focal length of an encoded picture comes from, and how much a wrong one matters."""
    focal_px = focal_length_px(known, frame)
    length = f"{focal_px:.0f} px"
    if not (known.camera and known.camera.distortion_model == "equidistant"):  # a fisheye's width is another formula's
        length += f" ({2 * math.degrees(math.atan(frame.size[1] / 2 / focal_px)):.0f} degrees wide)"
    if known.camera:
        said = f"focal length {length}, from {known.source}"
        if what := doubt(known.camera, frame.size):
            said = f"{said}; but {what}"
    else:
        why = known.source.removeprefix("nothing")
        said = f"nothing says the focal length{why}: {length} is assumed; --fov or --camera tells it"
    return f"{said}. Were it 10 % longer, all depths would be 10 % longer."


def focal_length_px(known: KnownCamera, frame: EncodedFrame) -> float:
    """The focal length that the answers of an encoded picture assume."""
    return known.camera.focal_px if known.camera else frame.transform.expected_focal_px


def in_metres(depth_m: float, sigma_m: float) -> str:
    """A depth and its standard deviation, where there is one."""
    if not math.isfinite(depth_m):
        return "none"
    return f"{depth_m:.2f} ± {sigma_m:.2f} m" if math.isfinite(sigma_m) else f"{depth_m:.2f} m"
