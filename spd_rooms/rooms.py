"""Random furnished rooms: what stands where. `synthetic.py` draws them."""

from __future__ import annotations

import math

import numpy as np

from . import shell
from .furniture import AT_WALLS, IN_THE_MIDDLE, small_thing
from .primitives import Place, Room


def random_room(seed: int) -> Room:
    """The room of a seed."""
    rng = np.random.default_rng([seed, 0x500D])
    place = Place(Room(size=np.array([rng.uniform(2.8, 7.0), rng.uniform(2.3, 3.1), rng.uniform(3.2, 8.5)])), rng)
    shell.build(place)
    for side in rng.permutation(["wall"] * rng.integers(3, 9) + ["middle"] * rng.integers(1, 5)):
        _furnish(place, side == "wall")
    width, _, length = place.room.size
    for _ in range(rng.integers(0, 4)):
        origin = rng.uniform(0.3, width - 0.3), rng.uniform(0.3, length - 0.3)
        small_thing(place.at(origin, rng.uniform(-math.pi, math.pi)))
    return place.room


def _furnish(place: Place, is_at_wall: bool) -> None:
    """Put one piece of furniture where there is floor for it: its back to a wall, or turned freely in the middle."""
    rng, (width, _, length) = place.rng, place.room.size
    pieces = AT_WALLS if is_at_wall else IN_THE_MIDDLE
    piece = pieces[rng.integers(len(pieces))]
    for _ in range(8):
        radius = rng.uniform(0.35, 0.9)
        if is_at_wall:
            here = _at_a_wall(place)
        else:
            x, z = rng.uniform(0.8, width - 0.8), rng.uniform(0.8, length - 0.8)
            here = place.at((x, z), rng.uniform(-math.pi, math.pi))
        x, z = here.origin
        if all(math.hypot(x - fx, z - fz) > radius + fr for fx, fz, fr in place.room.footprints):
            place.room.footprints.append((x, z, radius))
            piece(here)
            return


def _at_a_wall(place: Place) -> Place:
    rng, (width, _, length) = place.rng, place.room.size
    side, gap = int(rng.integers(4)), rng.uniform(0.3, 0.5)
    # One draw for each wall: which one is taken does not change what is drawn after it.
    along = [rng.uniform(0.5, extent - 0.5) for extent in (length, length, width, width)][side]
    here = shell.at_wall(place, side, along, gap)
    return place.at(here.origin, here.yaw + rng.normal(0, 0.03))
