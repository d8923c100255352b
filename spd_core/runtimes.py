"""What runs the network: the device, its precision, and four ways to run the encoder behind one interface."""

from __future__ import annotations

import copy
import os
import threading
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from .errors import SPDError, first_line
from .export import encoder_graph, is_available, onnx_session
from .lite_encoder import LiteEncoder, fold_batch_norm
from .model import SPD, Features
from .quantise import int8_graph

Encode = Callable[[Tensor], Features]
RUNTIMES = ("auto", "torch", "onnxruntime", "compile", "cuda_graph")
# What the network is in; of "int8" the encoder alone is, inside onnxruntime.
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}

NOT_SHARED = (
    "a Predictor cannot be copied, pickled or forked; make one in each process (Predictor.load), started by spawn"
)
_has_threads: int | None = None  # the process in which torch has some, once a network has run


def check_fork() -> None:
    """Raise SPDError in a fork of a process in which a network has run: torch would wait for ever for threads that a
    fork does not have."""
    if torch.get_num_threads() > 1 and _has_threads not in (None, os.getpid()):
        raise SPDError(NOT_SHARED)


@contextmanager
def inference(device: torch.device, process: int) -> Iterator[None]:
    """Run a network of a `process` in here: without gradients, in its own precision whatever autocast is around.

    Raises:
        SPDError: this is another process.
    """
    global _has_threads
    if process != os.getpid():
        raise SPDError(NOT_SHARED)
    _has_threads = process
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        yield


def pick_device(name: str) -> torch.device:
    """ "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise SPDError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= (found := torch.cuda.device_count()):
        raise SPDError(
            f"device {name!r} was asked for, but torch {torch.__version__} finds {found or 'no'} CUDA device"
            f"{'s' if found > 1 else ''} here; use 'auto' or 'cpu'"
        )
    return device


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """ "fp32", "bf16", on a GPU "fp16", or "int8", where all but the encoder is fp32."""
    if precision not in PRECISIONS:
        raise SPDError(f"precision must be one of {sorted(PRECISIONS)}, got {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise SPDError("precision fp16 is for GPUs; on a CPU it is slower than fp32")
    return PRECISIONS[precision]


def without_tf32() -> None:
    """TF32's ten bits would round differently for maps (cuDNN) and for rows: fp32 is what the law is about. This holds
    for the whole process."""
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")  # which other libraries ask for, and not the flag of cuda.matmul


def placed(model: SPD, device: torch.device, dtype: torch.dtype) -> SPD:
    """`model` itself where it is in eval mode, on the device, of the type and has no BatchNorm to fold; else a copy
    that is ready."""
    if device.type == "cuda" and dtype == torch.float32:
        without_tf32()
    first = next(model.parameters())
    is_there = first.device == torch.empty(0, device=device).device  # "cuda" is the current one
    is_folded = not _folds(model) or not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    if is_there and first.dtype == dtype and not model.training and is_folded:
        return model
    return made_ready(copy.deepcopy(model), device, dtype)


def made_ready(model: SPD, device: torch.device, dtype: torch.dtype) -> SPD:
    """`model` itself, changed: in eval mode, EfficientNet-Lite without BatchNorm, on the device and of the type."""
    if _folds(model.eval()):
        fold_batch_norm(model.encoder)
    return model.to(device, dtype)


def _folds(model: SPD) -> bool:
    """Whether BatchNorm can be folded by the order of modules alone: in EfficientNet-Lite each stands right after its
    convolution; in some of timm's other encoders a sum comes between."""
    return isinstance(model.encoder, LiteEncoder)


class Runtime:
    """Encodes images [1, 3, H, W] as `SPD.encode` does: the model as it is. `prepare` makes what images of a size need,
    ahead of the first one."""

    name = "torch"

    def __init__(self, model: SPD):
        self._model = model

    def __call__(self, images: Tensor) -> Features:
        return self._model.encode(images)

    def prepare(self, size: tuple[int, int]) -> None:
        """Nothing is needed."""


class CompiledRuntime(Runtime):
    """torch.compile, which takes minutes at the first image; the model as it is, with a warning, where that fails (no
    C++ compiler, say)."""

    name = "compile"

    def __init__(self, model: SPD):
        super().__init__(model)
        self._run = torch.compile(model.encode)

    def __call__(self, images: Tensor) -> Features:
        try:
            return self._run(images)
        except Exception as error:  # the compiler's own exceptions come from many places
            if self._run == self._model.encode:
                raise
            warnings.warn(f"torch.compile failed, the encoder runs as it is: {first_line(error)}", stacklevel=2)
            self._run = self._model.encode
            return self._run(images)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]


class GraphRuntime(Runtime, ABC):
    """A runtime with a graph for each size of image, which takes a while to make: torch runs the first images of a
    size."""

    IMAGES_BEFORE_GRAPH = 2
    KEPT_GRAPHS = 4

    def __init__(self, model: SPD):
        super().__init__(model)
        self._graphs: dict[tuple[int, int] | None, Encode] = {}
        self._seen: Counter[tuple[int, int] | None] = Counter()
        self._lock = threading.RLock()  # of both

    def prepare(self, size: tuple[int, int]) -> None:
        """Make the graph for network input of `size`."""
        with self._lock:
            key = self._key(size)
            if key not in self._graphs and len(self._graphs) == self.KEPT_GRAPHS:
                self._graphs.clear()
            self._graphs[key] = self._make(size)

    def __call__(self, images: Tensor) -> Features:
        with self._lock:
            encode = self._encoder(_size(images))
        return encode(images)

    def _encoder(self, size: tuple[int, int]) -> Encode:
        """What runs images of a size by now."""
        key = self._key(size)
        if key not in self._graphs:
            self._seen[key] += 1
            if self._seen[key] <= self.IMAGES_BEFORE_GRAPH:
                return self._model.encode
            self._seen.clear()
            self.prepare(size)
        return self._graphs[key]

    def _key(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """The same for sizes that share a graph."""
        return size

    @abstractmethod
    def _make(self, size: tuple[int, int]) -> Encode:
        """The graph for network input of `size`: what encodes an image of it."""


class OnnxRuntime(GraphRuntime):
    """onnxruntime on the CPU, in fp32. A convolutional encoder has one graph for all sizes; others have one for each,
    which takes seconds to make. Where it `is_a_choice` of ours, the model as it is runs what it cannot, with a
    warning."""

    name = "onnxruntime"

    def __init__(self, model: SPD, is_a_choice: bool = False):
        super().__init__(model)
        self._is_a_choice = is_a_choice

    def _key(self, size: tuple[int, int]) -> tuple[int, int] | None:
        return None if self._model.encoder.size_is_free else self._padded(size)

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        return _size(self._model.padded(torch.empty(1, 3, *size, device="meta")))

    def _make(self, size: tuple[int, int]) -> Encode:
        model, names = self._model, self._model.sparse_decoder.inputs
        try:
            session = onnx_session(self._onnx(size))
        except Exception as error:  # of the exporter, or of an onnxruntime that does not load
            if not self._is_a_choice:
                raise
            warnings.warn(f"onnxruntime cannot run the encoder, torch does: {first_line(error)}", stacklevel=2)
            self.name = Runtime.name
            return model.encode

        def encode(images: Tensor) -> Features:
            maps = session.run(names, {"images": model.padded(images).numpy()})
            return Features(dict(zip(names, map(torch.from_numpy, maps))), _size(images))

        return encode

    def _onnx(self, size: tuple[int, int]) -> bytes:
        return encoder_graph(self._model, self._padded(size), self._model.encoder.size_is_free)


class Int8Runtime(OnnxRuntime):
    """onnxruntime with an EfficientNet-Lite encoder in int8, from the first image on."""

    IMAGES_BEFORE_GRAPH = 0

    def _onnx(self, size: tuple[int, int]) -> bytes:
        return int8_graph(super()._onnx(size))


class CudaGraphRuntime(GraphRuntime):
    """The encoder's kernels, recorded once for a size and replayed with one call: without the time between launches.
    The model as it is, with a warning, at a size where recording fails. Calls must be on one CUDA stream."""

    name = "cuda_graph"
    WARM_UPS = 3  # libraries choose their kernels and allocate at the first calls, which is not allowed while recording

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        with self._lock:  # a graph has one input and one output: copy, replay and copy are one step
            return super().__call__(images)

    @torch.inference_mode()
    def _make(self, size: tuple[int, int]) -> Encode:
        first = next(self._model.parameters())
        images = torch.zeros(1, 3, *size, device=first.device, dtype=first.dtype)
        try:
            with torch.cuda.device(first.device):
                stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):  # torch.cuda.graph alone would leave us on it where recording fails
                    for _ in range(self.WARM_UPS):
                        self._model.encode(images)
                    # thread_local: other threads may answer, and allocate, meanwhile
                    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                        features = self._model.encode(images)
                torch.cuda.current_stream().wait_stream(stream)
        except RuntimeError as error:
            cause = error.__context__ or error  # that of the recording hides the reason why it ended
            warnings.warn(
                f"no CUDA graph for {size[1]}x{size[0]}, the encoder runs as it is: {first_line(cause)}", stacklevel=2
            )
            return self._model.encode

        def replay(new: Tensor) -> Features:
            images.copy_(new)
            graph.replay()  # overwrites `features`, so frames get copies
            return replace(features, maps={name: x.clone() for name, x in features.maps.items()})

        return replay


def create_runtime(name: str, model: SPD, precision: str = "fp32") -> Runtime:
    """The runtime of that name for a model where it is; "auto": cuda_graph on a GPU, onnxruntime on a CPU where it is
    installed and possible, else torch. Of precisions it minds "int8"; the others are the model's own type."""
    if name not in RUNTIMES:
        raise SPDError(f"runtime must be one of {', '.join(RUNTIMES)}, got {name!r}")
    first = next(model.parameters())
    is_possible = first.device.type == "cpu" and first.dtype == torch.float32 and is_available()
    if name == "onnxruntime" and not is_possible:
        raise SPDError(
            f"runtime onnxruntime needs the packages onnx and onnxruntime, a CPU and fp32; got {first.device},"
            f" {first.dtype}, {'packages installed' if is_available() else 'packages not installed'}"
        )
    if precision == "int8":
        if not is_possible or name not in ("auto", "onnxruntime") or not isinstance(model.encoder, LiteEncoder):
            raise SPDError(
                "precision int8 is for EfficientNet-Lite encoders on a CPU, by runtime auto or onnxruntime with the"
                f" packages onnx and onnxruntime; got encoder {model.config.encoder}, {first.device}, runtime {name},"
                f" {'packages installed' if is_available() else 'packages not installed'}"
            )
        return Int8Runtime(model)
    if name in ("auto", "cuda_graph") and first.device.type == "cuda":
        return CudaGraphRuntime(model)
    if name == "cuda_graph":
        raise SPDError(f"runtime cuda_graph needs a CUDA device; got {first.device}")
    if name == "compile":
        return CompiledRuntime(model)
    return OnnxRuntime(model, name == "auto") if is_possible and name != "torch" else Runtime(model)
