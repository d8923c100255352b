"""Shared fixtures. Nothing here talks to other machines: each process of a test session has its own DDS domain on
loopback."""

import os

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # threads that wait by spinning starve the other processes of a test
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import pytest
import torch
from support.models import TESTED_PRESETS, lively

from spd_core import SPD
from spd_ros.processes import isolate

isolate()


@pytest.fixture(scope="session")
def models() -> dict[str, SPD]:
    """One model of each tested preset, with random weights."""
    torch.manual_seed(0)
    return {name: lively(SPD.from_preset(name)) for name in TESTED_PRESETS}
