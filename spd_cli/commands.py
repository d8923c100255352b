"""The sub-commands of `spd`. They print and write files; the work is done in the modules they call."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from spd_core import checkpoint
from spd_core import export as exporter
from spd_core.data.augment import Augmentation
from spd_core.data.bag import BagFrame, find_topics, image_count, write_bag
from spd_core.data.images import write_picture
from spd_core.data.layouts import open_dataset
from spd_core.data.loader import mean_depth, summarise
from spd_core.data.rgbd import RGBDFolder
from spd_core.data.samples import DataError
from spd_core.encoders import licence
from spd_core.evaluation import Protocol, evaluate, write_report
from spd_core.extras import extra
from spd_core.files import FileError, listed
from spd_core.model import PRESETS, SPD
from spd_core.pictures import colour_depth, depth_range, side_by_side
from spd_core.predictor import Predictor
from spd_core.recording import Sampling, answer_offline, frames_to_ask, report, show, write
from spd_rooms.synthetic import random_frame

from .console import make_console, printable, say

SHOWN_FAULTS = 50


def demo(image_dir: Path | None = None, camera: list[float] | None = None, out: Path = Path("demo")) -> None:
    """Start the node, play images and query points to it over ROS 2, and print what it answers.

    Args:
        image_dir: folder of images (with `*.depth.png` beside them the error is printed too); without it a synthetic
            room is filmed.
        camera: fx, fy, cx, cy in px of the images in `image_dir`; a file camera.txt in that folder says the same.
        out: folder for overlay.png, depths.csv and the bag.
    """
    with extra("ros"):
        from spd_ros.demo import run_demo

    sys.exit(run_demo(image_dir, camera, out))


def evaluate_checkpoint(
    data: Path,
    weights: str = "embedded",
    split: str = "test",
    train_data: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
    runtime: str = "auto",
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
        runtime: what runs the encoder: auto, torch, onnxruntime or compile.
        workers: processes that read samples.
    """
    how = Protocol(**protocol)
    predictor = Predictor.load(weights, device, runtime=runtime)
    dataset = open_dataset(data, split)
    constant_m = mean_depth(open_dataset(train_data, "train")) if train_data else None
    first = dataset[0]
    own_size, size = predictor.input_size, how.resize_eval or first.rgb.shape[:2]
    if predictor.model.config.fit != "focal" and max(s / o for s, o in zip(size, own_size)) > 1.5:
        say(
            f"images of {size[1]}x{size[0]} px for a network that knows {own_size[1]}x{own_size[0]}; --resize-eval"
            f" [{own_size[0]},{own_size[1]}] scales them",
            "yellow",
            title="note: ",
        )
    if first.camera is None:
        say("no intrinsics (camera.txt): depth assumes the training focal length", "yellow", title="note: ")
    result = evaluate(predictor, dataset, how, constant_m=constant_m, workers=workers, progress=True)
    about = {"weights": weights, "runtime": predictor.runtime, "data": str(data), "split": split}
    result = {**about, "model": predictor.model.config_dict(), **result}
    scored = {
        weights: result["mean"],
        **({f"always {constant_m:.2f} m": result["constant"]} if constant_m is not None else {}),
    }
    title = f"{result['mean']['n_images']} images of {data} ({result['layout']})"
    table = Table("", *map(printable, scored), title=printable(title))
    for name in result["mean"]:
        table.add_row(name, *(f"{mean[name]:.4g}" if name in mean else "" for mean in scored.values()))
    make_console().print(table)
    say("protocol: " + ", ".join(f"{name} {value}" for name, value in result["protocol"].items()))
    if out is not None:
        write_report(result, predictor, dataset, out)
        say(f"wrote {out}/result.json, per_image.csv, report.png")


def replay(
    bag: Path,
    offline: bool = False,
    node: str = "fresh",
    weights: str = "embedded",
    device: str = "auto",
    runtime: str = "auto",
    image: str | None = None,
    depth: str | None = None,
    camera_info: str | None = None,
    query: str | None = None,
    points: int = 128,
    grid: tuple[int, int] | None = None,
    recorded: bool = False,
    seed: int = 0,
    rate: float = 1.0,
    tolerance_s: float = 0.02,
    out: Path | None = None,
) -> None:
    """Ask about the frames of a bag and compare with its depth: accuracy, latency, and what was not answered.

    Args:
        bag: ROS 2 bag, sqlite3 or MCAP, with a colour image, and depth (16UC1 mm, 32FC1 m or compressedDepth)
            registered to it.
        offline: without ROS: the predictor answers. Otherwise the node does, over DDS.
        node: "fresh" starts one, "running" takes the one that is there (listening to /camera/image_raw and
            /camera/camera_info).
        weights: "embedded" or a checkpoint file; of a running node its own.
        device: auto, cpu, cuda or cuda:<n>.
        runtime: what runs the encoder, as the node's parameter: auto, torch, onnxruntime or compile.
        image: colour topic, instead of the one found by type.
        depth: depth topic, likewise.
        camera_info: calibration topic, likewise.
        query: topic of recorded queries, likewise.
        points: random pixels asked per frame, of those with depth.
        grid: columns, rows: a grid is asked instead.
        recorded: the queries of the bag are asked instead.
        seed: of the random pixels.
        rate: speed of playing, times the recorded one.
        tolerance_s: image and depth whose stamps differ by at most this belong together.
        out: folder for result.json, frames.csv, depths.csv, report.png and overlay.png.
    """
    if node not in ("fresh", "running"):
        raise ValueError(f"node must be fresh or running, got {node!r}")
    if rate <= 0:
        raise ValueError(f"rate must be positive, got {rate}")
    console = Console()
    topics = find_topics(bag, image, depth, camera_info, query)
    if recorded and topics.query is None:
        raise DataError(f"{bag} has no query topic (PointCloud2 with u and v) to take recorded queries from")
    console.print(", ".join(f"{kind} {name or 'none'}" for kind, name in vars(topics).items()), highlight=False)
    frames = frames_to_ask(bag, topics, Sampling(points, grid, recorded, seed), tolerance_s)
    about = {
        "bag": str(bag),
        "mode": "offline" if offline else "live",
        "weights": weights if offline or node == "fresh" else "of the running node",
        "topics": vars(topics),
    }
    if offline:
        played = list(
            track(
                answer_offline(frames, Predictor.load(weights, device, runtime=runtime)),
                "answering",
                total=image_count(bag, topics),
            )
        )
    else:
        with extra("ros"):
            from spd_ros import player as live

        process = None
        if node == "fresh":
            live.isolate()
            transport = "compressed" if topics.image.endswith("/compressed") else "raw"
            process = live.start_node(
                {"image": live.IMAGE, "image/compressed": f"{live.IMAGE}/compressed", "camera_info": live.INFO},
                {"weights": weights, "device": device, "runtime": runtime, "image_transport": transport},
            )
        try:
            played = live.replay_live(frames, rate, process, image_count(bag, topics))
        finally:
            if process is not None and process.poll() is None:
                live.stop_node(process)
    if not played:
        raise DataError(f"{bag} has no frame that can be read on {topics.image}")
    result = report(played, about)
    show(result, console)
    if out is not None:
        write(result, out)
        console.print(f"wrote {out}/result.json, frames.csv, depths.csv, report.png and overlay.png")


def make_bag(out: Path, folder: Path | None = None, rooms: int = 20, rate: float = 10.0, storage: str = "mcap") -> None:
    """Make a bag from an RGB-D folder, or from synthetic rooms: a sample for `spd replay`, or for any other node.

    Args:
        out: the bag's folder; a bag that is there is replaced.
        folder: `<name>.rgb.png|jpg`, `<name>.depth.png` and camera.txt; without it rooms are drawn.
        rooms: number of synthetic rooms, 640x480.
        rate: frames per second.
        storage: mcap or sqlite3.
    """
    if rate <= 0 or rooms < 1:
        raise ValueError(f"rate and rooms must be positive, got {rate} and {rooms}")
    if folder is not None:
        dataset = RGBDFolder(folder)
        samples = (dataset[i] for i in range(len(dataset)))
    else:
        samples = (random_frame(5_000_000 + seed, (480, 640)) for seed in track(range(rooms), "drawing rooms"))
    frames = (BagFrame(round((1 + i / rate) * 1e9), s.rgb, s.depth_m, s.camera, []) for i, s in enumerate(samples))
    count = write_bag(out, frames, storage)
    Console().print(f"wrote {out}: {count} frames")


def check(path: Path, workers: int = 2) -> None:
    """Open every file of a data set: counts, ranges, invalid pixels, and broken files by name.

    Args:
        path: folder, or nyu_depth_v2_labeled.mat.
        workers: processes that read.
    """
    table = Table("split", "images", "broken", "sizes", "depth, m", "median, m", "without depth", "focal, px")
    table.title = printable(str(path))
    faults, missing = 0, {}
    for split in ("train", "test"):
        try:
            dataset = open_dataset(path, split)
        except DataError as error:
            missing[split] = error
            continue
        summary = summarise(dataset, workers)
        faults += len(summary.broken)
        reasons = Counter(summary.broken).most_common()  # one shard breaks many samples
        for text, count in reasons[:SHOWN_FAULTS]:
            say(text + (f" ({count} samples)" if count > 1 else ""), "red", title="broken: ")
        if len(reasons) > SHOWN_FAULTS:
            say(f"... and {len(reasons) - SHOWN_FAULTS} more faults")
        has_splits = dataset.layout.startswith("NYU")
        table.add_row(split if has_splits else "all", *summary.row())
        table.caption = dataset.layout
        if not has_splits:
            break
    if not table.row_count:
        raise next(iter(missing.values()))
    for split, reason in missing.items():
        say(f"{split}: {reason}")
    make_console().print(table)
    if faults or missing:
        raise DataError(f"{path} is not whole: {faults + len(missing)} faults, named above")


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
    if count < 1:
        raise DataError(f"count must be positive, got {count}")
    dataset = open_dataset(path, split)
    rows = []
    for index in np.random.default_rng(seed).permutation(len(dataset))[:count]:
        sample = dataset[int(index)]
        height, width = sample.rgb.shape[:2]
        crop = augment.crop or (min(416, int(0.87 * height)), min(544, int(0.87 * width)))
        changed = [replace(augment, crop=crop)(sample, np.random.default_rng([seed, index, i])) for i in range(2)]
        shown = [(s.rgb, s.depth_m) for s in (sample, *changed) if s.depth_m is not None]
        near, far = depth_range(shown[0][1])
        rows.append([picture for rgb, depth_m in shown for picture in (rgb, colour_depth(depth_m, near, far))])
    write_picture(out, side_by_side(rows))
    say(f"wrote {out}: {len(rows)} samples of {dataset.layout}, each followed by two augmented versions")


def info(weights: str | None = None, folder: Path = Path(".")) -> None:
    """List the presets and the checkpoints found, or say what a checkpoint file (or "embedded") is.

    Args:
        weights: checkpoint file or "embedded".
        folder: where checkpoints are looked for, sub-folders included.
    """
    console = make_console()
    console.width = max(console.width, 130)
    if weights is not None:
        path = checkpoint.EMBEDDED if weights == "embedded" else weights
        config, origin = checkpoint.load(path).config_dict(), checkpoint.provenance(path)
        console.print({"file": str(path), "config": config, "provenance": origin})
        return
    if not folder.is_dir():
        raise FileError(f"{folder} {'is no folder' if folder.exists() else 'does not exist'}; give one to look in")
    console.print(_presets())
    _list_checkpoints(folder, console)


def _presets() -> Table:
    table = Table(title="Presets; multiply-accumulates in G")
    columns = ("preset", "encoder", "its pretrained weights", "input", "parameters", "encode", "dense decoder")
    for column in (*columns, "128 points"):
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
            decoder.multiply_accumulates(grids),
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
    return table


def _list_checkpoints(folder: Path, console: Console) -> None:
    """A table of the embedded weights and those below `folder`, and a line for each file that is damaged; whole files
    of others are left out."""
    found = Table("weights", "encoder", "licence", "from", title="Checkpoints")
    faults = []
    for path in [checkpoint.EMBEDDED, *listed(folder, "**/*.safetensors")]:
        is_embedded = path.samefile(checkpoint.EMBEDDED)
        if is_embedded and found.row_count:
            continue
        try:
            if not checkpoint.is_checkpoint(path):
                continue
            config, origin = checkpoint.configuration(path), checkpoint.provenance(path)
        except checkpoint.CheckpointError as error:
            faults.append(str(error))
            continue
        source = origin.get("source") or origin.get("data") or "-"
        cells = (path, config.get("encoder", "-"), origin.get("license", "-"), source)
        found.add_row("embedded" if is_embedded else printable(str(path)), *(printable(str(x)) for x in cells[1:]))
    console.print(found)
    for fault in faults:
        say(fault, "red", title="damaged: ")


def export(out: Path, weights: str = "embedded", size: tuple[int, int] | None = None) -> None:
    """Write the encoder and the dense decoder as ONNX, and check them against torch with onnxruntime.

    Args:
        out: folder for encoder.onnx and decoder.onnx.
        weights: "embedded" or a checkpoint file.
        size: (height, width) px of the network's input; its own by default. Graphs have fixed sizes.
    """
    model = checkpoint.load(weights)
    size = size or model.config.input_size
    for name, difference in exporter.export(model, out, size).items():
        say(f"{name}: differs from torch by at most {difference:.1e} (relative)")
    say(f"wrote {out}/encoder.onnx and decoder.onnx for images of {size[1]}x{size[0]} px")


def convert(file: Path, out: Path, max_depth_m: float | None = None, download: bool = False) -> None:
    """Turn a released metric checkpoint of Depth Anything V2 into one of ours.

    Args:
        file: depth_anything_v2_metric_<hypersim|vkitti>_<vits|vitb|vitl>.pth: indoor or outdoor, small to large.
        out: the .safetensors file to write.
        max_depth_m: of a file under another name: 20 for Hypersim, 80 for Virtual KITTI.
        download: fetch `file`, a name then, from the model hub first.
    """
    from spd_core import convert as converter

    model, origin = converter.depth_anything_v2(converter.download(file.name) if download else file, max_depth_m)
    checkpoint.save(model, out, **origin)
    say(
        f"wrote {out}: {model.config.encoder}, depth up to {model.config.max_depth_m:.0f} m, licence"
        f" {origin['license']}"
    )
