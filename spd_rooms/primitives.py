"""What a room is made of: primitives and their materials, and the frame that a thing is built in.

World frame: x and z span the floor, y points up, metres, the floor is y = 0 and the room's walls are x in [0, width], z
in [0, length].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .textures import PATTERNS

BOX, CYLINDER, ELLIPSOID = 0, 1, 2
Vector = Sequence[float] | np.ndarray


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
    """Primitives of one room, in lists that run in parallel, and what is not a primitive.

    Attributes:
        size: width (x), height (y), length (z), m.
        kinds: BOX, CYLINDER or ELLIPSOID.
        centres, halves: centre and half extents, [3] m each.
        yaws: rad.
        surfaces: materials of floor, ceiling, then the walls x=0, x=width, z=0, z=length.
        lights: position [3] m and linear RGB power [3] of each.
        footprints: x, z, radius, m, of what stands on the floor.
    """

    size: np.ndarray
    kinds: list[int] = field(default_factory=list)
    centres: list[np.ndarray] = field(default_factory=list)
    halves: list[np.ndarray] = field(default_factory=list)
    yaws: list[float] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    surfaces: list[Material] = field(default_factory=list)
    lights: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    footprints: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """A frame in a room, in which a thing is built: it stands on the floor at `origin` (x, z) m, y up, turned by `yaw`
    rad about the vertical.

    Everything random is drawn from `rng`, in a fixed order: the same seed is the same room.
    """

    room: Room
    rng: np.random.Generator
    origin: tuple[float, float] = (0.0, 0.0)
    yaw: float = 0.0

    def at(self, origin: tuple[float, float], yaw: float) -> Place:
        return replace(self, origin=origin, yaw=yaw)

    def add(self, kind: int, centre: Vector, half: Vector, material: Material, turn: float = 0.0) -> None:
        """A primitive of half extents `half` [3] m at `centre` [3] m, turned by `turn` rad more about the origin."""
        yaw = self.yaw + turn
        c, s = math.cos(yaw), math.sin(yaw)
        x, y, z = centre
        self.room.kinds.append(int(kind))
        self.room.centres.append(np.array([self.origin[0] + c * x + s * z, y, self.origin[1] - s * x + c * z]))
        self.room.halves.append(np.maximum(np.asarray(half, dtype=float), 0.004))
        self.room.yaws.append(yaw)
        self.room.materials.append(material)

    def box(self, centre: Vector, half: Vector, material: Material, turn: float = 0.0) -> None:
        self.add(BOX, centre, half, material, turn)

    def cylinder(self, centre: Vector, half: Vector, material: Material) -> None:
        self.add(CYLINDER, centre, half, material)

    def ellipsoid(self, centre: Vector, half: Vector, material: Material) -> None:
        self.add(ELLIPSOID, centre, half, material)

    def clutter(self, w: float, d: float, y: float, count: int, z: float = 0.0) -> None:
        """Small things on a surface of half extents w, d, centred at z, at height y."""
        for _ in range(count):
            kind = int(self.rng.choice([BOX, CYLINDER, ELLIPSOID]))
            half = self.rng.uniform(0.03, 0.14, 3)
            if kind == CYLINDER:
                half[2] = half[0]
            dx, dz = self.rng.uniform(-0.8, 0.8, 2) * (w, d)
            self.add(kind, (dx, y + half[1], z + dz), half, self.material(saturation=0.9))

    def material(self, *textures: str, low: float = 0.05, high: float = 0.8, saturation: float = 0.35) -> Material:
        """A random one of these textures (without any: of all), of a grey between `low` and `high`, tinted by up to
        `saturation`."""
        rng = self.rng
        texture = str(rng.choice(textures or tuple(PATTERNS)))
        if texture == "wood":
            base = np.array([0.42, 0.24, 0.12]) * rng.uniform(0.3, 1.6) * (1 + 0.15 * rng.uniform(-1, 1, 3))
            light, dark = np.clip(base, 0.02, 0.9), np.clip(base * rng.uniform(0.45, 0.8), 0.01, 0.9)
            return Material("wood", light, dark, rng.uniform(0.06, 0.25), rng.uniform(0, 0.3))
        a = self._colour(low, high, saturation)
        if texture == "print":
            b = self._colour(low, high, 0.9)
        else:
            b = np.clip(a * rng.uniform(0.55, 1.25) + rng.uniform(-0.04, 0.04, 3), 0.01, 0.95)
        periods_m = {"brick": 0.22, "tile": rng.uniform(0.15, 0.6), "print": rng.uniform(0.1, 0.5)}
        return Material(texture, a, b, periods_m.get(texture, rng.uniform(0.05, 0.4)), rng.uniform(0, 0.25))

    def _colour(self, low: float, high: float, saturation: float) -> np.ndarray:
        grey = self.rng.uniform(low, high)
        return np.clip(grey * (1 + saturation * self.rng.uniform(-1, 1, 3)), 0.01, 0.95)
