"""The sub-commands of `spd`. They print and write files; the work is done in the modules they call."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from spd_core import checkpoint
from spd_core import export as exporter
from spd_core.data.augment import Augmentation
from spd_core.data.layouts import open_dataset
from spd_core.data.loader import mean_depth, summarise
from spd_core.data.samples import DataError
from spd_core.encoders import licence
from spd_core.evaluation import Protocol, evaluate, write_report
from spd_core.model import PRESETS, SPD
from spd_core.pictures import colour_depth, depth_range, side_by_side
from spd_core.predictor import Predictor


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
        train_data: the mean depth of (at most 1,000 images of) this data set, predicted everywhere, is scored beside
            the model.
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
    if predictor.model.config.fit != "focal" and max(s / o for s, o in zip(size, own_size)) > 1.5:
        console.print(
            f"[yellow]note:[/] images of {size[1]}x{size[0]} px for a network that knows {own_size[1]}x{own_size[0]};"
            f" --resize-eval [{own_size[0]},{own_size[1]}] scales them"
        )
    if first.camera is None:
        console.print("[yellow]note:[/] no intrinsics (camera.txt): depth assumes the training focal length")
    result = evaluate(predictor, dataset, protocol, constant_m=constant_m, workers=workers, progress=True)
    result = {"weights": weights, "data": str(data), "split": split, "model": predictor.model.config_dict(), **result}
    scored = {
        weights: result["mean"],
        **({f"always {constant_m:.2f} m": result["constant"]} if constant_m is not None else {}),
    }
    table = Table("", *scored, title=f"{result['mean']['n_images']} images of {data} ({result['layout']})")
    for name in result["mean"]:
        table.add_row(name, *(f"{mean[name]:.4g}" if name in mean else "" for mean in scored.values()))
    console.print(table)
    console.print(
        "protocol: " + ", ".join(f"{name} {value}" for name, value in result["protocol"].items()), highlight=False
    )
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
    table = Table(
        "split", "images", "broken", "sizes", "depth, m", "median, m", "without depth", "focal, px", title=str(path)
    )
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


def preview(
    path: Path,
    augment: Augmentation = Augmentation(),  # noqa: B008
    out: Path = Path("preview.png"),
    split: str = "train",
    count: int = 6,
    seed: int = 0,
) -> None:
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
        crop = augment.crop or tuple(
            min(wanted, int(0.87 * extent)) for wanted, extent in zip((416, 544), sample.rgb.shape[:2])
        )
        changed = [replace(augment, crop=crop)(sample, np.random.default_rng([seed, index, i])) for i in range(2)]
        near, far = depth_range(sample.depth_m)
        rows.append([picture for s in (sample, *changed) for picture in (s.rgb, colour_depth(s.depth_m, near, far))])
    out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out), side_by_side(rows)[..., ::-1])
    Console().print(f"wrote {out}: {len(rows)} samples of {dataset.layout}, each followed by two augmented versions")


def info(weights: str | None = None, folder: Path = Path(".")) -> None:
    """List the presets and the checkpoints found, or say what a checkpoint file (or "embedded") is.

    Args:
        weights: checkpoint file or "embedded".
        folder: where checkpoints are looked for, sub-folders included.
    """
    console = Console()
    console.width = max(console.width, 130)
    if weights is not None:
        path = checkpoint.EMBEDDED if weights == "embedded" else weights
        console.print(
            {
                "file": str(path),
                "config": checkpoint.load(path).config_dict(),
                "provenance": checkpoint.provenance(path),
            }
        )
        return
    table = Table(title="Presets; multiply-accumulates in G")
    for column in (
        "preset",
        "encoder",
        "its pretrained weights",
        "input",
        "parameters",
        "encode",
        "dense decoder",
        "128 points",
    ):
        table.add_column(column, no_wrap=True)
    for name, config in PRESETS.items():
        with torch.device("meta"):  # counted, not computed
            model, image = SPD(config), torch.zeros(1, 3, *config.input_size)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            features = model.encode(image)
        height, width = config.input_size
        points = np.random.default_rng(0).uniform(0, [width - 1, height - 1], (1, 128, 2))
        decoder, grids = model.sparse_decoder, features.grids
        counts = (
            counter.get_total_flops() / 2,
            decoder.multiply_accumulates(inputs=grids),
            decoder.multiply_accumulates(decoder.plan(points, grids)),
        )
        parameters = sum(model.parameter_groups().values())
        table.add_row(
            name,
            config.encoder,
            licence(config.encoder),
            f"{width}x{height}",
            f"{parameters / 1e6:.1f} M",
            *(f"{count / 1e9:.2f}" for count in counts),
        )
    console.print(table)
    found = Table("weights", "encoder", "licence", "from", title="Checkpoints")
    others = (path for path in sorted(folder.rglob("*.safetensors")) if not path.samefile(checkpoint.EMBEDDED))
    for path in [checkpoint.EMBEDDED, *others]:
        try:
            config, origin = checkpoint.configuration(path), checkpoint.provenance(path)
        except checkpoint.CheckpointError:
            continue  # somebody else's
        name = "embedded" if path == checkpoint.EMBEDDED else str(path)
        found.add_row(
            name, config["encoder"], origin.get("license", "-"), str(origin.get("source") or origin.get("data") or "-")
        )
    console.print(found)


def export(out: Path, weights: str = "embedded", size: tuple[int, int] | None = None) -> None:
    """Write the encoder and the dense decoder as ONNX, and check them against torch with onnxruntime.

    Args:
        out: folder for encoder.onnx and decoder.onnx.
        weights: "embedded" or a checkpoint file.
        size: (height, width) px of the network's input; its own by default. Graphs have fixed sizes.
    """
    model = checkpoint.load(weights)
    size = size or model.config.input_size
    for name, difference in exporter.export(model, out, tuple(size)).items():
        Console().print(f"{name}: differs from torch by at most {difference:.1e} (relative)")
    Console().print(f"wrote {out}/encoder.onnx and decoder.onnx for images of {size[1]}x{size[0]} px")


def convert(file: Path, out: Path, max_depth_m: float | None = None, download: bool = False) -> None:
    """Turn a released metric checkpoint of Depth Anything V2 into one of ours.

    Args:
        file: depth_anything_v2_metric_<hypersim|vkitti>_<vits|vitb|vitl>.pth: indoor or outdoor, small to large.
        out: the .safetensors file to write.
        max_depth_m: of a file under another name: 20 for Hypersim, 80 for Virtual KITTI.
        download: fetch `file`, a name then, from the model hub first.
    """
    from spd_core import convert as converter  # draws a room to test the file: not needed by other commands

    model, origin = converter.depth_anything_v2(converter.download(file.name) if download else file, max_depth_m)
    checkpoint.save(model, out, **origin)
    Console().print(
        f"wrote {out}: {model.config.encoder}, depth up to {model.config.max_depth_m:.0f} m, licence"
        f" {origin['license']}",
        soft_wrap=True,
    )
