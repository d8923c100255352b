"""What the node counts, what is wrong now, and how it says so on /diagnostics."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.duration import Duration, Infinite
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.subscription import Subscription

from spd_core.errors import SPDError
from spd_core.status import Status

SILENCE_S = 5.0  # without an image for so long, that is worth a warning
CRASHED_S = 30.0  # so long, and less, DDS takes a node that crashed for one that lives (Fast DDS: 20 s)
# A problem that was told and did not come again for so long is over: whatever lasts is found again with every image or
# query.
FORGET_S = 10.0
# The log repeats a problem that lasts, and says one that changes all the time, at most so often.
REPEAT_S, CHANGE_S = 30.0, 2.0


class Statistics:
    """Counters and recent latencies; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._facts: dict[str, str] = {}
        self._recent_ms: dict[str, deque[float]] = {
            "encode": deque(maxlen=300),
            "query latency": deque(maxlen=1000),
            "node overhead": deque(maxlen=1000),
        }
        self._started_s = time.monotonic()
        self._last_image_s: float | None = None
        self._rates_since: tuple[float, Counter[str]] = (self._started_s, Counter())

    def start(self) -> None:
        """From now on images are expected."""
        with self._lock:
            self._started_s, self._last_image_s = time.monotonic(), None
            self._rates_since = self._started_s, self._counts.copy()

    def count(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._counts[name] += amount

    def state(self, name: str, fact: str) -> None:
        """Something to show beside the numbers, and no more where it is empty."""
        with self._lock:
            if fact:
                self._facts[name] = fact
            else:
                self._facts.pop(name, None)

    def image_received(self) -> None:
        with self._lock:
            self._last_image_s = time.monotonic()
            self._counts["images received"] += 1

    def encoded(self, seconds: float) -> None:
        with self._lock:
            self._counts["images encoded"] += 1
            self._recent_ms["encode"].append(1000 * seconds)

    def answered(self, status: np.ndarray, latency_s: float, overhead_s: float) -> None:
        """Count an answer; its overhead is what the node adds: reading the query, building and publishing the answer,
        not waiting, for transforms too, encoding or decoding."""
        with self._lock:
            self._counts["queries answered"] += 1
            self._counts["points answered"] += len(status)
            for value, amount in zip(*np.unique(status, return_counts=True)):
                self._counts[f"points {Status(value).name}"] += int(amount)
            self._recent_ms["query latency"].append(1000 * latency_s)
            self._recent_ms["node overhead"].append(1000 * overhead_s)

    def snapshot(self) -> dict[str, str]:
        """All values as text; rates are those since the last snapshot."""
        with self._lock:
            values = self._facts | {name: str(amount) for name, amount in sorted(self._counts.items())}
            (then, before), now = self._rates_since, time.monotonic()
            self._rates_since = (now, self._counts.copy())
            for name in ("images received", "images encoded", "queries answered"):
                values[f"{name} [Hz]"] = f"{(self._counts[name] - before[name]) / max(now - then, 1e-3):.1f}"
            for name, series in self._recent_ms.items():
                if series:
                    p50, p99 = np.percentile(series, [50, 99])
                    values[f"{name} p50 [ms]"], values[f"{name} p99 [ms]"] = f"{p50:.2f}", f"{p99:.2f}"
        return values

    def has_images(self) -> bool:
        with self._lock:
            return self._last_image_s is not None

    def silence_s(self) -> float:
        """Seconds without an image."""
        with self._lock:
            return time.monotonic() - (self._started_s if self._last_image_s is None else self._last_image_s)


class Problems:
    """What is wrong now, by kind: said in the log when it appears, and on /diagnostics until it is resolved, or was
    there and has not come again for `FORGET_S`. Every method may be called from any thread.

    Args:
        statistics: counts failures.
        log: takes one line.
    """

    def __init__(self, statistics: Statistics, log: Callable[[str], Any]):
        self._statistics = statistics
        self._log = log
        self._lock = threading.Lock()
        self._now: dict[str, tuple[str, float]] = {}  # by kind: the text, and when it came last
        self._told_s = -np.inf  # when all that is wrong was asked for last
        self._since_s: dict[str, float] = {}  # by kind: when it came first since it was resolved
        self._said: dict[str, tuple[str, float]] = {}  # by kind: what the log has, and since when

    def report(self, kind: str, what: SPDError | str, lasting_s: float = 0.0) -> None:
        """Something of this kind is wrong, and worth a word once it has been for `lasting_s`."""
        text, now_s = " ".join(str(what).split()), time.monotonic()
        with self._lock:
            if now_s - self._since_s.setdefault(kind, now_s) < lasting_s:
                return
            self._now[kind] = text, now_s
            said, said_s = self._said.get(kind, ("", -np.inf))
            is_due = now_s - said_s >= (REPEAT_S if text == said else CHANGE_S)
            if is_due:
                self._said[kind] = text, now_s
        if is_due:
            self._log(text)

    def failed(self, kind: str, error: Exception) -> None:
        """Something raised that should not have."""
        self._statistics.count("errors")
        self.report(kind, error if isinstance(error, SPDError) else f"{kind} failed: {type(error).__name__}: {error}")

    def resolved(self, *kinds: str) -> None:
        """Nothing of these kinds is wrong any more."""
        with self._lock:
            for kind in kinds:
                self._now.pop(kind, None)
                self._since_s.pop(kind, None)

    def start(self) -> None:
        """Nothing is wrong yet."""
        with self._lock:
            self._now, self._since_s = {}, {}

    def texts(self) -> list[str]:
        """What is wrong now."""
        with self._lock:
            now_s = time.monotonic()
            until_s, self._told_s = min(now_s - FORGET_S, self._told_s), now_s
            self._now = {kind: (text, last_s) for kind, (text, last_s) in self._now.items() if last_s > until_s}
            return [text for text, _ in self._now.values()]

    def guarded(self, kind: str, callback: Callable[..., Any]) -> Callable[..., Any]:
        """The callback, whose exceptions are counted and reported instead of ending the node: everything that ROS calls
        is called through this."""

        def call(*args: Any) -> Any:
            try:
                return callback(*args)
            except Exception as error:
                self.failed(kind, error)
                return None

        return call


def assess(
    node: Node,
    statistics: Statistics,
    problems: Problems,
    inputs: Sequence[Subscription],
    outputs: Collection[Publisher],
) -> tuple[bytes, str]:
    """Level and message for /diagnostics of an active node; the first of its inputs has the images."""
    _check_topics(node, problems, inputs, outputs)
    _check_name(node, problems)
    if (silence_s := statistics.silence_s()) > SILENCE_S:
        text = f"no image for {silence_s:.0f} s {_where_images_are(node, inputs[0])}"
        node.get_logger().warning(text, throttle_duration_sec=10.0)
        return DiagnosticStatus.ERROR, "; ".join([text, *problems.texts()])
    if texts := problems.texts():
        return DiagnosticStatus.WARN, "; ".join(texts)
    return DiagnosticStatus.OK, "answering" if statistics.has_images() else "waiting for the first image"


def _check_topics(
    node: Node, problems: Problems, inputs: Sequence[Subscription], outputs: Collection[Publisher]
) -> None:
    """Report the topics whose peers the node cannot hear, or that cannot hear it, and why."""
    topics = [subscription.topic_name for subscription in inputs] + [publisher.topic_name for publisher in outputs]
    found: dict[str, set[str]] = {topic: set() for topic in topics}
    for ours in inputs:
        for peer in node.get_publishers_info_by_topic(ours.topic_name):
            if peer.topic_type == _type_name(ours):
                found[ours.topic_name].add(_mismatch(peer.qos_profile, ours.qos_profile))
            else:
                found[ours.topic_name].add(f"a publisher of {peer.topic_type}, expected {_type_name(ours)}")
    for publisher in outputs:
        for peer in node.get_subscriptions_info_by_topic(publisher.topic_name):
            found[publisher.topic_name].add(_mismatch(publisher.qos_profile, peer.qos_profile))
    for topic, reasons in found.items():
        if any(reasons):
            problems.report(topic, f"{topic} has {' and '.join(sorted(filter(None, reasons)))}")
        else:
            problems.resolved(topic)


def _check_name(node: Node, problems: Problems) -> None:
    """Report a second node of this name: it hears the same queries, and answers them too."""
    topic = node.resolve_topic_name("~/depths")
    if (count := node.count_publishers(topic)) > 1:
        what = f"{topic} has {count} publishers: does another node of this name answer too, or a bag with its answers?"
        problems.report("name", what, CRASHED_S)
    else:
        problems.resolved("name")


def _type_name(subscription: Subscription) -> str:
    return f"{subscription.msg_type.__module__.split('.')[0]}/msg/{subscription.msg_type.__name__}"


def _mismatch(publisher: QoSProfile, subscription: QoSProfile) -> str:
    """Why a subscription does not hear a publisher; "" where it does."""
    for profile in (publisher, subscription):  # one's own says 0 where there is no limit, a peer's says Infinite
        for limit in ("deadline", "liveliness_lease_duration"):
            if getattr(profile, limit) == Infinite:
                setattr(profile, limit, Duration())
    compatibility, reason = qos_check_compatible(publisher, subscription)
    if compatibility != QoSCompatibility.ERROR:
        return ""
    return f"a peer of incompatible QoS ({reason.removeprefix('ERROR: ').rstrip(';')}); see the topic's QoS parameters"


def _where_images_are(node: Node, images: Subscription) -> str:
    """Which topic is silent, and which others of its type have a publisher."""
    own, kind = node.get_fully_qualified_name() + "/", _type_name(images)
    others = [
        name
        for name, types in node.get_topic_names_and_types()
        if kind in types and node.count_publishers(name) and not name.startswith(own)
    ]
    hint = "; this one too: it is paused, or images are lost on their way" if images.topic_name in others else ""
    return f"on {images.topic_name}; image topics with a publisher: {', '.join(others) or 'none'}{hint}"
