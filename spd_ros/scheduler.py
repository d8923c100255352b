"""Which image is encoded next, and when each query is answered: threads and time, no topics.

Two threads do the network's work, so that message callbacks only put things down here and return: one encodes images,
the other answers queries, also while the next image is encoded. Their rules:

- a query whose frame is encoded is answered at once; one that cannot be answered any more is told why; each is answered
  exactly once;
- an image that a waiting query names is encoded first, the newest of them before the others;
- otherwise the newest image wins: an older one that nobody waits for is skipped and counted;
- no image is begun while further answers wait, for HELD_BACK_S at most: answers that are slower than images slow the
  images down and do not stop them;
- a query that could have been answered for longer than queries may wait, or is one too many, is refused: what is late
  does not make all that comes after it late;
- notes on images wait for the one nearest in time without asking for it, and come after all queries; one that cannot
  be taken yet is tried again, and nothing waits for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from spd_core.errors import SPDError
from spd_core.scale import JUMP_S
from spd_core.status import Status

from .frames import Frames, PendingImage
from .notes import Note, Notes, meant, near
from .workers import Job, Workers

MAX_WAITING_QUERIES = 256
JUMP_NS = round(1e9 * JUMP_S)
HELD_BACK_S = 0.5
LEAST_PATIENCE_S = 0.5  # with those ahead: a timeout of nought is for queries that have no image
ENCODE, ANSWER = "spd_encode", "spd_answer"


@dataclass
class Query:
    """Points [K, 2] px with ids [K], meant for the image of `stamp_ns` (0: the newest). `failure` is set if it cannot
    be read.

    Waypoints [K, 3] m, in the frame of the header, have their pixels only once there is an image; with a stamp that is
    of none they are for the newest. A grid is what the node asks itself.
    """

    stamp_ns: int
    uv: np.ndarray
    ids: np.ndarray
    header: Any
    failure: Status | None = None
    waypoints_m: np.ndarray | None = None
    received_s: float = field(default_factory=time.monotonic)
    parsing_s: float = 0.0
    is_prepared: bool = False
    is_grid: bool = False


class Client(Protocol):
    """Who does what the scheduler plans. `encode` runs in one thread, `prepare` to `take` in the other, and those that
    tell of losses and errors in any; none may call the scheduler."""

    def on_start(self, thread: str) -> None:
        """First in each thread: ENCODE or ANSWER."""

    def encode(self, image: PendingImage) -> Any:
        """The encoded frame. An SPDError says that the image is bad, any other exception that encoding failed."""

    def prepare(self, query: Query) -> None:
        """What can be done for a query that waits while an image is encoded."""

    def answer(self, query: Query, frame: Any) -> None:
        """Answer a query from its frame. This or `refuse` is called exactly once for each query."""

    def refuse(self, query: Query, why: Status) -> None:
        """Tell a query that it has no frame."""

    def on_frame(self, frame: Any) -> None:
        """A newly encoded frame, perhaps of an older image than the last."""

    def take(self, note: Note, frame: Any) -> bool:
        """A note on a frame. False, with the note's `failure` set, if it cannot be taken yet."""

    def on_lost_notes(self, notes: list[Note]) -> None:
        """Notes that no image is near, that could not be taken in time, or more than can wait."""

    def on_skip(self) -> None:
        """An image will not be encoded."""

    def on_error(self, work: str, error: Exception) -> None:
        """The method of the client called `work` raised; the threads go on."""


class FrameScheduler:
    """The two threads, the encoded frames, and what waits for them.

    Args:
        capacity: encoded frames kept.
        timeout_s: how long a query waits for its image to come and to be taken up, and again for its turn.
        tolerance_ns: stamps this close are the same.
    """

    def __init__(self, client: Client, capacity: int, timeout_s: float, tolerance_ns: int = 0):
        self._client, self._capacity = client, capacity
        self._frames = Frames(capacity)
        self._timeout_s, self._tolerance_ns = timeout_s, tolerance_ns
        self._pending: dict[int, PendingImage] = {}
        self._waiting: deque[Query] = deque()
        self._notes = Notes()
        self._newest_ns: float = -math.inf  # until there is an image
        self._fresh: Any = None  # an encoded frame that `on_frame` has not seen
        self._was_fresh = False  # `on_frame` was the last job: where it is slower than images come, queries have turns
        self._encoding: PendingImage | None = None
        self._encoded_s = -math.inf  # when the last image was done
        self._condition = threading.Condition()
        sources = {ENCODE: (self._next_image, lambda: HELD_BACK_S), ANSWER: (self._next_answer, self._patience_s)}
        self._workers = Workers(self._condition, client.on_error, client.on_start, sources)

    def start(self) -> None:
        self._workers.start()

    def stop(self) -> None:
        """End the threads after what they are doing now; queries that still wait are answered SHUTTING_DOWN."""
        self._workers.stop()
        while self._waiting:
            self._workers.run("refuse", partial(self._client.refuse, self._waiting.popleft(), Status.SHUTTING_DOWN))

    def change(self, timeout_s: float, tolerance_ns: int) -> None:
        """Go on with another patience and tolerance."""
        with self._condition:
            self._timeout_s, self._tolerance_ns = timeout_s, tolerance_ns
            self._condition.notify_all()

    def add_image(self, stamp_ns: int, message: Any) -> bool:
        """Take an image. True if its stamp is more than a second older than the last one's: a bag has started again,
        and what came before it, under stamps that will come again, is forgotten."""
        with self._condition:
            jumped = stamp_ns + JUMP_NS < self._newest_ns
            self._frames.make_way(stamp_ns)
            self._newest_ns = stamp_ns
            if stamp_ns in self._pending:  # a camera that writes no stamps
                self._client.on_skip()
            self._pending[stamp_ns] = PendingImage(stamp_ns, message)
            self._drop_unwanted()
            if jumped:  # last, so that what was dropped is forgotten too
                self._frames = Frames(self._capacity)
                self._notes.clear()
            self._condition.notify_all()
        return jumped

    def add_query(self, query: Query) -> None:
        with self._condition:
            self._waiting.append(query)
            self._condition.notify_all()

    def add_note(self, note: Note) -> None:
        with self._condition:
            if lost := self._notes.add(note, self._here()):
                self._client.on_lost_notes(lost)
            self._condition.notify_all()

    # --- under the lock

    def _here(self) -> list[int]:
        """Stamps of all images that have a frame or may get one."""
        return [*self._frames.stamps(self._encoding), *self._pending]

    def _drop_unwanted(self) -> None:
        keep = _named(self._waiting, self._pending, self._tolerance_ns) | {self._newest_ns}
        for stamp in [stamp for stamp in self._pending if stamp not in keep]:
            del self._pending[stamp]
            self._frames.lose(stamp, Status.FRAME_SKIPPED)
            self._client.on_skip()

    def _resolve(self, query: Query) -> Job | None:
        """What answers or refuses a query; None while it should wait."""
        if query.failure is not None:
            return partial(self._client.refuse, query, query.failure)
        kept, stamp = self._frames.kept, self._meant_ns(query)
        found = near(self._here(), stamp, self._tolerance_ns) if stamp else self._frames.newest()
        again = (self._encoding, self._pending.get(found)) if stamp and found is not None else ()
        if found is not None and found in kept and not _came(found, query.received_s, again):
            ready_s = kept[found].ready_s if stamp else self._frames.first_s
            if self._is_late(max(query.received_s, ready_s), max(self._timeout_s, LEAST_PATIENCE_S)):
                return partial(self._client.refuse, query, Status.TIMED_OUT)
            return partial(self._client.answer, query, kept[found].frame)
        why_not = None if self._is_being_encoded(query) else self._why_not(query)
        return None if why_not is None else partial(self._client.refuse, query, why_not)

    def _meant_ns(self, query: Query) -> int:
        """The stamp of the image that a query is for, or 0 for the newest: waypoints of no image, when later ones came,
        are for the newest too, as planners write the time at which they planned."""
        stamp = query.stamp_ns
        is_past = query.waypoints_m is not None and 0 < stamp <= self._newest_ns
        return 0 if is_past and near(self._here(), stamp, self._tolerance_ns) is None else stamp

    def _why_not(self, query: Query) -> Status | None:
        """Why a query will have no frame; None while it may get one."""
        stamp = self._meant_ns(query)
        is_pending = meant(tuple(self._pending), stamp, self._tolerance_ns) is not None
        if stamp and not is_pending:
            lost = near(self._frames.lost, stamp, self._tolerance_ns)
            if lost is not None and stamp <= self._newest_ns + JUMP_NS:
                return self._frames.lost[lost]
            if stamp + self._tolerance_ns < self._newest_ns:
                return Status.NO_IMAGE
        if not self._is_late(query.received_s, self._timeout_s):
            return None
        if stamp == 0 and self._frames.failure is not None:  # images come, and none of them can be used
            return self._frames.failure
        return Status.TIMED_OUT if is_pending else Status.NO_IMAGE

    def _is_late(self, since_s: float, patience_s: float) -> bool:
        """Whether a query that waits since then has to go, as it has waited for too long or too many wait."""
        return time.monotonic() - since_s > patience_s or len(self._waiting) > MAX_WAITING_QUERIES

    def _answerable(self) -> Iterator[tuple[int, Job]]:
        """Positions of waiting queries that need not wait, and what ends their waiting."""
        return ((i, job) for i, query in enumerate(self._waiting) if (job := self._resolve(query)) is not None)

    def _is_being_encoded(self, query: Query) -> bool:
        image = self._encoding
        return image is not None and meant((image.stamp_ns,), self._meant_ns(query), self._tolerance_ns) is not None

    def _next_answer(self) -> Job | None:
        i, job = next(self._answerable(), (-1, None))
        has_turn = job is not None and self._was_fresh and self._is_late(self._waiting[i].received_s, HELD_BACK_S)
        if self._fresh is not None and not has_turn:
            job, self._fresh, self._was_fresh = partial(self._client.on_frame, self._fresh), None, True
        elif job is not None:
            self._was_fresh = False
            del self._waiting[i]
        else:
            # The first one alone: the plans of others depend on what is known of the frame by then.
            query = next(filter(self._is_being_encoded, self._waiting), None)
            if query is None or query.is_prepared:
                return self._next_note()
            query.is_prepared = True
            job = partial(self._client.prepare, query)
        self._condition.notify_all()  # an image may have been held back for this
        return job

    def _next_note(self) -> Job | None:
        if (found := self._notes.next(self._frames.stamps(self._encoding), self._frames.kept)) is not None:
            return partial(self._take, found[0], self._frames.kept[found[1]].frame)
        if lost := self._notes.expire(self._here()):
            self._client.on_lost_notes(lost)
        return None

    def _next_image(self) -> Job | None:
        is_held_back = time.monotonic() - self._encoded_s < HELD_BACK_S and next(self._answerable(), None) is not None
        if self._fresh is not None or is_held_back:
            return None
        self._drop_unwanted()  # what a query that is gone had wanted
        if not self._pending:
            return None
        candidates = _named(self._waiting, self._pending, self._tolerance_ns) or self._pending
        self._encoding = self._pending.pop(max(candidates, key=lambda stamp: self._pending[stamp].received_s))
        self._condition.notify_all()  # its queries can be prepared
        return partial(self._encode_image, self._encoding, self._frames)

    def _patience_s(self) -> float | None:
        """Seconds until the first of the waiting queries or notes will have waited too long."""
        waiting = [query.received_s for query in self._waiting if not self._is_being_encoded(query)]
        ends_s = [max(min(waiting) + self._timeout_s - time.monotonic(), 0)] if waiting else []
        ends_s += [end_s] if (end_s := self._notes.patience_s()) is not None else []
        return min(ends_s) + 0.001 if ends_s else None

    # --- in the threads: notes where queries are answered, images where they are encoded

    def _take(self, note: Note, frame: Any) -> None:
        if self._workers.run("take", partial(self._client.take, note, frame)) is False:
            with self._condition:
                self._notes.put_back(note)

    def _encode_image(self, image: PendingImage, frames: Frames) -> None:
        frame, error = None, None
        try:
            frame = self._client.encode(image)
        except Exception as raised:
            error = raised
        with self._condition:
            self._encoding, self._encoded_s = None, time.monotonic()
            is_current = frames is self._frames  # or a bag has started again meanwhile
            if is_current and error is None:
                self._fresh = frame
                self._frames.keep(image, frame)
            elif is_current:
                self._frames.fail(image, Status.BAD_IMAGE if isinstance(error, SPDError) else Status.FAILED)
            self._condition.notify_all()
        if error is not None:
            self._client.on_error("encode", error)


def _named(queries: Iterable[Query], pending: Collection[int], tolerance_ns: int) -> set[int]:
    """Stamps of pending images that queries name."""
    named = (near(pending, query.stamp_ns, tolerance_ns) for query in queries if query.stamp_ns)
    return {stamp for stamp in named if stamp is not None}


def _came(stamp_ns: int, before_s: float, images: Iterable[PendingImage | None]) -> bool:
    """Whether one of the images has this stamp and came before then."""
    return any(i is not None and i.stamp_ns == stamp_ns and i.received_s <= before_s for i in images)
