"""Which image is encoded next, and when each query is answered: threads and time, no topics.

Two threads do the network's work, so that message callbacks only put things down here and return: one encodes images,
the other answers queries, also while the next image is encoded. Their rules:

- a query whose frame is encoded is answered at once; one that cannot be answered any more is told why; each is answered
  exactly once;
- an image that a waiting query names is encoded first, the newest of them before the others;
- otherwise the newest image wins: an older one that nobody waits for is skipped and counted;
- no image is begun while there is more to answer than what is being answered: answers that are slower than images slow
  the images down.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from spd_core.status import Status

MAX_WAITING_QUERIES = 256
REMEMBERED_STAMPS = 1000
JUMP_NS = 1_000_000_000


@dataclass
class Query:
    """Points [K, 2] px with ids [K], meant for the image of `stamp_ns` (0: the newest). `failure` is set if it cannot
    be read.

    Waypoints [K, 3] m, in the frame of the header, have their pixels only once there is an image.
    """

    stamp_ns: int
    uv: np.ndarray
    ids: np.ndarray
    header: Any
    failure: Status | None = None
    waypoints_m: np.ndarray | None = None
    received_s: float = field(default_factory=time.monotonic)
    parsing_s: float = 0.0


@dataclass
class PendingImage:
    stamp_ns: int
    message: Any
    received_s: float = field(default_factory=time.monotonic)


class FrameScheduler:
    """The two threads, the ring of encoded frames, and what waits for them.

    Args:
        encode: PendingImage -> encoded frame (anything), in one thread; an exception marks the image as bad.
        answer: (Query, encoded frame or None, Status or None), called exactly once for each query, in the other thread.
        on_frame: called with each newly encoded frame, in the thread of `answer`.
        on_skip: called with the number of images skipped.
        on_error: called with an exception of `encode`, `answer` or `on_frame`; the threads go on.
        capacity: encoded frames kept.
        timeout_s: how long a query waits for its image to come and to be taken up.
        tolerance_ns: stamps this close are the same.
    """

    def __init__(
        self,
        encode: Callable,
        answer: Callable,
        on_frame: Callable,
        on_skip: Callable,
        on_error: Callable,
        capacity: int,
        timeout_s: float,
        tolerance_ns: int = 0,
    ):
        self._encode, self._answer, self._on_frame, self._on_skip, self._on_error = (
            encode,
            answer,
            on_frame,
            on_skip,
            on_error,
        )
        self._capacity, self.timeout_s, self.tolerance_ns = capacity, timeout_s, tolerance_ns
        self._ring: OrderedDict[int, Any] = OrderedDict()
        self._pending: dict[int, PendingImage] = {}
        self._waiting: deque[Query] = deque()
        self._lost: OrderedDict[int, Status] = OrderedDict()  # stamps of images that will not be answered, and why
        self._newest_ns = -1
        self._fresh = None  # an encoded frame that `on_frame` has not seen
        self._encoding_ns: int | None = None
        self._stopping = False
        self._condition = threading.Condition()
        work = {"spd_encode": (self._next_image, lambda: None), "spd_answer": (self._next_answer, self._patience_s)}
        self._threads = [
            threading.Thread(target=self._work, args=args, name=name, daemon=True) for name, args in work.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads after what they are doing now; queries that still wait are answered SHUTTING_DOWN before this
        returns."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()
        while self._waiting:
            self._run_guarded(partial(self._answer, self._waiting.popleft(), None, Status.SHUTTING_DOWN))

    def add_image(self, stamp_ns: int, message: Any) -> bool:
        """Take an image. True if its stamp is more than a second older than the last one's: a bag has started again,
        and what came before it, under stamps that will come again, is forgotten."""
        with self._condition:
            jumped = stamp_ns + JUMP_NS < self._newest_ns
            if jumped:
                self._ring.clear()
                self._lost.clear()
            self._lost.pop(stamp_ns, None)
            self._newest_ns = stamp_ns
            self._pending[stamp_ns] = PendingImage(stamp_ns, message)
            self._drop_unwanted()
            self._condition.notify_all()
        return jumped

    def add_query(self, query: Query) -> bool:
        """Take a query. True if it has to wait while an image is encoded, so that there is time to plan ahead."""
        with self._condition:
            self._waiting.append(query)
            self._condition.notify_all()
            return self._encoding_ns is not None and self._resolve(query) is None

    # --- under the lock

    def _near(self, stamps, stamp_ns: int) -> int | None:
        if stamp_ns in stamps:
            return stamp_ns
        near = [s for s in stamps if abs(s - stamp_ns) <= self.tolerance_ns] if self.tolerance_ns else []
        return min(near, key=lambda s: abs(s - stamp_ns), default=None)

    def _wanted(self) -> set[int]:
        """Stamps of pending images that a waiting query names."""
        return {
            s
            for query in self._waiting
            if query.stamp_ns and (s := self._near(self._pending, query.stamp_ns)) is not None
        }

    def _drop_unwanted(self) -> None:
        keep = self._wanted() | {self._newest_ns}
        dropped = [stamp for stamp in self._pending if stamp not in keep]
        for stamp in dropped:
            del self._pending[stamp]
            self._remember(stamp, Status.FRAME_SKIPPED)
        if dropped:
            self._on_skip(len(dropped))

    def _remember(self, stamp_ns: int, status: Status) -> None:
        self._lost[stamp_ns] = status
        while len(self._lost) > REMEMBERED_STAMPS:
            self._lost.popitem(last=False)

    def _resolve(self, query: Query) -> tuple[Any, Status | None] | None:
        """(frame, None) or (None, why not), or None while the query should wait."""
        if query.failure is not None:
            return None, query.failure
        stamp = query.stamp_ns
        frame = (
            next(reversed(self._ring.values()), None) if stamp == 0 else self._ring.get(self._near(self._ring, stamp))
        )
        if frame is not None:
            return frame, None
        if self._is_being_encoded(query):
            return None
        is_pending = bool(self._pending) if stamp == 0 else self._near(self._pending, stamp) is not None
        if not is_pending and stamp:
            lost = self._near(self._lost, stamp)
            if lost is not None:
                return None, self._lost[lost]
            if stamp + self.tolerance_ns < self._newest_ns:
                return None, Status.NO_IMAGE
        if time.monotonic() - query.received_s > self.timeout_s or len(self._waiting) > MAX_WAITING_QUERIES:
            return None, Status.TIMED_OUT if is_pending else Status.NO_IMAGE
        return None

    def _answerable(self) -> Iterator[tuple[int, tuple[Any, Status | None]]]:
        """Positions of waiting queries that need not wait, and what they resolve to."""
        return (
            (i, resolved) for i, query in enumerate(self._waiting) if (resolved := self._resolve(query)) is not None
        )

    def _is_being_encoded(self, query: Query) -> bool:
        return self._encoding_ns is not None and (
            query.stamp_ns == 0 or self._near((self._encoding_ns,), query.stamp_ns) is not None
        )

    def _next_answer(self) -> Callable | None:
        if self._fresh is not None:
            job, self._fresh = partial(self._on_frame, self._fresh), None
        elif (answerable := next(self._answerable(), None)) is not None:
            i, resolved = answerable
            job = partial(self._answer, self._waiting[i], *resolved)
            del self._waiting[i]
        else:
            return None
        self._condition.notify_all()  # an image may have been held back for this
        return job

    def _next_image(self) -> Callable | None:
        if self._fresh is not None or next(self._answerable(), None) is not None:
            return None
        self._drop_unwanted()  # what a query that is gone had wanted
        if not self._pending:
            return None
        self._encoding_ns = max(self._wanted() or self._pending, key=lambda s: self._pending[s].received_s)
        return partial(self._encode_image, self._pending.pop(self._encoding_ns))

    def _patience_s(self) -> float | None:
        """Seconds until the first of the waiting queries will have waited too long."""
        first = min((query.received_s for query in self._waiting if not self._is_being_encoded(query)), default=None)
        return None if first is None else max(first + self.timeout_s - time.monotonic(), 0) + 0.001

    # --- in the two threads

    def _work(self, next_job: Callable[[], Callable | None], patience_s: Callable[[], float | None]) -> None:
        while True:
            with self._condition:
                while not self._stopping and (job := next_job()) is None:
                    self._condition.wait(patience_s())
                if self._stopping:
                    return
            self._run_guarded(job)

    def _run_guarded(self, job: Callable) -> Any:
        """What `job` returns; None after an exception."""
        try:
            return job()
        except Exception as error:  # a message must never end a thread
            self._on_error(error)
            return None

    def _encode_image(self, image: PendingImage) -> None:
        frame = self._run_guarded(partial(self._encode, image))
        with self._condition:
            self._encoding_ns = None
            if frame is None:
                self._remember(image.stamp_ns, Status.BAD_IMAGE)
            else:
                self._ring.pop(image.stamp_ns, None)
                self._ring[image.stamp_ns] = self._fresh = frame
            while len(self._ring) > self._capacity:
                self._remember(self._ring.popitem(last=False)[0], Status.FRAME_EXPIRED)
            self._condition.notify_all()
