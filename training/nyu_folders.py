"""The 795 labelled training images of NYU Depth V2 as two folders of frames, which the recipes here call data/nyu/train
and data/nyu/val: `val` has 114 images of whole rooms that `train` does not show.

python training/nyu_folders.py data/nyu    # where nyu_depth_v2_labeled.mat and splits.mat are
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from spd_core import files
from spd_core.data.images import write_picture
from spd_core.data.nyu import CAMERA, open_labeled
from spd_core.errors import SPDError

# Numbers of images, from 0: rooms that were chosen once, to choose recipes by.
VAL = {
    *(2, 3, 43, 44, 98, 99, 100, 216, *range(222, 249), *range(417, 426), 466, 467, *range(498, 502), *range(543, 548)),
    *(*range(607, 611), *range(627, 632), 660, 661, 690, 691, *range(894, 899), 962, 963, *range(995, 1000), 1004),
    *(1119, 1120, 1121, *range(1136, 1140), 1184, 1185, 1230, 1231, 1308, 1309, 1310, *range(1315, 1323), 1369, 1370),
    *(*range(1374, 1377), *range(1378, 1383), 1436),
}


def main(folder: Path) -> None:
    folder = folder.parent if folder.suffix == ".mat" else folder
    if (dataset := open_labeled(folder, "train")) is None:
        sys.exit(f"{folder} has no nyu_depth_v2_labeled.mat")
    numbers = f"{CAMERA.fx} {CAMERA.fy} {CAMERA.cx} {CAMERA.cy}\n"
    for split in ("train", "val"):
        files.write_bytes(files.make_folder(folder / split) / "camera.txt", numbers.encode())
    for i in track(range(len(dataset)), f"{folder}/train and val"):
        sample, number = dataset[i], dataset.indices[i]
        stem = folder / ("val" if number in VAL else "train") / f"{number:04d}"
        depth_mm = (1000 * sample.truth_m).round().astype(np.uint16)
        write_picture(stem.with_suffix(".rgb.png"), sample.rgb)
        files.write_bytes(stem.with_suffix(".depth.png"), cv2.imencode(".png", depth_mm)[1].tobytes())


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "data/nyu"))
    except SPDError as error:
        sys.exit(str(error))
