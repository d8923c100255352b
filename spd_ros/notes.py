"""Notes: measurements that belong to the image nearest in time, and wait for it without asking for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_WAITING_NOTES = 16  # of 40 scans a second, those of less than half a second
PATIENCE_S = 1.0  # with an image that has not come, and with a client that cannot take a note yet
RETRY_S = 0.05


@dataclass(eq=False)  # contents are arrays
class Note:
    """Something about the image nearest to `stamp_ns` (0: the newest), if one is as near as `tolerance_ns`.

    A client that cannot take it yet says why in `failure`.
    """

    stamp_ns: int
    content: Any
    header: Any
    tolerance_ns: int
    received_s: float = field(default_factory=time.monotonic)
    failure: Exception | None = None
    again_s: float = 0.0  # not to be tried before

    def nearest(self, stamps: Sequence[int]) -> int | None:
        """Which of the stamps of images, the newest last, is that of its image; None where none is near."""
        return meant(stamps, self.stamp_ns, self.tolerance_ns)


class Notes:
    """Those that wait; not for two threads at once.

    Stamps of images that are here are in the order in which the images came.
    """

    def __init__(self) -> None:
        self._waiting: deque[Note] = deque()

    def clear(self) -> None:
        self._waiting.clear()

    def add(self, note: Note, here: Sequence[int]) -> list[Note]:
        """Let a note wait. Those that have to go for it: the oldest, but first of all one whose image is not here."""
        self._waiting.append(note)
        lost = []
        while len(self._waiting) > MAX_WAITING_NOTES:
            lost.append(next((old for old in self._waiting if not self._is_awaited(old, here)), self._waiting[0]))
            self._waiting.remove(lost[-1])
        return lost

    def put_back(self, note: Note) -> None:
        """Let a note that could not be taken wait a little longer."""
        note.again_s = time.monotonic() + RETRY_S
        self._waiting.appendleft(note)

    def expire(self, here: Sequence[int]) -> list[Note]:
        """Give up those that wait for too long. An image that is here may take as long as it needs to be encoded."""
        until_s = time.monotonic() - PATIENCE_S
        lost = [n for n in self._waiting if n.received_s < until_s and not self._is_awaited(n, here)]
        for note in lost:
            self._waiting.remove(note)
        return lost

    def patience_s(self) -> float | None:
        """Seconds until one of them has waited long enough for a nearer image, for another try, or for any."""
        now_s = time.monotonic()
        waits_s = [
            until_s - now_s
            for note in self._waiting
            for until_s in (note.received_s + note.tolerance_ns * 1e-9, note.received_s + PATIENCE_S, note.again_s)
        ]
        return min((wait_s for wait_s in waits_s if wait_s > 0), default=None)

    def next(self, stamps: Sequence[int], kept: Mapping[int, Any]) -> tuple[Note, int] | None:
        """The first note whose image is encoded, and the stamp of that image.

        Args:
            stamps: of images that are encoded, or will be next.
            kept: those that are encoded, by their stamps.
        """
        for note in self._waiting:
            nearest = note.nearest(stamps)
            if nearest is None or nearest not in kept or time.monotonic() < note.again_s:
                continue
            if not self._may_be_nearer(note, stamps):
                self._waiting.remove(note)
                return note, nearest
        return None

    @staticmethod
    def _is_awaited(note: Note, here: Sequence[int]) -> bool:
        """Whether a note has only to wait until its image is encoded."""
        return note.failure is None and note.nearest(here) is not None

    @staticmethod
    def _may_be_nearer(note: Note, stamps: Sequence[int]) -> bool:
        """Whether the next image may be nearer than all that are there."""
        waited_ns = (time.monotonic() - note.received_s) * 1e9
        return note.stamp_ns != 0 and max(stamps) < note.stamp_ns and waited_ns < note.tolerance_ns


def meant(stamps: Sequence[int], stamp_ns: int, tolerance_ns: int) -> int | None:
    """Which of the stamps of images, the newest last, `stamp_ns` means: the nearest within the tolerance, or for 0 the
    newest; None where there is none."""
    if stamp_ns:
        return near(stamps, stamp_ns, tolerance_ns)
    return stamps[-1] if stamps else None


def near(stamps: Collection[int], stamp_ns: int, tolerance_ns: int) -> int | None:
    """The nearest of the stamps that is within the tolerance."""
    if stamp_ns in stamps:
        return stamp_ns
    found = [s for s in stamps if abs(s - stamp_ns) <= tolerance_ns] if tolerance_ns else []
    return min(found, key=lambda s: abs(s - stamp_ns), default=None)
