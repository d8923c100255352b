"""The page of `spd view`: what `viewing` knows, on NiceGUI's elements. The server answers on loopback alone, and all
that the page loads comes from it."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from spd_core.errors import SPDError
from spd_core.extras import extra
from spd_core.pictures import colour_depth

from .cloud import CloudScene
from .console import say

if TYPE_CHECKING:
    from nicegui.events import KeyEventArguments, MouseEventArguments

    from .viewing import Gallery, Pin, View

T = TypeVar("T")
PIN_COLOURS = ("#ff4d6d", "#3fa7ff")  # by turns
# On a slider that was touched, arrow keys are the slider's, and not the page's too.
KEEP_ARROWS = "(event) => { if (event.key.startsWith('Arrow')) event.stopPropagation() }"
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
@media (max-width: 800px) { .between { display: none; } }
.bar { height: 10px; border-radius: 5px; flex: 1; }
.reading { min-height: 1.5em; font-variant-numeric: tabular-nums; }
.pins { display: flex; flex-direction: column; gap: 4px; }
.pin { display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: baseline; font-variant-numeric: tabular-nums; }
.pin .dot { position: static; margin: 0; align-self: center; flex: none; }
.distance { color: #7ee0a1; font-weight: 600; }
.scene { width: 100%; height: min(56vh, 560px); min-height: 260px; border-radius: 6px; overflow: hidden; }
"""


def serve(gallery: Gallery, host: str, port: int, browser: bool) -> None:
    """Show the pictures at http://host:port until Ctrl-C; `browser` opens one where there is a screen."""
    with extra("view"):
        from nicegui import app, ui
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import Response

    def send(index: int, media_type: str, of: Callable[[View], bytes]) -> Response:
        if not 0 <= index < len(gallery):
            return Response(status_code=404)
        return Response(of(gallery[index]), media_type=media_type, headers={"Cache-Control": "no-store"})

    @app.get("/picture/{index}")
    def picture(index: int) -> Response:
        return send(index, "image/jpeg", lambda view: view.picture)

    @app.get("/dense/{index}")
    def dense(index: int) -> Response:
        return send(index, "image/png", lambda view: view.dense[0])

    # A web page elsewhere whose name is made to mean this machine is not answered.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[host, "localhost"])
    has_screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin")
    app.on_startup(lambda: say(f"http://{host}:{port}  (Ctrl-C ends it)"))
    ui.run(
        lambda: Page(gallery),
        host=host,
        port=port,
        title="spd view",
        dark=True,
        reload=False,
        show=browser and has_screen,
        show_welcome_message=False,
        reconnect_timeout=30.0,  # a browser that draws a cloud without a GPU is not gone
    )


class Newest(Generic[T]):
    """Runs `work` on values as they come; of those that come while it runs, on the newest alone."""

    def __init__(self, work: Callable[[T], Awaitable[None]]):
        self._work, self._waiting, self._is_running = work, list[T](), False

    async def __call__(self, value: T) -> None:
        self._waiting = [value]
        if self._is_running:
            return
        self._is_running = True
        try:
            while self._waiting:
                await self._work(self._waiting.pop())
        finally:
            self._is_running = False


class Page:
    """One open page: the picture that is looked at, its pins, and the elements that show them."""

    def __init__(self, gallery: Gallery):
        with extra("view"):
            from nicegui import ui

        self.ui, self.gallery = ui, gallery
        self.index, self.view = 0, gallery[0]
        self.uv: list[tuple[int, int]] = []  # of the pins
        self.look, self.hover, self.show_pins = Newest(self._look), Newest(self._hover), Newest(self._show_pins)
        ui.add_css(CSS)
        ui.keyboard(self._key)
        with ui.element("div").classes("page"):
            with ui.element("div").classes("part"):
                self._build_picture()
            with ui.element("div").classes("part"):
                self._build_answers()
        ui.timer(0, lambda: self.look(0), once=True)

    def _build_picture(self) -> None:
        ui = self.ui
        self.name = ui.label().classes("name")
        self.photo = ui.interactive_image(on_mouse=self._mouse, events=["click", "mousemove", "mouseleave"])
        with self.photo.classes("photo"):
            self.dense = ui.element("img").classes("dense")
            self.marks = ui.element("div").classes("marks")
            self.pointer = ui.element("div").classes("marks")
        if len(self.gallery) > 1:
            with ui.element("div").classes("line"):
                ui.label("frame").classes("note")
                self.slider = ui.slider(min=0, max=len(self.gallery) - 1, value=0).classes("frames")
                self.slider.on_value_change(lambda event: self.look(int(event.value)))
                self.slider.props('aria-label="frame"')
                self.slider.on("keydown", js_handler=KEEP_ARROWS)
                self.count = ui.label().classes("note count")
        with ui.element("div").classes("line"):
            ui.label("depth").classes("note")
            self.opacity = ui.slider(min=0, max=1, step=0.05, value=0.35).classes("opacity")
            self.opacity.props('aria-label="opacity of depth"')
            self.opacity.on("keydown", js_handler=KEEP_ARROWS)
            self.opacity.on_value_change(self._show_dense)
        self.range = ui.element("div").classes("line note")
        self.note = ui.label().classes("note")

    def _build_answers(self) -> None:
        ui = self.ui
        self.reading = ui.label().classes("reading")
        self.pins = ui.element("div").classes("pins")
        with ui.element("div").classes("line"):
            help_text = "Point at the picture for metres, click to pin; two pins give their distance. Esc clears them."
            walking = " Arrow keys walk the frames." if len(self.gallery) > 1 else ""
            ui.label(help_text + walking).classes("note")
            self.clearing = ui.button("clear", on_click=self._clear).props("flat dense no-caps")
        self.cloud = CloudScene(ui)
        with ui.element("div").classes("line"):
            ui.label("Drag to turn, wheel or pinch to come closer.").classes("note")
            ui.button("as seen", on_click=self.cloud.from_the_camera).props("flat dense no-caps")

    # --- what is looked at

    async def _look(self, index: int) -> None:
        if len(self.gallery) > 1:
            self.count.text = f"{index + 1} of {len(self.gallery)}"
        fault = ""
        try:
            view = await asyncio.to_thread(self.gallery.__getitem__, index)
        except SPDError as error:
            fault = self.name.text = str(error)
        self.name.classes(add="fault" if fault else "", remove="" if fault else "fault")
        for element in (self.photo, self.pins, self.note, self.cloud.scene):
            element.set_visibility(not fault)
        if fault:
            return
        is_first, self.index, self.view = not self.photo.source, index, view
        height, width = view.shown_size
        self.name.text = view.name
        self.note.text = view.note
        self.note.classes(remove="assumed", add="assumed" if view.is_assumed else "")
        self.photo.style(f"max-width: calc(76vh * {width / height:.4f}); aspect-ratio: {width} / {height}")
        self.photo.set_source(f"/picture/{index}")
        self.pointer.clear()
        self.reading.text = ""
        await self._show_dense()
        await self.show_pins(list(self.uv))
        xyz_m, colours, spacing_m = await asyncio.to_thread(lambda: view.cloud)
        self.cloud.show(xyz_m, colours, spacing_m)
        if is_first:
            self.cloud.from_the_camera()

    async def _show_dense(self) -> None:
        self.dense.style(f"opacity: {self.opacity.value}")
        if self.opacity.value == 0:
            return  # nobody waits for what is not seen
        view = self.view
        _, near_m, far_m = await asyncio.to_thread(lambda: view.dense)
        if view is not self.view:
            return
        self.dense.props(f"src=/dense/{self.index}")
        colours = colour_depth(np.linspace(near_m, far_m, 9), near_m, far_m)
        stops = ", ".join(f"rgb({r} {g} {b})" for r, g, b in colours)
        self.range.clear()
        with self.range:
            self.ui.label(f"{near_m:.1f} m")
            self.ui.element("div").classes("bar").style(f"background: linear-gradient(90deg, {stops})")
            self.ui.label(f"{far_m:.1f} m")

    # --- pointing

    async def _mouse(self, event: MouseEventArguments) -> None:
        if event.type == "mouseleave":
            await self.hover(None)
            return
        at = self.view.pixel(event.image_x, event.image_y)
        if event.type == "click":
            self.uv.append(at)
            await self.hover(None)  # a finger points nowhere afterwards
            await self.show_pins(list(self.uv))
        else:
            await self.hover(at)

    async def _hover(self, at: tuple[int, int] | None) -> None:
        self.pointer.clear()
        if at is None:
            self.reading.text = ""
            return
        [pin] = await asyncio.to_thread(self.view.pins, [at])
        self.reading.text = _said(pin)
        with self.pointer:
            self._mark(self._place(pin), pin.metres)

    def _mark(self, at: tuple[float, float], text: str, colour: str | None = None, between: bool = False) -> None:
        """A tag beside a place of the picture (fractions across and down), or `between` two of them; and a dot there
        where it has a colour."""
        side = "mark between" if between else "mark left" if at[0] > 0.6 else "mark"
        with self.ui.element("div").classes(side) as mark:
            mark.style(f"left: {100 * at[0]:.3f}%; top: {100 * at[1]:.3f}%")
            if colour:
                self.ui.element("div").classes("dot").style(f"background: {colour}")
            self.ui.label(text).classes("tag")

    def _place(self, pin: Pin) -> tuple[float, float]:
        height, width = self.view.frame.size
        return (pin.uv[0] + 0.5) / width, (pin.uv[1] + 0.5) / height

    async def _show_pins(self, uv: list[tuple[int, int]]) -> None:
        pins = await asyncio.to_thread(self.view.pins, uv)
        self.clearing.set_visibility(bool(pins))
        self.marks.clear()
        self.pins.clear()
        self.cloud.clear()
        for number, pin in enumerate(pins):
            colour = PIN_COLOURS[number % len(PIN_COLOURS)]
            with self.marks:
                self._mark(self._place(pin), pin.metres, colour)
            with self.pins:
                if math.isfinite(pin.step_m):
                    self.ui.label(f"{pin.step_m:.2f} m apart").classes("distance")
                with self.ui.element("div").classes("pin"):
                    self.ui.element("div").classes("dot").style(f"background: {colour}")
                    self.ui.label(_said(pin))
            self.cloud.mark(pin, colour)
        shown_height, shown_width = self.view.shown_size
        lines = []
        for start, end in itertools.pairwise(pins):
            (x1, y1), (x2, y2) = self._place(start), self._place(end)
            lines.append(
                f'<line x1="{x1 * shown_width:.1f}" y1="{y1 * shown_height:.1f}" x2="{x2 * shown_width:.1f}"'
                f' y2="{y2 * shown_height:.1f}" stroke="white" stroke-width="2" stroke-dasharray="6 4"'
                ' vector-effect="non-scaling-stroke"/>'
            )
            if math.isfinite(end.step_m):
                with self.marks:
                    self._mark(((x1 + x2) / 2, (y1 + y2) / 2), f"{end.step_m:.2f} m", between=True)
                self.cloud.join(start, end)
        self.photo.content = "".join(lines)

    async def _key(self, event: KeyEventArguments) -> None:
        if not event.action.keydown:
            return
        if event.key.escape:
            await self._clear()
        step = 1 if event.key.arrow_right else -1 if event.key.arrow_left else 0
        if step and len(self.gallery) > 1:
            self.slider.value = min(max(self.slider.value + step, 0), len(self.gallery) - 1)

    async def _clear(self) -> None:
        self.uv.clear()
        await self.show_pins(list(self.uv))


def _said(pin: Pin) -> str:
    return f"{pin.uv[0]}, {pin.uv[1]}: {pin.metres}  ({pin.place})"
