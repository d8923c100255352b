"""Decoder time against the number of points: sparse with a fresh plan, sparse with a reused plan, and dense, in one run.

The variants take turns, so that a noisy machine is noisy for all; the figures are medians and their ratios.

    make bench            # or: python bench/decoder.py --preset v15_refinenet --size 480 640
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from spd_core import SPD

COUNTS = (1, 16, 128, 1024, 4096, 16384)


def queries(size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Points [1, K, 2] px: uniform random pixels, uniform sub-pixel points, one cluster of 64x64 px, and every pixel."""
    height, width = size
    rng = np.random.default_rng(0)
    cases = {f"{k} pixels": rng.integers(0, [width, height], (1, k, 2)).astype(float) for k in COUNTS}
    cases["128 sub-pixel points"] = rng.uniform(0, [width - 1, height - 1], (1, 128, 2))
    cases["128 pixels in one object"] = rng.integers(0, 64, (1, 128, 2)) + np.array([width / 2, height / 2])
    y, x = np.mgrid[:height, :width]
    cases["every pixel"] = np.stack([x, y], axis=-1).reshape(1, -1, 2).astype(float)
    return cases


@torch.inference_mode()
def measure(preset: str, size: tuple[int, int], repeats: int) -> dict:
    """Median milliseconds of each variant."""
    torch.manual_seed(0)
    model = SPD.from_preset(preset).eval()
    images = torch.randn(1, 3, *size)
    features = model.encode(images)
    variants = {"dense": lambda: model.decode_dense(features), "encoder and global path": lambda: model.encode(images)}
    for name, points in queries(size).items():
        plan = model.plan_points(points, features.grids, features.size)
        variants[name, "fresh"] = lambda points=points: model.decode_points(features, points)
        variants[name, "reused"] = lambda plan=plan: model.decode_points(features, plan=plan)
    times = {name: [] for name in variants}
    for repeat in track(range(repeats + 1), "measuring"):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first round warms up
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="v15")
    parser.add_argument("--size", type=int, nargs=2, default=(416, 544), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "decoder.json")
    arguments = parser.parse_args()
    size = tuple(arguments.size)
    median_ms = measure(arguments.preset, size, arguments.repeats)
    dense_ms = median_ms["dense"]
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    title = f"decoder of {arguments.preset} at {size[0]}x{size[1]}, fp32, {machine}, {date.today()}"
    table = Table("points", "fresh plan [ms]", "dense ÷ sparse", "reused plan [ms]", "dense ÷ sparse", title=title)
    rows = {}
    for name in queries(size):
        fresh, reused = median_ms[name, "fresh"], median_ms[name, "reused"]
        rows[name] = {"fresh_ms": fresh, "reused_ms": reused, "ratio_fresh": dense_ms / fresh, "ratio_reused": dense_ms / reused}
        table.add_row(name, f"{fresh:.1f}", f"{dense_ms / fresh:.1f}", f"{reused:.1f}", f"{dense_ms / reused:.1f}")
    console = Console(width=120)
    console.print(table)
    console.print(f"dense decoder {dense_ms:.0f} ms, encoder and global path {median_ms['encoder and global path']:.0f} ms")
    arguments.out.write_text(json.dumps({"title": title, "dense_ms": dense_ms, "encode_ms": median_ms["encoder and global path"], "points": rows}, indent=1))


if __name__ == "__main__":
    main()
