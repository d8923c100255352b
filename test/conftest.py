"""Shared fixtures. Nothing here talks to other machines: each process of a test session has its own DDS domain on
loopback."""

import os
import sys
from pathlib import Path

# As spd_core.process.wait_asleep has it: threads that wait by spinning starve the other processes of a test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import pytest
import torch
from filelock import FileLock
from support.models import TESTED_PRESETS, lively

from spd_cli import main
from spd_core import SPD, Predictor
from spd_rooms.shards import draw_rooms
from spd_ros.processes import isolate

isolate()


@pytest.fixture(scope="session")
def rooms(tmp_path_factory) -> Path:
    """A folder with a shard of synthetic rooms of 64x96 px, to be read: of all processes of a test session."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "rooms"
    with FileLock(f"{folder}.lock"):  # who comes second finds it drawn
        draw_rooms(folder, first_seed=900, count=250, size=(64, 96))
    return folder


@pytest.fixture(scope="session")
def models() -> dict[str, SPD]:
    """One model of each tested preset, with random weights."""
    torch.manual_seed(0)
    return {name: lively(SPD.from_preset(name)) for name in TESTED_PRESETS}


@pytest.fixture(scope="session")
def embedded() -> Predictor:
    """The embedded network, to be asked."""
    return Predictor.load("embedded", "cpu", runtime="torch")


@pytest.fixture
def spd(monkeypatch, capsys):
    """Runs a command in this process: what it said on both streams, having ended with that exit code."""

    def run(*words, code=0):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["spd", *map(str, words)])
        try:
            ended = main() or 0
        except SystemExit as stop:
            ended = stop.code
        said = capsys.readouterr()
        assert ended == code, said.err
        return said

    return run


@pytest.fixture
def failing(spd):
    """What a command says that does not succeed: one line, on the error stream."""

    def run(*words, code=1):
        said = spd(*words, code=code).err
        assert said.startswith("error: ")
        assert said.count("\n") == 1, said
        return said

    return run
