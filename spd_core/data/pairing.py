"""Which depth image, and which calibration, belongs to which colour image, by their stamps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

TOLERANCE_S = 0.02


class Series(NamedTuple):
    """The messages of a topic, in order: header stamps (of the time of recording where the header has none) and times
    of recording, ns int64 [N]."""

    stamps: np.ndarray
    logged: np.ndarray


@dataclass(frozen=True)
class Pairing:
    """Which depth image belongs to which colour image: the nearest in stamp, each once, within `tolerance_s`.

    `partner` by the images' place in their topic. `nearest_s`: the smallest distance, with its sign, of any two;
    `offset_s`: the median distance, by their own stamps, of those that were recorded nearest in time.
    """

    images: int
    depths: int
    tolerance_s: float
    partner: dict[int, int]
    nearest_s: float
    offset_s: float

    def __str__(self) -> str:
        text = f"{len(self.partner)} of {self.images} images have depth within the tolerance of {self.tolerance_s:g} s"
        if self.partner or not self.images or not self.depths:
            return text
        return (
            f"{text}; of {self.depths} depth images the nearest is {abs(self.nearest_s):.3g} s"
            f" {'later' if self.nearest_s > 0 else 'earlier'}. Of those recorded at the same time, depth is stamped"
            f" {self.offset_s:+.3g} s from the image: --tolerance_s takes more, --depth_offset_s"
            f" {0 - round(self.offset_s, 3):.13g} corrects the clock"
        )


def pair(images: Series, depths: Series, tolerance_s: float, depth_offset_s: float = 0.0) -> Pairing:
    """The depth image of each image; `depth_offset_s` is added to the stamps of depth."""
    counts = len(images.stamps), len(depths.stamps)
    if not all(counts):
        return Pairing(*counts, tolerance_s, {}, float("nan"), float("nan"))
    stamps = depths.stamps + round(depth_offset_s * 1e9)
    chosen = _nearest(images.stamps, stamps)
    _break_ties(chosen, images.logged, stamps, depths.logged)
    distance = stamps[chosen] - images.stamps
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for i in np.argsort(np.abs(distance), kind="stable").tolist():
        if abs(distance[i]) <= tolerance_s * 1e9 and int(chosen[i]) not in taken:
            taken.add(int(chosen[i]))
            partner[i] = int(chosen[i])
    offsets = depths.stamps[_nearest(images.logged, depths.logged)] - images.stamps
    nearest_ns = distance[np.abs(distance).argmin()]
    return Pairing(*counts, tolerance_s, partner, float(nearest_ns) / 1e9, float(np.median(offsets)) / 1e9)


def same_stamp(series: Series, images: Series) -> dict[int, int]:
    """The image of its own stamp of each message of a series, by their places, where there is one; of several, that
    which was recorded nearest in time."""
    if not len(series.stamps) or not len(images.stamps):
        return {}
    chosen = _nearest(series.stamps, images.stamps)
    _break_ties(chosen, series.logged, images.stamps, images.logged)
    return {int(place): int(chosen[place]) for place in np.flatnonzero(images.stamps[chosen] == series.stamps)}


def _break_ties(chosen: np.ndarray, logged: np.ndarray, stamps: np.ndarray, others_logged: np.ndarray) -> None:
    """Of messages of one stamp (a recording that was played in a loop repeats them), change `chosen` [N], the places in
    `stamps` [M], to those that were recorded nearest in time."""
    order = np.argsort(stamps, kind="stable")
    first, last = (np.searchsorted(stamps[order], stamps[chosen], side=side) for side in ("left", "right"))
    for i in np.flatnonzero(last - first > 1):
        same = order[first[i] : last[i]]
        chosen[i] = same[np.abs(others_logged[same] - logged[i]).argmin()]


def _nearest(times: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The place in `others` [M >= 1] of what is nearest to each of `times` [N]."""
    order = np.argsort(others, kind="stable")
    after = np.searchsorted(others[order], times)
    either = np.stack([order[(after - 1).clip(0)], order[after.clip(max=len(order) - 1)]], axis=1)  # [N, 2]
    return np.take_along_axis(either, np.abs(others[either] - times[:, None]).argmin(axis=1)[:, None], axis=1)[:, 0]
