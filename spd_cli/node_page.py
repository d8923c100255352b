"""The page of `spd view --node`: what a running node sees, what it answers to anyone, and what it answers here."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spd_core.camera import inside_image
from spd_core.extras import extra
from spd_core.pictures import draw_overlay
from spd_core.status import Answer, Status
from spd_ros.conversions import message_to_rgb, stamp_ns
from spd_ros.observer import PATIENCE_S, POINT, Observer, ObserverError, Seen, answer_of, observing

from .page import LEFT_FROM, Page, offer, serve
from .views import Pin, View, pins_of

with extra("ros"):
    from std_msgs.msg import Header

Pixel = tuple[float, float]
SHOWN_S = 0.2  # between images
ATTEMPTS = 3  # to learn the newest image that a node has encoded
MOST_TAGS = 12
MOST_POINTS = 5_000  # that are drawn; counted are all
# Shares of the picture's width and height that a tag needs, on a desktop's screen and on a phone's.
TAG_SIZE, TAG_SIZE_ON_A_PHONE = (0.17, 0.05), (0.34, 0.1)
KEPT_VIEWS = 8  # those that a browser may still ask for


def serve_node(namespace: str, host: str, port: int, browser: bool) -> None:
    """Show what the node of that namespace sees at http://host:port until Ctrl-C; `browser` opens one where there is a
    screen."""
    with observing(namespace) as observer:
        views = NodeViews(observer)
        offer("picture", "image/jpeg", lambda serial: views[serial].picture)
        serve(lambda: NodePage(observer, views), host, port, browser)


@dataclass(frozen=True, eq=False)
class NodeView(View):
    """An image that a node hears; answers are the node's.

    Attributes:
        observer: asks it.
        header: of the image.
        others: `POINT`s [K] that the node answered others about it.
        known: `POINT`s that it has answered here. They are not asked again.
    """

    observer: Observer
    header: Header
    others: np.ndarray
    known: dict[Pixel, np.ndarray]

    def answer(self, uv: np.ndarray) -> Answer:
        """What the node answers at points [K, 2] px, K > 0."""
        pixels = [(u, v) for u, v in uv.tolist()]
        if not self.known.keys() >= set(pixels):
            self.known.update(zip(pixels, self.observer.ask(self.header, uv)[1]))
        return answer_of(np.array([self.known[pixel] for pixel in pixels]))

    @property
    def _others_uv(self) -> np.ndarray:
        return np.stack([self.others["u"], self.others["v"]], axis=1)

    @cached_property
    def picture(self) -> bytes:
        """What the browser gets, JPEG; with the others' points in the colours of their depths."""
        if not len(self.others):
            return super().picture
        thin = slice(None, None, 1 + len(self.others) // MOST_POINTS)
        return self.encoded(draw_overlay(self.rgb, self._others_uv[thin], self.others["depth"][thin], labels=0), ".jpg")

    def tagged(self) -> list[Pin]:
        """Points of others whose tags have room in the picture, at most `MOST_TAGS`."""
        uv = self._others_uv
        inside = np.flatnonzero(inside_image(uv, self.size))
        inside = inside[:: max(1, len(inside) // 200)]  # many more than find room
        chosen = inside[with_room((uv[inside] + 0.5) / self.size[::-1], TAG_SIZE)[:MOST_TAGS]]
        return pins_of(uv[chosen], answer_of(self.others[chosen]))


def with_room(places: np.ndarray, tag_size: tuple[float, float]) -> list[int]:
    """Which of the places [K, 2] in a picture (fractions across and down) can have a tag so large beside them, the
    earlier ones first."""
    aside = np.where(places[:, 0] > LEFT_FROM, -0.5, 0.5) * tag_size[0]
    centres, chosen = places + np.stack([aside, np.zeros_like(aside)], axis=1), list[int]()
    for i, centre in enumerate(centres):
        if (np.abs(centres[chosen] - centre) >= tag_size).any(axis=1).all():
            chosen.append(i)
    return chosen


class NodeViews:
    """The images of an observer as views, the last few of them by serial."""

    def __init__(self, observer: Observer):
        self._observer = observer
        self._kept: OrderedDict[int, NodeView] = OrderedDict()

    def __getitem__(self, serial: int) -> NodeView:
        return self._kept[serial]

    def pointed_at(self, seen: Seen, pixels: list[Pixel]) -> NodeView:
        """An image that was seen; where pixels are asked, and nobody else has asked about it, the newest that the node
        has encoded: one that is slower than its camera skips most of the others, and has no answers about them.

        Raises:
            MessageError: it cannot be read.
        """
        known: dict[Pixel, np.ndarray] = {}
        if pixels and not seen.answers:
            with suppress(ObserverError):  # said where the answer would stand, which asks once more
                for _ in range(ATTEMPTS):  # an image may be lost on the way to here, or come after its answer
                    stamp, points = self._observer.ask(Header(), np.array(pixels))
                    if (answered := self._observer.image(stamp)) is not None:
                        seen, known = answered, dict(zip(pixels, points))
                        break
        view = self._view(seen)
        view.known.update(known)
        return view

    def _view(self, seen: Seen) -> NodeView:
        if (kept := self._kept.get(seen.serial)) is not None:
            return kept
        message, topic = seen.message, self._observer.image_topic
        rgb = message_to_rgb(message)
        note = f"{rgb.shape[1]}x{rgb.shape[0]} px, stamp {stamp_ns(message.header) / 1e9:.3f} s"
        others = np.concatenate(seen.answers or [np.zeros(0, POINT)])
        view = NodeView(seen.serial, topic, rgb, note, False, self._observer, message.header, others, {})
        self._kept[seen.serial] = view
        while len(self._kept) > KEPT_VIEWS:
            self._kept.popitem(last=False)
        return view


class NodePage(Page[Seen]):
    """Looks at the newest image of an observer, again and again."""

    help_text = (
        "Point at the picture to ask the node, click to pin: pins are asked on every image that is shown; two pins give"
        " their distance. Esc clears them."
    )

    def __init__(self, observer: Observer, views: NodeViews):
        self.observer, self.views, self.serial = observer, views, -1
        super().__init__()
        self.ui.timer(SHOWN_S, self._refresh)
        self.ui.timer(SHOWN_S, self._say)

    def find(self, key: Seen) -> NodeView:
        return self.views.pointed_at(key, [*self.uv, *([self.at] if self.at else [])])

    def build_below_picture(self) -> None:
        with self.layers:
            self.tags = self.ui.element("div").classes("marks others")
        self.trouble = self.ui.label().classes("note fault trouble")
        self.rates = self.ui.label().classes("note rates")

    def build_below_pins(self) -> None:
        self.asked = self.ui.label().classes("note asked")

    async def _refresh(self) -> None:
        seen = self.observer.newest()
        if seen is None or seen.serial == self.serial:
            return
        await self.look(seen)
        # The node may not have encoded it yet, and the page show an earlier one: look again, even if no other comes.
        is_shown = self.photo.visible and self.view.number >= seen.serial
        if is_shown or time.monotonic() - seen.received_s > PATIENCE_S:
            self.serial = seen.serial

    def _say(self) -> None:
        images_hz, answers_hz = self.observer.rates
        scale = "" if self.observer.scale is None else f", scale {self.observer.scale:.2f}"
        self.rates.text = f"{images_hz:.1f} images/s, {answers_hz:.1f} answers/s{scale}"
        self.trouble.text = "; ".join(self.observer.troubles)

    async def _look(self, key: Seen) -> None:
        await super()._look(key)
        if not self.photo.visible:
            self.asked.text = ""

    def draw_over(self) -> None:
        assert isinstance(self.view, NodeView)
        self.tags.clear()
        pins = self.view.tagged()
        places = [self.place(pin) for pin in pins]
        on_a_phone = with_room(np.array(places).reshape(-1, 2), TAG_SIZE_ON_A_PHONE)
        with self.tags:
            for i, (pin, place) in enumerate(zip(pins, places)):
                self.mark(place, pin.tag, kind="" if i in on_a_phone else "crowded")
        found = sorted(Counter(self.view.others["status"].tolist()).items())
        counts = ", ".join(f"{count} {Status(value).name}" for value, count in found)
        self.asked.text = f"others asked about this image: {counts}" if counts else "nobody else asked about this image"
