"""What a room is before anything stands in it: floor, ceiling and walls, what hangs on them, and the lamps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .primitives import CYLINDER, ELLIPSOID, Material, Place


def build(place: Place) -> None:
    """The shell of a room, seen from its corner."""
    _surfaces(place)
    for _ in range(place.rng.integers(3, 10)):
        _hang(place)
    _lamps(place)


def _surfaces(place: Place) -> None:
    """Materials of the room itself, and what makes it another shape than a box."""
    rng = place.rng
    width, height, length = place.room.size
    plain = ("plain",) * 4
    wall = place.material(*plain, "noise", "stripes", "brick", low=0.25, high=0.85, saturation=0.2)
    accent = place.material(low=0.1, high=0.8)
    walls = [accent if rng.random() < 0.15 else wall for _ in range(4)]
    floor = replace(place.material("wood", "wood", "tile", "noise", low=0.08, high=0.6), gloss=rng.uniform(0, 0.6))
    ceiling = place.material("plain", "plain", "tile", low=0.6, high=0.9, saturation=0.05)
    place.room.surfaces = [floor, ceiling, *walls]
    skirting = place.material("plain", "wood", low=0.1, high=0.9)
    for x in (0, width):
        place.box((x, 0.05, length / 2), (0.015, 0.05, length / 2), skirting)
    for z in (0, length):
        place.box((width / 2, 0.05, z), (width / 2, 0.05, 0.015), skirting)
    for _ in range(rng.integers(0, 3)):  # pillars and chimney breasts make rooms that are not boxes
        x, z = rng.choice([0.0, width]), rng.uniform(0, length)
        place.box((x, height / 2, z), (rng.uniform(0.1, 0.7), height / 2, rng.uniform(0.15, 1.0)), walls[0])
    if rng.random() < 0.3:  # a block in a corner: the room has the shape of an L
        half_x, half_z = rng.uniform(0.15, 0.45, 2) * (width, length)
        x, z = rng.choice([0.0, 1.0], 2) * (width, length)
        place.box((x, height / 2, z), (half_x, height / 2, half_z), walls[0])
    if rng.random() < 0.15:
        beam = place.material("wood", "plain")
        for z in np.arange(0.5, length, rng.uniform(0.7, 1.5)):
            place.box((width / 2, height - 0.06, z), (width / 2, 0.06, 0.06), beam)


def at_wall(place: Place, side: int, along: float, gap: float = 0.0) -> Place:
    """A place `gap` from a wall (x=0, x=width, z=0, z=length) that looks into the room: x along the wall, z away from
    it."""
    width, _, length = place.room.size
    origin, yaw = [
        ((gap, along), math.pi / 2),
        ((width - gap, along), -math.pi / 2),
        ((along, gap), 0.0),
        ((along, length - gap), math.pi),
    ][side]
    return place.at(origin, yaw)


def _hang(place: Place) -> None:
    """A door, a window with curtains or a radiator, a picture, a board or a shelf: boxes on a wall."""
    rng = place.rng
    what = str(rng.choice(["door", "window", "picture", "picture", "board", "shelf"]))
    side = int(rng.integers(4))
    span = place.room.size[2 if side < 2 else 0]
    w, h, y = {  # width, height, and height of the middle above the floor, m
        "door": (0.9, 2.0, 1.0),
        "window": (rng.uniform(0.7, 1.8), rng.uniform(0.8, 1.3), 1.5),
        "picture": (*rng.uniform(0.25, 1.1, 2), rng.uniform(1.3, 1.8)),
        "board": (rng.uniform(1.0, 2.0), rng.uniform(0.7, 1.2), 1.5),
        "shelf": (rng.uniform(0.5, 1.2), 0.03, rng.uniform(1.2, 1.8)),
    }[what]
    here = at_wall(place, side, rng.uniform(w / 2 + 0.1, max(span - w / 2 - 0.1, w / 2 + 0.2)))
    frame = place.material("plain", "wood", low=0.05, high=0.9)
    if what == "shelf":
        here.box((0, y, 0.12), (w / 2, 0.015, 0.12), frame)
        here.clutter(w / 2, 0.1, y + 0.015, int(rng.integers(1, 5)), z=0.12)
        return
    inside = place.material("print") if what == "picture" else place.material("wood", "plain", low=0.2, high=0.9)
    if what == "board":
        inside = place.material("plain", low=0.05, high=0.95, saturation=0.1)
    if what == "window":
        inside = _daylight(here, w, h, y)
    here.box((0, y, 0), (w / 2 + 0.05, h / 2 + 0.05, 0.03), frame)
    here.box((0, y, 0), (w / 2, h / 2, 0.035), inside)


def _daylight(here: Place, w: float, h: float, y: float) -> Material:
    """What is seen through a window, with curtains beside or a radiator below it."""
    rng = here.rng
    sky = np.array([0.75, 0.85, 1.0]) * rng.uniform(0.5, 1.0)
    glass = Material("noise", sky, sky * 0.8, 0.8, emission=rng.uniform(0.4, 1.2))
    extra = rng.random()
    if extra < 0.4:
        curtain = here.material("stripes", "plain", "noise", saturation=0.8)
        for sign in (-1, 1):
            half = (rng.uniform(0.1, 0.3), h / 2 + 0.4, 0.05)
            here.box((sign * (w / 2 + 0.15), y - 0.2, 0.06), half, curtain)
    elif extra < 0.7:
        radiator = here.material("stripes", low=0.4, high=0.9, saturation=0.1)
        here.box((0, 0.4, 0.07), (w / 2, 0.28, 0.05), radiator)
    return glass


def _lamps(place: Place) -> None:
    """Lamps below the ceiling, flat panels in it or pendants."""
    rng = place.rng
    width, height, length = place.room.size
    shine = Material("plain", np.array([1.0, 0.97, 0.9]), np.ones(3), emission=1.5)
    style = str(rng.choice(["round", "round", "panel", "pendant"]))
    for _ in range(rng.integers(1, 4)):
        drop = rng.uniform(0.5, 0.9) if style == "pendant" else rng.uniform(0.12, 0.5)
        x, y, z = rng.uniform(0.15, 0.85) * width, height - drop, rng.uniform(0.15, 0.85) * length
        warmth = rng.uniform(-0.25, 0.35)
        power = np.array([1 + warmth, 1.0, 1 - warmth]) * rng.uniform(0.6, 1.6)
        place.room.lights.append((np.array([x, y, z]), power))
        if style == "panel":
            place.box((x, height, z), (0.6, 0.03, 0.3), shine, turn=rng.choice([0.0, math.pi / 2]))
            continue
        if style == "pendant":
            place.cylinder((x, height - drop / 2, z), (0.006, drop / 2, 0.006), place.material("plain", high=0.3))
        shape, above = rng.choice([ELLIPSOID, CYLINDER]), 0.2 if style == "pendant" else 0.08
        place.add(shape, (x, y + above, z), (rng.uniform(0.1, 0.25), 0.06, rng.uniform(0.1, 0.25)), shine)
