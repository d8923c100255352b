"""Numpy in, numpy out: encode a camera image once, ask it for depth many times.

    predictor = Predictor.load("embedded")
    frame = predictor.encode(rgb, camera)
    depth_m = frame.depth_at(uv)
    answer = frame.answer(uv)  # depth, sigma, xyz and status of every point

All points are pixels (u, v) of the image given to `encode`; scaling to the network's size, padding and the focal length
are handled here.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from . import checkpoint, export
from .camera import Camera, focal_correction, inside_image, scale_points
from .encoders import normalise
from .engine import Plan, upload
from .model import MIN_SIZE, PRESETS, SPD, Features
from .sites import Grid
from .status import Status

MAX_ASPECT = 16
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RUNTIMES = ("auto", "torch", "onnxruntime", "compile")
KEPT_PLANS = 8
KEPT_POINTS = 4096  # plans for more points are not kept: they are large, and cost little beside their decoding
# Pixels of network input under fit "focal", in multiples of the model's input size: cameras of very wide view are
# scaled down.
MOST_INPUT = 3.0
MOST_POINTS = 1 << 18  # decoded at a time: a plan's memory grows with the points, the decoder's does not


def pick_device(name: str) -> torch.device:
    """ "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r} was asked for, but torch {torch.__version__} finds no CUDA device here; use 'auto' or"
            " 'cpu'"
        )
    return device


class Predictor:
    """A model ready to answer, on one device.

    Args:
        model: in eval mode.
        device: see `pick_device`.
        precision: "fp32", "bf16" or, on a GPU, "fp16" (the head stays in fp32).
        input_size: (height, width) px that images are scaled to fit; None takes the model's own way (`SPDConfig.fit`).
        runtime: what runs the encoder. "torch"; "compile": torch.compile (minutes at the first image; for GPUs);
            "onnxruntime": on a CPU, in fp32; "auto": onnxruntime where it is installed and possible
            (docs/performance.md), else torch.
    """

    def __init__(
        self,
        model: SPD,
        device: str = "auto",
        precision: str = "fp32",
        input_size: tuple[int, int] | None = None,
        runtime: str = "torch",
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {sorted(PRECISIONS)}, got {precision!r}")
        if input_size is not None and (len(input_size) != 2 or min(input_size) < MIN_SIZE):
            raise ValueError(f"input_size must be (height, width) of at least {MIN_SIZE} px, got {tuple(input_size)}")
        self.device = pick_device(device)
        if precision == "fp16" and self.device.type == "cpu":
            raise ValueError("precision fp16 is for GPUs; on a CPU it is slower than fp32")
        self.dtype = PRECISIONS[precision]
        self.model = model.to(self.device, self.dtype).eval()
        self.fit_images(input_size)
        self.runtime, self._encode = self._pick_runtime(runtime)
        self._grids: dict[
            tuple[int, int], tuple[tuple[int, int], tuple[Grid, ...]]
        ] = {}  # by image size: the network's, and what a plan needs to know
        self._plans: OrderedDict[tuple, Plan] = OrderedDict()  # the last used at the end
        self._plans_lock = threading.Lock()
        self._warned = False

    def fit_images(self, input_size: tuple[int, int] | None) -> None:
        """Scale images to fit into `input_size` (height, width) px from now on; None is the model's own way
        (`SPDConfig.fit`)."""
        config = self.model.config
        self.input_size = config.input_size if input_size is None else tuple(input_size)
        self.fit = "inside" if config.fit == "focal" and input_size is not None else config.fit

    def _pick_runtime(self, runtime: str) -> tuple[str, Callable[[torch.Tensor], Features]]:
        """The runtime that "auto" stands for, and how it encodes."""
        if runtime not in RUNTIMES:
            raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
        fits = self.device.type == "cpu" and self.dtype == torch.float32
        if runtime == "auto":
            runtime = "onnxruntime" if fits and export.is_available() else "torch"
        if runtime == "onnxruntime":
            if not fits or not export.is_available():
                raise ValueError(
                    f"runtime onnxruntime needs the packages onnx and onnxruntime, a CPU and fp32; got {self.device},"
                    f" {self.dtype}, {'packages installed' if export.is_available() else 'packages not installed'}"
                )
            return runtime, export.OnnxEncoder(self.model)
        return runtime, _compiled(self.model.encode) if runtime == "compile" else self.model.encode

    @classmethod
    def load(
        cls,
        weights: str | Path = "embedded",
        device: str = "auto",
        precision: str = "fp32",
        input_size: tuple[int, int] | None = None,
        runtime: str = "torch",
    ) -> Predictor:
        """A predictor from "embedded" (the small weights that come with SPD), a checkpoint file, or a preset name
        (random weights).

        Raises:
            CheckpointError: the file is missing, damaged or foreign.
            ValueError: unknown device, precision or runtime.
        """
        if weights in PRESETS:
            warnings.warn(
                f"preset {weights!r} has random weights: its depths mean nothing until a checkpoint is loaded",
                stacklevel=2,
            )
            model = SPD.from_preset(str(weights))
        else:
            model = checkpoint.load(weights)
        return cls(model, device, precision, input_size, runtime)

    @torch.inference_mode()
    def encode(self, rgb: np.ndarray, camera: Camera | None = None) -> EncodedFrame:
        """Run the encoder and the global path on one image.

        Args:
            rgb: uint8 [H, W, 3].
            camera: its intrinsics at that size. Without them depth is right only for a camera with the training focal
                length (said once), and `points_at` cannot work.
        """
        if (
            not isinstance(rgb, np.ndarray)
            or rgb.dtype != np.uint8
            or rgb.ndim != 3
            or rgb.shape[2] != 3
            or min(rgb.shape) == 0
        ):
            found = f"{rgb.dtype} {list(rgb.shape)}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
            raise ValueError(f"image must be a uint8 array [H, W, 3] in RGB order, got {found}")
        height, width = rgb.shape[:2]
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise ValueError(f"image is {width}x{height} px; expected sides of a ratio up to {MAX_ASPECT}")
        size = self._network_size(height, width, camera)
        features = self._encode(self._network_input(rgb, size))
        self._grids[height, width] = size, features.grids
        scale_xy = np.array([size[1] / width, size[0] / height])
        factor = 1.0
        if camera is not None:
            factor = focal_correction(camera.scaled(*scale_xy), self.model.config.training_focal_px)
        elif not self._warned:
            self._warned = True
            expected = self.model.config.training_focal_px / scale_xy[0]
            warnings.warn(
                f"no camera intrinsics: depth assumes a focal length of {expected:.0f} px at {width}x{height}, and is"
                " off in proportion",
                stacklevel=2,
            )
        return EncodedFrame(self, features, (height, width), scale_xy, camera, factor)

    def _network_size(self, height: int, width: int, camera: Camera | None = None) -> tuple[int, int]:
        """(height, width) px that an image is scaled to; see `SPDConfig.fit`."""
        if self.fit == "cover":
            stride, shorter = self.model.encoder.stride, min(self.input_size)
            scale = shorter / min(height, width)
            return tuple(
                max(round(extent * scale / stride), math.ceil(shorter / stride)) * stride for extent in (height, width)
            )
        scale = min(self.input_size[0] / height, self.input_size[1] / width)
        if self.fit == "focal" and camera is not None:
            most = math.sqrt(MOST_INPUT * math.prod(self.input_size) / (height * width))
            scale = min(
                self.model.config.training_focal_px / camera.focal_px, most
            )  # the correction of depth makes up what is left
        scale = max(scale, MIN_SIZE / min(height, width))
        return round(height * scale), round(width * scale)

    def _network_input(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """Image uint8 [H, W, 3] -> normalised [1, 3, *size] on the device."""
        if (
            self.fit == "cover" and size != rgb.shape[:2]
        ):  # as Depth Anything V2 does it: OpenCV's cubic, not antialiased, on floats
            image = upload(
                torch.from_numpy(cv2.resize(rgb.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)),
                self.device,
            ).permute(2, 0, 1)[None]
        else:
            image = upload(torch.from_numpy(np.ascontiguousarray(rgb)), self.device).permute(2, 0, 1)[None]
        if size != tuple(image.shape[2:]):
            if self.device.type != "cpu":  # a CPU resizes uint8 faster; CUDA cannot
                image = image.float()
            image = F.interpolate(image, size=size, mode="bilinear", antialias=True)
        return normalise(image.contiguous()).to(
            self.dtype
        )  # plane by plane: three times as fast as pixel by pixel, and what onnxruntime wants

    def warm_up(self) -> None:
        """Encode and ask once at the input size, so that the first image does not wait for what is made at first
        use."""
        if isinstance(self._encode, export.OnnxEncoder):
            self._encode.prepare(torch.empty(1, 3, *self._network_size(*self.input_size)))
        warned, self._warned = self._warned, True
        self.encode(np.zeros((*self.input_size, 3), np.uint8)).depth_at(np.zeros((1, 2)))
        self._warned = warned

    def prepare(self, uv: np.ndarray, size: tuple[int, int]) -> None:
        """Plan `depth_at(uv)` for images of `size` (height, width) ahead, while another thread encodes one. Does
        nothing before the first of that size."""
        network_size, grids = self._grids.get(size, (None, None))
        uv = uv[inside_image(uv, size)]
        if grids is not None and 0 < len(uv) <= KEPT_POINTS:
            self.plan(
                scale_points(uv, np.array([network_size[1] / size[1], network_size[0] / size[0]]))[None],
                grids,
                network_size,
            )

    def plan(self, network_points: np.ndarray, grids: tuple[Grid, ...], network_size: tuple[int, int]) -> Plan:
        """The plan for points [1, K, 2]. The last few are kept: points that stay (a grid, fixed waypoints) are planned
        once."""
        key = (network_size, grids, network_points.tobytes()) if network_points.shape[1] <= KEPT_POINTS else None
        with self._plans_lock:
            if key in self._plans:
                self._plans.move_to_end(key)
                return self._plans[key]
        plan = self.model.plan_points(network_points, grids, network_size)
        if key is not None:
            with self._plans_lock:
                self._plans[key] = plan
                while len(self._plans) > KEPT_PLANS:
                    self._plans.popitem(last=False)
        return plan


def _compiled(encode: Callable[[torch.Tensor], Features]) -> Callable[[torch.Tensor], Features]:
    """`encode` through torch.compile; as it is, with a warning, where that fails (no C++ compiler, say)."""
    run = torch.compile(encode)

    def encode_compiled(images: torch.Tensor) -> Features:
        nonlocal run
        try:
            return run(images)
        except Exception as error:  # the compiler's own exceptions come from many places
            if run is encode:
                raise
            warnings.warn(
                f"torch.compile failed, the encoder runs as it is: {type(error).__name__}:"
                f" {str(error).splitlines()[0]}",
                stacklevel=2,
            )
            run = encode
            return encode(images)

    return encode_compiled


class MetricScale(Protocol):
    """What is known of the scene beside the image: `factor` turns answered metres into true ones, `sigma_log` is the
    standard deviation of its logarithm."""

    @property
    def factor(self) -> float: ...
    @property
    def sigma_log(self) -> float: ...


@dataclass(frozen=True)
class Answer:
    """What is answered at K points.

    Attributes:
        depth_m: z-depth, float32 [K]; NaN where there is none.
        sigma_m: its standard deviation, float32 [K]; NaN where there is no depth, or the model says none.
        xyz_m: in the optical frame (x right, y down, z forward), float32 [K, 3]; NaN rows where there is no depth, no
            camera, or no ray of its lens.
        status: why, uint8 [K] of `Status`: OK, NOT_FINITE, OUTSIDE_IMAGE, NETWORK_NAN, INVALID_RAY or NO_CAMERA_INFO.
    """

    depth_m: np.ndarray
    sigma_m: np.ndarray
    xyz_m: np.ndarray
    status: np.ndarray


class EncodedFrame:
    """One encoded image. `size` (height, width) px and `camera` are those of the image; `camera` may be None."""

    def __init__(
        self,
        predictor: Predictor,
        features: Features,
        size: tuple[int, int],
        scale_xy: np.ndarray,
        camera: Camera | None,
        focal_factor: float,
    ):
        self.predictor = predictor
        self.features = features
        self.size = size
        self.camera = camera
        self.scale_xy = scale_xy
        self.focal_factor = focal_factor

    def answer(self, uv: np.ndarray, scale: MetricScale | None = None) -> Answer:
        """Everything that is answered at points `uv` [K, 2] px of the image, and the one place that decides a point's
        status. `scale` multiplies the metres."""
        uv = _points(uv)
        depth_m, sigma_log = self._decode(uv)
        if scale is not None:
            depth_m, sigma_log = depth_m * np.float32(scale.factor), np.hypot(sigma_log, np.float32(scale.sigma_log))
        depth_m[np.isinf(depth_m)] = np.nan
        xyz_m = np.full((len(uv), 3), np.nan, np.float32)
        status = np.full(len(uv), Status.OK, np.uint8)
        if self.camera is None:
            status[:] = Status.NO_CAMERA_INFO
        else:
            xyz_m = self.camera.unproject(uv, depth_m).astype(np.float32)
            has_ray = np.isfinite(xyz_m).all(axis=1)
            xyz_m[~has_ray] = np.nan
            status[~has_ray] = Status.INVALID_RAY
        status[np.isnan(depth_m)] = Status.NETWORK_NAN
        status[~inside_image(uv, self.size)] = Status.OUTSIDE_IMAGE
        status[~np.isfinite(uv).all(axis=1)] = Status.NOT_FINITE
        return Answer(depth_m, depth_m * sigma_log, xyz_m, status)

    @torch.inference_mode()
    def _decode(self, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth, m, and the standard deviation of its logarithm, float32 [K] each, at points [K, 2]; NaN outside the
        image."""
        depth_m, sigma_log = np.full((2, len(uv)), np.nan, dtype=np.float32)  # no model says a sigma
        inside = inside_image(uv, self.size).nonzero()[0]
        for start in range(0, len(inside), MOST_POINTS):
            part = inside[start : start + MOST_POINTS]
            plan = self.predictor.plan(
                scale_points(uv[part], self.scale_xy)[None], self.features.grids, self.features.size
            )
            depth_m[part] = (
                self.predictor.model.decode_points(self.features, plan=plan)[0].cpu().numpy() * self.focal_factor
            )
        return depth_m, sigma_log

    def depth_at(self, uv: np.ndarray) -> np.ndarray:
        """z-depth, m, float32 [K], at points `uv` [K, 2] px of the image; NaN outside the image and for non-finite
        points."""
        return self._decode(_points(uv))[0]

    def points_at(self, uv: np.ndarray) -> np.ndarray:
        """Points [K, 3] m in the optical frame (x right, y down, z forward) at `uv` [K, 2] px; NaN rows as in
        `depth_at`."""
        if self.camera is None:
            raise ValueError("points_at needs the camera's intrinsics: pass camera= to Predictor.encode")
        return self.answer(uv).xyz_m

    @torch.inference_mode()
    def dense_depth(self) -> np.ndarray:
        """z-depth, m, float32 [H, W], at every pixel of the image: what `depth_at` answers there."""
        depth = self.predictor.model.decode_dense(self.features)
        return F.interpolate(depth, size=self.size, mode="bilinear")[0, 0].cpu().numpy() * np.float32(self.focal_factor)


def _points(uv: np.ndarray) -> np.ndarray:
    """Points as float64 [K, 2]."""
    uv = np.asarray(uv, dtype=np.float64)
    if uv.ndim != 2 or uv.shape[1] != 2:
        raise ValueError(f"points must be an array [K, 2] of (u, v) px, got shape {list(uv.shape)}")
    return uv
