"""The sub-commands of `spd`. They print and write files; the work is done in the modules they call."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from .. import checkpoint
from ..data.shards import RoomShards
from ..evaluation import evaluate
from ..model import PRESETS, SPD

METRICS = ("abs_rel", "d1", "d2", "d3", "rmse", "log10", "silog", "s_star", "scaled_abs_rel")


def demo(image_dir: Path | None = None, camera: list[float] | None = None, out: Path = Path("demo")) -> None:
    """Start the node, play images and query points to it over ROS 2, and print what it answers.

    Args:
        image_dir: folder of images (with `*.depth.png` beside them the error is printed too); without it a synthetic room is filmed.
        camera: fx, fy, cx, cy in px of the images in `image_dir`; a file camera.txt in that folder says the same.
        out: folder for overlay.png, depths.csv and the bag.
    """
    from spd_ros.demo import run_demo  # the one command that needs ROS

    sys.exit(run_demo(image_dir, camera, out))


def evaluate_rooms(data: Path, weights: str = "embedded", train_data: Path | None = None, out: Path | None = None) -> None:
    """Evaluate a checkpoint on synthetic rooms.

    Args:
        data: folder of `spd data rooms`.
        weights: "embedded" or a checkpoint file.
        train_data: training rooms; their mean depth, predicted everywhere, is scored beside the model.
        out: JSON file for the results.
    """
    model = checkpoint.load(checkpoint.EMBEDDED if weights == "embedded" else weights)
    constant_m = float(np.mean([shard.mean() for shard in RoomShards(train_data).depth_mm])) / 1000 if train_data else None
    result = evaluate(model, RoomShards(data), constant_m=constant_m, progress=True)
    table = Table("", *METRICS, title=f"{weights} on {result['mean']['n_images']} images of {data}")
    table.add_row("model", *(f"{result['mean'][name]:.4f}" for name in METRICS))
    if constant_m is not None:
        table.add_row(f"always {constant_m:.2f} m", *(f"{result['constant'][name]:.4f}" for name in METRICS))
    Console().print(table)
    if out is not None:
        out.write_text(json.dumps({"weights": weights, "data": str(data), "constant_m": constant_m, **result}, indent=1))


def info(weights: str | None = None) -> None:
    """List the presets, or say what a checkpoint file (or "embedded") is.

    Args:
        weights: checkpoint file or "embedded".
    """
    console = Console()
    if weights is not None:
        path = checkpoint.EMBEDDED if weights == "embedded" else weights
        console.print({"file": str(path), "config": checkpoint.load(path).config_dict(), "provenance": checkpoint.provenance(path)})
        return
    table = Table("preset", "encoder", "decoder", "input", "encoder params", "global path", "decoder params")
    for name, config in PRESETS.items():
        parameters = SPD(config).parameter_groups()
        height, width = config.input_size
        counts = (f"{parameters.get(part, 0):,}" for part in ("encoder", "global_path", "decoder"))
        table.add_row(name, config.encoder, config.decoder, f"{width}x{height}", *counts)
    console.print(table)
