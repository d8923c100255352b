"""Shared fixtures. Nothing here talks to other machines: each test session has its own DDS domain on loopback."""

import os
import random

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # threads that wait by spinning starve the other processes of a test
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(1, 100))

import pytest
import torch
from support.models import TESTED_PRESETS, lively

from spd_core import SPD


@pytest.fixture(scope="session")
def models() -> dict[str, SPD]:
    """One model of each tested preset, with random weights."""
    torch.manual_seed(0)
    return {name: lively(SPD.from_preset(name)) for name in TESTED_PRESETS}
