"""How much answers lose on pictures that are rolled, blurred, cut or lit otherwise: AbsRel (s*) of `spd eval` on a data
set as it is and changed. The geometry of a change is exact, as in training; a rolled picture is the largest part of the
same shape that has no corner missing, and beside it stands that part without the roll.

python bench/robustness.py data/nyu/val --border_px 14 --weights embedded other.safetensors
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from spd_core.camera import Camera
from spd_core.data.augment import GREY, rotation, seen_by
from spd_core.data.layouts import open_dataset
from spd_core.data.samples import DataError, Dataset, InMemory, Sample, Subset, limited
from spd_core.evaluation import Protocol, evaluate
from spd_core.predictor import Predictor

Change = Callable[[Sample], Sample]


def part_of(sample: Sample, cut_deg: float = 0.0, roll_deg: float = 0.0, zoom: float = 1.0) -> Sample:
    """The middle of a picture, the `zoom`th of what a roll by `cut_deg` leaves whole, rolled by `roll_deg`."""
    if sample.camera is None:
        raise DataError(f"{sample.name} has no intrinsics")
    (height, width), angle = sample.truth_m.shape, math.radians(cut_deg)
    long, short = max(height, width), min(height, width)
    share = 1 / (math.cos(angle) + long / short * math.sin(angle)) / zoom
    size = int(height * share), int(width * share)
    camera, turn = sample.camera.squared(), rotation(0.0, 0.0, math.radians(roll_deg))
    middle = sample.camera.unproject(np.array([(width - 1) / 2, (height - 1) / 2]), np.array(1.0))
    at = (turn.T @ middle)[:2] * camera.focal_px
    view = Camera(camera.focal_px, camera.focal_px, (size[1] - 1) / 2 - at[0], (size[0] - 1) / 2 - at[1])
    rgb, depth_m = seen_by(view, turn, size, sample.rgb, sample.truth_m, sample.camera)
    return replace(sample, rgb=rgb, depth_m=depth_m, camera=view)


def picture(change: Callable[[np.ndarray], np.ndarray], sample: Sample) -> Sample:
    return replace(sample, rgb=np.clip(change(sample.rgb), 0, 255).astype(np.uint8))


CHANGES: dict[str, Change] = {
    "as it is": lambda sample: sample,
    "cut as for a roll of 15°": partial(part_of, cut_deg=15),
    "rolled by 15°": partial(part_of, cut_deg=15, roll_deg=15),
    "cut as for 30°": partial(part_of, cut_deg=30),
    "rolled by 30°": partial(part_of, cut_deg=30, roll_deg=30),
    "rolled by -45°": partial(part_of, cut_deg=45, roll_deg=-45),
    "the middle half": partial(part_of, zoom=2),
    "blurred, σ 4 px": partial(picture, lambda rgb: cv2.GaussianBlur(rgb, (0, 0), 4)),
    "moved by 31 px": partial(picture, lambda rgb: cv2.blur(rgb, (31, 1))),
    "a third of the light": partial(picture, lambda rgb: rgb * 0.35),
    "overexposed": partial(picture, lambda rgb: rgb * 1.6),
    "grey": partial(picture, lambda rgb: np.repeat((rgb @ GREY)[..., None], 3, axis=-1)),
}


class Changed(Subset):
    """The samples of a data set without a border of `border_px`, changed."""

    def __init__(self, dataset: Dataset, border_px: int, change: Change):
        super().__init__(dataset, range(len(dataset)))
        self.border_px, self.change = border_px, change
        self.evaluation_crop = "none"  # of pictures of other sizes

    def __getitem__(self, index: int) -> Sample:
        sample, border = super().__getitem__(index), self.border_px
        height, width = sample.truth_m.shape
        inside = slice(border, height - border), slice(border, width - border)
        camera = sample.camera and sample.camera.cropped(border, border)
        return self.change(replace(sample, rgb=sample.rgb[inside], depth_m=sample.truth_m[inside], camera=camera))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", nargs="+", default=["embedded"])
    parser.add_argument("--border_px", type=int, default=0)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    dataset = InMemory(limited(open_dataset(args.data, "test"), args.limit))
    table = Table("", *args.weights)
    predictors = [Predictor.load(weights) for weights in args.weights]
    for name, change in CHANGES.items():
        changed = Changed(dataset, args.border_px, change)
        means = [evaluate(predictor, changed, Protocol())["mean"] for predictor in predictors]
        table.add_row(name, *(f"{mean['abs_rel']:.3f} ({mean['s_star']:.2f})" for mean in means))
    Console().print(table)


if __name__ == "__main__":
    main()
