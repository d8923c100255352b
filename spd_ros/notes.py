"""What is known of images otherwise: notes that wait for the image nearest in time, without asking for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_WAITING_NOTES = 16  # of 40 scans a second, those of less than half a second


@dataclass
class Note:
    """Something about the image nearest to `stamp_ns` (0: the newest), if one is as near as `tolerance_ns`."""

    stamp_ns: int
    content: Any
    header: Any
    tolerance_ns: int
    received_s: float = field(default_factory=time.monotonic)


class Notes:
    """Those that wait; not for two threads at once."""

    def __init__(self) -> None:
        self._waiting: deque[Note] = deque()

    def clear(self) -> None:
        self._waiting.clear()

    def add(self, note: Note) -> int:
        """Let a note wait. How many others had to go for it."""
        self._waiting.append(note)
        if len(self._waiting) <= MAX_WAITING_NOTES:
            return 0
        self._waiting.popleft()
        return 1

    def expire(self, timeout_s: float) -> int:
        """Give up those that wait for longer, and say how many they were."""
        until_s, before = time.monotonic() - timeout_s, len(self._waiting)
        self._waiting = deque(note for note in self._waiting if note.received_s >= until_s)
        return before - len(self._waiting)

    def patience_s(self, timeout_s: float) -> float | None:
        """Seconds until one of them has waited long enough for a nearer image, or for any."""
        now_s = time.monotonic()
        waits_s = [
            note.received_s + wait_s - now_s
            for note in self._waiting
            for wait_s in (note.tolerance_ns * 1e-9, timeout_s)
        ]
        return min((wait_s for wait_s in waits_s if wait_s > 0), default=None)

    def next(self, kept: Mapping[int, Any], encoding_ns: int | None) -> tuple[Note, Any] | None:
        """The first note whose image is among those kept by their stamps, and that image; `encoding_ns` will be."""
        stamps = [*kept, *([] if encoding_ns is None else [encoding_ns])]
        for note in self._waiting:
            if not stamps or (note.stamp_ns and self._may_be_nearer(note, stamps)):
                continue
            nearest = near(stamps, note.stamp_ns, note.tolerance_ns) if note.stamp_ns else next(reversed(stamps))
            if nearest is not None and nearest in kept:
                self._waiting.remove(note)
                return note, kept[nearest]
        return None

    @staticmethod
    def _may_be_nearer(note: Note, stamps: Collection[int]) -> bool:
        """Whether the next image may be nearer than all that are there."""
        waited_ns = (time.monotonic() - note.received_s) * 1e9
        return max(stamps) < note.stamp_ns and waited_ns < note.tolerance_ns


def near(stamps: Collection[int], stamp_ns: int, tolerance_ns: int) -> int | None:
    """The nearest of the stamps that is within the tolerance."""
    if stamp_ns in stamps:
        return stamp_ns
    found = [s for s in stamps if abs(s - stamp_ns) <= tolerance_ns] if tolerance_ns else []
    return min(found, key=lambda s: abs(s - stamp_ns), default=None)
