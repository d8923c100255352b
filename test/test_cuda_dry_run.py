"""What the engine would ask of a CUDA device, on machines without one: torch's fake tensors know devices, types and
shapes, but hold no numbers.

Whatever reads a number on the host, and so would make it wait for the device, raises DataDependentOutputException.
"""

import copy
import warnings
from collections import Counter
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.models import DEVICES, TESTED_PRESETS
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from spd_core import SPD
from spd_core.errors import SPDError
from spd_core.preprocess import ImageTransform
from spd_core.runtimes import CudaGraphRuntime, create_runtime


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
    transform, rgb = ImageTransform((250, 360), (126, 182), False, 500.0, 1.0), np.zeros((250, 360, 3), np.uint8)
    with FakeTensorMode():
        make_cuda(model, dtype)
        images = transform.tensor(rgb, torch.device("cuda"), dtype)
        features = model.encode(images)
        with Calls() as planning:
            plan = model.plan_points(points, features.grids, features.size)
        depth = model.decode_points(features, plan=plan)
        dense = model.decode_dense(features)
    assert (images.device.type, images.dtype, images.shape) == ("cuda", dtype, (1, 3, 126, 182))
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


class Recording(TorchDispatchMode):
    """A CUDA graph's contract on the CPU: what is called inside is noted with its tensors, and `replay` calls it again
    with the same tensors, into the same results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.overloadpacket is torch.ops.aten.nonzero:  # how many there are, the host must know
            raise RuntimeError("operation not permitted when stream is capturing")
        out = operator(*args, **(kwargs or {}))
        self.calls.append((operator, args, kwargs or {}, out))
        return out

    def replay(self):
        for operator, args, kwargs, out in self.calls:
            again = operator(*args, **kwargs)
            for old, new in zip(flat(out), flat(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def flat(out) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    tree_map_only(torch.Tensor, found.append, out)
    return found


@contextmanager
def recorded(graph, **options):
    with graph:
        yield


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """Where CUDA graphs are recorded: on CUDA, or on the CPU with `Recording` in their place."""
    if request.param == "cpu":
        stream = SimpleNamespace(wait_stream=lambda other: None)
        for name, stand_in in {
            "CUDAGraph": Recording,
            "graph": recorded,
            "Stream": lambda: stream,
            "current_stream": lambda: stream,
            "stream": nullcontext,
            "device": nullcontext,
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
    return request.param


def images(device: str, seed: int, size: tuple[int, int] = (64, 96)) -> torch.Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed)).to(device)


@pytest.mark.parametrize("preset", TESTED_PRESETS)
@torch.inference_mode()
def test_a_cuda_graph_encodes_every_image_as_torch_does_and_frames_do_not_share_memory(models, preset, device):
    model = copy.deepcopy(models[preset]).to(device)
    runtime = CudaGraphRuntime(model)
    runtime.prepare((70, 90))
    model_encode, model.encode = model.encode, None  # it is recorded: nothing runs the model from here on
    frames = [runtime(images(device, seed, (70, 90))) for seed in range(3)]
    for seed, frame in enumerate(frames):  # after all: a later image must not have changed an earlier frame
        reference = model_encode(images(device, seed, (70, 90)))
        assert frame.size == reference.size
        assert frame.maps.keys() == reference.maps.keys()
        for name, x in frame.maps.items():
            torch.testing.assert_close(x, reference.maps[name], rtol=1e-3, atol=1e-4)
    assert not frames[0].maps["level1"].equal(frames[1].maps["level1"])


@torch.inference_mode()
def test_cuda_graphs_are_for_sizes_that_repeat_and_only_a_few_are_kept(models, device):
    runtime = CudaGraphRuntime(copy.deepcopy(models["lite"]).to(device))
    for repeat in range(3):
        assert len(runtime._graphs) == 0, repeat
        runtime(images(device, repeat))
    assert list(runtime._graphs) == [(64, 96)]
    for height in range(65, 70):
        runtime.prepare((height, 96))
        assert 0 < len(runtime._graphs) <= runtime.KEPT_GRAPHS


@pytest.mark.parametrize("device", ["cpu"], indirect=True)  # an error while recording may cost a device's other tests
@torch.inference_mode()
def test_a_size_that_cannot_be_recorded_runs_as_it_is_and_says_why(models, device):
    model = copy.deepcopy(models["lite"]).to(device)
    encode = model.encode
    model.encode = lambda x: encode(x + 0 * len(x.nonzero()))  # waits for the device
    runtime = CudaGraphRuntime(model)
    with pytest.warns(UserWarning, match=r"no CUDA graph for 96x64, the encoder runs as it is: .*captur"):
        runtime.prepare((64, 96))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once for a size
        features = runtime(images(device, 1))
    torch.testing.assert_close(features.maps, encode(images(device, 1)).maps)


def test_a_cuda_graph_is_refused_without_cuda(models):
    with pytest.raises(SPDError, match="runtime cuda_graph needs a CUDA device; got cpu"):
        create_runtime("cuda_graph", models["lite"])


@torch.no_grad()
def test_a_gpu_gets_the_runtime_that_was_fastest_on_one_unless_another_is_named(models):
    model = copy.deepcopy(models["lite"])
    with FakeTensorMode(allow_non_fake_inputs=True):
        make_cuda(model, torch.bfloat16)
    assert create_runtime("auto", model).name == "cuda_graph"
    assert create_runtime("torch", model).name == "torch"
