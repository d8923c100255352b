"""What stands on the floor. Each piece is built at a place whose z points into the room; sizes are half extents w
(width), d (depth) and heights h, m."""

from __future__ import annotations

import math

import numpy as np

from .primitives import BOX, CYLINDER, Material, Place

SIDES = (-1, 1)


def table(here: Place) -> None:
    rng = here.rng
    w, d, h = rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.5), rng.uniform(0.4, 0.78)
    material = here.material("wood", "wood", "plain")
    here.box((0, h, 0), (w, 0.02, d), material)
    _legs(here, w, d, h, 0.03, material)
    here.clutter(w, d, h + 0.02, int(rng.integers(0, 5)))


def desk(here: Place) -> None:
    w, d, h = here.rng.uniform(0.5, 0.85), 0.35, 0.74
    material = here.material("wood", "plain")
    here.box((0, h, 0), (w, 0.02, d), material)
    for side in SIDES:
        here.box((side * (w - 0.02), h / 2, 0), (0.02, h / 2, d - 0.03), material)
    screen = here.material("print", "plain", low=0.02, high=0.3)
    here.box((0, h + 0.3, -0.12), (0.28, 0.17, 0.015), screen)
    here.box((0, h + 0.08, -0.12), (0.03, 0.08, 0.03), screen)
    here.clutter(w, d, h + 0.02, int(here.rng.integers(1, 5)))


def shelf(here: Place) -> None:
    rng = here.rng
    w, d, h = rng.uniform(0.3, 0.7), 0.16, rng.uniform(0.8, 2.1)
    boards = int(h / 0.38) + 1
    material = here.material("wood", "plain")
    for side in SIDES:
        here.box((side * w, h / 2, 0), (0.015, h / 2, d), material)
    here.box((0, h / 2, -d), (w, h / 2, 0.008), material)
    for level in range(boards):
        y = 0.04 + level * (h - 0.06) / (boards - 1)
        here.box((0, y, 0), (w, 0.012, d), material)
        if level < boards - 1 and rng.random() < 0.8:  # a row of books is one box with a striped print
            fill = rng.uniform(0.3, 0.95) * w
            books = here.material("stripes", "print", saturation=0.9)
            height = rng.uniform(0.09, 0.14)
            here.box((fill - w + 0.02, y + height, 0), (fill, height, d * 0.7), books)


def cabinet(here: Place) -> None:
    rng = here.rng
    w, d = rng.uniform(0.25, 0.8), rng.uniform(0.2, 0.32)
    h = rng.choice([0.5, 0.9, 1.9]) * rng.uniform(0.9, 1.1)
    here.box((0, h / 2, 0), (w, h / 2, d), here.material("wood", "plain", "noise"))
    rows = max(1, int(h / 0.45))
    front = here.material("wood", "plain")
    for row in range(rows):
        y = (row + 0.5) * h / rows
        here.box((0, y, d), (w - 0.03, h / rows / 2 - 0.015, 0.012), front)
        here.box((0, y, d + 0.02), (0.06, 0.01, 0.012), here.material("plain"))
    here.clutter(w, d, h, int(rng.integers(0, 3)))


def sofa(here: Place) -> None:
    rng = here.rng
    w, d = rng.uniform(0.45, 1.1), 0.42
    fabric = here.material("noise", "plain", "stripes", saturation=0.7)
    here.box((0, 0.2, 0), (w, 0.2, d), fabric)
    here.box((0, 0.42, -d + 0.1), (w, 0.42, 0.1), fabric)
    for side in SIDES:
        here.box((side * (w + 0.06), 0.3, 0), (0.08, 0.3, d), fabric)
        here.box((side * w / 2, 0.45, 0.05), (w / 2 - 0.02, 0.06, d - 0.1), fabric)
    for _ in range(rng.integers(0, 4)):
        pillow = here.material("print", "stripes", "plain", saturation=0.9)
        here.ellipsoid((rng.uniform(-0.8, 0.8) * w, 0.65, -0.2), (0.2, 0.18, 0.09), pillow)


def bed(here: Place) -> None:
    w, length = here.rng.uniform(0.45, 0.9), 1.0
    sheet = here.material("plain", "stripes", "print", "noise", low=0.2, high=0.9)
    wood = here.material("wood", "plain")
    z = length - 0.3
    here.box((0, 0.15, z), (w, 0.15, length), wood)
    here.box((0, 0.4, z), (w - 0.02, 0.12, length - 0.02), sheet)
    here.box((0, 0.5, z - length), (w, 0.5, 0.03), wood)
    for side in SIDES:
        pillow = here.material("plain", low=0.5, high=0.95, saturation=0.1)
        here.ellipsoid((side * w / 2, 0.56, z - length + 0.3), (w / 2.4, 0.1, 0.2), pillow)


def chair(here: Place) -> None:
    w, h = here.rng.uniform(0.19, 0.24), here.rng.uniform(0.42, 0.48)
    material = here.material("wood", "plain", "noise", saturation=0.7)
    here.box((0, h, 0), (w, 0.025, w), material)
    here.box((0, h + 0.3, -w + 0.02), (w, here.rng.uniform(0.12, 0.28), 0.015), material)
    _legs(here, w, w, h, 0.018, material)


def office_chair(here: Place) -> None:
    rng = here.rng
    fabric = here.material("plain", "noise", low=0.02, high=0.5, saturation=0.7)
    metal = here.material("plain", high=0.3)
    seat = rng.uniform(0.44, 0.52)
    here.box((0, seat, 0), (0.24, 0.04, 0.23), fabric)
    here.box((0, seat + 0.38, -0.24), (0.22, rng.uniform(0.22, 0.32), 0.03), fabric)
    here.cylinder((0, seat / 2, 0), (0.03, seat / 2, 0.03), metal)
    for turn in range(3):  # six feet
        here.box((0, 0.05, 0), (0.3, 0.03, 0.025), metal, turn=turn * math.pi / 3)


def stool(here: Place) -> None:
    r, h = here.rng.uniform(0.15, 0.2), here.rng.uniform(0.42, 0.75)
    material = here.material("wood", "plain", saturation=0.8)
    here.cylinder((0, h, 0), (r, 0.025, r), material)
    _legs(here, r * 0.8, r * 0.8, h, 0.016, material)


def lamp(here: Place) -> None:
    h = here.rng.uniform(1.2, 1.7)
    metal = here.material("plain", low=0.02, high=0.5)
    here.cylinder((0, 0.015, 0), (0.14, 0.015, 0.14), metal)
    here.cylinder((0, h / 2, 0), (0.013, h / 2, 0.013), metal)
    shade = Material("plain", np.array([0.95, 0.85, 0.65]), np.ones(3), emission=here.rng.uniform(0.0, 0.8))
    here.cylinder((0, h, 0), (0.17, 0.13, 0.17), shade)


def plant(here: Place) -> None:
    rng = here.rng
    r, h = rng.uniform(0.1, 0.2), rng.uniform(0.2, 0.4)
    here.cylinder((0, h / 2, 0), (r, h / 2, r), here.material("plain", "noise", "tile"))
    green = np.array([0.08, 0.25, 0.06]) * rng.uniform(0.6, 1.6)
    leaf = Material("noise", green, green * 0.4, 0.05)
    for _ in range(rng.integers(3, 8)):
        x, z = rng.normal(0, r * 0.8, 2)
        here.ellipsoid((x, h + rng.uniform(0.05, 0.6), z), rng.uniform(0.08, 0.22, 3), leaf)


def boxes(here: Place) -> None:
    """Up to three, piled up."""
    y = 0.0
    for _ in range(here.rng.integers(1, 4)):
        half = here.rng.uniform(0.12, 0.3, 3)
        material = here.material("plain", "print", "noise", "wood")
        here.box((0, y + half[1], 0), half, material, turn=here.rng.uniform(-0.4, 0.4))
        y += 2 * half[1]


def counter(here: Place) -> None:
    """A kitchen: base units, worktop, wall units over it, sometimes a hood instead."""
    rng = here.rng
    w, d = rng.uniform(0.6, 1.4), 0.3
    front = here.material("plain", "wood")
    here.box((0, 0.43, 0), (w, 0.43, d - 0.02), front)
    here.box((0, 0.88, 0), (w + 0.01, 0.02, d), here.material("plain", "noise", "wood"))
    units = int(2 * w / 0.5)
    handle = here.material("plain")
    for unit in range(units):
        x = (unit + 0.5) * 2 * w / units - w
        here.box((x, 0.45, d - 0.015), (w / units - 0.012, 0.36, 0.01), front)
        here.box((x, 0.75, d), (0.05, 0.008, 0.012), handle)
    if rng.random() < 0.6:
        here.box((0, 1.75, -0.12), (w, 0.35, 0.17), front)
    here.clutter(w, d * 0.7, 0.9, int(rng.integers(1, 6)))


def fridge(here: Place) -> None:
    rng = here.rng
    w, h = rng.uniform(0.28, 0.36), rng.uniform(0.7, 0.95)
    body, split = here.material("plain", low=0.3, high=0.95, saturation=0.1), rng.uniform(0.9, 1.3) * h
    here.box((0, h, 0), (w, h, 0.3), body)
    for low, high in ((0.05, split - 0.01), (split + 0.01, 2 * h - 0.02)):
        here.box((0, (low + high) / 2, 0.31), (w - 0.005, (high - low) / 2, 0.02), body)


def television(here: Place) -> None:
    rng = here.rng
    w, h = rng.uniform(0.5, 0.9), rng.uniform(0.2, 0.3)
    here.box((0, h, 0), (w, h, 0.2), here.material("wood", "plain"))
    screen = rng.uniform(0.35, 0.65)
    dark = here.material("plain", "plain", "print", low=0.01, high=0.1)
    here.box((0, 2 * h + 0.07 + 0.56 * screen, -0.02), (screen, 0.56 * screen, 0.02), dark)
    here.box((0, 2 * h + 0.04, -0.02), (0.12, 0.05, 0.08), here.material("plain", high=0.2))


def partition(here: Place) -> None:
    w, h = here.rng.uniform(0.5, 1.0), here.rng.uniform(0.55, 0.85)
    here.box((0, h, 0), (w, h, 0.025), here.material("plain", "noise", "wood", saturation=0.5))


def person(here: Place) -> None:
    height = here.rng.uniform(1.5, 1.9)
    trousers = here.material("plain", "noise", low=0.02, high=0.5)
    shirt = here.material("plain", "stripes", "print", saturation=0.9)
    skin = Material("plain", np.array([0.75, 0.5, 0.38]) * here.rng.uniform(0.3, 1.1), np.ones(3) * 0.4)
    for side in SIDES:
        here.cylinder((side * 0.1, 0.24 * height, 0), (0.08, 0.24 * height, 0.08), trousers)
        here.cylinder((side * 0.25, 0.62 * height, 0.03), (0.05, 0.18 * height, 0.05), shirt)
    here.ellipsoid((0, 0.65 * height, 0), (0.22, 0.2 * height, 0.14), shirt)
    here.ellipsoid((0, 0.92 * height, 0), (0.085, 0.08 * height, 0.1), skin)


def small_thing(here: Place) -> None:
    """A rug, a bin, a bag, or things that lie about: on the floor, and others may stand on them."""
    rng = here.rng
    what = rng.choice(["rug", "bin", "bag", "clutter"])
    if what == "rug":
        w, d = rng.uniform(0.4, 1.3), rng.uniform(0.3, 0.9)
        here.box((0, 0.004, 0), (w, 0.006, d), here.material("print", "stripes", "noise", saturation=0.8))
    elif what == "bin":
        r, h = rng.uniform(0.1, 0.2), rng.uniform(0.13, 0.3)
        here.cylinder((0, h, 0), (r, h, r), here.material("plain", saturation=0.8))
    elif what == "bag":
        half = rng.uniform((0.12, 0.12, 0.08), (0.25, 0.25, 0.15))
        here.ellipsoid((0, half[1] * 0.9, 0), half, here.material("plain", "noise", "print", saturation=0.9))
    else:
        here.clutter(0.3, 0.3, 0.0, int(rng.integers(1, 4)))


def _legs(here: Place, w: float, d: float, h: float, thick: float, material: Material) -> None:
    kind = int(here.rng.choice([BOX, CYLINDER]))
    for x in SIDES:
        for z in SIDES:
            here.add(kind, (x * (w - thick), h / 2, z * (d - thick)), (thick, h / 2, thick), material)


# How often each stands with its back to a wall, and how often free in the room.
AT_WALLS = (
    *(table, desk, desk, shelf, shelf, cabinet, cabinet, sofa, bed, chair, lamp, plant, boxes, counter, fridge),
    *(television, person),
)
IN_THE_MIDDLE = (
    *(table, table, desk, sofa, bed, chair, chair, office_chair, stool, lamp, plant, boxes, partition, person),
)
