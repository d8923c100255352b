"""What every benchmark here shares: variants that take turns in one run, so that a noisy machine is noisy for all; a
title with machine and date; files."""

from __future__ import annotations

import gc
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import matplotlib
import numpy as np
import torch
from rich.progress import track

from spd_core.process import keep_freed_memory

matplotlib.use("Agg")
HERE = Path(__file__).parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare() -> None:
    """The process as SPD's executables set theirs; and no TF32, which is not fp32."""
    keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)


def machine() -> str:
    """Where and when these figures were taken."""
    if DEVICE.type == "cuda":
        driver = Path("/sys/module/nvidia/version")
        where = f"{torch.cuda.get_device_name()}, driver {driver.read_text().strip() if driver.exists() else 'unknown'}"
    else:
        where = (
            f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()},"
            f" OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', 'unset')}"
        )
    return f"{where}, torch {torch.__version__}, {date.today()}"


def interleaved(variants: dict, repeats: int, text: str = "measuring", warm: bool = False) -> dict:
    """Median milliseconds of each variant; the rest as `series`."""
    return {name: float(np.median(values)) for name, values in series(variants, repeats, text, warm).items()}


def series(variants: dict, repeats: int, text: str = "measuring", warm: bool = False) -> dict[object, list[float]]:
    """Milliseconds [repeats] of each variant (callables without arguments); every round runs each of them once, the
    first round warms up.

    With `warm` each runs once more before it is timed: its weights are in the cache as those of a node's encoder are,
    which nothing else evicts.
    """
    times: dict = {name: [] for name in variants}
    for repeat in track(range(repeats + 1), text):
        for name, run in variants.items():
            if warm:
                run()
            elapsed = _milliseconds(run)
            if repeat:
                times[name].append(elapsed)
        gc.collect()
    return times


def _milliseconds(run: Callable) -> float:
    if DEVICE.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def matmul_gflops(size: int = 1024) -> float:
    """What torch.mm reaches here, in GFLOP/s: the roof for every stage."""
    a, b = (torch.randn(size, size, device=DEVICE) for _ in range(2))
    return 2 * size**3 / interleaved({"mm": lambda: torch.mm(a, b)}, 20, "torch.mm")["mm"] / 1e6


def peak_mb(run: Callable) -> float:
    """MB that a call allocates at its peak, beyond what is there before it: on CUDA by torch's counter, on a CPU by its
    profiler."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    now = peak = 0
    for event in sorted(
        (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    ):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / 1e6


def write(name: str, result: dict, figure=None) -> None:
    """bench/<name>.json and .png."""
    (HERE / f"{name}.json").write_text(json.dumps(result, indent=1))
    if figure is not None:
        figure.savefig(HERE / f"{name}.png", dpi=110, bbox_inches="tight")
