"""The scale of the node's answers: what it is, and the messages and the floor that it is learned from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import LaserScan, PointCloud2, Range
from std_msgs.msg import Header

from spd_core.errors import MessageError
from spd_core.floor import FloorPlane
from spd_core.predictor import EncodedFrame, Predictor
from spd_core.references import (
    KnownPoints,
    References,
    cloud_references,
    range_references,
    references_in,
    scan_references,
)
from spd_core.scale import FAR_OFF, FixedScale, MetricScale, ScaleFilter

from .conversions import stamp_ns
from .diagnostics import Problems, Statistics
from .notes import Note
from .parameters import LEARNED_SCALES, Settings
from .waypoints import FrameTransforms, NoTransformError

LASTING_S = 10.0  # so long there may be no references, or none in the image, before that is worth a warning
FLOOR_PERIOD_S = 0.2  # between looks at the floor: they cost as much as a query of a hundred points
# Inputs by topic: the type of their messages, and how they are read.
SOURCES: Mapping[str, tuple[type, Callable[[Any], References | KnownPoints]]] = {
    "reference_depths": (PointCloud2, cloud_references),
    "reference_scan": (LaserScan, scan_references),
    "reference_range": (Range, range_references),
}


@dataclass
class Scaling:
    """One camera's scale, by the parameters `scale` and `scale_factor`. For one thread, but for `read`, `give_up` and
    `change`."""

    predictor: Predictor  # whose answers are scaled
    transforms: FrameTransforms  # from the frames of sensors and of the floor to the camera's
    settings: Settings
    statistics: Statistics  # of references, and the scale
    problems: Problems

    def __post_init__(self) -> None:
        self._filter: ScaleFilter | None = None
        self._is_stale = True  # the filter is not what the settings ask for
        self._newest_s = math.nan  # stamp of the last frame
        self._apart_s: float | None = None  # from it, of the first note since then that no image was near
        self._looked_s = -np.inf  # when a frame was last chosen to look at its floor
        self._unplaced: tuple[EncodedFrame, Header, str] | None = None  # that frame, and why it waits

    def change(self, settings: Settings) -> None:
        """Go on with other parameters; from any thread."""
        before, self.settings = self.settings, settings
        if (before.scale, before.scale_factor) != (settings.scale, settings.scale_factor):
            self._is_stale = True

    def read(self, kind: str, msg: Any) -> Note | None:
        """The note of a message of a source; None where it cannot be read or nobody wants it."""
        self.statistics.count(f"{kind} received")
        if self.settings.scale not in ("references", "both"):
            return None
        try:
            content = SOURCES[kind][1](msg)
            if not (msg.header.frame_id or isinstance(msg, PointCloud2)):  # of points in the optical frame it may be ""
                raise MessageError(f"{kind} has no frame_id; expected the frame of its sensor, whose x is forward")
        except Exception as error:  # whatever it holds
            self.statistics.count(f"{kind} bad")
            self.problems.report(kind, str(error))
            return None
        self.problems.resolved(kind)
        return Note(stamp_ns(msg.header), content, msg.header, round(self.settings.reference_tolerance_s * 1e9))

    def scale(self) -> MetricScale | None:
        """What answers are corrected by now."""
        if self._is_stale:
            self._is_stale = False  # before the settings are read, or a change meanwhile would be lost
            p = self.settings
            is_learned = p.scale in LEARNED_SCALES
            self._filter = ScaleFilter(self.predictor, factor=p.scale_factor) if is_learned else None
            self.statistics.state("scale", f"{p.scale_factor:.3f}")
            self.statistics.state("scale sigma", "")
            self._unplaced = self._apart_s = None
            # What was wrong for the settings before; what still is will be said again.
            kinds = ("references", "references outside", "references missing", "reference transform")
            self.problems.resolved("floor", *SOURCES, *kinds)
        if self._filter is not None:
            return self._filter
        factor = self.settings.scale_factor
        return FixedScale(factor) if factor != 1 else None

    def take(self, note: Note, frame: EncodedFrame, header: Header) -> bool:
        """References of a frame with its header. False if TF does not say yet where they are."""
        self.scale()
        if self._filter is None:
            return True
        self._apart_s = None
        used, ignored = self._filter.used, self._filter.ignored
        content = note.content
        if isinstance(content, KnownPoints):
            if frame.camera is None:
                self.statistics.count("references without camera_info")
                return True
            try:
                points_m = self.transforms.to_optical(content.points_m, note.header.frame_id, header)
            except NoTransformError as error:
                note.failure = error
                return False
            self.problems.resolved("reference transform")
            content = references_in(KnownPoints(points_m, content.sigma_log, content.is_cone), frame)
            self._look_outside(note, len(content.uv))
        self._filter.update(frame, content.uv, content.depth_m, content.sigma_m, _time_s(header))
        if self._filter.used > used:
            self.problems.resolved("references missing")
        self.statistics.count("references used", self._filter.used - used)
        self.statistics.count("references ignored", self._filter.ignored - ignored)
        if self._filter.share_far_off > 0.5:
            off = f"most references differ from what the picture shows by more than a factor of {FAR_OFF:g}"
            self.problems.report("references", f"{off}: are they in metres, and of this camera?")
        else:
            self.problems.resolved("references")
        self._say()
        return True

    def _look_outside(self, note: Note, inside: int) -> None:
        """Count the points of a note that the image does not show, and say it where that is all that comes."""
        count = min(len(note.content.points_m), 1) if note.content.is_cone else len(note.content.points_m)
        self.statistics.count("references outside the image", count - inside)
        if inside:
            self.problems.resolved("references outside")
        elif count:
            what = f"no reference is inside the image: is {note.header.frame_id!r} the frame of their sensor?"
            self.problems.report("references outside", what, LASTING_S)

    def give_up(self, notes: list[Note]) -> None:
        """Count references that no image was near, or that TF did not place in time."""
        for note in notes:
            if note.failure is None:
                self.statistics.count("references without image")
                if self._apart_s is None:
                    self._apart_s = stamp_ns(note.header) * 1e-9 - self._newest_s
            else:
                self.statistics.count("references without transform")
                self.problems.report("reference transform", str(note.failure))

    def on_frame(self, frame: EncodedFrame, header: Header) -> None:
        """Let time pass, and look at the floor of a new frame, where that is asked for."""
        self.scale()
        if self._filter is None:
            return
        self._filter.advance(_time_s(header))
        self._look_for_references(stamp_ns(header) * 1e-9)
        if self.settings.scale in ("floor", "both"):
            self._look_at_floor()
            if time.monotonic() - self._looked_s >= FLOOR_PERIOD_S:
                if self._unplaced is not None:
                    self.problems.report("floor", self._unplaced[2])
                self._looked_s, self._unplaced = time.monotonic(), (frame, header, "")
                self._look_at_floor()
        self._say()

    def _look_for_references(self, stamp_s: float) -> None:
        """Say it where frames come, the last with this stamp, and no references of them."""
        self._newest_s = stamp_s
        if self._apart_s is not None:
            apart = f"one came {self._apart_s:+.1f} s from the newest image"
            what = f"no references are near an image: {apart}; have they one clock?"
        elif self.settings.scale == "references":
            what = f"no references come that can be used: {', '.join(SOURCES)}"
        else:  # of "both" the floor may be all
            return
        self.problems.report("references missing", what, LASTING_S)

    def _look_at_floor(self) -> None:
        """Take the floor of the frame that waits for it, unless TF has not reached its stamp: then it waits on."""
        if self._unplaced is None:
            return
        frame, header, _ = self._unplaced
        try:
            plane = self._plane(header)
        except NoTransformError as error:
            self._unplaced = frame, header, str(error)
            return
        self._unplaced = None
        if plane is not None and frame.camera is not None:
            assert self._filter is not None, "a floor is looked at for a scale that is learned"
            is_seen = self._filter.update_floor(frame, plane, _time_s(header))
            self.statistics.count("floor seen" if is_seen else "floor not seen")

    def _plane(self, header: Header) -> FloorPlane | None:
        """The floor in the frame of an image, None where nothing says where it is.

        Raises:
            NoTransformError: TF does not say it, or not yet.
        """
        p = self.settings
        if not p.floor_frame:
            if p.camera_height_m == 0:
                self.problems.report("floor", "the floor needs camera_height_m, or floor_frame and TF")
                return None
            self.problems.resolved("floor")
            return FloorPlane.from_tilt(p.camera_height_m, p.camera_tilt_deg)
        origin, up = self.transforms.to_optical(np.array([[0.0, 0, 0], [0, 0, 1]]), p.floor_frame, header)
        down = origin - up
        try:
            plane = FloorPlane(p.camera_height_m or float(origin @ down), tuple(down))
        except ValueError as error:  # a camera below the floor
            self.problems.report("floor", str(error))
            return None
        self.problems.resolved("floor")
        return plane

    def _say(self) -> None:
        assert self._filter is not None, "said only of a scale that is learned"
        self.statistics.state("scale", f"{self._filter.factor:.3f}")
        self.statistics.state("scale sigma", f"{self._filter.factor * self._filter.sigma_log:.3f}")


def _time_s(header: Header) -> float:
    """When an image was taken; now, for a camera that writes no stamps: time must pass for references to fade."""
    return stamp_ns(header) * 1e-9 or time.monotonic()
