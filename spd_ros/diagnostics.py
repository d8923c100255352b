"""What the node counts, and how it says so on /diagnostics."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.time import Time

from spd_core.status import Status

SILENCE_S = 5.0  # without an image for so long, that is worth a warning


class Statistics:
    """Counters and recent latencies; every method may be called from any thread."""

    def __init__(self):
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self._encode_ms: deque[float] = deque(maxlen=300)
        self._latency_ms: deque[float] = deque(maxlen=1000)
        self._overhead_ms: deque[float] = deque(maxlen=1000)
        self.started_s = time.monotonic()
        self.last_image_s: float | None = None
        self.has_camera_info = False
        self.last_error = ""
        self.qos_problems: dict[str, str] = {}  # by topic
        self._rates_since: tuple[float, Counter[str]] = (self.started_s, Counter())

    def count(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self.counts[name] += amount

    def image_received(self) -> None:
        self.last_image_s = time.monotonic()
        self.count("images received")

    def encoded(self, seconds: float) -> None:
        with self._lock:
            self.counts["images encoded"] += 1
            self._encode_ms.append(1000 * seconds)

    def answered(self, status: np.ndarray, latency_s: float, overhead_s: float) -> None:
        """Count an answer; its overhead is what the node adds: reading the query, building and publishing the answer,
        not waiting, encoding or decoding."""
        with self._lock:
            self.counts["queries answered"] += 1
            self.counts["points answered"] += len(status)
            for value, amount in zip(*np.unique(status, return_counts=True)):
                self.counts[f"points {Status(value).name}"] += int(amount)
            self._latency_ms.append(1000 * latency_s)
            self._overhead_ms.append(1000 * overhead_s)

    def snapshot(self) -> dict[str, str]:
        """All values as text; rates are those since the last snapshot."""
        with self._lock:
            values = {name: str(amount) for name, amount in sorted(self.counts.items())}
            (then, before), now = self._rates_since, time.monotonic()
            self._rates_since = (now, self.counts.copy())
            for name in ("images received", "images encoded", "queries answered"):
                values[f"{name} [Hz]"] = f"{(self.counts[name] - before[name]) / max(now - then, 1e-3):.1f}"
            for name, series in (
                ("encode", self._encode_ms),
                ("query latency", self._latency_ms),
                ("node overhead", self._overhead_ms),
            ):
                if series:
                    p50, p99 = np.percentile(series, [50, 99])
                    values[f"{name} p50 [ms]"], values[f"{name} p99 [ms]"] = f"{p50:.2f}", f"{p99:.2f}"
        return values

    def is_silent(self) -> bool:
        """Whether images have stopped, or never came."""
        return time.monotonic() - (self.last_image_s or self.started_s) > SILENCE_S

    def problem(self, is_active: bool, where: str = "") -> tuple[int, str]:
        """Level and message for /diagnostics; `where` says on which topic images are missing."""
        if not is_active:
            return DiagnosticStatus.OK, "not active"
        qos_problem = "; ".join(self.qos_problems.values())
        if self.is_silent():
            silent_s = time.monotonic() - (self.last_image_s or self.started_s)
            return DiagnosticStatus.ERROR, f"no image for {silent_s:.0f} s{where}" + (
                f"; {qos_problem}" if qos_problem else ""
            )
        if qos_problem:
            return DiagnosticStatus.WARN, qos_problem
        if self.last_error:
            return DiagnosticStatus.WARN, self.last_error
        if self.last_image_s and not self.has_camera_info:
            return DiagnosticStatus.WARN, "no camera_info: depths assume the training focal length, x y z are NaN"
        return DiagnosticStatus.OK, "answering" if self.last_image_s else "waiting for the first image"


def diagnostic_array(
    stamp: Time, name: str, statistics: Statistics, is_active: bool, facts: dict[str, str], where: str = ""
) -> DiagnosticArray:
    """The message: one status called `name`, with all counters and `facts`; `where` as in `Statistics.problem`."""
    level, message = statistics.problem(is_active, where)
    values = [KeyValue(key=key, value=value) for key, value in {**facts, **statistics.snapshot()}.items()]
    status = DiagnosticStatus(level=level, name=name, message=message, hardware_id="spd", values=values)
    array = DiagnosticArray(status=[status])
    array.header.stamp = stamp.to_msg()
    return array
