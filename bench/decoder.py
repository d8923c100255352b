"""Decoder time and multiply-accumulates against the number of points: sparse with a fresh and a reused plan, beside the
dense decoder, patches cut out around each point and the full DPT decoder; then each stage's GFLOP/s beside torch.mm's.

    python bench/decoder.py                     # or: --preset depth_anything_v2_vits --size 392 518
    python bench/decoder.py --dense_above 0.3 0.4 0.5 0.65 0.8      # only that: which threshold is best here
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table
from timing import DEVICE, interleaved, machine, matmul_gflops, peak_mb, prepare, write

from spd_core import SPD
from spd_core.layers import Conv3x3
from spd_core.model import Features
from spd_core.plan import DENSE_ABOVE, DENSE_ABOVE_SHARED, Step

COUNTS = (1, 4, 16, 32, 128, 402, 1024, 4096, 16384, 65536)
PATCH_COUNTS = (1, 16, 128, 402, 1024)
PATCH_MACS = 7.373e6  # of one patch


def queries(size: tuple[int, int]) -> dict[tuple[str, int], np.ndarray]:
    """Points [1, K, 2] px by (kind, K): uniform pixels, uniform sub-pixel points, pixels of one 64x64 object, and every
    pixel."""
    height, width = size
    rng = np.random.default_rng(0)
    cases = {("pixels", k): rng.integers(0, [width, height], (1, k, 2)).astype(float) for k in COUNTS}
    cases |= {("sub-pixel", k): rng.uniform(0, [width - 1, height - 1], (1, k, 2)) for k in (16, 128, 1024)}
    cases |= {
        ("in one object", k): rng.integers(0, 64, (1, k, 2)) + np.array([width / 2, height / 2])
        for k in (16, 128, 1024)
    }
    y, x = np.mgrid[:height, :width]
    cases["every pixel", height * width] = np.stack([x, y], axis=-1).reshape(1, -1, 2).astype(float)
    return cases


def patch_method(decoder, maps: dict[str, torch.Tensor], points: torch.Tensor) -> torch.Tensor:
    """The usual way to decode at points, with `v15`'s weights: 9x9 patches per query, convolutions without padding.
    Another function than the dense decoder."""

    def patches(x: torch.Tensor, stride: int) -> torch.Tensor:  # [1, h, w, C] -> [K, C, 9, 9]
        offset = torch.arange(-4, 5, device=x.device, dtype=x.dtype)
        y, x_ = torch.meshgrid(offset, offset, indexing="ij")
        at = torch.stack([points[:, 0, None, None] / stride + x_, points[:, 1, None, None] / stride + y], dim=-1)
        at = 2 * at / torch.tensor([x.shape[2] - 1, x.shape[1] - 1], device=x.device) - 1
        cut = F.grid_sample(x.permute(0, 3, 1, 2), at.reshape(1, -1, 9, 2), align_corners=True)  # zeros outside
        return cut.unflatten(2, (-1, 9))[0].transpose(0, 1).contiguous(memory_format=torch.channels_last)

    def conv(layer: Conv3x3, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(F.conv2d(x, layer.weight, layer.bias))

    def resize(x: torch.Tensor, size: int) -> torch.Tensor:
        return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=True)

    d = decoder
    x = resize(conv(d.s8_2, conv(d.s8_1, patches(maps["stride8"], 8))), 9)
    x = F.gelu(x + d.project1(patches(maps["level1"], 4).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    x = resize(conv(d.merge2, conv(d.merge1, x)), 7)
    x = resize(conv(d.up2, conv(d.up1, x)), 5)
    return d.head(conv(d.final, x)[:, :, 1, 1])[:, 0]


@torch.inference_mode()
def measure(preset: str, size: tuple[int, int], repeats: int) -> dict:
    """Milliseconds and multiply-accumulates of every variant."""
    model, dpt = (SPD.from_preset(name).eval().to(DEVICE) for name in (preset, "dpt"))
    images, cases = torch.randn(1, 3, *size, device=DEVICE), queries(size)
    features, dpt_features = model.encode(images), dpt.encode(images)
    macs = {
        "dense": model.sparse_decoder.multiply_accumulates(features.grids),
        "full DPT decoder": dpt.sparse_decoder.multiply_accumulates(dpt_features.grids),
    }
    variants = dense_ways(model, features) | {"full DPT decoder": partial(dpt.decode_dense, dpt_features)}
    for case, points in cases.items():
        plan = model.plan_points(points, features.grids, features.size)
        macs[case] = model.sparse_decoder.multiply_accumulates(plan)
        variants[case, "plan"] = partial(model.plan_points, points, features.grids, features.size)
        variants[case, "fresh"] = partial(model.decode_points, features, points)
        variants[case, "reused"] = partial(model.decode_points, features, plan=plan)
    if preset == "v15":
        for count in PATCH_COUNTS:
            points = torch.from_numpy(cases["pixels", count][0]).float().to(DEVICE)
            variants["patches", count] = partial(patch_method, model.decoder, features.maps, points)
    times = interleaved(variants, repeats)
    times["dense"] = min(times["dense"], times.pop("dense by the engine"))
    return {
        "macs": macs,
        "ms": times,
        "stages": stages(model, features, cases["pixels", 128]),
        "memory_mb": peak_memory(model, features, cases),
    }


def dense_ways(model: SPD, features: Features) -> dict[str, Callable]:
    """The same layers, dense, in two ways of holding memory: which is faster changes from process to process. The
    better one is what we compare with."""
    decoder, maps = model.sparse_decoder, list(features.maps.values())
    plan = decoder.plan(np.zeros((1, 1, 2)), features.grids, dense_above=(0.0, 0.0)).to(DEVICE)
    return {"dense": partial(model.decode_dense, features), "dense by the engine": partial(decoder.run, plan, maps)}


@torch.inference_mode()
def thresholds(preset: str, size: tuple[int, int], shares: list[float], repeats: int) -> dict[str, dict[str, float]]:
    """dense ÷ points, plans included, by number of pixels and by the share of a map above which a convolution
    is computed dense."""
    model = SPD.from_preset(preset).eval().to(DEVICE)
    features = model.encode(torch.randn(1, 3, *size, device=DEVICE))
    decoder, maps = model.sparse_decoder, list(features.maps.values())
    cases = {count: points for (kind, count), points in queries(size).items() if kind in ("pixels", "every pixel")}
    variants = dense_ways(model, features)
    for count, points in cases.items():
        for share in shares:
            variants[count, share] = lambda points=points, share=share: decoder.run(
                decoder.plan(points, features.grids, (share, DENSE_ABOVE[1])).to(DEVICE), maps
            )
    times = interleaved(variants, repeats)
    dense_ms = min(times["dense"], times["dense by the engine"])
    return {str(count): {str(share): dense_ms / times[count, share] for share in shares} for count in cases}


def stages(model: SPD, features: Features, points: np.ndarray, repeats: int = 15) -> list[dict]:
    """Time and GFLOP/s of each layer at 128 pixels, and of the same layer on its whole map."""
    decoder, maps = model.sparse_decoder, list(features.maps.values())
    plan = decoder.plan(points, features.grids).to(DEVICE)
    dense = decoder.plan(points, features.grids, dense_above=(0.0, 0.0)).to(DEVICE)
    ms = np.empty((2, repeats, len(plan.steps)))
    for repeat in range(repeats):
        for way, way_ms in zip((plan, dense), ms):
            decoder.run(replace(way, steps=timed(way.steps, way_ms[repeat])), maps)
    rows = []
    for step, dense_step, step_ms, dense_ms in zip(plan.steps, dense.steps, *np.median(ms, axis=1).tolist()):
        layer = decoder.graph.layer(step.value)
        macs = layer.weight.numel() if isinstance(layer, (Conv3x3, torch.nn.Linear)) else 0
        rows.append(
            {
                "layer": getattr(layer, "__name__", type(layer).__name__),  # some are functions: torch.add
                "sites": step.sites,
                "sparse": not step.dense,
                "ms": step_ms,
                "dense_ms": dense_ms,
                "macs": macs * step.sites,
                "dense_macs": macs * dense_step.sites,
            }
        )
    return rows


def timed(steps: list[Step], ms: np.ndarray) -> Iterator[Step]:
    """The steps of a plan, and milliseconds from handing one out until the next is asked for."""
    for index, step in enumerate(steps):
        started = time.perf_counter()
        yield step
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        ms[index] = 1000 * (time.perf_counter() - started)


def peak_memory(model: SPD, features: Features, cases: dict[tuple[str, int], np.ndarray]) -> dict[str, float]:
    """MB that each call needs at its peak, beyond what is there before it."""
    points = {f"{count} pixels": cases["pixels", count] for count in (128, 1024, 16384)}
    points["every pixel"] = list(cases.values())[-1]
    dense = {"dense": peak_mb(partial(model.decode_dense, features))}
    return dense | {name: peak_mb(partial(model.decode_points, features, at)) for name, at in points.items()}


def draw(result: dict, title: str):
    """Time, and multiply-accumulates, over K."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 6), layout="constrained")
    cases = [case for case in result["macs"] if isinstance(case, tuple)]
    for kind, style in (("pixels", "o-"), ("sub-pixel", "s--"), ("in one object", "^-")):
        counts = [k for name, k in cases if name == kind]
        axes[0].loglog(counts, [result["ms"][(kind, k), "fresh"] for k in counts], style, label=f"{kind}, fresh plan")
        axes[1].loglog(counts, [result["macs"][kind, k] / 1e6 for k in counts], style, label=kind)
    counts = [k for name, k in cases if name == "pixels"]
    axes[0].loglog(counts, [result["ms"][("pixels", k), "reused"] for k in counts], ".:", label="pixels, plan reused")
    patches = [k for k in PATCH_COUNTS if ("patches", k) in result["ms"]]
    if patches:
        style = {"marker": "x", "color": "tab:red"}
        axes[0].loglog(patches, [result["ms"]["patches", k] for k in patches], label="patches (not exact)", **style)
        macs = [PATCH_MACS / 1e6 * k for k in COUNTS[:8]]
        axes[1].loglog(COUNTS[:8], macs, label="patches, 7.4 M each", **style)
    break_even = round(result["macs"]["full DPT decoder"] / PATCH_MACS)
    full_dpt = {"color": "grey", "linestyle": "-.", "label": "full DPT decoder (once per frame parts included)"}
    crossing = {"color": "tab:red", "linestyle": ":", "label": f"break-even of patches, K = {break_even}"}
    for axis, column, scale in ((axes[0], "ms", 1), (axes[1], "macs", 1e6)):
        axis.axhline(result[column]["dense"] / scale, color="black", label="dense decoder")
        axis.axhline(result[column]["full DPT decoder"] / scale, **full_dpt)
        axis.axvline(break_even, linewidth=1, **crossing)
        axis.set(xlabel="points", ylabel={"ms": "ms", "macs": "million multiply-accumulates"}[column])
        axis.grid(alpha=0.3)
        axis.set_ylim(top=50 * result[column]["dense"] / scale)  # room for the legend
        axis.legend(fontsize=8, loc="upper left")
    figure.suptitle(title, fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="v15")
    parser.add_argument("--size", type=int, nargs=2, default=(416, 544), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument(
        "--dense_above",
        type=float,
        nargs="+",
        metavar="SHARE",
        help=f"compare thresholds for convolutions ({DENSE_ABOVE[0]} here, {DENSE_ABOVE_SHARED[0]} where more follow)",
    )
    arguments = parser.parse_args()
    prepare()
    size = tuple(arguments.size)
    title = f"decoder of {arguments.preset} at {size[0]}x{size[1]}, fp32, {machine()}"
    console = Console(width=150)
    if arguments.dense_above:
        ratios = thresholds(arguments.preset, size, arguments.dense_above, arguments.repeats)
        table = Table("pixels", *map(str, arguments.dense_above), title=f"dense ÷ points by threshold, {title}")
        for count, row in ratios.items():
            table.add_row(count, *(f"{ratio:.2f}" for ratio in row.values()))
        console.print(table)
        write(f"thresholds_{arguments.preset}", {"title": title, "dense_over_points": ratios})
        return
    roof = matmul_gflops()
    result = measure(arguments.preset, size, arguments.repeats)
    ms, macs = result["ms"], result["macs"]
    table, rows = Table("points", "plan [ms]", "fresh [ms]", "dense ÷ fresh", "reused [ms]", title=title), {}
    for column in ("dense ÷ reused", "MACs", "dense MACs ÷ MACs", "patches [ms]"):
        table.add_column(column)
    for case in (case for case in macs if isinstance(case, tuple)):
        kind, count = case
        row = {f"{what}_ms": ms[case, what] for what in ("plan", "fresh", "reused")}
        row |= {"macs": macs[case], "patches_ms": ms.get(("patches", count)) if kind == "pixels" else None}
        rows[f"{count} {kind}"] = row
        plan_ms, fresh_ms, reused_ms, _, patches_ms = row.values()
        numbers = [plan_ms, fresh_ms, ms["dense"] / fresh_ms, reused_ms, ms["dense"] / reused_ms]
        numbers += [macs[case] / 1e6, macs["dense"] / macs[case], patches_ms]
        table.add_row(f"{count} {kind}", *("" if number is None else f"{number:.1f}" for number in numbers))
    console.print(table)
    console.print(
        f"dense {ms['dense']:.0f} ms, {macs['dense'] / 1e9:.2f} G; full DPT decoder {ms['full DPT decoder']:.0f} ms,"
        f" {macs['full DPT decoder'] / 1e9:.2f} G; MACs above in millions"
    )
    titles = ("layer", "sites at 128 pixels", "ms", "GFLOP/s", "on the whole map [ms]", "GFLOP/s")
    stage_table = Table(*titles, title=f"stages; torch.mm reaches {roof:.0f} GFLOP/s")
    for row in result["stages"]:
        speed, dense_speed = (
            f"{2 * row[work] / row[time_ms] / 1e6:.0f}" if row[work] else ""
            for work, time_ms in (("macs", "ms"), ("dense_macs", "dense_ms"))
        )
        sites = f"{row['sites']}{'' if row['sparse'] else ' (dense)'}"
        stage_table.add_row(row["layer"], sites, f"{row['ms']:.2f}", speed, f"{row['dense_ms']:.2f}", dense_speed)
    console.print(stage_table)
    console.print("peak memory, MB: " + ", ".join(f"{name} {mb:.0f}" for name, mb in result["memory_mb"].items()))
    everything = {"title": title, "matmul_gflops": roof, "dense_ms": ms["dense"], "dense_macs": macs["dense"]}
    everything |= {"full_dpt": {what: result[what]["full DPT decoder"] for what in ("ms", "macs")}, "points": rows}
    everything |= {"stages": result["stages"], "memory_mb": result["memory_mb"]}
    write("decoder" if arguments.preset == "v15" else f"decoder_{arguments.preset}", everything, draw(result, title))


if __name__ == "__main__":
    main()
