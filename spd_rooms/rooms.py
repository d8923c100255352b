"""Procedural furnished rooms: what stands where, as a table of primitives. Drawn by `synthetic.py`.

World frame: x and z span the floor, y points up, metres, the floor is y = 0 and the room's walls are x in [0, width], z
in [0, length].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

BOX, CYLINDER, ELLIPSOID = 0, 1, 2
AT_WALLS = (
    "table",
    "desk",
    "desk",
    "shelf",
    "shelf",
    "cabinet",
    "cabinet",
    "sofa",
    "bed",
    "chair",
    "lamp",
    "plant",
    "boxes",
    "counter",
    "fridge",
    "television",
    "person",
)
IN_THE_MIDDLE = (
    "table",
    "table",
    "desk",
    "sofa",
    "bed",
    "chair",
    "chair",
    "office_chair",
    "stool",
    "lamp",
    "plant",
    "boxes",
    "partition",
    "person",
)
TEXTURES = ("plain", "wood", "brick", "tile", "noise", "print", "stripes")


@dataclass(frozen=True)
class Material:
    """Surface: two linear RGB colours mixed by a procedural texture whose pattern repeats about every `period_m`
    metres."""

    texture: str
    colour_a: np.ndarray
    colour_b: np.ndarray
    period_m: float = 0.3
    gloss: float = 0.0
    emission: float = 0.0


@dataclass
class Room:
    """Primitives of one room. Lists run in parallel: shape kind, centre [3] m, half extents [3] m, yaw rad,
    material."""

    size: np.ndarray  # width (x), height (y), length (z), m
    kinds: list[int] = field(default_factory=list)
    centres: list[np.ndarray] = field(default_factory=list)
    halves: list[np.ndarray] = field(default_factory=list)
    yaws: list[float] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    surfaces: list[Material] = field(default_factory=list)  # floor, ceiling, then the walls x=0, x=width, z=0, z=length
    lights: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # position [3] m, linear RGB power [3]
    footprints: list[tuple[float, float, float]] = field(
        default_factory=list
    )  # x, z, radius m of what stands on the floor


class RoomBuilder:
    """Builds one random room. Everything is drawn from `rng` in a fixed order: the same seed is the same room."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.room = Room(size=np.array([rng.uniform(2.8, 7.0), rng.uniform(2.3, 3.1), rng.uniform(3.2, 8.5)]))

    def build(self) -> Room:
        self._shell()
        self._wall_furnishing()
        self._lights()
        for place in self.rng.permutation(["wall"] * self.rng.integers(3, 9) + ["middle"] * self.rng.integers(1, 5)):
            self._stand(place)
        for _ in range(self.rng.integers(0, 4)):
            self._on_the_floor()
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
            return Material(
                "wood",
                np.clip(base, 0.02, 0.9),
                np.clip(base * self.rng.uniform(0.45, 0.8), 0.01, 0.9),
                self.rng.uniform(0.06, 0.25),
                self.rng.uniform(0, 0.3),
            )
        a = self._colour(low, high, saturation)
        b = (
            self._colour(low, high, 0.9)
            if texture == "print"
            else np.clip(a * self.rng.uniform(0.55, 1.25) + self.rng.uniform(-0.04, 0.04, 3), 0.01, 0.95)
        )
        period = {"brick": 0.22, "tile": self.rng.uniform(0.15, 0.6), "print": self.rng.uniform(0.1, 0.5)}.get(
            texture, self.rng.uniform(0.05, 0.4)
        )
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
        wall = self._material(
            "plain", "plain", "plain", "plain", "noise", "stripes", "brick", low=0.25, high=0.85, saturation=0.2
        )
        accent = self._material(low=0.1, high=0.8)
        walls = [accent if self.rng.random() < 0.15 else wall for _ in range(4)]
        floor = replace(
            self._material("wood", "wood", "tile", "noise", low=0.08, high=0.6), gloss=self.rng.uniform(0, 0.6)
        )
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
            self._add(
                BOX, (x, height / 2, z), (self.rng.uniform(0.1, 0.7), height / 2, self.rng.uniform(0.15, 1.0)), walls[0]
            )
        if self.rng.random() < 0.3:  # a block in a corner: the room has the shape of an L
            block, corner = (
                self.rng.uniform(0.15, 0.45, 2) * (width, length),
                self.rng.choice([0.0, 1.0], 2) * (width, length),
            )
            self._add(BOX, (corner[0], height / 2, corner[1]), (block[0], height / 2, block[1]), walls[0])
        if self.rng.random() < 0.15:
            beam = self._material("wood", "plain")
            for z in np.arange(0.5, length, self.rng.uniform(0.7, 1.5)):
                self._add(BOX, (width / 2, height - 0.06, z), (width / 2, 0.06, 0.06), beam)

    def _wall_furnishing(self) -> None:
        """Doors, windows with curtains or a radiator, pictures, boards, shelves: boxes on the walls."""
        width, _, length = self.room.size
        for _ in range(self.rng.integers(3, 10)):
            what = str(self.rng.choice(["door", "window", "picture", "picture", "board", "shelf"]))
            side = int(self.rng.integers(4))
            span = length if side < 2 else width
            w, h, y = {
                "door": (0.9, 2.0, 1.0),
                "window": (self.rng.uniform(0.7, 1.8), self.rng.uniform(0.8, 1.3), 1.5),
                "picture": (*self.rng.uniform(0.25, 1.1, 2), self.rng.uniform(1.3, 1.8)),
                "board": (self.rng.uniform(1.0, 2.0), self.rng.uniform(0.7, 1.2), 1.5),
                "shelf": (self.rng.uniform(0.5, 1.2), 0.03, self.rng.uniform(1.2, 1.8)),
            }[what]
            along = self.rng.uniform(w / 2 + 0.1, max(span - w / 2 - 0.1, w / 2 + 0.2))
            # Furniture frames look into the room: x along the wall, z away from it.
            origin, yaw = [
                ((0, along), math.pi / 2),
                ((width, along), -math.pi / 2),
                ((along, 0), 0.0),
                ((along, length), math.pi),
            ][side]
            frame = self._material("plain", "wood", low=0.05, high=0.9)
            if what == "shelf":
                self._add(BOX, (0, y, 0.12), (w / 2, 0.015, 0.12), frame, yaw, origin)
                self._clutter(w / 2, 0.1, y + 0.015, int(self.rng.integers(1, 5)), yaw, origin, z=0.12)
                continue
            inside = (
                self._material("print") if what == "picture" else self._material("wood", "plain", low=0.2, high=0.9)
            )
            if what == "board":
                inside = self._material("plain", low=0.05, high=0.95, saturation=0.1)
            if what == "window":
                glow = np.array([0.75, 0.85, 1.0]) * self.rng.uniform(0.5, 1.0)
                inside = Material("noise", glow, glow * 0.8, 0.8, emission=self.rng.uniform(0.4, 1.2))
                extra = self.rng.random()
                if extra < 0.4:
                    curtain = self._material("stripes", "plain", "noise", saturation=0.8)
                    for sign in (-1, 1):
                        self._add(
                            BOX,
                            (sign * (w / 2 + 0.15), y - 0.2, 0.06),
                            (self.rng.uniform(0.1, 0.3), h / 2 + 0.4, 0.05),
                            curtain,
                            yaw,
                            origin,
                        )
                elif extra < 0.7:
                    self._add(
                        BOX,
                        (0, 0.4, 0.07),
                        (w / 2, 0.28, 0.05),
                        self._material("stripes", low=0.4, high=0.9, saturation=0.1),
                        yaw,
                        origin,
                    )
            for depth, grow, material in ((0.03, 0.05, frame), (0.035, 0.0, inside)):
                self._add(BOX, (0, y, 0), (w / 2 + grow, h / 2 + grow, depth), material, yaw, origin)

    def _lights(self) -> None:
        """Lamps below the ceiling, flat panels in it or pendants."""
        width, height, length = self.room.size
        lamp = Material("plain", np.array([1.0, 0.97, 0.9]), np.ones(3), emission=1.5)
        style = str(self.rng.choice(["round", "round", "panel", "pendant"]))
        for _ in range(self.rng.integers(1, 4)):
            drop = self.rng.uniform(0.5, 0.9) if style == "pendant" else self.rng.uniform(0.12, 0.5)
            position = np.array(
                [self.rng.uniform(0.15, 0.85) * width, height - drop, self.rng.uniform(0.15, 0.85) * length]
            )
            warmth = self.rng.uniform(-0.25, 0.35)
            power = np.array([1 + warmth, 1.0, 1 - warmth]) * self.rng.uniform(0.6, 1.6)
            self.room.lights.append((position, power))
            above = position + np.array([0, 0.08, 0])
            if style == "panel":
                self._add(
                    BOX, (position[0], height, position[2]), (0.6, 0.03, 0.3), lamp, self.rng.choice([0.0, math.pi / 2])
                )
                continue
            if style == "pendant":
                above = position + np.array([0, 0.2, 0])
                self._add(
                    CYLINDER,
                    (position[0], height - drop / 2, position[2]),
                    (0.006, drop / 2, 0.006),
                    self._material("plain", high=0.3),
                )
            self._add(
                self.rng.choice([ELLIPSOID, CYLINDER]),
                above,
                (self.rng.uniform(0.1, 0.25), 0.06, self.rng.uniform(0.1, 0.25)),
                lamp,
            )

    # --- furniture

    def _stand(self, place: str) -> None:
        """Put one piece of furniture where there is floor for it: its back to a wall, or turned freely in the
        middle."""
        width, _, length = self.room.size
        make = getattr(self, "_" + str(self.rng.choice(AT_WALLS if place == "wall" else IN_THE_MIDDLE)))
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
                x, z, yaw = (
                    self.rng.uniform(0.8, width - 0.8),
                    self.rng.uniform(0.8, length - 0.8),
                    self.rng.uniform(-math.pi, math.pi),
                )
            if all(math.hypot(x - fx, z - fz) > radius + fr for fx, fz, fr in self.room.footprints):
                self.room.footprints.append((x, z, radius))
                make((x, z), yaw)
                return

    def _legs(self, w: float, d: float, h: float, thick: float, material: Material, yaw: float, origin) -> None:
        kind = int(self.rng.choice([BOX, CYLINDER]))
        for sx in (-1, 1):
            for sz in (-1, 1):
                self._add(
                    kind, (sx * (w - thick), h / 2, sz * (d - thick)), (thick, h / 2, thick), material, yaw, origin
                )

    def _on_the_floor(self) -> None:
        """A rug, a bin, a bag or a box: small things that stand anywhere."""
        width, _, length = self.room.size
        origin, yaw = (
            (self.rng.uniform(0.3, width - 0.3), self.rng.uniform(0.3, length - 0.3)),
            self.rng.uniform(-math.pi, math.pi),
        )
        what = self.rng.choice(["rug", "bin", "bag", "clutter"])
        if what == "rug":
            self._add(
                BOX,
                (0, 0.004, 0),
                (self.rng.uniform(0.4, 1.3), 0.006, self.rng.uniform(0.3, 0.9)),
                self._material("print", "stripes", "noise", saturation=0.8),
                yaw,
                origin,
            )
        elif what == "bin":
            r, h = self.rng.uniform(0.1, 0.2), self.rng.uniform(0.13, 0.3)
            self._add(CYLINDER, (0, h, 0), (r, h, r), self._material("plain", saturation=0.8), yaw, origin)
        elif what == "bag":
            half = self.rng.uniform((0.12, 0.12, 0.08), (0.25, 0.25, 0.15))
            self._add(
                ELLIPSOID,
                (0, half[1] * 0.9, 0),
                half,
                self._material("plain", "noise", "print", saturation=0.9),
                yaw,
                origin,
            )
        else:
            self._clutter(0.3, 0.3, 0.0, int(self.rng.integers(1, 4)), yaw, origin)

    def _clutter(self, w: float, d: float, y: float, count: int, yaw: float, origin, z: float = 0.0) -> None:
        """Small things on a surface of half extents w, d, centred at z, at height y."""
        for _ in range(count):
            kind = int(self.rng.choice([BOX, CYLINDER, ELLIPSOID]))
            half = self.rng.uniform(0.03, 0.14, 3)
            if kind == CYLINDER:
                half[2] = half[0]
            dx, dz = self.rng.uniform(-0.8, 0.8, 2) * (w, d)
            self._add(kind, (dx, y + half[1], z + dz), half, self._material(saturation=0.9), yaw, origin)

    def _table(self, origin, yaw) -> None:
        w, d, h = self.rng.uniform(0.4, 0.9), self.rng.uniform(0.3, 0.5), self.rng.uniform(0.4, 0.78)
        material = self._material("wood", "wood", "plain")
        self._add(BOX, (0, h, 0), (w, 0.02, d), material, yaw, origin)
        self._legs(w, d, h, 0.03, material, yaw, origin)
        self._clutter(w, d, h + 0.02, int(self.rng.integers(0, 5)), yaw, origin)

    def _desk(self, origin, yaw) -> None:
        w, d, h = self.rng.uniform(0.5, 0.85), 0.35, 0.74
        material = self._material("wood", "plain")
        self._add(BOX, (0, h, 0), (w, 0.02, d), material, yaw, origin)
        for sx in (-1, 1):
            self._add(BOX, (sx * (w - 0.02), h / 2, 0), (0.02, h / 2, d - 0.03), material, yaw, origin)
        screen = self._material("print", "plain", low=0.02, high=0.3)
        self._add(BOX, (0, h + 0.3, -0.12), (0.28, 0.17, 0.015), screen, yaw, origin)
        self._add(BOX, (0, h + 0.08, -0.12), (0.03, 0.08, 0.03), screen, yaw, origin)
        self._clutter(w, d, h + 0.02, int(self.rng.integers(1, 5)), yaw, origin)

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
        w, d, h = (
            self.rng.uniform(0.25, 0.8),
            self.rng.uniform(0.2, 0.32),
            self.rng.choice([0.5, 0.9, 1.9]) * self.rng.uniform(0.9, 1.1),
        )
        material = self._material("wood", "plain", "noise")
        self._add(BOX, (0, h / 2, 0), (w, h / 2, d), material, yaw, origin)
        rows = max(1, int(h / 0.45))
        front = self._material("wood", "plain")
        for row in range(rows):
            y = (row + 0.5) * h / rows
            self._add(BOX, (0, y, d), (w - 0.03, h / rows / 2 - 0.015, 0.012), front, yaw, origin)
            self._add(BOX, (0, y, d + 0.02), (0.06, 0.01, 0.012), self._material("plain"), yaw, origin)
        self._clutter(w, d, h, int(self.rng.integers(0, 3)), yaw, origin)

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
            self._add(
                ELLIPSOID,
                (sx * w / 2, 0.56, z - length + 0.3),
                (w / 2.4, 0.1, 0.2),
                self._material("plain", low=0.5, high=0.95, saturation=0.1),
                yaw,
                origin,
            )

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
            self._add(
                ELLIPSOID, (x, h + self.rng.uniform(0.05, 0.6), z), self.rng.uniform(0.08, 0.22, 3), leaf, yaw, origin
            )

    def _boxes(self, origin, yaw) -> None:
        y = 0.0
        for _ in range(self.rng.integers(1, 4)):
            half = self.rng.uniform(0.12, 0.3, 3)
            self._add(
                BOX,
                (0, y + half[1], 0),
                half,
                self._material("plain", "print", "noise", "wood"),
                yaw + self.rng.uniform(-0.4, 0.4),
                origin,
            )
            y += 2 * half[1]

    def _counter(self, origin, yaw) -> None:
        """A kitchen: base units, worktop, wall units over it, sometimes a hood instead."""
        w, d = self.rng.uniform(0.6, 1.4), 0.3
        front = self._material("plain", "wood")
        self._add(BOX, (0, 0.43, 0), (w, 0.43, d - 0.02), front, yaw, origin)
        self._add(BOX, (0, 0.88, 0), (w + 0.01, 0.02, d), self._material("plain", "noise", "wood"), yaw, origin)
        units = int(2 * w / 0.5)
        handle = self._material("plain")
        for unit in range(units):
            x = (unit + 0.5) * 2 * w / units - w
            self._add(BOX, (x, 0.45, d - 0.015), (w / units - 0.012, 0.36, 0.01), front, yaw, origin)
            self._add(BOX, (x, 0.75, d), (0.05, 0.008, 0.012), handle, yaw, origin)
        if self.rng.random() < 0.6:
            self._add(BOX, (0, 1.75, -0.12), (w, 0.35, 0.17), front, yaw, origin)
        self._clutter(w, d * 0.7, 0.9, int(self.rng.integers(1, 6)), yaw, origin)

    def _fridge(self, origin, yaw) -> None:
        w, h = self.rng.uniform(0.28, 0.36), self.rng.uniform(0.7, 0.95)
        body, split = self._material("plain", low=0.3, high=0.95, saturation=0.1), self.rng.uniform(0.9, 1.3) * h
        self._add(BOX, (0, h, 0), (w, h, 0.3), body, yaw, origin)
        for low, high in ((0.05, split - 0.01), (split + 0.01, 2 * h - 0.02)):
            self._add(BOX, (0, (low + high) / 2, 0.31), (w - 0.005, (high - low) / 2, 0.02), body, yaw, origin)

    def _television(self, origin, yaw) -> None:
        w, h = self.rng.uniform(0.5, 0.9), self.rng.uniform(0.2, 0.3)
        self._add(BOX, (0, h, 0), (w, h, 0.2), self._material("wood", "plain"), yaw, origin)
        screen = self.rng.uniform(0.35, 0.65)
        self._add(
            BOX,
            (0, 2 * h + 0.07 + 0.56 * screen, -0.02),
            (screen, 0.56 * screen, 0.02),
            self._material("plain", "plain", "print", low=0.01, high=0.1),
            yaw,
            origin,
        )
        self._add(BOX, (0, 2 * h + 0.04, -0.02), (0.12, 0.05, 0.08), self._material("plain", high=0.2), yaw, origin)

    def _stool(self, origin, yaw) -> None:
        r, h, material = (
            self.rng.uniform(0.15, 0.2),
            self.rng.uniform(0.42, 0.75),
            self._material("wood", "plain", saturation=0.8),
        )
        self._add(CYLINDER, (0, h, 0), (r, 0.025, r), material, yaw, origin)
        self._legs(r * 0.8, r * 0.8, h, 0.016, material, yaw, origin)

    def _partition(self, origin, yaw) -> None:
        w, h = self.rng.uniform(0.5, 1.0), self.rng.uniform(0.55, 0.85)
        self._add(BOX, (0, h, 0), (w, h, 0.025), self._material("plain", "noise", "wood", saturation=0.5), yaw, origin)

    def _office_chair(self, origin, yaw) -> None:
        fabric, metal = (
            self._material("plain", "noise", low=0.02, high=0.5, saturation=0.7),
            self._material("plain", high=0.3),
        )
        seat = self.rng.uniform(0.44, 0.52)
        self._add(BOX, (0, seat, 0), (0.24, 0.04, 0.23), fabric, yaw, origin)
        self._add(BOX, (0, seat + 0.38, -0.24), (0.22, self.rng.uniform(0.22, 0.32), 0.03), fabric, yaw, origin)
        self._add(CYLINDER, (0, seat / 2, 0), (0.03, seat / 2, 0.03), metal, yaw, origin)
        for turn in range(3):  # six feet
            self._add(BOX, (0, 0.05, 0), (0.3, 0.03, 0.025), metal, yaw + turn * math.pi / 3, origin)

    def _person(self, origin, yaw) -> None:
        height = self.rng.uniform(1.5, 1.9)
        trousers, shirt = (
            self._material("plain", "noise", low=0.02, high=0.5),
            self._material("plain", "stripes", "print", saturation=0.9),
        )
        skin = Material("plain", np.array([0.75, 0.5, 0.38]) * self.rng.uniform(0.3, 1.1), np.ones(3) * 0.4)
        for sign in (-1, 1):
            self._add(CYLINDER, (sign * 0.1, 0.24 * height, 0), (0.08, 0.24 * height, 0.08), trousers, yaw, origin)
            self._add(CYLINDER, (sign * 0.25, 0.62 * height, 0.03), (0.05, 0.18 * height, 0.05), shirt, yaw, origin)
        self._add(ELLIPSOID, (0, 0.65 * height, 0), (0.22, 0.2 * height, 0.14), shirt, yaw, origin)
        self._add(ELLIPSOID, (0, 0.92 * height, 0), (0.085, 0.08 * height, 0.1), skin, yaw, origin)


def random_room(seed: int) -> Room:
    """The room of a seed."""
    return RoomBuilder(np.random.default_rng([seed, 0x500D])).build()
