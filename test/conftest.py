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

from spd_core import SPD
from spd_core.model import PRESETS

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
# `depth_anything_v2_vitb` and `vitl` are `vits` with other numbers, and large.
TESTED_PRESETS = [preset for preset in PRESETS if not preset.endswith(("_vitb", "_vitl"))]
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def lively(model: SPD, seed: int = 0) -> SPD:
    """Random weights large enough that every layer matters for the output."""
    generator = torch.Generator().manual_seed(seed)
    for part in (model.decoder, model.global_path):
        for parameter in part.parameters() if part is not None else ():
            if parameter.dim() > 1:
                parameter.data *= 1.5
            else:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def models() -> dict[str, SPD]:
    """One model of each tested preset, with random weights."""
    torch.manual_seed(0)
    return {name: lively(SPD.from_preset(name)) for name in TESTED_PRESETS}
