"""Which image is encoded next, and when each query is answered: threads and time, no topics.

One worker thread does all the network's work, so that message callbacks only put things down here and return. Its rules:

- a query whose frame is encoded is answered at once; one that cannot be answered any more is told why; each is answered exactly once;
- an image that a waiting query names is encoded first, the newest of them before the others;
- otherwise the newest image wins: an older one that nobody waits for is skipped and counted.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from spd_core.messages import Status

MAX_WAITING_QUERIES = 256
REMEMBERED_STAMPS = 1000
JUMP_NS = 1_000_000_000


@dataclass
class Query:
    """Points [K, 2] px with ids [K], meant for the image of `stamp_ns` (0: the newest). `failure` is set if it cannot be read.

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
    """The worker thread, the ring of encoded frames, and what waits for it.

    Args:
        encode: PendingImage -> encoded frame (anything); an exception marks the image as bad.
        answer: (Query, encoded frame or None, Status or None), called exactly once for each query.
        on_frame: called with each newly encoded frame.
        on_skip: called with the number of images skipped.
        on_error: called with an exception of `encode`, `answer` or `on_frame`; the worker goes on.
        capacity: encoded frames kept.
        timeout_s: how long a query waits for its image to come and to be taken up.
        tolerance_ns: stamps this close are the same.
    """

    def __init__(self, encode: Callable, answer: Callable, on_frame: Callable, on_skip: Callable, on_error: Callable, capacity: int, timeout_s: float, tolerance_ns: int = 0):
        self._encode, self._answer, self._on_frame, self._on_skip, self._on_error = encode, answer, on_frame, on_skip, on_error
        self._capacity, self.timeout_s, self.tolerance_ns = capacity, timeout_s, tolerance_ns
        self._ring: OrderedDict[int, Any] = OrderedDict()
        self._pending: dict[int, PendingImage] = {}
        self._waiting: deque[Query] = deque()
        self._lost: OrderedDict[int, Status] = OrderedDict()  # stamps of images that will not be answered, and why
        self._newest_ns = -1
        self._stopping = self._encoding = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="spd_worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the worker after what it is doing now; queries that still wait are answered SHUTTING_DOWN before this returns."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()
        while self._waiting:
            self._run_guarded(partial(self._answer, self._waiting.popleft(), None, Status.SHUTTING_DOWN))

    def add_image(self, stamp_ns: int, message: Any) -> bool:
        """Take an image. True if its stamp is more than a second older than the last one's: a bag has started again, and what came
        before it, under stamps that will come again, is forgotten."""
        with self._condition:
            jumped = stamp_ns + JUMP_NS < self._newest_ns
            if jumped:
                self._ring.clear()
                self._lost.clear()
            self._lost.pop(stamp_ns, None)
            self._newest_ns = stamp_ns
            self._pending[stamp_ns] = PendingImage(stamp_ns, message)
            self._drop_unwanted()
            self._condition.notify()
        return jumped

    def add_query(self, query: Query) -> bool:
        """Take a query. True if the worker is busy with an image, so that there is time to plan ahead."""
        with self._condition:
            self._waiting.append(query)
            self._condition.notify()
            return self._encoding

    # --- under the lock

    def _near(self, stamps, stamp_ns: int) -> int | None:
        if stamp_ns in stamps:
            return stamp_ns
        near = [s for s in stamps if abs(s - stamp_ns) <= self.tolerance_ns] if self.tolerance_ns else []
        return min(near, key=lambda s: abs(s - stamp_ns), default=None)

    def _wanted(self) -> set[int]:
        """Stamps of pending images that a waiting query names."""
        return {s for query in self._waiting if query.stamp_ns and (s := self._near(self._pending, query.stamp_ns)) is not None}

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
        frame = next(reversed(self._ring.values()), None) if stamp == 0 else self._ring.get(self._near(self._ring, stamp))
        if frame is not None:
            return frame, None
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

    def _next_job(self) -> Callable | None:
        for i, query in enumerate(self._waiting):
            if (resolved := self._resolve(query)) is not None:
                del self._waiting[i]
                return partial(self._answer, query, *resolved)
        self._drop_unwanted()  # what a query that is gone had wanted
        if self._pending:
            stamp = max(self._wanted() or self._pending, key=lambda s: self._pending[s].received_s)
            return partial(self._encode_image, self._pending.pop(stamp))
        return None

    # --- in the worker thread

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._stopping and (job := self._next_job()) is None:
                    oldest = min((query.received_s for query in self._waiting), default=None)
                    self._condition.wait(None if oldest is None else max(oldest + self.timeout_s - time.monotonic(), 0) + 0.001)
                if self._stopping:
                    return
            self._run_guarded(job)

    def _run_guarded(self, job: Callable) -> None:
        try:
            job()
        except Exception as error:  # a message must never end the worker
            self._on_error(error)

    def _encode_image(self, image: PendingImage) -> None:
        self._encoding = True
        try:
            frame = self._encode(image)
        except Exception:
            with self._condition:
                self._remember(image.stamp_ns, Status.BAD_IMAGE)
            raise
        finally:
            self._encoding = False
        with self._condition:
            self._ring.pop(image.stamp_ns, None)
            self._ring[image.stamp_ns] = frame
            while len(self._ring) > self._capacity:
                self._remember(self._ring.popitem(last=False)[0], Status.FRAME_EXPIRED)
        self._on_frame(frame)
