"""What runs the network: the device, its precision, and three ways to run the encoder behind one interface."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .errors import SPDError
from .export import encoder_graph, is_available, onnx_session
from .lite_encoder import fold_batch_norm
from .model import SPD, Features

RUNTIMES = ("auto", "torch", "onnxruntime", "compile")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """ "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SPDError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SPDError(
            f"device {name!r} was asked for, but torch {torch.__version__} finds no CUDA device here; use 'auto' or"
            " 'cpu'"
        )
    return device


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """ "fp32", "bf16" or, on a GPU, "fp16"."""
    if precision not in PRECISIONS:
        raise SPDError(f"precision must be one of {sorted(PRECISIONS)}, got {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise SPDError("precision fp16 is for GPUs; on a CPU it is slower than fp32")
    return PRECISIONS[precision]


def placed(model: SPD, device: torch.device, dtype: torch.dtype) -> SPD:
    """`model` itself where it is in eval mode, on the device, of the type and has no BatchNorm to run; else a copy that
    is ready."""
    first = next(model.parameters())
    index = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index
    is_there = first.device.type == device.type and (first.device.index == index or device.type == "cpu")
    has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    if is_there and first.dtype == dtype and not model.training and not has_batch_norm:
        return model
    return made_ready(copy.deepcopy(model), device, dtype)


def made_ready(model: SPD, device: torch.device, dtype: torch.dtype) -> SPD:
    """`model` itself, changed: in eval mode, without BatchNorm, on the device and of the type."""
    fold_batch_norm(model.eval().encoder)
    return model.to(device, dtype)


class Runtime(Protocol):
    """Encodes images [1, 3, H, W] as `SPD.encode` does; `prepare` makes what images of a size need, ahead of the first
    one."""

    name: str

    def __call__(self, images: Tensor) -> Features: ...
    def prepare(self, size: tuple[int, int]) -> None: ...


class TorchRuntime:
    """The model as it is."""

    name = "torch"

    def __init__(self, model: SPD):
        self._model = model

    def __call__(self, images: Tensor) -> Features:
        return self._model.encode(images)

    def prepare(self, size: tuple[int, int]) -> None:
        """Nothing is needed."""


class CompiledRuntime:
    """torch.compile, which takes minutes at the first image; the model as it is, with a warning, where that fails (no
    C++ compiler, say)."""

    name = "compile"

    def __init__(self, model: SPD):
        self._model, self._run = model, torch.compile(model.encode)

    def __call__(self, images: Tensor) -> Features:
        try:
            return self._run(images)
        except Exception as error:  # the compiler's own exceptions come from many places
            if self._run == self._model.encode:
                raise
            warnings.warn(
                f"torch.compile failed, the encoder runs as it is: {type(error).__name__}:"
                f" {str(error).splitlines()[0]}",
                stacklevel=2,
            )
            self._run = self._model.encode
            return self._run(images)

    def prepare(self, size: tuple[int, int]) -> None:
        """It compiles at the first image."""


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]


class OnnxRuntime:
    """onnxruntime on the CPU, in fp32. A convolutional encoder has one graph for all sizes; others have one for each,
    which takes seconds to make: torch runs the first images of a size."""

    name = "onnxruntime"
    IMAGES_BEFORE_GRAPH = 2
    KEPT_GRAPHS = 4

    def __init__(self, model: SPD):
        self._model = model
        self._sessions: dict[tuple[int, int] | None, Any] = {}
        self._seen: Counter[tuple[int, int] | None] = Counter()

    def prepare(self, size: tuple[int, int]) -> None:
        """Make the graph for network input of `size`."""
        if len(self._sessions) == self.KEPT_GRAPHS:
            self._sessions.clear()
        padded = _size(self._model.padded(torch.empty(1, 3, *size)))
        graph = encoder_graph(self._model, padded, self._model.encoder.size_is_free)
        self._sessions[self._key(padded)] = onnx_session(graph)

    def _key(self, padded: tuple[int, int]) -> tuple[int, int] | None:
        """The same for sizes that share a graph."""
        return None if self._model.encoder.size_is_free else padded

    def __call__(self, images: Tensor) -> Features:
        asked, images = _size(images), self._model.padded(images)
        key = self._key(_size(images))
        if key not in self._sessions:
            self._seen[key] += 1
            if self._seen[key] <= self.IMAGES_BEFORE_GRAPH:
                return replace(self._model.encode(images), size=asked)
            self._seen.clear()
            self.prepare(asked)
        names = self._model.sparse_decoder.inputs
        maps = self._sessions[key].run(names, {"images": images.numpy()})
        return Features(dict(zip(names, map(torch.from_numpy, maps))), asked)


def create_runtime(name: str, model: SPD) -> Runtime:
    """The runtime of that name for a model where it is; "auto": onnxruntime where it is installed and possible, else
    torch."""
    if name not in RUNTIMES:
        raise SPDError(f"runtime must be one of {', '.join(RUNTIMES)}, got {name!r}")
    first = next(model.parameters())
    is_possible = first.device.type == "cpu" and first.dtype == torch.float32 and is_available()
    if name == "onnxruntime" and not is_possible:
        raise SPDError(
            f"runtime onnxruntime needs the packages onnx and onnxruntime, a CPU and fp32; got {first.device},"
            f" {first.dtype}, {'packages installed' if is_available() else 'packages not installed'}"
        )
    if name == "compile":
        return CompiledRuntime(model)
    return OnnxRuntime(model) if is_possible and name != "torch" else TorchRuntime(model)
