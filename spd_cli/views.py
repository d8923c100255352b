"""What the page of `spd view` shows of one image: the image itself, and answers at its pixels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from spd_core.camera import scale_points
from spd_core.pixels import pixel_under
from spd_core.status import Answer, Status

from .sources import in_metres

SHOWN_PX = 1600  # longer side of what the browser gets; answers are of the image itself


@dataclass(frozen=True)
class Pin:
    """A pixel that is asked: `uv` px, its answer, and how far its point is from that of the pin before it, m (NaN
    where one of them has no point)."""

    uv: tuple[float, float]
    depth_m: float
    sigma_m: float
    xyz_m: tuple[float, float, float]
    status: Status
    step_m: float

    @property
    def metres(self) -> str:
        """Depth and its standard deviation in words."""
        return in_metres(self.depth_m, self.sigma_m)

    @property
    def tag(self) -> str:
        """Its metres, or why there are none."""
        return self.metres if math.isfinite(self.depth_m) else self.status.name

    @property
    def place(self) -> str:
        """x y z in words, or why there is none."""
        if not all(map(math.isfinite, self.xyz_m)):
            return self.status.name
        return " ".join(f"{name} {value:.2f}" for name, value in zip("xyz", self.xyz_m))


def pins_of(uv: list[tuple[int, int]] | np.ndarray, answer: Answer) -> list[Pin]:
    """The answer at points [K, 2] px, one pin each, in their order."""
    steps_m = [math.nan, *np.linalg.norm(np.diff(answer.xyz_m, axis=0), axis=1)]
    rows = zip(uv, answer.depth_m, answer.sigma_m, answer.xyz_m, answer.status, steps_m)
    return [
        Pin((u, v), float(depth_m), float(sigma_m), (float(x), float(y), float(z)), Status(status), float(step_m))
        for (u, v), depth_m, sigma_m, (x, y, z), status, step_m in rows
    ]


@dataclass(frozen=True, eq=False)
class View(ABC):
    """An image and what the page shows of it.

    Attributes:
        number: the page's address of its picture is /picture/<number>.
        name: of the image.
        rgb: uint8 [H, W, 3].
        note: what is to be known of it.
        is_assumed: the note warns.
    """

    number: int
    name: str
    rgb: np.ndarray
    note: str
    is_assumed: bool

    @abstractmethod
    def answer(self, uv: np.ndarray) -> Answer:
        """What is answered at points [K, 2] px. May raise an SPDError that says why there is no answer."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) px of the image."""
        height, width = self.rgb.shape[:2]
        return height, width

    @property
    def shown_size(self) -> tuple[int, int]:
        """(height, width) px of what the browser gets."""
        scale = min(1.0, SHOWN_PX / max(self.size))
        height, width = (max(1, round(extent * scale)) for extent in self.size)
        return height, width

    def pixel(self, x: float, y: float) -> tuple[int, int]:
        """The pixel (u, v) of the image under a point of what is shown, px from its upper left corner; at the border
        the nearest."""
        (height, width), (shown_height, shown_width) = self.size, self.shown_size
        at = scale_points(np.array([x - 0.5, y - 0.5]), np.array([width / shown_width, height / shown_height]))
        u, v = np.clip(pixel_under(at), 0, [width - 1, height - 1]).tolist()
        return u, v

    def pins(self, uv: list[tuple[int, int]]) -> list[Pin]:
        """What is answered at pixels, in their order. Without pixels nobody is asked."""
        return pins_of(uv, self.answer(np.array(uv, float))) if uv else []

    @cached_property
    def picture(self) -> bytes:
        """What the browser gets, JPEG."""
        return self.encoded(self.rgb, ".jpg")

    def encoded(self, rgb: np.ndarray, suffix: str) -> bytes:
        """RGB uint8 [H, W, 3] in the size that is shown, as a file of that kind."""
        shown = cv2.resize(rgb, self.shown_size[::-1], interpolation=cv2.INTER_AREA)
        return cv2.imencode(suffix, cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))[1].tobytes()
