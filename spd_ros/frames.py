"""The images that a scheduler knows: those that wait to be encoded, and the frames of those that are."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from spd_core.status import Status

REMEMBERED_STAMPS = 1000


@dataclass
class PendingImage:
    stamp_ns: int
    message: Any
    received_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Encoded:
    frame: Any
    received_s: float  # when its image came
    ready_s: float = field(default_factory=time.monotonic)


class Frames:
    """The frames of the last `capacity` images that were encoded, by their stamps, and why other images have none.

    Attributes:
        kept: in the order in which the images came: one that a query names may be encoded after newer ones.
        first_s: when there first was one.
        failure: why the newest of the images that could not be encoded has no frame.
    """

    def __init__(self, capacity: int):
        self._capacity = capacity
        self.kept: dict[int, Encoded] = {}
        self.lost: OrderedDict[int, Status] = OrderedDict()
        self.first_s = math.inf
        self.failure: Status | None = None
        self._failed_s = -math.inf  # when that image came
        self._replaced_s = -math.inf  # when the newest of the images came whose frame is gone, as another has its stamp

    def keep(self, image: PendingImage, frame: Any) -> None:
        encoded = Encoded(frame, image.received_s)
        self.first_s = min(self.first_s, encoded.ready_s)
        self.kept[image.stamp_ns] = encoded
        self.kept = dict(sorted(self.kept.items(), key=lambda item: item[1].received_s))
        # The newest stays, and so does the one just encoded, that a query may wait for: even with a capacity of 1.
        may_go = [stamp for stamp in list(self.kept)[:-1] if stamp != image.stamp_ns]
        for stamp in may_go[: max(len(self.kept) - self._capacity, 0)]:
            del self.kept[stamp]
            self.lose(stamp, Status.FRAME_EXPIRED)

    def fail(self, image: PendingImage, why: Status) -> None:
        """Remember that an image could not be encoded."""
        self.kept.pop(image.stamp_ns, None)  # one before it that had its stamp
        self.lose(image.stamp_ns, why)
        if image.received_s > self._failed_s:
            self.failure, self._failed_s = why, image.received_s

    def make_way(self, stamp_ns: int) -> None:
        """Another image has this stamp now: what came under it before is not what is asked about from now on. A camera
        that writes no stamps has 0 for all."""
        self.lost.pop(stamp_ns, None)
        if stamp_ns and (before := self.kept.pop(stamp_ns, None)) is not None:
            self._replaced_s = max(self._replaced_s, before.received_s)

    def newest(self) -> int | None:
        """Stamp of the newest frame; None where a later image has none, as it could not be encoded or has made way for
        one that is not encoded yet: the scene may have changed."""
        stamp = next(reversed(self.kept), None)
        is_outdated = stamp is not None and self.kept[stamp].received_s < max(self._failed_s, self._replaced_s)
        return None if is_outdated else stamp

    def stamps(self, encoding: PendingImage | None) -> list[int]:
        """Of images that have a frame, or will be next to have one, in the order in which they came."""
        if encoding is None:
            return [*self.kept]
        is_newest = all(encoded.received_s < encoding.received_s for encoded in self.kept.values())
        return [*self.kept, encoding.stamp_ns] if is_newest else [encoding.stamp_ns, *self.kept]

    def lose(self, stamp_ns: int, why: Status) -> None:
        self.lost[stamp_ns] = why
        while len(self.lost) > REMEMBERED_STAMPS:
            self.lost.popitem(last=False)
