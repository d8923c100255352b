"""Threads that do one job after the other, as they are handed out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

Job = partial[None]
# What gives a thread its next job, None while there is none, and after how many seconds it is worth asking again
# without being woken, None for never. Both are asked under the lock.
Source = tuple[Callable[[], Job | None], Callable[[], float | None]]


class Workers:
    """A thread for each source of jobs. Jobs run without the lock; one that raises does not end its thread.

    Args:
        condition: the lock of the sources, and what wakes the threads to ask them again.
        on_error: takes the name of the function that raised, and the exception.
        on_start: called first in each thread, with its name.
        sources: by name of the thread.
    """

    def __init__(
        self,
        condition: threading.Condition,
        on_error: Callable[[str, Exception], None],
        on_start: Callable[[str], None],
        sources: dict[str, Source],
    ):
        self._condition = condition
        self._on_error = on_error
        self._on_start = on_start
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, args=source, name=name, daemon=True) for name, source in sources.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads after what they are doing now."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def run(self, work: str, job: Callable[[], Any]) -> Any:
        """What `job` returns; None after an exception."""
        try:
            return job()
        except Exception as error:
            self._on_error(work, error)
            return None

    def _work(self, next_job: Callable[[], Job | None], patience_s: Callable[[], float | None]) -> None:
        self.run("start", partial(self._on_start, threading.current_thread().name))
        while not self._stopping:
            if (job := self.run("schedule", partial(self._wait, next_job, patience_s))) is not None:
                self.run(job.func.__name__, job)
            else:  # the end, or an error that would come again at once
                time.sleep(0.01)

    def _wait(self, next_job: Callable[[], Job | None], patience_s: Callable[[], float | None]) -> Job | None:
        with self._condition:
            while not self._stopping and (job := next_job()) is None:
                self._condition.wait(patience_s())
            return None if self._stopping else job
