"""A camera image on its way into the network: the size that it gets there, and what that does to its pixels, to points
and to the focal length."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .backbones import MEAN, STD
from .camera import Camera, focal_correction, scale_points
from .errors import SPDError
from .model import MIN_SIZE, SPD, SPDConfig
from .plan import upload

MAX_ASPECT = 16
# Pixels of network input under fit "focal", in multiples of the model's input size: cameras of very wide view are
# scaled down.
MOST_INPUT = 3.0
# Those of narrower view than the model's input are scaled up by this power of what they lack: seen small, a part of a
# room is taken for all of it, and comes out too near (docs/models.md).
NARROW_VIEW = 0.3


def normalise(images: Tensor) -> Tensor:
    """RGB [..., 3, H, W] in 0 ... 255, uint8 or floating, to what the encoders take, in float32."""
    scale = images.new_tensor([1 / (255 * std) for std in STD], dtype=torch.float32)
    offset = images.new_tensor([mean / std for mean, std in zip(MEAN, STD)], dtype=torch.float32)
    return (images * scale[:, None, None]).sub_(offset[:, None, None])


@dataclass(frozen=True)
class ImageTransform:
    """What happens to one image, and to everything that is said in its pixels.

    Attributes:
        image_size: (height, width) px of the image.
        size: (height, width) px that it is scaled to.
        is_cubic: scaled as Depth Anything V2 does it (OpenCV's cubic, not antialiased, on floats), instead of bilinear
            and antialiased.
        training_focal_px: focal length, at `size`, at which network depth is metres.
        focal_factor: from network depth to metres; 1 where there is no camera.
    """

    image_size: tuple[int, int]
    size: tuple[int, int]
    is_cubic: bool
    training_focal_px: float
    focal_factor: float

    @classmethod
    def for_image(
        cls, model: SPD, image_size: tuple[int, int], camera: Camera | None, input_size: tuple[int, int] | None = None
    ) -> ImageTransform:
        """How `model` takes an image of `image_size` (height, width) px.

        Args:
            camera: its intrinsics at that size.
            input_size: (height, width) px that it is scaled to fit; None is the model's own way (`SPDConfig.fit`).
        """
        config = model.config
        size = _network_size(config, model.encoder.stride, image_size, camera, input_size)
        factor = 1.0
        if camera is not None:
            scaled = camera.scaled(size[1] / image_size[1], size[0] / image_size[0])
            factor = focal_correction(scaled, config.training_focal_px)
        return cls(image_size, size, config.fit == "cover", config.training_focal_px, factor)

    @property
    def expected_focal_px(self) -> float:
        """Focal length, at the image's own size, at which depth needs no correction."""
        return self.training_focal_px * self.image_size[1] / self.size[1]

    def points(self, uv: np.ndarray) -> np.ndarray:
        """Points [..., 2] px of the image as points of the network's input."""
        return scale_points(uv, np.array([self.size[1] / self.image_size[1], self.size[0] / self.image_size[0]]))

    def tensor(self, rgb: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The image, uint8 [H, W, 3], as the network takes it: normalised [1, 3, *size] on the device."""
        if self.is_cubic and self.size != self.image_size:
            rgb = cv2.resize(rgb.astype(np.float32), self.size[::-1], interpolation=cv2.INTER_CUBIC)
        image = upload(torch.from_numpy(np.require(rgb, requirements=["C", "W"])), device).permute(2, 0, 1)[None]
        if self.size != tuple(image.shape[2:]):
            if device.type != "cpu":  # a CPU resizes uint8 faster; CUDA cannot
                image = image.float()
            image = F.interpolate(image, size=self.size, mode="bilinear", antialias=True)
        # plane by plane: faster than pixel by pixel, and what onnxruntime wants
        return normalise(image.contiguous()).to(dtype)


def _network_size(
    config: SPDConfig,
    stride: int,
    image_size: tuple[int, int],
    camera: Camera | None,
    input_size: tuple[int, int] | None,
) -> tuple[int, int]:
    """(height, width) px that an image is scaled to, so that its pixels are square there; see `SPDConfig.fit`."""
    height, width = float(image_size[0]), float(image_size[1])
    if camera is not None:
        width *= camera.pixel_aspect
        camera = camera.squared()
    target = input_size or config.input_size
    if config.fit == "cover":
        shorter = min(target)
        scale, least = shorter / min(height, width), math.ceil(shorter / stride)
        return max(round(height * scale / stride), least) * stride, max(round(width * scale / stride), least) * stride
    scale = min(target[0] / height, target[1] / width)
    if config.fit == "focal" and input_size is None and camera is not None:
        whole = math.sqrt(math.prod(target) / (height * width))  # to as many pixels as the model's input has
        scale = min(config.training_focal_px / camera.focal_px, math.sqrt(MOST_INPUT) * whole)
        scale *= max(1, whole / scale) ** NARROW_VIEW  # the correction of depth makes up what is left
    scale = max(scale, MIN_SIZE / min(height, width))
    return round(height * scale), round(width * scale)


def check_image(rgb: np.ndarray) -> None:
    """Raise SPDError where `rgb` is not an image uint8 [H, W, 3] of a usual shape."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        found = f"{rgb.dtype} {list(rgb.shape)}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise SPDError(f"image must be a uint8 array [H, W, 3] in RGB order, got {found}")
    height, width = rgb.shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise SPDError(f"image is {width}x{height} px; expected sides of a ratio up to {MAX_ASPECT}")
