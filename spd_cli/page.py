"""The page of `spd view`, as far as pictures and nodes share it: an image, pointing, pins. On NiceGUI's elements; the
server answers on loopback alone, and all that the page loads comes from it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from spd_core.errors import SPDError
from spd_core.extras import extra

from .console import say

if TYPE_CHECKING:
    from nicegui.events import GenericEventArguments, KeyboardKey, KeyEventArguments, MouseEventArguments

    from .views import Pin, View

T = TypeVar("T")
K = TypeVar("K")  # what a kind of page calls what can be looked at
LEFT_FROM = 0.6  # of the picture's width: beyond, a tag stands to the left of its place
PIN_COLOURS = ("#ff4d6d", "#3fa7ff")  # by turns
CSS = """
body { background: #14171c; color: #e8eaed; }
.nicegui-content { padding: 12px; gap: 8px; }
.page { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 16px; width: 100%; }
@media (max-width: 800px) { .page { grid-template-columns: minmax(0, 1fr); } }
.part { display: flex; flex-direction: column; gap: 8px; min-width: 0; align-items: stretch; }
.name { font-weight: 600; overflow-wrap: anywhere; }
.note { color: #9aa4b2; font-size: 13px; overflow-wrap: anywhere; }
.note.assumed, .fault { color: #ffc857; }
.line { display: flex; align-items: center; gap: 12px; }
.line > .q-slider { flex: 1; }
.line > .q-btn { flex: none; }
.photo { width: 100%; cursor: crosshair; touch-action: manipulation; }
.dense { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.marks { position: absolute; inset: 0; pointer-events: none; overflow: hidden; }
.mark { position: absolute; font-size: 13px; line-height: 1; white-space: nowrap; }
.mark > * { position: absolute; }
.dot { width: 12px; height: 12px; margin: -6px; border-radius: 6px; border: 2px solid white; }
.tag { background: #14171cd9; color: white; padding: 4px 6px; border-radius: 4px; transform: translate(10px, -50%); }
.left > .tag { transform: translate(calc(-100% - 10px), -50%); }
.between > .tag { transform: translate(-50%, -50%); background: #7ee0a1; color: #10241a; font-weight: 600; }
@media (max-width: 800px) { .between, .crowded { display: none; } }
.bar { height: 10px; border-radius: 5px; flex: 1; }
.reading { min-height: 1.5em; font-variant-numeric: tabular-nums; }
.pins { display: flex; flex-direction: column; gap: 4px; }
.pin { display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: baseline; font-variant-numeric: tabular-nums; }
.pin .dot { position: static; margin: 0; align-self: center; flex: none; }
.distance { color: #7ee0a1; font-weight: 600; }
.scene { width: 100%; height: min(56vh, 560px); min-height: 260px; border-radius: 6px; overflow: hidden; }
"""


def offer(path: str, media_type: str, encoded: Callable[[int], bytes]) -> None:
    """Serve pictures at /<path>/<number>. A LookupError says that there is no such one."""
    with extra("view"):
        from nicegui import app
        from starlette.responses import Response

    @app.get(f"/{path}/{{number}}")
    def send(number: int) -> Response:
        try:
            return Response(encoded(number), media_type=media_type, headers={"Cache-Control": "no-store"})
        except LookupError:
            return Response(status_code=404)
        except SPDError as error:  # a broken one, of which the page says so
            return Response(str(error), status_code=404, media_type="text/plain")


def serve(page: Callable[[], Page], host: str, port: int, browser: bool) -> None:
    """Show a page to everyone who opens http://host:port until Ctrl-C; `browser` opens one where there is a screen."""
    with extra("view"):
        from nicegui import app, ui
        from starlette.middleware.trustedhost import TrustedHostMiddleware

    logging.getLogger("uvicorn.error").addFilter(_is_no_tab_that_closed)
    # A web page elsewhere whose name is made to mean this machine is not answered.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[host, "localhost"])
    has_screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin")
    app.on_startup(lambda: say(f"http://{host}:{port}  (Ctrl-C ends it)"))
    ui.run(
        page,
        host=host,
        port=port,
        title="spd view",
        dark=True,
        reload=False,
        show=browser and has_screen,
        show_welcome_message=False,
        reconnect_timeout=30.0,  # a browser that draws a cloud without a GPU is not gone
    )


def _is_no_tab_that_closed(record: logging.LogRecord) -> bool:
    """Whether it is no traceback of a tab that was closed before it had its page: Starlette has no answer to give."""
    return not (record.exc_info and str(record.exc_info[1]) == "No response returned.")


class Newest(Generic[T]):
    """Runs `work` on values as they come; of those that come while it runs, on the newest alone. Who brings one waits
    until it, or a newer one, is done."""

    def __init__(self, work: Callable[[T], Awaitable[None]]):
        self._work, self._waiting, self._running = work, list[T](), asyncio.Lock()

    async def __call__(self, value: T) -> None:
        self._waiting = [value]
        async with self._running:
            if self._waiting:
                await self._work(self._waiting.pop())


class Page(ABC, Generic[K]):
    """One open page: the image that is looked at, its pins, and the elements that show them.

    A kind of page says what there is to look at (`find`), and builds more below the picture and below the pins.
    """

    view: View  # once the first look has found one
    help_text = "Point at the picture for metres, click to pin; two pins give their distance. Esc clears them."

    def __init__(self) -> None:
        with extra("view"):
            from nicegui import ui

        self.ui = ui
        self.uv: list[tuple[int, int]] = []  # of the pins
        self.at: tuple[int, int] | None = None  # where the pointer is
        self.loaded: tuple[int, int] | None = None  # (height, width) px of the picture that the browser has by now
        self.look, self.hover, self.show_pins = Newest(self._look), Newest(self._hover), Newest(self._show_pins)
        ui.add_css(CSS)
        ui.keyboard(self._key)
        with ui.element("div").classes("page"):
            with ui.element("div").classes("part"):
                self._build_picture()
                self.build_below_picture()
                self.note = ui.label().classes("note about")
            with ui.element("div").classes("part"):
                self._build_answers()
                self.build_below_pins()

    def _build_picture(self) -> None:
        ui = self.ui
        self.name = ui.label().classes("name")
        self.photo = ui.interactive_image(on_mouse=self._mouse, events=["click", "mousemove", "mouseleave"])
        self.photo.on("loaded", self._loaded)
        with self.photo.classes("photo"):
            self.layers = ui.element("div")
            self.marks = ui.element("div").classes("marks")
            self.pointer = ui.element("div").classes("marks")
        self.photo.set_visibility(False)  # until there is a picture

    def _build_answers(self) -> None:
        ui = self.ui
        self.reading = ui.label().classes("reading")
        self.pins = ui.element("div").classes("pins")
        with ui.element("div").classes("line"):
            ui.label(self.help_text).classes("note")
            self.clearing = ui.button("clear", on_click=self._clear).props("flat dense no-caps")
            self.clearing.set_visibility(False)

    # --- what a kind of page says

    @abstractmethod
    def find(self, key: K) -> View:
        """What is to be looked at; may take its time. An SPDError says why it cannot be."""

    @abstractmethod
    def build_below_picture(self) -> None:
        """Elements, and what is put into `layers`, over the picture."""

    @abstractmethod
    def build_below_pins(self) -> None:
        """Elements."""

    def draw_over(self) -> None:
        """What stands on the picture beside pins and pointer. The picture of `view` comes with it."""

    def pinned(self, pins: list[Pin]) -> None:
        """These are the pins now."""

    def pressed(self, key: KeyboardKey) -> None:
        """A key that means nothing to every page."""

    # --- what is looked at

    async def _look(self, key: K) -> None:
        fault = ""
        try:
            view = await asyncio.to_thread(self.find, key)
        except SPDError as error:
            fault = self.name.text = str(error)
        self.name.classes(add="fault" if fault else "", remove="" if fault else "fault")
        for element in (self.photo, self.pins, self.note, self.reading):
            element.set_visibility(not fault)
        if fault:
            return
        if view.size != getattr(self, "view", view).size:
            self.at = None  # its next move says where the pointer is in this one
        self.view = view
        # Before the picture, so that it does not come with the numbers of another.
        await self.show_pins(list(self.uv))
        await self.hover(self.at)
        height, width = view.shown_size
        self.name.text = view.name
        self.note.text = view.note
        self.note.classes(remove="assumed", add="assumed" if view.is_assumed else "")
        self.photo.style(f"max-width: calc(76vh * {width / height:.4f}); aspect-ratio: {width} / {height}")
        self.draw_over()
        self.photo.set_source(f"/picture/{view.number}")

    # --- pointing

    def _loaded(self, event: GenericEventArguments) -> None:
        self.loaded = event.args["height"], event.args["width"]

    async def _mouse(self, event: MouseEventArguments) -> None:
        # In px of the picture that the browser has: of none yet, or one of another size, they say nothing.
        is_known = event.type != "mouseleave" and self.loaded == self.view.shown_size
        pixel = self.view.pixel(event.image_x, event.image_y) if is_known else None
        self.at = pixel if event.type == "mousemove" else None  # a finger points nowhere after its tap
        if event.type == "click" and pixel is not None:
            self.uv.append(pixel)
            await self.show_pins(list(self.uv))
        await self.hover(self.at)

    async def _hover(self, at: tuple[int, int] | None) -> None:
        pins, fault = await self._asked([at] if at else [])
        self.reading.text = fault + "".join(map(_said, pins))
        self.pointer.clear()
        with self.pointer:
            for pin in pins:
                self.mark(self.place(pin), pin.tag)

    async def _asked(self, uv: list[tuple[int, int]]) -> tuple[list[Pin], str]:
        """The answers at pixels, or none and why."""
        try:
            return await asyncio.to_thread(self.view.pins, uv), ""
        except SPDError as error:
            return [], str(error)

    def mark(self, at: tuple[float, float], text: str, colour: str | None = None, kind: str = "") -> None:
        """A tag beside a place of the picture (fractions across and down), and a dot there where it has a colour. Of a
        `kind`: between two places, or crowded, which a phone has no room for."""
        with self.ui.element("div").classes(f"mark {kind} {'left' if at[0] > LEFT_FROM else ''}") as mark:
            mark.style(f"left: {100 * at[0]:.3f}%; top: {100 * at[1]:.3f}%")
            if colour:
                self.ui.element("div").classes("dot").style(f"background: {colour}")
            self.ui.label(text).classes("tag")

    def place(self, pin: Pin) -> tuple[float, float]:
        """Where it is in the picture, fractions across and down."""
        height, width = self.view.size
        return (pin.uv[0] + 0.5) / width, (pin.uv[1] + 0.5) / height

    async def _show_pins(self, uv: list[tuple[int, int]]) -> None:
        pins, fault = await self._asked(uv)
        self.clearing.set_visibility(bool(uv))
        self.marks.clear()
        self.pins.clear()
        with self.pins:
            if fault:
                self.ui.label(fault).classes("fault")
        for number, pin in enumerate(pins):
            with self.marks:
                self.mark(self.place(pin), pin.tag, pin_colour(number))
            with self.pins:
                if math.isfinite(pin.step_m):
                    self.ui.label(f"{pin.step_m:.2f} m apart").classes("distance")
                with self.ui.element("div").classes("pin"):
                    self.ui.element("div").classes("dot").style(f"background: {pin_colour(number)}")
                    self.ui.label(_said(pin))
        shown_height, shown_width = self.view.shown_size
        lines = []
        for start, end in itertools.pairwise(pins):
            (x1, y1), (x2, y2) = self.place(start), self.place(end)
            lines.append(
                f'<line x1="{x1 * shown_width:.1f}" y1="{y1 * shown_height:.1f}" x2="{x2 * shown_width:.1f}"'
                f' y2="{y2 * shown_height:.1f}" stroke="white" stroke-width="2" stroke-dasharray="6 4"'
                ' vector-effect="non-scaling-stroke"/>'
            )
            if math.isfinite(end.step_m):
                with self.marks:
                    self.mark(((x1 + x2) / 2, (y1 + y2) / 2), f"{end.step_m:.2f} m", kind="between")
        self.photo.content = "".join(lines)
        self.pinned(pins)

    async def _key(self, event: KeyEventArguments) -> None:
        if event.action.keydown and event.key.escape:
            await self._clear()
        elif event.action.keydown:
            self.pressed(event.key)

    async def _clear(self) -> None:
        if self.uv:  # and so there is a picture
            self.uv.clear()
            await self.show_pins([])


def pin_colour(number: int) -> str:
    """CSS colour of the pin of that number."""
    return PIN_COLOURS[number % len(PIN_COLOURS)]


def _said(pin: Pin) -> str:
    return f"{pin.uv[0]:g}, {pin.uv[1]:g}: {pin.metres}  ({pin.place})"
