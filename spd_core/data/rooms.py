"""Procedural furnished rooms: what stands where, as a table of primitives. Drawn by `synthetic.py`.

World frame: x and z span the floor, y points up, metres, the floor is y = 0 and the room's walls are x in [0, width], z in [0, length].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

BOX, CYLINDER, ELLIPSOID = 0, 1, 2
TEXTURES = ("plain", "wood", "brick", "tile", "noise", "print", "stripes")


@dataclass(frozen=True)
class Material:
    """Surface: two linear RGB colours mixed by a procedural texture whose pattern repeats about every `period_m` metres."""

    texture: str
    colour_a: np.ndarray
    colour_b: np.ndarray
    period_m: float = 0.3
    gloss: float = 0.0
    emission: float = 0.0


@dataclass
class Room:
    """Primitives of one room. Lists run in parallel: shape kind, centre [3] m, half extents [3] m, yaw rad, material."""

    size: np.ndarray  # width (x), height (y), length (z), m
    kinds: list[int] = field(default_factory=list)
    centres: list[np.ndarray] = field(default_factory=list)
    halves: list[np.ndarray] = field(default_factory=list)
    yaws: list[float] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    surfaces: list[Material] = field(default_factory=list)  # floor, ceiling, then the walls x=0, x=width, z=0, z=length
    lights: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # position [3] m, linear RGB power [3]
    footprints: list[tuple[float, float, float]] = field(default_factory=list)  # x, z, radius m of what stands on the floor


class RoomBuilder:
    """Builds one random room. Everything is drawn from `rng` in a fixed order: the same seed is the same room."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.room = Room(size=np.array([rng.uniform(2.8, 7.0), rng.uniform(2.3, 3.1), rng.uniform(3.2, 8.5)]))

    def build(self) -> Room:
        self._shell()
        self._wall_furnishing()
        self._lights()
        for place in self.rng.permutation(["wall"] * self.rng.integers(3, 8) + ["middle"] * self.rng.integers(1, 5)):
            self._stand(place)
        return self.room

    # --- materials

    def _colour(self, low: float = 0.05, high: float = 0.8, saturation: float = 0.35) -> np.ndarray:
        grey = self.rng.uniform(low, high)
        tint = 1 + saturation * self.rng.uniform(-1, 1, 3)
        return np.clip(grey * tint, 0.01, 0.95)

    def _material(self, *textures: str, low: float = 0.05, high: float = 0.8, saturation: float = 0.35) -> Material:
        texture = str(self.rng.choice(textures or TEXTURES))
        if texture == "wood":
            base = np.array([0.42, 0.24, 0.12]) * self.rng.uniform(0.3, 1.6) * (1 + 0.15 * self.rng.uniform(-1, 1, 3))
            return Material("wood", np.clip(base, 0.02, 0.9), np.clip(base * self.rng.uniform(0.45, 0.8), 0.01, 0.9), self.rng.uniform(0.06, 0.25), self.rng.uniform(0, 0.3))
        a = self._colour(low, high, saturation)
        b = self._colour(low, high, 0.9) if texture == "print" else np.clip(a * self.rng.uniform(0.55, 1.25) + self.rng.uniform(-0.04, 0.04, 3), 0.01, 0.95)
        period = {"brick": 0.22, "tile": self.rng.uniform(0.15, 0.6), "print": self.rng.uniform(0.1, 0.5)}.get(texture, self.rng.uniform(0.05, 0.4))
        return Material(texture, a, b, period, self.rng.uniform(0, 0.25))

    # --- primitives

    def _add(self, kind: int, centre, half, material: Material, yaw: float = 0.0, origin=(0.0, 0.0)) -> None:
        """Add a primitive at `centre` of a furniture frame that stands at floor position `origin`, turned by `yaw`."""
        c, s = math.cos(yaw), math.sin(yaw)
        x, y, z = centre
        self.room.kinds.append(kind)
        self.room.centres.append(np.array([origin[0] + c * x + s * z, y, origin[1] - s * x + c * z]))
        self.room.halves.append(np.maximum(np.asarray(half, dtype=float), 0.004))
        self.room.yaws.append(yaw)
        self.room.materials.append(material)

    def _shell(self) -> None:
        wall = self._material("plain", "plain", "noise", "stripes", "brick", low=0.25, high=0.85, saturation=0.2)
        accent = self._material(low=0.1, high=0.8)
        walls = [accent if self.rng.random() < 0.15 else wall for _ in range(4)]
        floor = self._material("wood", "wood", "tile", "noise", low=0.08, high=0.6)
        ceiling = self._material("plain", "plain", "tile", low=0.6, high=0.9, saturation=0.05)
        self.room.surfaces = [floor, ceiling, *walls]
        width, height, length = self.room.size
        skirting = self._material("plain", "wood", low=0.1, high=0.9)
        for centre, half in (
            ((0, 0.05, length / 2), (0.015, 0.05, length / 2)),
            ((width, 0.05, length / 2), (0.015, 0.05, length / 2)),
            ((width / 2, 0.05, 0), (width / 2, 0.05, 0.015)),
            ((width / 2, 0.05, length), (width / 2, 0.05, 0.015)),
        ):
            self._add(BOX, centre, half, skirting)
        for _ in range(self.rng.integers(0, 3)):  # pillars and chimney breasts make rooms that are not boxes
            x, z = self.rng.choice([0.0, width]), self.rng.uniform(0, length)
            self._add(BOX, (x, height / 2, z), (self.rng.uniform(0.1, 0.7), height / 2, self.rng.uniform(0.15, 1.0)), walls[0])

    def _wall_furnishing(self) -> None:
        """Doors, windows, pictures: thin boxes on the walls."""
        width, _, length = self.room.size
        for _ in range(self.rng.integers(3, 9)):
            what = self.rng.choice(["door", "window", "picture", "picture"])
            on_x = self.rng.random() < 0.5
            w, h = {"door": (0.9, 2.0), "window": (self.rng.uniform(0.7, 1.8), self.rng.uniform(0.8, 1.3)), "picture": tuple(self.rng.uniform(0.25, 1.1, 2))}[what]
            y = {"door": 1.0, "window": 1.5, "picture": self.rng.uniform(1.3, 1.8)}[what]
            frame = self._material("plain", "wood", low=0.05, high=0.9)
            inside = self._material("print") if what == "picture" else self._material("wood", "plain", low=0.2, high=0.9)
            if what == "window":
                glow = np.array([0.75, 0.85, 1.0]) * self.rng.uniform(0.5, 1.0)
                inside = Material("noise", glow, glow * 0.8, 0.8, emission=self.rng.uniform(0.4, 1.2))
            span = length if on_x else width
            along = self.rng.uniform(w / 2 + 0.1, max(span - w / 2 - 0.1, w / 2 + 0.2))
            wall = self.rng.choice([0.0, width if on_x else length])
            for depth, grow, material in ((0.03, 0.05, frame), (0.035, 0.0, inside)):
                flat, tall = w / 2 + grow, h / 2 + grow
                if on_x:
                    self._add(BOX, (wall, y, along), (depth, tall, flat), material)
                else:
                    self._add(BOX, (along, y, wall), (flat, tall, depth), material)

    def _lights(self) -> None:
        width, height, length = self.room.size
        for _ in range(self.rng.integers(1, 4)):
            position = np.array([self.rng.uniform(0.15, 0.85) * width, height - self.rng.uniform(0.12, 0.5), self.rng.uniform(0.15, 0.85) * length])
            warmth = self.rng.uniform(-0.25, 0.35)
            power = np.array([1 + warmth, 1.0, 1 - warmth]) * self.rng.uniform(0.6, 1.6)
            self.room.lights.append((position, power))
            lamp = Material("plain", np.array([1.0, 0.97, 0.9]), np.ones(3), emission=1.5)
            self._add(self.rng.choice([ELLIPSOID, CYLINDER]), position + np.array([0, 0.08, 0]), (self.rng.uniform(0.1, 0.25), 0.06, self.rng.uniform(0.1, 0.25)), lamp)

    # --- furniture

    def _stand(self, place: str) -> None:
        """Put one piece of furniture where there is floor for it: its back to a wall, or turned freely in the middle."""
        width, _, length = self.room.size
        make = getattr(self, "_" + str(self.rng.choice(["table", "desk", "shelf", "cabinet", "sofa", "bed", "chair", "chair", "lamp", "plant", "boxes"])))
        for _ in range(8):
            radius = self.rng.uniform(0.35, 0.9)
            if place == "wall":
                side = self.rng.integers(4)
                gap = self.rng.uniform(0.3, 0.5)
                x, z = [
                    (gap, self.rng.uniform(0.5, length - 0.5)),
                    (width - gap, self.rng.uniform(0.5, length - 0.5)),
                    (self.rng.uniform(0.5, width - 0.5), gap),
                    (self.rng.uniform(0.5, width - 0.5), length - gap),
                ][side]
                yaw = [math.pi / 2, -math.pi / 2, 0.0, math.pi][side] + self.rng.normal(0, 0.03)
            else:
                x, z, yaw = self.rng.uniform(0.8, width - 0.8), self.rng.uniform(0.8, length - 0.8), self.rng.uniform(-math.pi, math.pi)
            if all(math.hypot(x - fx, z - fz) > radius + fr for fx, fz, fr in self.room.footprints):
                self.room.footprints.append((x, z, radius))
                make((x, z), yaw)
                return

    def _legs(self, w: float, d: float, h: float, thick: float, material: Material, yaw: float, origin) -> None:
        kind = int(self.rng.choice([BOX, CYLINDER]))
        for sx in (-1, 1):
            for sz in (-1, 1):
                self._add(kind, (sx * (w - thick), h / 2, sz * (d - thick)), (thick, h / 2, thick), material, yaw, origin)

    def _clutter(self, w: float, d: float, y: float, count: int, yaw: float, origin) -> None:
        """Small things on a surface of half extents w, d at height y."""
        for _ in range(count):
            kind = int(self.rng.choice([BOX, CYLINDER, ELLIPSOID]))
            half = self.rng.uniform(0.03, 0.14, 3)
            if kind == CYLINDER:
                half[2] = half[0]
            x, z = self.rng.uniform(-0.8, 0.8, 2) * (w, d)
            self._add(kind, (x, y + half[1], z), half, self._material(saturation=0.9), yaw, origin)

    def _table(self, origin, yaw) -> None:
        w, d, h = self.rng.uniform(0.4, 0.9), self.rng.uniform(0.3, 0.5), self.rng.uniform(0.4, 0.78)
        material = self._material("wood", "wood", "plain")
        self._add(BOX, (0, h, 0), (w, 0.02, d), material, yaw, origin)
        self._legs(w, d, h, 0.03, material, yaw, origin)
        self._clutter(w, d, h + 0.02, self.rng.integers(0, 5), yaw, origin)

    def _desk(self, origin, yaw) -> None:
        w, d, h = self.rng.uniform(0.5, 0.85), 0.35, 0.74
        material = self._material("wood", "plain")
        self._add(BOX, (0, h, 0), (w, 0.02, d), material, yaw, origin)
        for sx in (-1, 1):
            self._add(BOX, (sx * (w - 0.02), h / 2, 0), (0.02, h / 2, d - 0.03), material, yaw, origin)
        screen = self._material("print", "plain", low=0.02, high=0.3)
        self._add(BOX, (0, h + 0.3, -0.12), (0.28, 0.17, 0.015), screen, yaw, origin)
        self._add(BOX, (0, h + 0.08, -0.12), (0.03, 0.08, 0.03), screen, yaw, origin)
        self._clutter(w, d, h + 0.02, self.rng.integers(1, 5), yaw, origin)

    def _shelf(self, origin, yaw) -> None:
        w, d, h = self.rng.uniform(0.3, 0.7), 0.16, self.rng.uniform(0.8, 2.1)
        boards = int(h / 0.38) + 1
        material = self._material("wood", "plain")
        for sx in (-1, 1):
            self._add(BOX, (sx * w, h / 2, 0), (0.015, h / 2, d), material, yaw, origin)
        self._add(BOX, (0, h / 2, -d), (w, h / 2, 0.008), material, yaw, origin)
        for level in range(boards):
            y = 0.04 + level * (h - 0.06) / (boards - 1)
            self._add(BOX, (0, y, 0), (w, 0.012, d), material, yaw, origin)
            if level < boards - 1 and self.rng.random() < 0.8:  # a row of books is one box with a striped print
                fill = self.rng.uniform(0.3, 0.95) * w
                books = self._material("stripes", "print", saturation=0.9)
                height = self.rng.uniform(0.09, 0.14)
                self._add(BOX, (fill - w + 0.02, y + height, 0), (fill, height, d * 0.7), books, yaw, origin)

    def _cabinet(self, origin, yaw) -> None:
        w, d, h = self.rng.uniform(0.25, 0.8), self.rng.uniform(0.2, 0.32), self.rng.choice([0.5, 0.9, 1.9]) * self.rng.uniform(0.9, 1.1)
        material = self._material("wood", "plain", "noise")
        self._add(BOX, (0, h / 2, 0), (w, h / 2, d), material, yaw, origin)
        rows = max(1, int(h / 0.45))
        front = self._material("wood", "plain")
        for row in range(rows):
            y = (row + 0.5) * h / rows
            self._add(BOX, (0, y, d), (w - 0.03, h / rows / 2 - 0.015, 0.012), front, yaw, origin)
            self._add(BOX, (0, y, d + 0.02), (0.06, 0.01, 0.012), self._material("plain"), yaw, origin)
        self._clutter(w, d, h, self.rng.integers(0, 3), yaw, origin)

    def _sofa(self, origin, yaw) -> None:
        w, d = self.rng.uniform(0.45, 1.1), 0.42
        fabric = self._material("noise", "plain", "stripes", saturation=0.7)
        self._add(BOX, (0, 0.2, 0), (w, 0.2, d), fabric, yaw, origin)
        self._add(BOX, (0, 0.42, -d + 0.1), (w, 0.42, 0.1), fabric, yaw, origin)
        for sx in (-1, 1):
            self._add(BOX, (sx * (w + 0.06), 0.3, 0), (0.08, 0.3, d), fabric, yaw, origin)
            self._add(BOX, (sx * w / 2, 0.45, 0.05), (w / 2 - 0.02, 0.06, d - 0.1), fabric, yaw, origin)
        for _ in range(self.rng.integers(0, 4)):
            pillow = self._material("print", "stripes", "plain", saturation=0.9)
            self._add(ELLIPSOID, (self.rng.uniform(-0.8, 0.8) * w, 0.65, -0.2), (0.2, 0.18, 0.09), pillow, yaw, origin)

    def _bed(self, origin, yaw) -> None:
        w, length = self.rng.uniform(0.45, 0.9), 1.0
        sheet = self._material("plain", "stripes", "print", "noise", low=0.2, high=0.9)
        wood = self._material("wood", "plain")
        z = length - 0.3
        self._add(BOX, (0, 0.15, z), (w, 0.15, length), wood, yaw, origin)
        self._add(BOX, (0, 0.4, z), (w - 0.02, 0.12, length - 0.02), sheet, yaw, origin)
        self._add(BOX, (0, 0.5, z - length), (w, 0.5, 0.03), wood, yaw, origin)
        for sx in (-1, 1):
            self._add(ELLIPSOID, (sx * w / 2, 0.56, z - length + 0.3), (w / 2.4, 0.1, 0.2), self._material("plain", low=0.5, high=0.95, saturation=0.1), yaw, origin)

    def _chair(self, origin, yaw) -> None:
        w, h = self.rng.uniform(0.19, 0.24), self.rng.uniform(0.42, 0.48)
        material = self._material("wood", "plain", "noise", saturation=0.7)
        self._add(BOX, (0, h, 0), (w, 0.025, w), material, yaw, origin)
        self._add(BOX, (0, h + 0.3, -w + 0.02), (w, self.rng.uniform(0.12, 0.28), 0.015), material, yaw, origin)
        self._legs(w, w, h, 0.018, material, yaw, origin)

    def _lamp(self, origin, yaw) -> None:
        h = self.rng.uniform(1.2, 1.7)
        metal = self._material("plain", low=0.02, high=0.5)
        self._add(CYLINDER, (0, 0.015, 0), (0.14, 0.015, 0.14), metal, yaw, origin)
        self._add(CYLINDER, (0, h / 2, 0), (0.013, h / 2, 0.013), metal, yaw, origin)
        shade = Material("plain", np.array([0.95, 0.85, 0.65]), np.ones(3), emission=self.rng.uniform(0.0, 0.8))
        self._add(CYLINDER, (0, h, 0), (0.17, 0.13, 0.17), shade, yaw, origin)

    def _plant(self, origin, yaw) -> None:
        r, h = self.rng.uniform(0.1, 0.2), self.rng.uniform(0.2, 0.4)
        self._add(CYLINDER, (0, h / 2, 0), (r, h / 2, r), self._material("plain", "noise", "tile"), yaw, origin)
        green = np.array([0.08, 0.25, 0.06]) * self.rng.uniform(0.6, 1.6)
        leaf = Material("noise", green, green * 0.4, 0.05)
        for _ in range(self.rng.integers(3, 8)):
            x, z = self.rng.normal(0, r * 0.8, 2)
            self._add(ELLIPSOID, (x, h + self.rng.uniform(0.05, 0.6), z), self.rng.uniform(0.08, 0.22, 3), leaf, yaw, origin)

    def _boxes(self, origin, yaw) -> None:
        y = 0.0
        for _ in range(self.rng.integers(1, 4)):
            half = self.rng.uniform(0.12, 0.3, 3)
            self._add(BOX, (0, y + half[1], 0), half, self._material("plain", "print", "noise", "wood"), yaw + self.rng.uniform(-0.4, 0.4), origin)
            y += 2 * half[1]


def random_room(seed: int) -> Room:
    """The room of a seed."""
    return RoomBuilder(np.random.default_rng([seed, 0x500D])).build()
