"""bench/gpu.py on a machine without a GPU: the table has its rows whatever happens to a part."""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import gpu
from gpu import Case, Part, Result

ROOT = Path(__file__).parent.parent
CASES = [Case("image", "lite", "fp16", "torch"), Case("image", "lite", "fp16", "cuda_graph")]
# A part's process that measures its first case, and then goes wrong.
BROKEN = """
import json, os, sys, time
rows, (first, *_) = sys.argv[2], json.loads(sys.argv[4])
with open(rows, "a") as file:
    print(json.dumps([first, {{"ms": {{"total": [1.0, 2.0]}}}}]), file=file)
{}
"""


def cells(table: str) -> list[dict[str, str]]:
    """The rows of a Markdown table, by column."""
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line.startswith("|")
    ]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_a_dry_run_gives_the_whole_table_and_tells_that_the_law_failed(tmp_path):
    environment = os.environ | {"PYTEST_ADDOPTS": "--no-such-option", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "bench/gpu.py", "--dry_run", "--only", "law", "image", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    table = (tmp_path / "gpu_dry_run.md").read_text()
    assert table in done.stdout
    assert re.match(rf"# SPD on .+torch {re.escape(torch.__version__)}, \d{{4}}-\d\d-\d\d, dry run", table)
    law, *rows = cells(table)
    assert law["what"] == "the law's tests"
    assert law["note"] == "**RuntimeError: pytest ended with USAGE_ERROR: no test ran**"
    expected = product(["torch", "cuda_graph"], ["fp16", "bf16", "fp32"])
    assert [(row["runtime"], row["precision"]) for row in rows] == list(expected)
    for row in rows:
        times = [row[stage] for stage in gpu.STAGES]
        if row["runtime"] == "torch" and (row["precision"] != "fp16" or torch.cuda.is_available()):
            for p50, p99 in (cell.split(" / ") for cell in times):
                assert 0 <= float(p50) <= float(p99)
            assert row["note"] == ""
        elif not torch.cuda.is_available():
            assert times == [""] * len(gpu.STAGES)
            assert re.search("precision fp16 is for GPUs|runtime cuda_graph needs a CUDA device", row["note"])


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        ("os.abort()", "its process ended with exit code -6, see gpu.log"),
        ("raise SystemExit(3)", "its process ended with exit code 3, see gpu.log"),
        ("time.sleep(60)", "took longer than 2 s"),
    ],
)
def test_a_part_that_breaks_costs_what_it_did_not_come_to(ending, error, monkeypatch):
    monkeypatch.setattr(gpu, "LEAST_S", 1.0)
    command = [sys.executable, "-c", BROKEN.format(ending)]
    results = gpu.run_part(Part(2.0, CASES), 2.0, subprocess.DEVNULL, command)
    assert results == {CASES[0]: Result({"total": [1.0, 2.0]}), CASES[1]: Result(error=error)}
    first, second = cells(gpu.markdown(results, "a machine"))
    assert (first["total"], first["note"]) == ("1.00 / 2.00", "")
    assert (second["total"], second["note"]) == ("", f"**{error}**")


def test_a_part_without_time_left_is_not_run():
    results = gpu.run_part(Part(50, CASES), 3.0, subprocess.DEVNULL, ["/no/such/program"])
    assert {result.error for result in results.values()} == {"not run: the 600 s were over"}


def test_a_case_that_fails_leaves_the_next_ones_to_be_measured(tmp_path):
    rows = tmp_path / "rows"
    wrong = [Case("decoder", "nothing", "fp32"), Case("image", "lite", "fp7", "torch")]
    gpu.measure(wrong, True, rows)
    first, second = rows.read_text().splitlines()
    assert "SPDError: unknown preset 'nothing'" in first
    assert "SPDError: precision must be one of" in second


def test_targets_stand_beside_the_results():
    case, node = Case("image", "v15", "bf16", "torch"), Case("node", "depth_anything_v2_vits", "bf16", "torch", 30.0)
    good, slow = ({"total": [total, 9.0], "decode": [0.4, 9.0]} for total in (2.9, 3.1))
    assert gpu.verdict(case, Result(good)) == "total, ms ≤ 3: met; decode, ms ≤ 0.5: met"
    assert gpu.verdict(case, Result(slow)) == "total, ms ≤ 3: **missed**; decode, ms ≤ 0.5: met"
    assert gpu.verdict(case, Result(error="no device")) == "total, ms ≤ 3; decode, ms ≤ 0.5"
    assert gpu.verdict(node, Result(unanswered_percent=2.0)) == "unanswered, % ≤ 1: **missed**"
    assert gpu.verdict(Case("image", "v15", "fp32", "torch"), Result(good)) == ""


def test_the_whole_run_has_every_row():
    cases = [case for part in gpu.parts(dry_run=False) for case in part.cases]
    assert len(set(cases)) == len(cases)
    assert cases[0] == Case("law")
    runs = product(
        ["v15", "lite", "depth_anything_v2_vits"], ["fp32", "fp16", "bf16"], ["torch", "compile", "cuda_graph"]
    )
    assert {(c.preset, c.precision, c.runtime) for c in cases if c.what == "image"} == set(runs)
    assert {(c.preset, c.rate_hz) for c in cases if c.what == "node"} == {
        ("lite", 30),
        ("lite", 60),
        ("depth_anything_v2_vits", 30),
    }
    assert gpu.TARGETS.keys() <= {(c.what, c.preset, c.precision) for c in cases}


def test_the_files_of_tests_on_a_gpu_are_known():
    marked = {
        file.stem
        for file in (ROOT / "test").glob("test_*.py")
        if re.search(r"\bDEVICES\b|\bneeds_gpu\b|mark\.gpu\b", file.read_text()) and file != Path(__file__)
    }
    assert marked == set(gpu.GPU_TESTS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_a_gpu_it_says_so_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    assert re.fullmatch(r"bench-gpu needs an NVIDIA GPU: .+\n", capsys.readouterr().out)
