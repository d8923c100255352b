"""The whole network: encoder and global path by preset, precision and runtime; image to 128 answers beside dense
networks; a second query of the same image; one training step.

python bench/network.py                     # --compile adds torch.compile (minutes)
python bench/network.py --peer FOLDER       # only that: beside its authors' Depth Anything V2, a checkout of it
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table
from timing import DEVICE, interleaved, machine, matmul_gflops, peak_mb, prepare, write
from torch.utils.flop_counter import FlopCounterMode

from spd_core import SPD, Predictor, checkpoint, export
from spd_core.camera import Camera
from spd_core.losses import Loss
from spd_core.plan import Known
from spd_core.preprocess import ImageTransform

INPUTS = {
    "lite": (240, 320),
    "lite at 480x640": (480, 640),
    "v15": (416, 544),
    "v15_refinenet": (416, 544),
    "v15_dinov2": (420, 546),
    "depth_anything_v2_vits": (420, 546),
}
SPARSE = ("lite", "v15", "v15_refinenet", "v15_dinov2", "depth_anything_v2_vits")
POINTS = 128


def precisions(preset: str) -> list[str]:
    """Those that this machine computes in hardware."""
    if DEVICE.type == "cuda":
        return ["fp32", "bf16", "fp16"]
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()
    has_int8 = preset == "lite" and export.is_available()
    return ["fp32", *(["bf16"] if has_bf16 else []), *(["int8"] if has_int8 else [])]


def runtimes(precision: str, with_compile: bool) -> list[str]:
    if precision == "int8":
        return ["onnxruntime"]
    return [
        "torch",
        *(["onnxruntime"] if DEVICE.type == "cpu" and precision == "fp32" and export.is_available() else []),
        *(["compile"] if with_compile else []),
    ]


def encoders(with_compile: bool, repeats: int) -> tuple[dict, dict]:
    """Milliseconds by (input name, precision, runtime), and multiply-accumulates by input name."""
    variants, macs = {}, {}
    for name, size in INPUTS.items():
        preset = name.split()[0]
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            SPD.from_preset(preset).eval().encode(torch.zeros(1, 3, *size))
        macs[name] = counter.get_total_flops() / 2
        for precision in precisions(preset):
            for runtime in runtimes(precision, with_compile):
                # Of random weights, equal biases are one constant, which onnxruntime does not quantise.
                model = checkpoint.load("embedded") if precision == "int8" else SPD.from_preset(preset)
                predictor = Predictor(model, str(DEVICE), precision, runtime=runtime)
                images = torch.randn(1, 3, *size, device=DEVICE, dtype=predictor.dtype)
                variants[name, precision, runtime] = partial(predictor.encoder, images)
    with torch.inference_mode():
        return interleaved(variants, repeats, "encoders", warm=True), macs


def whole(ms: dict, repeats: int) -> dict:
    """Decoders of each preset, fp32: dense, at 128 pixels alone with a fresh plan, and at 128 where others follow, and
    at those; with the fastest encoder of `ms`."""
    variants, macs = {}, {}
    for name in SPARSE:
        model = SPD.from_preset(name).eval().to(DEVICE)
        size = INPUTS[name]
        with torch.inference_mode():
            features = model.encode(torch.randn(1, 3, *size, device=DEVICE))
        first, second = np.random.default_rng(0).integers(0, size[::-1], (2, 1, POINTS, 2)).astype(float)

        def query(points, known, is_shared=True, model=model, features=features):
            plan = model.plan_points(points, features.grids, features.size, known.coverage, is_shared)
            return model.decode_planned(features, plan, known)[1], plan

        with torch.inference_mode():
            known, *plans = query(first, Known())
            plans.append(query(second, known)[1])
        macs[name] = [model.sparse_decoder.multiply_accumulates(plan) for plan in plans]
        variants[name, "dense"] = partial(model.decode_dense, features)
        variants[name, "sparse"] = partial(query, first, Known(), is_shared=False)
        variants[name, "first"] = partial(query, first, Known())
        variants[name, "second"] = partial(query, second, known)
    with torch.inference_mode():
        times = interleaved(variants, repeats, "decoders")
    result = {}
    for name in SPARSE:
        encode_ms = min(value for (preset, precision, _), value in ms.items() if preset == name and precision == "fp32")
        first_ms, second_ms = times[name, "first"], times[name, "second"]
        dense_ms, sparse_ms = (encode_ms + times[name, way] for way in ("dense", "sparse"))
        result[name] = {
            "encode_ms": encode_ms,
            "dense_ms": dense_ms,
            "sparse_ms": sparse_ms,
            "first_query_ms": first_ms,
            "second_query_ms": second_ms,
            "second_over_first": second_ms / first_ms,
            "second_over_first_macs": macs[name][1] / macs[name][0],
            "ratio": dense_ms / sparse_ms,
            "bound": dense_ms / encode_ms,
        }
    return result


def answer_stages(predictor: Predictor, rgb: np.ndarray, camera: Camera, points: int = POINTS) -> dict[str, Callable]:
    """What it takes to answer at so many points of an image, uint8 [H, W, 3]: each stage on what the one before it
    made, "upload" with resize and normalisation; and "total", all of them as a user calls them. Points are new every
    time, so that no plan is found again. To be called in `torch.inference_mode`.

    Raises:
        ArithmeticError: an answer is not finite.
    """
    model, rng, size = predictor.model, np.random.default_rng(0), rgb.shape[:2]
    transform = ImageTransform.for_image(model, size, camera, None)
    predictor.encoder.prepare(transform.size)

    def uv() -> np.ndarray:
        return rng.uniform(0, np.array(size[::-1]) - 1, (points, 2))

    images = transform.tensor(rgb, predictor.device, predictor.dtype)
    features = predictor.encoder(images)
    plan = model.plan_points(transform.points(uv())[None], features.grids, features.size)
    values, _ = model.decode_planned(features, plan)
    if not values.isfinite().all():
        raise ArithmeticError(f"{int((~values.isfinite()).any(-1).sum())} of {points} answers are not finite")
    return {
        "upload": lambda: transform.tensor(rgb, predictor.device, predictor.dtype),
        "encode": lambda: predictor.encoder(images),
        "plan": lambda: model.plan_points(transform.points(uv())[None], features.grids, features.size),
        "decode": lambda: model.decode_planned(features, plan),
        "download": values.cpu,
        "total": lambda: predictor.encode(rgb, camera).answer(uv()),
    }


def peer(folder: Path, repeats: int) -> dict[str, float]:
    """Milliseconds of the authors' own Depth Anything V2 ViT-S, dense, random weights, from a checkout of their
    repository, and of ours in turns with it: dense, and at 128 points; as it is, and what it is an alternative to."""
    sys.path.insert(0, str(folder))
    from depth_anything_v2.dpt import DepthAnythingV2

    preset = "depth_anything_v2_vits"
    theirs = DepthAnythingV2("vits", features=64, out_channels=[48, 96, 192, 384]).eval().to(DEVICE)
    images = {name: torch.randn(1, 3, *INPUTS[name], device=DEVICE) for name in (preset, "v15")}
    variants: dict[str, Callable] = {"theirs, dense, torch": lambda: theirs(images[preset])}
    for name in images:
        points = np.random.default_rng(0).integers(0, INPUTS[name][::-1], (1, POINTS, 2)).astype(float)
        for runtime in runtimes("fp32", False):
            predictor = Predictor(SPD.from_preset(name), str(DEVICE), runtime=runtime)
            model, encode = predictor.model, partial(predictor.encoder, images[name])
            variants[f"{name}, dense, {runtime}"] = lambda model=model, encode=encode: model.decode_dense(encode())
            variants[f"{name}, {POINTS} points, {runtime}"] = lambda model=model, encode=encode, points=points: (
                model.decode_points(encode(), points)
            )
    with torch.inference_mode():
        return interleaved(variants, repeats, "beside theirs")


def training_steps(repeats: int) -> dict:
    """One forward, backward and AdamW step with a batch of one, fp32: milliseconds and peak MB."""
    result = {}
    for name in ("lite", "v15", "v15_refinenet", "v15_dinov2"):
        model, size = SPD.from_preset(name).to(DEVICE), INPUTS[name]
        optimiser, loss = torch.optim.AdamW(model.parameters(), 1e-5, fused=True), Loss()
        images, truth = torch.randn(1, 3, *size, device=DEVICE), torch.rand(1, 1, *size, device=DEVICE) * 5 + 0.5

        def step(model=model, optimiser=optimiser, images=images, truth=truth, loss=loss):
            optimiser.zero_grad()
            loss(model(images), truth).backward()
            optimiser.step()

        result[name] = {"ms": interleaved({name: step}, repeats, f"training {name}")[name], "peak_mb": peak_mb(step)}
    return result


def draw(result: dict):
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    names = list(result["whole"])
    for offset, column, label in ((-0.2, "dense_ms", "dense network"), (0.2, "sparse_ms", f"{POINTS} points")):
        axes[0].bar(np.arange(len(names)) + offset, [result["whole"][name][column] for name in names], 0.4, label=label)
    encode_ms = [result["whole"][name]["encode_ms"] for name in names]
    axes[0].bar(np.arange(len(names)), encode_ms, 0.8, label="of that, encoder", color="none", edgecolor="black")
    axes[0].set_xticks(range(len(names)), [name.replace("_v2", "\n_v2") for name in names], fontsize=8)
    axes[0].set_ylabel("image to answers, ms")
    axes[0].legend()
    entries = list(result["encoders"].items())
    axes[1].barh([name for name, _ in entries], [entry["ms"] for _, entry in entries])
    axes[1].tick_params(labelsize=7)
    axes[1].set_xlabel("encoder and global path, ms")
    figure.suptitle(result["title"], fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peer", type=Path, help="folder of a checkout of DepthAnything/Depth-Anything-V2")
    arguments = parser.parse_args()
    prepare()
    console = Console(width=130)
    if arguments.peer:
        title = f"beside its authors' Depth Anything V2, fp32, {machine()}"
        table = Table("network", "ms", "theirs ÷ it", title=title)
        times = peer(arguments.peer, arguments.repeats)
        for name, ms in times.items():
            table.add_row(name, f"{ms:.0f}", f"{next(iter(times.values())) / ms:.2f}")
        console.print(table)
        return
    roof = matmul_gflops()
    ms, macs = encoders(arguments.compile, arguments.repeats)
    result = {"title": f"network, fp32 unless said, {machine()}", "matmul_gflops": roof, "encoders": {}}
    title = f"encoder and global path; torch.mm reaches {roof:.0f} GFLOP/s; {result['title']}"
    table = Table("input", "precision", "runtime", "ms", "GFLOP/s", title=title)
    for (name, precision, runtime), value in ms.items():
        speed = 2 * macs[name] / value / 1e6
        result["encoders"][f"{name}, {precision}, {runtime}"] = {"ms": value, "gflops": speed}
        table.add_row(f"{name} {INPUTS[name][0]}x{INPUTS[name][1]}", precision, runtime, f"{value:.1f}", f"{speed:.0f}")
    console.print(table)
    result["whole"] = whole(ms, arguments.repeats)
    columns = ("preset", "encoder", "dense network", f"{POINTS} points", "dense ÷ points", "at most (points free)")
    table = Table(*columns, "reached", title="image to answers, ms")
    for name, row in result["whole"].items():
        cells = (f"{row[column]:.0f}" for column in ("encode_ms", "dense_ms", "sparse_ms"))
        table.add_row(name, *cells, f"{row['ratio']:.2f}", f"{row['bound']:.2f}", f"{row['ratio'] / row['bound']:.0%}")
    console.print(table)
    title = f"{POINTS} points, then {POINTS} others of the same image, plans included, ms"
    table = Table("preset", "first query", "second query", "second ÷ first", "MACs, second ÷ first", title=title)
    for name, row in result["whole"].items():
        cells = (f"{row[column]:.2f}" for column in ("first_query_ms", "second_query_ms", "second_over_first"))
        table.add_row(name, *cells, f"{row['second_over_first_macs']:.2f}")
    console.print(table)
    against = result["whole"]["depth_anything_v2_vits"]["dense_ms"] / result["whole"]["v15"]["sparse_ms"]
    console.print(f"dense Depth Anything V2 ViT-S ÷ v15 at {POINTS} points: {against:.2f}")
    result["depth_anything_dense_over_v15_points"] = against
    result["training"] = training_steps(3)
    for name, row in result["training"].items():
        console.print(
            f"training step of {name} at {INPUTS[name]}, batch 1: {row['ms']:.0f} ms, peak {row['peak_mb']:.0f} MB"
        )
    write("network", result, draw(result))


if __name__ == "__main__":
    main()
