"""The page of `spd view` for pictures: what every page has, and frames to walk, depth as a layer, the cloud."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import numpy as np

from spd_core.pictures import colour_depth

from .cloud import CloudScene
from .page import Page, offer, pin_colour, serve

if TYPE_CHECKING:
    from nicegui.events import KeyboardKey

    from .viewing import Gallery, PictureView
    from .views import Pin

# On a slider that was touched, arrow keys are the slider's, and not the page's too.
KEEP_ARROWS = "(event) => { if (event.key.startsWith('Arrow')) event.stopPropagation() }"


def serve_pictures(gallery: Gallery, host: str, port: int, browser: bool) -> None:
    """Show the pictures at http://host:port until Ctrl-C; `browser` opens one where there is a screen."""
    offer("picture", "image/jpeg", lambda index: gallery[index].picture)
    offer("dense", "image/png", lambda index: gallery[index].dense[0])
    serve(lambda: PicturePage(gallery), host, port, browser)


class PicturePage(Page[int]):
    """Looks at the pictures of a gallery, by their index."""

    view: PictureView

    def __init__(self, gallery: Gallery):
        self.gallery = gallery
        if len(gallery) > 1:
            self.help_text += " Arrow keys walk the frames."
        super().__init__()
        self.ui.timer(0, lambda: self.look(0), once=True)

    def find(self, key: int) -> PictureView:
        return self.gallery.look(key)

    def build_below_picture(self) -> None:
        ui = self.ui
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
        self.range = ui.element("div").classes("line note").style("min-height: 1.5em")
        self.draw_over()

    def build_below_pins(self) -> None:
        ui = self.ui
        self.cloud = CloudScene(ui)
        with ui.element("div").classes("line"):
            ui.label("Drag to turn, wheel or pinch to come closer.").classes("note")
            ui.button("as seen", on_click=self.cloud.from_the_camera).props("flat dense no-caps")

    async def _look(self, key: int) -> None:
        if len(self.gallery) > 1:
            self.count.text = f"{key + 1} of {len(self.gallery)}"
        is_first = not self.photo.source
        await super()._look(key)
        for element in (self.cloud.scene, self.range):
            element.set_visibility(self.photo.visible)
        if not self.photo.visible:
            return
        await self._show_dense()
        xyz_m, colours, spacing_m = await asyncio.to_thread(lambda: self.view.cloud)
        self.cloud.show(xyz_m, colours, spacing_m)
        if is_first:
            self.cloud.from_the_camera()

    def draw_over(self) -> None:
        self.range.clear()
        self.layers.clear()  # a new element: in the old one the browser shows the old depth until the new has come
        with self.layers:
            self.dense = self.ui.element("img").classes("dense").style(f"opacity: {self.opacity.value}")

    async def _show_dense(self) -> None:
        self.dense.style(f"opacity: {self.opacity.value}")
        if self.opacity.value == 0 or not self.photo.source:
            return  # nobody waits for what is not seen
        view = self.view
        _, near_m, far_m = await asyncio.to_thread(lambda: view.dense)
        if view is not self.view:
            return
        self.dense.props(f"src=/dense/{view.number}")
        colours = colour_depth(np.linspace(near_m, far_m, 9), near_m, far_m)
        stops = ", ".join(f"rgb({r} {g} {b})" for r, g, b in colours)
        self.range.clear()
        with self.range:
            self.ui.label(f"{near_m:.1f} m")
            self.ui.element("div").classes("bar").style(f"background: linear-gradient(90deg, {stops})")
            self.ui.label(f"{far_m:.1f} m")

    def pinned(self, pins: list[Pin]) -> None:
        self.cloud.clear()
        for number, pin in enumerate(pins):
            self.cloud.mark(pin, pin_colour(number))
        for start, end in itertools.pairwise(pins):
            self.cloud.join(start, end)

    def pressed(self, key: KeyboardKey) -> None:
        step = 1 if key.arrow_right else -1 if key.arrow_left else 0
        if step and len(self.gallery) > 1:
            self.slider.value = min(max(self.slider.value + step, 0), len(self.gallery) - 1)
