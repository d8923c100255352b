"""A node seen from outside: the images that it hears, the answers that it gives to anyone, and questions of one's
own."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.exceptions import NameValidationException
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from spd_core.errors import SPDError
from spd_core.messages import cloud_to_array
from spd_core.names import ANSWER_TOPIC, QUERY_TOPIC, WAYPOINT_ANSWER_TOPIC
from spd_core.status import Answer

from .conversions import own_id, query_cloud, stamp_ns
from .diagnostics import SILENCE_S, Problems, Statistics
from .processes import spin, use_fastdds_profile

NODE = "spd"
IMAGE_TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
LOOK_S = 1.0  # between looks at who is there, and the time that rates are of
KEPT_IMAGES = 30  # as many as a node keeps (`frame_buffer`), and all that came within `PATIENCE_S`
KEPT_BYTES = 300_000_000  # of images
KEPT_ANSWERS = 16  # of one image
HELD_S = 1.0  # so long after its last answer an image is preferred to newer ones
PAUSE_S = 0.1  # from question to question: whoever points must not keep the node busy
PATIENCE_S = 3.0  # with an answer: the node's own (`query_timeout_s`), and the time that encoding takes
# Of the fields of an answer's points, those that are looked at.
POINT = np.dtype([*((name, "<f4") for name in ("u", "v", "x", "y", "z", "depth", "sigma")), ("status", "u1")])


class ObserverError(SPDError):
    """There is nothing to observe, or no answer."""


@dataclass(frozen=True, eq=False)
class Seen:
    """An image that came, and what the node answered to others about it.

    Attributes:
        serial: grows with every image and every answer.
        message: Image or CompressedImage.
        answers: of each the `POINT`s [K].
        received_s, answered_s: when it came, and its last answer.
    """

    serial: int
    message: Image | CompressedImage
    answers: tuple[np.ndarray, ...] = ()
    received_s: float = field(default_factory=time.monotonic)
    answered_s: float = -math.inf


def answer_of(points: np.ndarray) -> Answer:
    """What the node answered at `POINT`s [K]."""
    xyz_m = np.stack([points[axis] for axis in "xyz"], axis=1)
    return Answer(points["depth"], points["sigma"], xyz_m, points["status"])


class Observer(Node):
    """Hears what a node hears and says, and asks it. All but the callbacks may be called from any thread.

    Attributes:
        node_name: of the node.
        image_topic: that the node listens to, or did when it was last seen.
        rates: images and answers per second.
        scale: median of what the depths of the last answer were multiplied with; None where it does not say.
        troubles: what is wrong now, in words; of the node itself, its own.
    """

    def __init__(self, namespace: str):
        inside = f"/{namespace.strip('/')}".rstrip("/")
        super().__init__("spd_view", namespace=inside, enable_rosout=False, start_parameter_services=False)
        self.node_name = f"{inside}/{NODE}"
        self.image_topic = ""
        self.rates = 0.0, 0.0
        self.scale: float | None = None
        self.troubles = [f"looking for the node {self.node_name}"]
        self._statistics = Statistics()
        self._problems = Problems(self._statistics, self.get_logger().error)
        self._node_says = ""
        self._lock = threading.Lock()
        self._seen: OrderedDict[int, Seen] = OrderedDict()  # by stamp, in the order of their coming
        self._serials = itertools.count()
        self._asking = threading.Lock()
        self._asked_s = 0.0
        self._first_id = self._next_id = own_id()
        self._awaited: tuple[int, Future[tuple[int, np.ndarray]]] = 0, Future()
        self._images: Subscription | None = None
        self._queries = self.create_publisher(PointCloud2, f"{inside}{QUERY_TOPIC}", 50)
        hear = self._problems.guarded
        # Ids of waypoints count from 0, far from those asked here.
        for topic in (ANSWER_TOPIC, WAYPOINT_ANSWER_TOPIC):
            self.create_subscription(PointCloud2, f"{inside}{topic}", hear("answers", self._on_answer), 200)
        self.create_subscription(DiagnosticArray, "/diagnostics", hear("diagnostics", self._on_diagnostics), 10)
        self.create_timer(LOOK_S, hear("looking around", self._look_around))

    def newest(self) -> Seen | None:
        """The newest image, or the newest that the node answered others about, where an answer came within the last
        `HELD_S`: numbers stand on the image that they are of, however long the node took for them."""
        with self._lock:
            seen = list(reversed(self._seen.values()))
        answered = (image for image in seen if seen[0].received_s - image.answered_s < HELD_S)
        return next(answered, seen[0] if seen else None)

    def image(self, stamp_ns: int) -> Seen | None:
        """The image with that stamp, if it is still kept."""
        with self._lock:
            return self._seen.get(stamp_ns)

    def ask(self, header: Header, uv: np.ndarray) -> tuple[int, np.ndarray]:
        """The node's answer at points [K, 2] px, K > 0, of the image of that header (stamp 0: of the one that it has
        encoded last): the stamp, ns, of the image that it is of, and `POINT`s [K]. Questions wait for each other, and
        for `PAUSE_S` to pass between them.

        Raises:
            ObserverError: there is no node, or no answer from it.
        """
        with self._asking:
            time.sleep(max(self._asked_s + PAUSE_S - time.monotonic(), 0))
            if not self._queries.get_subscription_count():
                raise ObserverError(f"nothing listens to {self._queries.topic_name}")
            self._asked_s, answer = time.monotonic(), Future[tuple[int, np.ndarray]]()
            ids = np.arange(self._next_id, self._next_id + len(uv), dtype=np.uint32)
            self._awaited, self._next_id = (self._next_id, answer), self._next_id + len(uv)
            self._queries.publish(query_cloud(uv, header, ids))
            try:
                return answer.result(PATIENCE_S)
            except TimeoutError as error:
                raise ObserverError(f"{self.node_name} did not answer within {PATIENCE_S:g} s") from error

    # --- callbacks

    def report(self, error: Exception) -> None:
        """An error that no callback caught."""
        self._problems.failed("spinning", error)

    def _on_image(self, msg: Image | CompressedImage) -> None:
        self._statistics.image_received()
        with self._lock:
            self._seen.pop(stamp_ns(msg.header), None)  # a bag that loops
            self._seen[stamp_ns(msg.header)] = Seen(next(self._serials), msg)
            self._forget()

    def _forget(self) -> None:
        """Drop the oldest images. A node answers about images that it encoded, which may be a few of many."""
        size, until_s = sum(len(seen.message.data) for seen in self._seen.values()), time.monotonic() - PATIENCE_S
        for stamp, seen in list(self._seen.items())[:-1]:
            is_old = len(self._seen) > KEPT_IMAGES and seen.received_s < until_s
            if not is_old and size <= KEPT_BYTES:
                break
            size -= len(seen.message.data)
            del self._seen[stamp]

    def _on_answer(self, msg: PointCloud2) -> None:
        cloud = cloud_to_array(msg)
        self._statistics.count("queries answered")
        if not len(cloud):
            return
        points = cloud[list(POINT.names or ())].astype(POINT)
        if "scale" not in (cloud.dtype.names or ()):
            self.scale = None
        elif (known := np.isfinite(points["depth"])).any():  # the others were multiplied with nothing
            self.scale = float(np.median(cloud["scale"][known]))
        if self._first_id <= cloud["id"][0] < self._next_id:
            asked_id, answer = self._awaited
            if cloud["id"][0] == asked_id and not answer.done():
                answer.set_result((stamp_ns(msg.header), points))
            return
        with self._lock:
            if (seen := self._seen.get(stamp_ns(msg.header))) is not None:
                answers = (*seen.answers, points)[-KEPT_ANSWERS:]
                self._seen[stamp_ns(msg.header)] = replace(
                    seen, serial=next(self._serials), answers=answers, answered_s=time.monotonic()
                )

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name == self.node_name:
                self._node_says = "" if status.level == DiagnosticStatus.OK else status.message

    def _look_around(self) -> None:
        """Who is there, which images the node hears, what is wrong, and how much came."""
        counted = self._statistics.snapshot()
        self.rates = float(counted["images received [Hz]"]), float(counted["queries answered [Hz]"])
        namespace, _, name = self.node_name.rpartition("/")
        try:
            heard = self.get_subscriber_names_and_types_by_node(name, namespace or "/")
        except NodeNameNonExistentError:
            self._node_says = ""  # nothing any more
            self.troubles = [f"there is no node {self.node_name}{self._elsewhere()}", *self._problems.texts()]
            return
        found = ((topic, type_) for topic, [type_, *_] in heard if type_ in IMAGE_TYPES)
        topic, type_ = next(found, ("", ""))
        if topic:
            self._listen(topic, IMAGE_TYPES[type_])
        silence_s, self.troubles = self._statistics.silence_s(), self._problems.texts()
        if self._node_says:
            self.troubles.insert(0, f"{self.node_name} says: {self._node_says}")
        elif not topic:
            self.troubles.insert(0, f"the node {self.node_name} is there, but not active")
        elif silence_s > SILENCE_S:
            self.troubles.insert(0, f"no image has come from {topic} for {silence_s:.0f} s")

    def _elsewhere(self) -> str:
        """How to find one, or to start it."""
        found = sorted(f"{space.rstrip('/')}/{name}" for name, space in self.get_node_names_and_namespaces())
        others = [name for name in found if name.endswith(f"/{NODE}")]
        if others:
            return f", but {' and '.join(others)}: --namespace says which"
        return "; ros2 launch spd_ros spd.launch.py starts one"

    def _listen(self, topic: str, type_: type) -> None:
        if self._images is not None:
            if (self._images.topic_name, self._images.msg_type) == (topic, type_):
                return
            self.destroy_subscription(self._images)
        with self._lock:
            self._seen.clear()
        self.image_topic = topic
        self._statistics.start()
        hear = self._problems.guarded("images", self._on_image)
        self._images = self.create_subscription(type_, topic, hear, qos_profile_sensor_data)


@contextmanager
def observing(namespace: str = "") -> Iterator[Observer]:
    """An observer of the node in that namespace, at work in a thread of its own.

    Raises:
        ObserverError: the namespace is none, or ROS cannot be joined.
    """
    use_fastdds_profile()
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is the page's
        observer = Observer(namespace)
    except (RuntimeError, NameValidationException) as error:
        rclpy.try_shutdown()
        raise ObserverError(f"cannot join ROS 2: {' '.join(str(error).split())}") from error
    stop = threading.Event()
    work = observer, stop.is_set, observer.report
    thread = threading.Thread(target=spin, args=work, name="spd_observer", daemon=True)
    thread.start()
    try:
        yield observer
    finally:
        stop.set()
        thread.join()
        observer.destroy_node()
        rclpy.try_shutdown()
