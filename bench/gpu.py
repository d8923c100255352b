"""Everything that wants an NVIDIA GPU, in one table: the law's tests on CUDA, decoder, image to 128 answers, node.

make bench-gpu                     # PYTHON=path/to/python make bench-gpu for an environment of your own
python bench/gpu.py --dry_run      # without a GPU: in small, on the CPU and on torch's fake CUDA tensors

Each part is a process of its own with a budget of time: one that fails, hangs or breaks the device costs its own rows,
which say why. Prints the table, writes it to bench/gpu.md and gpu.json, and all that the parts said to gpu.log. Weights
are random. The exit code is 1 if the law's tests failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timing import DEVICE, HERE, machine, prepare, series

from spd_core import SPD, Camera, Predictor
from spd_core.camera import NYU_FOCAL_PX
from spd_core.errors import first_line

LIMIT_S = 600.0
LEAST_S = 10.0  # a part that has less left is not started
POINTS = 128
STAGES = ("upload", "encode", "plan", "decode", "download", "total")
COMPARED_PRESETS = ("v15", "lite", "depth_anything_v2_vits")
# Files with tests marked `gpu` (test_bench_gpu.py compares); others need ROS to be imported, which may not be there.
GPU_TESTS = ("test_law", "test_models", "test_cuda_dry_run")
# At most so much, on an H100; times are p50.
TARGETS = {("image", "v15", precision): {"total, ms": 3.0, "decode, ms": 0.5} for precision in ("fp16", "bf16")}
TARGETS["node", "depth_anything_v2_vits", "bf16"] = {"unanswered, %": 1.0}


@dataclass(frozen=True)
class Case:
    """A row of the table: what is measured ("law", "decoder", "image", "node"), of which preset, precision and runtime;
    a node with so many images a second."""

    what: str
    preset: str = ""
    precision: str = ""
    runtime: str = ""
    rate_hz: float = 0.0


@dataclass(frozen=True)
class Result:
    """What came out: p50 and p99 by stage, ms; the share of a node's points without depth; a note; or the error."""

    ms: dict[str, list[float]] = field(default_factory=dict)
    unanswered_percent: float = 0.0
    note: str = ""
    error: str = ""


@dataclass(frozen=True)
class Part:
    """Cases that one process measures within `budget_s`."""

    budget_s: float
    cases: list[Case]


def parts(dry_run: bool) -> list[Part]:
    """The whole run, what matters most first. What is compiled comes last: it takes what time is left."""
    presets = ("lite",) if dry_run else COMPARED_PRESETS
    precisions = ("fp16", "bf16", "fp32")
    found = [Part(180, [Case("law")])]
    for runtime in ("torch", "cuda_graph"):
        found += [Part(50, [Case("image", name, precision, runtime) for precision in precisions]) for name in presets]
    found += [Part(70, [Case("decoder", name, precision) for name in presets for precision in precisions])]
    node_cases = [("lite", 30.0), ("lite", 60.0), ("depth_anything_v2_vits", 30.0)]
    found += [Part(75, [Case("node", name, "bf16", "auto", rate)]) for name, rate in node_cases if name in presets]
    if not dry_run:
        found += [
            Part(150, [Case("image", name, precision, "compile") for precision in precisions]) for name in presets
        ]
    return found


def law(case: Case, small: bool) -> Result:
    """The tests marked `gpu`, or in small those of `lite` on fake CUDA tensors."""
    import pytest

    outcomes: Counter[str] = Counter()

    class Count:
        def pytest_runtest_logreport(self, report):
            if report.when == "call" or not report.passed:
                outcomes[report.outcome] += 1

    names, options = (("test_cuda_dry_run",), ["-k", "lite"]) if small else (GPU_TESTS, ["-m", "gpu"])
    files = [str(HERE.parent / "test" / f"{name}.py") for name in names]
    code = pytest.main(["-p", "no:cacheprovider", *options, *files], plugins=[Count()])
    said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) or "no test ran"
    if code or not outcomes["passed"]:
        raise RuntimeError(f"pytest ended with {pytest.ExitCode(code).name}: {said}")
    return Result(note=said + (" (fake CUDA tensors)" if small else ""))


def image(case: Case, small: bool) -> Result:
    """An image of 640x480 to answers at 128 points, stage by stage."""
    from network import answer_stages

    warnings.filterwarnings("error", message="torch.compile failed|no CUDA graph")  # would be measured as torch
    height, width = (96, 128) if small else (480, 640)
    rgb = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    camera = Camera(NYU_FOCAL_PX, NYU_FOCAL_PX, (width - 1) / 2, (height - 1) / 2)
    with torch.inference_mode():
        predictor = Predictor(SPD.from_preset(case.preset), str(DEVICE), case.precision, runtime=case.runtime)
        return Result(_percentiles(answer_stages(predictor, rgb, camera, POINTS), small))


def decoder(case: Case, small: bool) -> Result:
    """The decoder alone at 128 pixels of the preset's own size of input: "plan", "decode" with a plan that is there,
    "total" with a fresh one; beside the dense decoder."""
    from decoder import queries

    predictor = Predictor(SPD.from_preset(case.preset), str(DEVICE), case.precision, runtime="torch")
    model, size = predictor.model, (64, 96) if small else predictor.input_size
    points = queries(size)["pixels", POINTS]
    with torch.inference_mode():
        features = model.encode(torch.randn(1, 3, *size, device=DEVICE, dtype=predictor.dtype))
        plan = model.plan_points(points, features.grids, features.size)
        variants = {
            "plan": partial(model.plan_points, points, features.grids, features.size),
            "decode": partial(model.decode_points, features, plan=plan),
            "total": partial(model.decode_points, features, points),
            "dense": partial(model.decode_dense, features),
        }
        ms = _percentiles(variants, small)
    dense_ms = ms.pop("dense")[0]
    return Result(ms, note=f"dense {dense_ms:.2f} ms")


def node(case: Case, small: bool) -> Result:
    """A node over DDS: "encode" as it measures it, "total" from image and query published to answer received."""
    import rclpy
    from node import loaded

    from spd_ros.processes import isolate

    isolate()
    rclpy.init()
    settings = {"weights": case.preset, "precision": case.precision, "runtime": case.runtime, "device": str(DEVICE)}
    settings |= {"input_size": [64, 96]} if small else {}
    result = loaded(settings, 2.0 if small else 10.0, case.rate_hz, POINTS)
    ms = {"encode": result["encode_ms"], "total": result["latency_ms"]}
    return Result(
        {stage: [percentiles["p50"], percentiles["p99"]] for stage, percentiles in ms.items()},
        100 * (1 - result["with_depth"]),
        f"{result['with_depth']:.1%} of the points with depth",
    )


MEASURES = {"law": law, "image": image, "decoder": decoder, "node": node}


def _percentiles(variants: dict, small: bool) -> dict[str, list[float]]:
    """p50 and p99 of each variant, ms. Frozen, the objects that are there cost the collections between rounds
    nothing."""
    gc.freeze()
    times = series(variants, 3 if small else 100)
    return {name: [float(np.percentile(values, p)) for p in (50, 99)] for name, values in times.items()}


def measure(cases: list[Case], small: bool, rows: Path) -> None:
    """A part's process: a line of `rows` for each case as soon as it is measured."""
    prepare()
    for case in cases:
        print(case, flush=True)
        try:
            result = MEASURES[case.what](case, small)
        except Exception as error:  # whatever it is, it belongs into the table
            result = Result(error=first_line(error))
            print(result.error)
        with rows.open("a") as file:
            print(json.dumps([asdict(case), asdict(result)]), file=file)


def run_part(part: Part, budget_s: float, log, command: list[str]) -> dict[Case, Result]:
    """The results of a part, measured by `command` with `--measure` in at most `budget_s`; a case that it did not come
    to has an error that says why."""
    if budget_s < LEAST_S:
        return {case: Result(error=f"not run: the {LIMIT_S:.0f} s were over") for case in part.cases}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows"
        rows.touch()
        cases = json.dumps([asdict(case) for case in part.cases])
        process = subprocess.Popen(
            [*command, "--rows", str(rows), "--measure", cases], stdout=log, stderr=log, start_new_session=True
        )
        try:
            ending = f"its process ended with exit code {process.wait(budget_s)}, see gpu.log"
        except subprocess.TimeoutExpired:
            ending = f"took longer than {budget_s:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its compilers and its node too, also where it has ended
            process.wait()
        read = [json.loads(line) for line in rows.read_text().splitlines()]
    results = {Case(**case): Result(**result) for case, result in read}
    return {case: results.get(case, Result(error=ending)) for case in part.cases}


def verdict(case: Case, result: Result) -> str:
    """The targets of a row, and whether they were met."""
    got = {f"{stage}, ms": p50 for stage, (p50, _) in result.ms.items()} | {"unanswered, %": result.unanswered_percent}
    return "; ".join(
        f"{name} ≤ {limit:g}" + ("" if result.error else ": met" if got[name] <= limit else ": **missed**")
        for name, limit in TARGETS.get((case.what, case.preset, case.precision), {}).items()
    )


def markdown(results: dict[Case, Result], title: str) -> str:
    """The one table: a row for each case, p50 / p99 in milliseconds."""
    head = ["what", "preset", "precision", "runtime", *STAGES, "target", "note"]
    lines = [f"# SPD on {title}", "", "p50 / p99, ms; fp32 without TF32; random weights; targets are for an H100.", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head))]
    for case, result in results.items():
        what = {
            "law": "the law's tests",
            "image": f"image → {POINTS} answers",
            "decoder": f"decoder alone, {POINTS} points",
            "node": f"node, {case.rate_hz:.0f} Hz, {POINTS} points",
        }[case.what]
        times = [" / ".join(f"{value:.2f}" for value in result.ms.get(stage, ())) for stage in STAGES]
        note = f"**{result.error}**" if result.error else result.note
        cells = [what, case.preset, case.precision, case.runtime, *times, verdict(case, result), note]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry_run", action="store_true", help="in small, wherever it can be run")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="these parts alone")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the files")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)  # what the process of a part is given
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure([Case(**case) for case in arguments.measure], arguments.dry_run, arguments.rows)
        return 0
    if DEVICE.type != "cuda" and not arguments.dry_run:
        print(f"bench-gpu needs an NVIDIA GPU: torch {torch.__version__} finds none here (DRY_RUN=1 goes without)")
        return 2
    command = [sys.executable, str(Path(__file__).resolve()), *(["--dry_run"] if arguments.dry_run else [])]
    file, results = arguments.out / ("gpu_dry_run" if arguments.dry_run else "gpu"), {}
    title, table = machine() + (", dry run: times mean nothing" if arguments.dry_run else ""), ""
    ends_s = time.monotonic() + LIMIT_S
    with file.with_suffix(".log").open("w") as log:
        for part in parts(arguments.dry_run):
            first, left_s = part.cases[0], ends_s - time.monotonic()
            if first.what not in arguments.only:
                continue
            print(f"{left_s:4.0f} s left:", first.what, first.preset, first.runtime, flush=True)
            results |= run_part(part, min(part.budget_s, left_s), log, command)
            table = markdown(results, title)  # after each part: whoever ends the run early has what there is
            file.with_suffix(".md").write_text(table)
            rows = [asdict(case) | asdict(result) for case, result in results.items()]
            file.with_suffix(".json").write_text(json.dumps({"title": title, "rows": rows}, indent=1))
    print(table)
    return int(any(case.what == "law" and result.error for case, result in results.items()))


if __name__ == "__main__":
    sys.exit(main())
