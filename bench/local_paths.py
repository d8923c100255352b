"""What the local decoders cost on the encoder of `lite` at 240×320: the right half of the table in docs/models.md.
Its left half is `training/local_paths.yaml`.

python bench/local_paths.py
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import DEVICE, interleaved, machine, prepare, write

from spd_core.model import PRESETS, SPD

VARIANTS = [("lite", 96), *((decoder, features) for decoder in ("refinenet", "v15") for features in (32, 48, 64))]
POINTS = 128


def main():
    prepare()
    runs, macs = {}, {}
    for decoder, features in VARIANTS:
        config = replace(PRESETS["lite"], decoder=decoder, features=features)
        model = SPD(config).eval().to(DEVICE)
        height, width = config.input_size
        points = np.random.default_rng(0).integers(0, (width, height), (1, POINTS, 2)).astype(float)
        with torch.inference_mode():
            frame = model.encode(torch.randn(1, 3, height, width, device=DEVICE))
        work = model.sparse_decoder.multiply_accumulates
        macs[decoder, features] = work(frame.grids), work(model.plan_points(points, frame.grids, frame.size))
        runs[decoder, features, "dense"] = partial(model.decode_dense, frame)
        runs[decoder, features, "points"] = partial(model.decode_points, frame, points)
    with torch.inference_mode():
        ms = interleaved(runs, 30, "decoders", warm=True)
    table = Table("decoder", "D", "dense, M MACs", f"{POINTS} points", "dense, ms", f"{POINTS} points", title=machine())
    for decoder, features in VARIANTS:
        work_and_time = [f"{count / 1e6:,.0f}" for count in macs[decoder, features]]
        work_and_time += [f"{ms[decoder, features, way]:.1f}" for way in ("dense", "points")]
        table.add_row(decoder, str(features), *work_and_time)
    Console().print(table)
    write("local_paths", {"machine": machine(), "ms": {" ".join(map(str, key)): value for key, value in ms.items()}})


if __name__ == "__main__":
    main()
