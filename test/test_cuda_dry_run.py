"""What the engine would ask of a CUDA device, on machines without one: torch's fake tensors know devices, types and
shapes, but hold no numbers.

Whatever reads a number on the host, and so would make it wait for the device, raises DataDependentOutputException.
"""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from support.models import TESTED_PRESETS
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from spd_core import SPD


class Calls(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count[operator.overloadpacket] += 1
        return operator(*args, **(kwargs or {}))


def make_cuda(model: SPD, dtype: torch.dtype) -> None:
    """Put (fake) CUDA tensors of the same layout in place of the parameters."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, x in tensors.items():
                if x is not None:
                    moved = torch.empty_strided(x.shape, x.stride(), dtype=dtype, device="cuda")
                    tensors[name] = (
                        torch.nn.Parameter(moved, requires_grad=False) if tensors is module._parameters else moved
                    )


@pytest.mark.parametrize(
    ("preset", "dtype"),
    [*((preset, torch.float16) for preset in TESTED_PRESETS), ("lite", torch.float32), ("lite", torch.bfloat16)],
    ids=str,
)
@torch.no_grad()
def test_answers_without_waiting_for_the_device(models, preset, dtype):
    model = copy.deepcopy(models[preset])
    points = np.random.default_rng(0).uniform([0, 0], [181, 125], (1, 40, 2))
    with FakeTensorMode():
        make_cuda(model, dtype)
        features = model.encode(torch.empty(1, 3, 126, 182, dtype=dtype, device="cuda"))
        with Calls() as planning:
            plan = model.plan_points(points, features.grids, features.size)
        depth = model.decode_points(features, plan=plan)
        dense = model.decode_dense(features)
    for x in features.maps.values():
        assert (x.device.type, x.dtype, x.is_contiguous()) == ("cuda", dtype, True)  # channels-last: [B, H, W, C]
    assert 0 < planning.count[torch.ops.aten._to_copy] <= 3
    assert (depth.device.type, depth.dtype, depth.shape) == ("cuda", torch.float32, (1, 40))
    assert (dense.device.type, dense.dtype, dense.shape) == ("cuda", torch.float32, (1, 1, 126, 182))


def test_waiting_would_be_noticed():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.ones(3, device="cuda").sum().item()


@torch.inference_mode()
def test_a_plan_packed_for_its_copy_is_the_same_plan(models, monkeypatch):
    """`Plan.to` with a device that is not the CPU, but where the copy stays on it."""
    model = models["v15"]
    features = model.encode(torch.randn(1, 3, 96, 128))
    points = np.random.default_rng(0).uniform([0, 0], [127, 95], (1, 60, 2))
    plain = model.decode_points(features, points)
    uploads = []
    monkeypatch.setattr("spd_core.plan.upload", lambda x, device: uploads.append(x) or x)
    plan = model.plan_points(points, features.grids, features.size).to(torch.device("meta"))
    assert {x.dtype for x in uploads} == {torch.int32, torch.int64, torch.float32}
    assert torch.equal(model.decode_points(features, plan=plan), plain)
