"""Which topics of a recording are colour, its depth, its calibration and its queries.

Drivers name them in many ways, so the names are weighed together with what the messages hold: encoding, size, frame_id,
and how many stamps of two topics meet. What is not depth in metres (8 bits, confidence, infrared ...) is never taken
for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..camera_info import is_rectified_topic
from ..messages import (
    COLOUR_ENCODINGS,
    DEPTH_ENCODINGS,
    MessageError,
    compressed_depth,
    compressed_to_rgb,
)
from .samples import DataError
from .serialised import Recorded, Topic, deserialised

IMAGE, COMPRESSED, INFO, CLOUD = (
    f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo", "PointCloud2")
)

# Words of topic names. The last one that says something decides: /depth_camera/rgb/image_raw is colour.
_WORDS = {
    "colour": ("rgb", "rgba", "bgr", "bgra", "color", "colour"),
    "depth": ("depth", "depths", "depthmap"),
    "infrared": ("ir", "infra", "infrared", "nir", "nearir", "thermal", "lepton", "amplitude", "intensity"),
    "no picture": (
        *("confidence", "conf", "disparity", "disp", "range", "signal", "reflec", "reflectivity", "mask", "masks"),
        *("segmentation", "semantic", "instance", "label", "labels", "normal", "normals", "flow", "error", "variance"),
        *("uncertainty", "heatmap", "costmap", "sigma"),
    ),
    "drawn": (
        *("overlay", "debug", "dbg", "annotated", "visualization", "visualisation", "viz", "result", "detections"),
        *("colored", "colormap", "colorized", "preview", "thumbnail"),
    ),
}
_SIDES = ({"left", "right"}, {"front", "rear"}, {"front", "back"})
_KINDS = {word: kind for kind, words in _WORDS.items() for word in words}
_NO_COLOUR = ("16UC1", "32FC1")
SAME_LENS = 0.02  # relative difference of focal lengths, of two calibrations of one camera
_ALIGNED = {"aligned", "registered", "registration"}


@dataclass(frozen=True)
class Content:
    """What a topic holds, by its first message that can be read: `encoding` of an image, `size` (height, width) px of
    an image or a calibration, `focal_px` of a calibration (0 where it has none), `fields` of a cloud. `fault` says why
    none can be read."""

    topic: str
    type_name: str
    count: int
    encoding: str = ""
    size: tuple[int, int] = (0, 0)
    frame_id: str = ""
    focal_px: float = 0.0
    fields: tuple[str, ...] = ()
    fault: str = ""

    def __str__(self) -> str:
        size = f" {self.size[1]}x{self.size[0]}" if any(self.size) else ""
        fault = f", unreadable: {self.fault}" if self.fault else ""
        return f"{self.topic} ({self.encoding or self.type_name}{size}, {self.count}{fault})"


@dataclass(frozen=True)
class Topics:
    """Names of a bag's topics; None where it has none of that kind."""

    image: str
    depth: str | None = None
    camera_info: str | None = None
    query: str | None = None


@dataclass(frozen=True)
class Choice:
    """The topics taken; in `lines`, for a person, what each holds, what else there is, and why depth images were not
    taken; and whether someone recorded depth, chosen here or refused for what it holds."""

    topics: Topics
    lines: list[str]
    expects_depth: bool


def choose(
    path: object, contents: list[Content], given: dict[str, str | None], matched: Callable[[str, str], float]
) -> Choice:
    """The topics of a recording; a name that is `given` (by "image", "depth", "camera_info", "query") is taken instead.

    Args:
        matched: of a colour topic and a depth topic: what share of the images has a depth image of its time.

    Raises:
        DataError: a named topic that it lacks or that cannot be what it was named for, or no colour image.
    """
    listed = ", ".join(str(replace(content, encoding="", size=(0, 0))) for content in contents) or "nothing"
    named = _named(f"the bag {path}", contents, given, listed)
    images = [named["image"]] if "image" in named else [c for c in contents if _colour_score(c) is not None]
    if not images:
        raise DataError(f"the bag {path} has no colour image; it has {listed}")
    depths = [named["depth"]] if "depth" in named else [c for c in contents if not _why_no_depth(c)]
    infos = [c for c in contents if c.type_name == INFO and not c.fault and c.count]
    queries = [c for c in contents if may_be_query(c) and "u" in c.fields]

    def score(image: Content, depth: Content) -> float:
        return _pair_score(image, depth) + 3 * matched(image.topic, depth.topic)

    def fitting(image: Content) -> list[Content]:
        return [c for c in depths if "depth" in named or c.size == image.size]

    def image_score(image: Content) -> tuple[float, int, str]:
        own = _colour_score(image) or 0.0
        own += 2 * any(_folder(info.topic) == _folder(image.topic) for info in infos)
        best = max((score(image, depth) for depth in fitting(image)), default=0.0)
        return -own - best, -image.count, image.topic

    image = min(images, key=image_score)
    depth = max(fitting(image), key=lambda c: (score(image, c), c.count), default=None)
    info = named.get("camera_info") or max(infos, key=lambda c: _info_score(image, c), default=None)
    if info is not None and "camera_info" not in named and _info_score(image, info)[0] < 0:
        info = None
    query = named.get("query") or min(queries, key=lambda c: (-c.count, c.topic), default=None)
    taken = [c for c in (image, depth, info, query) if c is not None]
    differs = f"not registered to {image.topic} of {image.size[1]}x{image.size[0]} px"
    left = [c for c in contents if c not in taken and "depth" not in named and _is_depth_by_name(c)]
    refused = {c: why for c in left if (why := _why_no_depth(c) or differs * (c.size != image.size))}
    others = [str(c) for c in contents if c.encoding and c not in taken and c not in refused]
    topics = Topics(image.topic, *(c.topic if c is not None else None for c in (depth, info, query)))
    lines = [f"{kind:<12}{c or 'none'}" for kind, c in zip(vars(topics), (image, depth, info, query))]
    if info is None and infos:
        lines.append("calibration of other cameras: " + "; ".join(map(str, infos)) + " (--camera_info takes one)")
    if others:
        lines.append("also there  " + "; ".join(others))
    if refused:
        lines.append("not depth   " + "; ".join(f"{c}: {why}" for c, why in refused.items()))
    if depth is not None:
        way_on = "depth must be registered to the image (aligned to it), else it is the truth of other pixels"
        lines += [f"depth has {both}: {way_on}" for both in _unlike(image, info, depth, infos)]
    named_depth = (c for c in contents if c is not image and _is_depth_by_name(c) and _kind(c.topic) == "depth")
    return Choice(topics, lines, depth is not None or any(named_depth))


def _unlike(image: Content, info: Content | None, depth: Content, infos: list[Content]) -> Iterator[str]:
    """What tells that depth is of another camera than its image, of which `info` is the calibration."""
    if image.frame_id and image.frame_id != depth.frame_id:
        yield f"the frame_id {depth.frame_id!r} and the image {image.frame_id!r}"
    if info is not None and infos:
        score, own = max(((_info_score(depth, c), c) for c in infos), key=lambda scored: scored[0])
        is_of_it = score[0] >= 0 and own.size == info.size
        if is_of_it and abs(own.focal_px - info.focal_px) > SAME_LENS * min(own.focal_px, info.focal_px) > 0:
            yield f"a focal length of {own.focal_px:.0f} px ({own.topic}) and the image {info.focal_px:.0f} px"


def _named(bag: str, contents: list[Content], given: dict[str, str | None], listed: str) -> dict[str, Content]:
    """What was given by name, by kind.

    Raises:
        DataError: there is no such topic, or it cannot be what it was named for.
    """
    by_name = {content.topic: content for content in contents}
    for kind, name in given.items():
        if name is not None and name not in by_name:
            raise DataError(f"{bag} has no topic {name} for {kind}; it has {listed}")
    named = {kind: by_name[name] for kind, name in given.items() if name is not None}
    if "image" in named and named["image"].encoding in ("", *_NO_COLOUR):
        raise DataError(f"{named['image']} cannot be the colour image; {bag} has {listed}")
    if "depth" in named and named["depth"].encoding not in DEPTH_ENCODINGS:
        raise DataError(
            f"{named['depth']} cannot be depth; expected an image of encoding {', '.join(DEPTH_ENCODINGS)}, or"
            " compressedDepth: 8-bit images and JPEG hold no metres"
        )
    for kind, type_name in (("camera_info", INFO), ("query", CLOUD)):
        if kind in named and named[kind].type_name != type_name:
            raise DataError(f"{named[kind]} cannot be {kind}; expected {type_name}")
    if "query" in named and not may_be_query(named["query"]):
        raise DataError(f"{named['query']} cannot be query; expected fields u and v, or x and y, and no depth")
    if given.get("image") and given.get("image") == given.get("depth"):
        raise DataError(f"{given['image']} cannot be both the image and its depth")
    return named


def may_be_query(content: Content) -> bool:
    """Whether a cloud may ask for depth: one that has it is an answer, or a scan."""
    fields = set(content.fields)
    return ({"u", "v"} <= fields or {"x", "y"} <= fields) and not {"z", "depth"} & fields


def _parts(topic: str) -> list[str]:
    """The names between a topic's slashes, without the transport's own at the end."""
    parts = [part for part in topic.split("/") if part]
    while len(parts) > 1 and parts[-1] in ("compressed", "compressedDepth", "theora", "ffmpeg"):
        parts.pop()
    return parts


def _folder(topic: str) -> list[str]:
    return _parts(topic)[:-1]


def _words(topic: str) -> list[str]:
    """/cam/image_rect -> cam, image, rect; depthImage -> depth, image; infra1 -> infra."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", "/".join(_parts(topic)))]


def _kind(topic: str) -> str:
    """What the name says that the topic holds: a key of `_WORDS`, or ""."""
    # depth_to_rgb is depth, and rgb_to_depth colour, seen from the other camera
    words = _words(re.sub(r"_to_[A-Za-z0-9]+", "", topic))
    return next((_KINDS[word] for word in reversed(words) if word in _KINDS), "")


def _is_own(topic: str) -> bool:
    """An answer of this node that was recorded with the rest."""
    return _parts(topic)[-2:] in (["spd", "dense"], ["spd", "overlay"])


def _is_depth_by_name(content: Content) -> bool:
    is_image = content.type_name in (IMAGE, COMPRESSED)
    return is_image and (_kind(content.topic) == "depth" or content.encoding in _NO_COLOUR)


def _why_no_depth(content: Content) -> str:
    """Why a topic is not depth in metres; "" where it is."""
    kind = _kind(content.topic)
    if not content.encoding:
        return "none of its messages can be read" if content.count else "it has no message"
    if content.encoding not in DEPTH_ENCODINGS:
        is_8_bit = content.encoding in COLOUR_ENCODINGS and not content.encoding.endswith("16")
        if is_8_bit or content.encoding.startswith("8"):
            return f"{content.encoding} holds no metres (8 bits: JPEG, or depth in colours)"
        return f"{content.encoding} is not read as depth; expected one of {', '.join(DEPTH_ENCODINGS)}"
    if _is_own(content.topic):
        return "an answer of SPD"
    if kind in ("infrared", "no picture", "drawn"):
        return "not depth by its name"
    if content.encoding == "mono16" and kind != "depth":
        return "16 bits, but not depth by its name"
    return ""


def _colour_score(content: Content) -> float | None:
    """How much a topic looks like the colour image; None where it cannot be."""
    kind, words = _kind(content.topic), _words(content.topic)
    if content.encoding in ("", *_NO_COLOUR) or _is_own(content.topic):
        return None
    is_grey = content.encoding.startswith(("mono", "8UC1"))
    if kind == "no picture" or (is_grey and kind == "depth"):
        return None
    score = {"colour": 2.0, "": 0.0, "depth": -3.0, "infrared": -6.0, "drawn": -4.0}[kind]
    score += 0.0 if is_grey else 3.0 if content.encoding in COLOUR_ENCODINGS else -9.0
    score += 0.5 * is_rectified_topic(content.topic) - 0.5 * ("right" in words)
    score -= 1.0 * ("stereo" in words and "left" not in words)
    return score - 0.25 * (content.type_name == COMPRESSED)


def _pair_score(image: Content, depth: Content) -> float:
    """How much a depth topic looks registered to this image."""
    words = set(_words(depth.topic))
    score = 8.0 if image.size == depth.size else -8.0
    if image.frame_id and depth.frame_id:
        score += 4.0 if image.frame_id == depth.frame_id else -2.0
    score += 2.0 * bool(words & _ALIGNED or "_to_" in depth.topic) + 1.0 * (_kind(depth.topic) == "depth")
    score += 1.0 * (is_rectified_topic(image.topic) == ("rect" in words or "raw" not in words))
    score -= 2.0 * _are_of_two_cameras(image.topic, depth.topic)  # or of two sensors of one, as RealSense numbers them
    return score + _shared(image.topic, depth.topic) - 0.25 * (depth.type_name == COMPRESSED)


def _are_of_two_cameras(a: str, b: str) -> bool:
    """Whether names that two topics have in common are numbered differently in them, or one is left and the other
    right, front and rear: cam_0 and cam_1."""
    numbers = [dict(re.findall(r"([a-z]+)_?(\d+)", topic.lower())) for topic in (a, b)]
    sides = [(both & set(_words(a)), both & set(_words(b))) for both in _SIDES]
    are_opposite = any(here and there and not here & there for here, there in sides)
    both = numbers[0].keys() & numbers[1].keys()
    return are_opposite or any(int(numbers[0][name]) != int(numbers[1][name]) for name in both)


def _shared(a: str, b: str) -> float:
    """How much the names of two topics have in common, 0 to 4: of their words that say something, of their numbers, and
    of words with their numbers, the share that both have. /rgb/wrist and /depth/wrist: one of three."""
    ours, theirs = (
        {*_words(t), *re.findall(r"\d+", t), *re.findall(r"[a-z_]*\d+", t.lower())} - {"image", "raw", "rect", "info"}
        for t in (a, b)
    )
    return 4.0 * len(ours & theirs) / max(len(ours | theirs), 1)


def _info_score(image: Content, info: Content) -> tuple[float, int]:
    """How much a camera_info looks like that of an image; below zero: of another camera."""
    neutral = {"image", "camera", "info", "raw", "color", "mono", "rect"}
    words, own = (set(_words(topic)) - neutral for topic in (info.topic, image.topic))
    is_beside = _folder(info.topic) == _folder(image.topic)
    score = 4.0 * is_beside + 2.0 * len(words & own) / max(len(words | own), 1) + _shared(image.topic, info.topic)
    is_same = False  # or unknown
    if image.frame_id and info.frame_id:
        is_same = image.frame_id == info.frame_id
        score += 2.0 if is_same else -1.0 if is_beside else -math.inf
    if not is_same and _are_of_two_cameras(image.topic, info.topic):
        score = -math.inf
    if all(info.size) and all(image.size):
        score += 2.0 if info.size == image.size else -1.0
        if abs(info.size[0] * image.size[1] / (info.size[1] * image.size[0]) - 1) > 0.02 and not is_beside:
            score -= 4.0
    return score + 0.5 * (info.focal_px > 0), info.count


def content_of(recorded: Recorded, topic: Topic) -> Content:
    empty = Content(recorded.topic, topic.type_name, topic.count)
    try:
        message = deserialised(recorded, topic.type_name)
        frame_id = message.header.frame_id.lstrip("/")  # tf's names began with one
        if topic.type_name == INFO:
            size, focal_px = (int(message.height), int(message.width)), float(message.k[0])
            return replace(empty, size=size, frame_id=frame_id, focal_px=focal_px)
        if topic.type_name == CLOUD:
            return replace(empty, frame_id=frame_id, fields=tuple(f.name for f in message.fields))
        if topic.type_name == IMAGE:
            if not (message.height and message.width):
                raise MessageError(f"an image of {message.width}x{message.height} px")
            return replace(empty, encoding=message.encoding, size=(message.height, message.width), frame_id=frame_id)
        encoding, size = _compressed_content(message)
        return replace(empty, encoding=encoding, size=size, frame_id=frame_id)
    except MessageError as error:
        return replace(empty, fault=str(error))


def _compressed_content(message: Any) -> tuple[str, tuple[int, int]]:
    """Encoding and size of a CompressedImage as if it were an Image."""
    try:
        pixels, encoding = compressed_depth(message)
        is_depth = "compressedDepth" in message.format or message.format.startswith("16UC1")
        return (encoding if is_depth else "mono16"), pixels.shape[:2]
    except MessageError:
        rgb = compressed_to_rgb(message, takes_depth=True)
        is_grey = bool((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all())
        return ("mono8" if is_grey else "rgb8"), rgb.shape[:2]
