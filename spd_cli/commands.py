"""Sub-commands of `spd`. They print and write files; the work is done in the modules they call."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from spd_core import checkpoint
from spd_core import export as exporter
from spd_core.data.augment import Augmentation
from spd_core.data.check import mean_depth, summarise
from spd_core.data.images import check_picture_name, write_picture
from spd_core.data.layouts import open_dataset
from spd_core.data.samples import DataError
from spd_core.errors import MOST_WORKERS, at_least
from spd_core.evaluation import Evaluation, Protocol, evaluate
from spd_core.files import check_writable, printable, write_json
from spd_core.floor_evaluation import check_floor_protocol, evaluate_floor
from spd_core.metrics import doubt_units
from spd_core.model import preset_config
from spd_core.pictures import colour_depth, depth_range, side_by_side
from spd_core.predictor import Predictor
from spd_core.reports import report_folder, write_evaluation
from spd_core.scale_evaluation import check_counts, evaluate_scale, write_scale_report

from .console import make_console, say
from .scales import say_left_out, say_without_camera, show_floor, show_scale

SHOWN_FAULTS = 50
FAR_M = 10.0  # a median depth of no room


def evaluate_checkpoint(
    data: Path,
    weights: str = "embedded",
    split: str = "test",
    train_data: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
    runtime: str = "auto",
    precision: str = "fp32",
    workers: int = 0,
    references: list[int] | None = None,
    floor: bool = False,
    **protocol,
) -> None:
    """Evaluate a checkpoint on a data set: a table, and the files of a report where `out` says so.

    Args:
        data: folder in any layout of `spd data check`.
        weights: "embedded" or a checkpoint file.
        split: "train" or "test" where the data come in both.
        train_data: the mean depth of (at most 1,000 images of) this data set, predicted everywhere, is scored beside
            the model.
        out: folder for result.json, per_image.csv and report.png, and for references and floor scale.json, scale.png
            and floor.json; without it nothing is written.
        device: auto, cpu, cuda or cuda:<n>.
        runtime: what runs the encoder: auto, torch, onnxruntime, compile or cuda_graph.
        precision: fp32, bf16, on a GPU fp16, on a CPU int8.
        workers: processes that read samples.
        references: also score, at other pixels, with a scale from so many noisy references per image, say 1,5,20;
            adds scale.json and scale.png.
        floor: also score with a scale learned from the floor of the truth, height and tilt a little off; adds
            floor.json. Of the options below, --references and --floor heed depth range, crop, limit, seed and size.
    """
    how = Protocol(**protocol)
    if floor:
        check_floor_protocol(how)
    at_least(0, MOST_WORKERS, workers=workers)
    check_counts(references or [])
    predictor = Predictor.load(weights, device, precision, runtime=runtime)
    dataset = open_dataset(data, split)
    if out is not None:
        report_folder(out)
    constant_m = mean_depth(open_dataset(train_data, "train")) if train_data else None
    first = dataset[0]
    own_size, size = predictor.input_size, how.resize_eval or first.rgb.shape[:2]
    if predictor.model.config.fit != "focal" and max(s / o for s, o in zip(size, own_size)) > 1.5:
        say(
            f"images of {size[1]}x{size[0]} px for a network that knows {own_size[1]}x{own_size[0]}; --resize_eval"
            f" [{own_size[0]},{own_size[1]}] scales them",
            "yellow",
            title="note: ",
        )
    say_without_camera(first)
    result = evaluate(predictor, dataset, how, constant_m=constant_m, workers=workers, progress=True)
    _show_scores(result, f"{result['mean']['n_images']} images of {data} ({result['layout']})", weights)
    protocol_used = ", ".join(f"{name} {value}" for name, value in result["protocol"].items() if value is not None)
    say(f"protocol: {protocol_used}; {predictor.runtime}, {precision}")
    if out is not None:
        about = {"weights": weights, "runtime": predictor.runtime, "precision": precision, "data": str(data)}
        config = asdict(predictor.model.config)
        write_evaluation(result, predictor, dataset, out, **about, split=split, model=config)
        say(f"wrote {out}/result.json, per_image.csv, report.png")
    if references:
        scaled = evaluate_scale(predictor, dataset, how, references, workers=workers, progress=True)
        show_scale(scaled)
        if out is not None:
            write_scale_report(scaled, out)
            say(f"wrote {out}/scale.json, scale.png")
    if floor:
        with_floor = evaluate_floor(predictor, dataset, how, progress=True)
        show_floor(with_floor)
        if out is not None:
            write_json(Path(out) / "floor.json", with_floor)
            say(f"wrote {out}/floor.json")


def _show_scores(result: Evaluation, title: str, weights: str) -> None:
    """The table of mean metrics, and what to know before one believes them."""
    scored = {weights: result["mean"]}
    if "constant" in result:
        scored[f"always {result['constant_m']:.2f} m"] = result["constant"]
    table = Table("", *map(printable, scored), title=printable(title))
    for name in result["mean"]:
        table.add_row(name, *(f"{mean[name]:.4g}" if name in mean else "" for mean in scored.values()))
    make_console().print(table)
    say_left_out(result["pixels_beyond"], result["protocol"]["max_depth_m"], result["without_truth"])
    doubt_units(result["mean"]["s_star"])
    if n_nan := result["mean"]["n_nan"]:
        say(f"{n_nan} images have a prediction that is not finite: their errors have no mean", "yellow", title="note: ")


def check(path: Path, workers: int = 2) -> None:
    """Open every file of a data set: counts, ranges, invalid pixels, and broken files by name.

    Args:
        path: folder, or nyu_depth_v2_labeled.mat.
        workers: processes that read.
    """
    at_least(0, MOST_WORKERS, workers=workers)
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
        if not summary.medians_m and summary.invalid:
            faults += 1
            say(f"no image of {printable(str(path))} has a pixel of known depth", "red")
        elif summary.medians_m and (median_m := float(np.median(summary.medians_m))) > FAR_M:
            units = "where 16-bit PNG is in 1/5000 m (TUM) or turned by 3 bits (SUN3D), make it mm"
            say(f"the median depth is {median_m:.0f} m; right outdoors, but {units}", "yellow", title="note: ")
        table.caption = dataset.layout
        if split not in dataset.splits:
            table.add_row(*dataset.splits, *summary.row())
            break
        table.add_row(split, *summary.row())
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
    preset: str | None = None,
) -> None:
    """Write a PNG grid: each row one sample, then augmented as in training, each with its depth.

    Args:
        path: folder in any layout of `spd data check`.
        augment: as in `spd train`; its crop is that of the preset, or 416x544, or what fits.
        out: the picture, or a folder that is there, for preview.png.
        split: "train" or "test".
        count: number of samples.
        seed: of the choice and of the augmentation.
        preset: model preset that is trained: pictures are first brought to its focal length, where it has one.
    """
    at_least(1, count=count)
    at_least(0, seed=seed)
    out = out / "preview.png" if out.is_dir() else out
    check_picture_name(out)
    model = preset_config(preset) if preset else None
    focal_px = model.training_focal_px if model and model.fit == "focal" else None
    dataset = open_dataset(path, split)
    check_writable(out)
    rows = []
    for index in np.random.default_rng(seed).permutation(len(dataset))[:count]:
        sample = dataset[int(index)]
        height, width = sample.rgb.shape[:2]
        own_crop = model.input_size if model else (min(416, int(0.87 * height)), min(544, int(0.87 * width)))
        augmented = replace(augment, crop=augment.crop or own_crop)
        changed = [augmented(sample, np.random.default_rng([seed, index, i]), focal_px) for i in range(2)]
        shown = [(s.rgb, s.depth_m) for s in (sample, *changed) if s.depth_m is not None]
        near, far = depth_range(shown[0][1])
        rows.append([picture for rgb, depth_m in shown for picture in (rgb, colour_depth(depth_m, near, far))])
    write_picture(out, side_by_side(rows))
    say(f"wrote {out}: {len(rows)} samples of {dataset.layout}, each followed by two augmented versions")


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

    check_writable(out)
    model, origin = converter.depth_anything_v2(converter.download(file.name) if download else file, max_depth_m)
    checkpoint.save(model, out, **origin)
    say(
        f"wrote {out}: {model.config.encoder}, depth up to {model.config.max_depth_m:.0f} m, licence"
        f" {origin['license']}"
    )


def average(weights: list[Path], out: Path = Path("average.safetensors")) -> None:
    """Average the weights of trainings that began from the same ones: spd average A B --out C.

    Args:
        weights: "embedded" or checkpoint files of one configuration, two or more.
        out: the .safetensors file to write.
    """
    check_writable(out)
    mean = checkpoint.average(weights)
    origins = [checkpoint.provenance(file) for file in weights]
    licences = sorted({str(origin["license"]) for origin in origins if origin.get("license")})
    known: dict[str, Any] = {"license": " and ".join(licences)} if licences else {}
    checkpoint.save(mean, out, average_of=origins, **known)
    say(f"wrote {out}, the average of {len(weights)}; its σ and scale prior are to be measured anew: spd calibrate")
