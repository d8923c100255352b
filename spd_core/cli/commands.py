"""The sub-commands of `spd`. They print and write files; the work is done in the modules they call."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from .. import checkpoint
from ..data.augment import Augmentation
from ..data.loader import mean_depth, summarise
from ..data.samples import DataError, open_dataset
from ..evaluation import Protocol, evaluate, write_report
from ..model import PRESETS, SPD
from ..pictures import colour_depth, depth_range, side_by_side
from ..predictor import Predictor


def demo(image_dir: Path | None = None, camera: list[float] | None = None, out: Path = Path("demo")) -> None:
    """Start the node, play images and query points to it over ROS 2, and print what it answers.

    Args:
        image_dir: folder of images (with `*.depth.png` beside them the error is printed too); without it a synthetic room is filmed.
        camera: fx, fy, cx, cy in px of the images in `image_dir`; a file camera.txt in that folder says the same.
        out: folder for overlay.png, depths.csv and the bag.
    """
    from spd_ros.demo import run_demo  # the one command that needs ROS

    sys.exit(run_demo(image_dir, camera, out))


def evaluate_checkpoint(
    data: Path,
    weights: str = "embedded",
    split: str = "test",
    train_data: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
    workers: int = 0,
    **protocol,
) -> None:
    """Evaluate a checkpoint on a data set; prints a table and writes result.json, per_image.csv and report.png.

    Args:
        data: folder in any layout of `spd data check`.
        weights: "embedded" or a checkpoint file.
        split: "train" or "test" of the NYU layouts.
        train_data: the mean depth of (100 images of) this data set, predicted everywhere, is scored beside the model.
        out: folder for the files; without it nothing is written.
        device: auto, cpu, cuda or cuda:<n>.
        workers: processes that read samples.
    """
    console = Console()
    protocol = Protocol(**protocol)
    predictor = Predictor.load(weights, device)
    dataset = open_dataset(data, split)
    constant_m = mean_depth(open_dataset(train_data, "train")) if train_data else None
    first = dataset[0]
    own_size, size = predictor.input_size, protocol.resize_eval or first.rgb.shape[:2]
    if max(s / o for s, o in zip(size, own_size)) > 1.5:
        console.print(
            f"[yellow]note:[/] images of {size[1]}x{size[0]} px for a network that knows {own_size[1]}x{own_size[0]}; --resize-eval [{own_size[0]},{own_size[1]}] scales them"
        )
    if first.camera is None:
        console.print("[yellow]note:[/] no intrinsics (camera.txt): depth assumes the training focal length")
    result = evaluate(predictor, dataset, protocol, constant_m=constant_m, workers=workers, progress=True)
    result = {"weights": weights, "data": str(data), "split": split, "model": predictor.model.config_dict(), **result}
    scored = {weights: result["mean"], **({f"always {constant_m:.2f} m": result["constant"]} if constant_m is not None else {})}
    table = Table("", *scored, title=f"{result['mean']['n_images']} images of {data} ({result['layout']})")
    for name in result["mean"]:
        table.add_row(name, *(f"{mean[name]:.4g}" if name in mean else "" for mean in scored.values()))
    console.print(table)
    console.print("protocol: " + ", ".join(f"{name} {value}" for name, value in result["protocol"].items()), highlight=False)
    if out is not None:
        write_report(result, predictor, dataset, out)
        console.print(f"wrote {out}/result.json, per_image.csv, report.png")


def check(path: Path, workers: int = 2) -> None:
    """Open every file of a data set: counts, ranges, invalid pixels, and broken files by name.

    Args:
        path: folder, or nyu_depth_v2_labeled.mat.
        workers: processes that read.
    """
    console, failed = Console(), False
    table = Table("split", "images", "broken", "sizes", "depth, m", "median, m", "without depth", "focal, px", title=str(path))
    for split in ("train", "test"):
        try:
            dataset = open_dataset(path, split)
        except DataError as error:
            console.print(f"{split}: {error}", highlight=False, soft_wrap=True)
            failed = True
            continue
        summary = summarise(dataset, workers)
        for error in summary.broken[:50]:
            console.print(f"[red]broken:[/] {error}", highlight=False, soft_wrap=True)
        if len(summary.broken) > 50:
            console.print(f"... and {len(summary.broken) - 50} more broken samples")
        failed |= bool(summary.broken)
        has_splits = dataset.layout.startswith("NYU")
        table.add_row(split if has_splits else "all", *summary.row())
        table.caption = dataset.layout
        if not has_splits:
            break
    console.print(table)
    sys.exit(1 if failed else 0)


def preview(path: Path, augment: Augmentation = Augmentation(), out: Path = Path("preview.png"), split: str = "train", count: int = 6, seed: int = 0) -> None:  # noqa: B008
    """Write a PNG grid: each row one sample, then augmented as in training, each with its depth.

    Args:
        path: folder in any layout of `spd data check`.
        augment: as in `spd train`; its crop is 416x544, or what fits.
        out: the picture.
        split: "train" or "test".
        count: number of samples.
        seed: of the choice and of the augmentation.
    """
    dataset = open_dataset(path, split)
    rows = []
    for index in np.random.default_rng(seed).permutation(len(dataset))[:count]:
        sample = dataset[int(index)]
        crop = augment.crop or tuple(min(wanted, int(0.87 * extent)) for wanted, extent in zip((416, 544), sample.rgb.shape[:2]))
        changed = [replace(augment, crop=crop)(sample, np.random.default_rng([seed, index, i])) for i in range(2)]
        near, far = depth_range(sample.depth_m)
        rows.append([picture for s in (sample, *changed) for picture in (s.rgb, colour_depth(s.depth_m, near, far))])
    out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out), side_by_side(rows)[..., ::-1])
    Console().print(f"wrote {out}: {len(rows)} samples of {dataset.layout}, each followed by two augmented versions")


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
