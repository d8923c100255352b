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
import os
import threading
import warnings
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary

import numpy as np
import torch.nn.functional as F

from . import checkpoint
from .camera import Camera, CameraError, inside_image
from .errors import SPDError
from .model import PRESETS, SPD, Features, check_input_size
from .pixels import checked_points
from .plan import NOTHING, UNKNOWN, Coverage, Known, Plan
from .plausibility import check_aspect, doubt
from .preprocess import ImageTransform, check_image
from .runtimes import NOT_SHARED, check_fork, create_runtime, inference, made_ready, pick_device, pick_dtype, placed
from .sites import Grid
from .status import Answer as Answer  # for those who look for it here
from .status import Status

if TYPE_CHECKING:
    from .scale import MetricScale

KEPT_PLANS = 8
KEPT_POINTS = 4096  # plans for more points are not kept: they are large, and cost little beside their decoding
KEPT_FRAMES = 4  # the last that were asked keep what was evaluated for them: queries of one frame come together
MOST_POINTS = 1 << 18  # decoded at a time: a plan's memory grows with the points, the decoder's does not


class Predictor:
    """A model ready to answer, on one device. Nothing about it changes once it is made.

    Args:
        model: used as it is where it is in eval mode, on that device, of that precision and without BatchNorm to fold;
            else a copy is made ready. The model given is never changed.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:<n>".
        precision: "fp32" (for the whole process without TF32), "bf16", on a GPU "fp16" (the head stays in fp32), or, on
            a CPU, "int8" (of the encoder; for EfficientNet-Lite).
        input_size: (height, width) px that images are scaled to fit; None takes the model's own way (`SPDConfig.fit`).
        runtime: what runs the encoder. "torch"; "compile": torch.compile (minutes at the first image; for GPUs);
            "cuda_graph": its kernels on CUDA, recorded once for a size of image and replayed; "onnxruntime": on a CPU,
            in fp32; "auto": cuda_graph on a GPU, onnxruntime on a CPU where it is installed, else torch
            (docs/performance.md).
    """

    def __init__(
        self,
        model: SPD,
        device: str = "auto",
        precision: str = "fp32",
        input_size: tuple[int, int] | None = None,
        runtime: str = "auto",
    ):
        check_fork()
        if not isinstance(model, SPD):
            raise SPDError(f"model must be an SPD, got {model!r}; Predictor.load takes weights by name or file")
        self._forced_size = None if input_size is None else check_input_size(input_size)
        self.device = pick_device(device)
        self.dtype = pick_dtype(precision, self.device)
        self.model = placed(model, self.device, self.dtype)
        self.encoder = create_runtime(runtime, self.model, precision)
        self.provenance: dict[str, Any] = {}  # what the checkpoint says of itself
        self.inference = partial(inference, self.device, os.getpid())
        # By image size: its transform, and what a plan needs to know of its feature maps.
        self._seen: dict[tuple[int, int], tuple[ImageTransform, tuple[Grid, ...]]] = {}
        # Points that stay (a grid, fixed waypoints) are planned once, a second query that stays after a first one too.
        self._kept_plan = lru_cache(KEPT_PLANS)(partial(_planned, self.model))
        # What earlier queries evaluated of a frame, the last asked at the end. Replaced as a whole, never changed:
        # threads that ask at once evaluate some values twice, and none wrongly.
        self._known: WeakKeyDictionary[EncodedFrame, Known] = WeakKeyDictionary()
        self._known_lock = threading.Lock()
        self._is_asked_again = False  # whether the frame that was asked last was asked before: the next may be, too

    @classmethod
    def load(
        cls,
        weights: str | Path = "embedded",
        device: str = "auto",
        precision: str = "fp32",
        input_size: tuple[int, int] | None = None,
        runtime: str = "auto",
    ) -> Predictor:
        """A predictor from "embedded" (the small weights that come with SPD), a checkpoint file, or a preset name
        (random weights).

        Raises:
            CheckpointError: the file is missing, damaged or foreign.
            SPDError: unknown device, precision or runtime.
        """
        check_fork()
        if not isinstance(weights, str | os.PathLike):
            raise SPDError(f'weights must be "embedded", a file or the name of a preset, got {weights!r}')
        where = pick_device(device)
        dtype = pick_dtype(precision, where)
        if weights in PRESETS:
            warnings.warn(
                f"preset {weights!r} has random weights: its depths mean nothing until a checkpoint is loaded",
                stacklevel=2,
            )
            model, provenance = SPD.from_preset(str(weights)), {}
        else:
            model, provenance = checkpoint.load(weights), checkpoint.provenance(weights)
        predictor = cls(made_ready(model, where, dtype), device, precision, input_size, runtime)
        predictor.provenance = provenance
        return predictor

    def __getstate__(self) -> NoReturn:
        raise SPDError(NOT_SHARED)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) px that images are scaled to fit."""
        return self._forced_size or self.model.config.input_size

    @property
    def sigma_temperature(self) -> float:
        """What the network's sigma must be multiplied with to be right on held-out images (`spd calibrate`)."""
        value = self.provenance.get("sigma_temperature", 1.0)
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise checkpoint.CheckpointError(f"the file's sigma_temperature is {value!r}; expected a positive number")
        return float(value)

    @property
    def runtime(self) -> str:
        """Name of what runs the encoder: what "auto" stands for here."""
        return self.encoder.name

    def encode(
        self, rgb: np.ndarray, camera: Camera | None = None, input_size: tuple[int, int] | None = None
    ) -> EncodedFrame:
        """Run the encoder and the global path on one image.

        Args:
            rgb: uint8 [H, W, 3].
            camera: its intrinsics at that size. Without them depth is right only for a camera with the training focal
                length (a warning says which), and there are no points in space.
            input_size: (height, width) px that this image is scaled to fit, instead of the predictor's.
        """
        frame = self.encode_quietly(rgb, camera, input_size)
        height, width = frame.size
        if camera is None:
            warnings.warn(
                f"no camera intrinsics: depth assumes a focal length of {frame.transform.expected_focal_px:.0f} px at"
                f" {width}x{height}, and is off in proportion",
                stacklevel=2,
            )
        elif what := doubt(camera, frame.size):
            warnings.warn(what, stacklevel=2)
        return frame

    def encode_quietly(
        self, rgb: np.ndarray, camera: Camera | None = None, input_size: tuple[int, int] | None = None
    ) -> EncodedFrame:
        """As `encode`, without its warnings: for those who say themselves what is assumed of the camera."""
        check_image(rgb)
        if not isinstance(camera, Camera | None):
            raise CameraError(f"camera must be a Camera(fx, fy, cx, cy), got {camera!r}")
        if camera is not None:
            check_aspect(camera)
        size = self._forced_size if input_size is None else check_input_size(input_size)
        height, width = rgb.shape[:2]
        return self._encode(rgb, camera, ImageTransform.for_image(self.model, (height, width), camera, size))

    def _encode(self, rgb: np.ndarray, camera: Camera | None, transform: ImageTransform) -> EncodedFrame:
        with self.inference():
            features = self.encoder(transform.tensor(rgb, self.device, self.dtype))
        self._seen[transform.image_size] = transform, features.grids
        return EncodedFrame(self, features, transform, camera)

    def warm_up(self) -> None:
        """Encode and ask once at the input size, so that the first image does not wait for what is made at first
        use."""
        transform = ImageTransform.for_image(self.model, self.input_size, None, self._forced_size)
        self.encoder.prepare(transform.size)
        self._encode(np.zeros((*self.input_size, 3), np.uint8), None, transform).depth_at(np.zeros((1, 2)))

    def prepare(self, uv: np.ndarray, size: tuple[int, int]) -> None:
        """Plan `depth_at(uv)` for images of `size` (height, width) ahead, while another thread encodes one. Does
        nothing before the first of that size."""
        uv, size = checked_points(uv), (size[0], size[1])
        uv = uv[inside_image(uv, size)]
        if size in self._seen and 0 < len(uv) <= KEPT_POINTS:
            transform, grids = self._seen[size]
            self.plan(transform.points(uv)[None], grids, transform.size)

    def plan(
        self,
        network_points: np.ndarray,
        grids: tuple[Grid, ...],
        network_size: tuple[int, int],
        before: Coverage = NOTHING,
    ) -> Plan:
        """The plan for points [1, K, 2] of a frame of which values are known `before`, one of the last few if they were
        the same."""
        how = grids, network_size, before, self._is_asked_again
        if network_points.shape[1] > KEPT_POINTS:
            return self.model.plan_points(network_points, *how)
        return self._kept_plan(network_points.astype(np.float64, copy=False).tobytes(), *how)

    def known_of(self, frame: EncodedFrame) -> Known:
        """What is known of a frame's values from earlier queries."""
        with self._known_lock:
            return self._known.get(frame, UNKNOWN)

    def remember(self, frame: EncodedFrame, known: Known) -> None:
        """Keep what is known of a frame, and forget that of frames that were not asked for long."""
        with self._known_lock:
            self._is_asked_again = self._known.pop(frame, None) is not None
            self._known[frame] = known
            for oldest in list(self._known)[:-KEPT_FRAMES]:
                del self._known[oldest]


def _planned(model: SPD, points: bytes, *how: Any) -> Plan:
    """A plan for points given as the bytes of an array [1, K, 2], which a cache can look up."""
    return model.plan_points(np.frombuffer(points).reshape(1, -1, 2), *how)


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """One encoded image: the predictor that answers, the network's features of the image, how it came there, and its
    camera. Any number of threads may ask it.

    What a query evaluates is kept for the next ones (`plan.Known`), for the `KEPT_FRAMES` frames of a predictor that
    were asked last. In fp32 that is at most 2.3 MB for a frame of the embedded network at its input size, 13 MB for one
    of `v15`, 67 MB for one of `depth_anything_v2_vits`; 128 points take about half of it.
    """

    predictor: Predictor = field(repr=False)
    features: Features = field(repr=False)  # a notebook would show pages of numbers
    transform: ImageTransform
    camera: Camera | None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) px of the image."""
        return self.transform.image_size

    @property
    def focal_factor(self) -> float:
        """From network depth to metres."""
        return self.transform.focal_factor

    def answer(self, uv: np.ndarray, scale: MetricScale | None = None) -> Answer:
        """Everything that is answered at points `uv` [K, 2] px of the image, and the one place that decides a point's
        status. `scale` corrects the metres."""
        _check_scale(scale)
        uv = checked_points(uv)
        depth_m, sigma_log = self._decode(uv)
        applied: np.ndarray | float = 1.0
        if scale is not None:
            network_m = depth_m
            depth_m, sigma_log = scale.correct(network_m, sigma_log)
            applied = np.divide(depth_m, network_m, out=np.full_like(depth_m, scale.factor), where=network_m > 0)
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
        return Answer(depth_m, depth_m * sigma_log, xyz_m, status, applied)

    def _decode(self, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth, m, and the standard deviation of its logarithm, float32 [K] each, at points [K, 2]; NaN outside the
        image."""
        depth_m, sigma_log = np.full((2, len(uv)), np.nan, dtype=np.float32)
        inside = inside_image(uv, self.size).nonzero()[0]
        with self.predictor.inference():
            for start in range(0, len(inside), MOST_POINTS):
                part = inside[start : start + MOST_POINTS]
                points = self.transform.points(uv[part])[None]
                known = self.predictor.known_of(self)
                plan = self.predictor.plan(points, self.features.grids, self.features.size, known.coverage)
                answered, known = self.predictor.model.decode_planned(self.features, plan, known)
                self.predictor.remember(self, known)
                values = answered[0].cpu().numpy()
                depth_m[part] = values[:, 0] * self.focal_factor
                if values.shape[1] > 1:  # the scale of a Laplace distribution of log depth
                    sigma_log[part] = math.sqrt(2) * self.predictor.sigma_temperature * values[:, 1]
        return _finite(depth_m), sigma_log

    def depth_at(self, uv: np.ndarray) -> np.ndarray:
        """z-depth, m, float32 [K], at points `uv` [K, 2] px of the image; NaN outside the image and for non-finite
        points."""
        return self._decode(checked_points(uv))[0]

    def points_at(self, uv: np.ndarray) -> np.ndarray:
        """Points [K, 3] m in the optical frame (x right, y down, z forward) at `uv` [K, 2] px; NaN rows as in
        `depth_at`."""
        if self.camera is None:
            raise SPDError("points_at needs the camera's intrinsics: pass camera= to Predictor.encode")
        return self.answer(uv).xyz_m

    def dense_depth(self, scale: MetricScale | None = None) -> np.ndarray:
        """z-depth, m, float32 [H, W], at every pixel of the image: what `answer` says there."""
        _check_scale(scale)
        with self.predictor.inference():
            depth = self.predictor.model.decode_dense(self.features)
            depth_m = F.interpolate(depth, size=self.size, mode="bilinear")[0, 0].cpu().numpy()
        depth_m = _finite(depth_m * np.float32(self.focal_factor))
        return depth_m if scale is None else scale.correct(depth_m, np.full_like(depth_m, np.nan))[0]


def _check_scale(scale: MetricScale | None) -> None:
    if scale is not None and not hasattr(scale, "correct"):
        raise SPDError(f"scale must be a FixedScale or a ScaleFilter (spd_core.scale), got {scale!r}")


def _finite(depth_m: np.ndarray) -> np.ndarray:
    """Depths of which those without end are NaN: no answer."""
    return np.where(np.isinf(depth_m), np.float32(np.nan), depth_m)
