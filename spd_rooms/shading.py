"""The light in a room, and the photograph that a camera takes of it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .casting import LAMP_RADIUS_M, Scene
from .textures import hash01


def illumination(
    scene: Scene, points: Tensor, normals: Tensor, rays: Tensor, primitive: Tensor, size: tuple[int, int], rng
) -> Tensor:
    """Light [R, 3] arriving at the hit points: sky, and lamps of finite size with soft shadows.

    Shadows are found on every second pixel, occlusion on every fourth, and smoothed; drawn half a pixel and one and a
    half right and down of what throws them, which stays: another light would change the rooms of every seed.
    """

    def every(step: int, values: Tensor) -> Tensor:
        return values.reshape(*size, -1)[::step, ::step].reshape(-1, values.shape[-1])

    def upsample(step: int, coarse: Tensor) -> Tensor:
        coarse = F.avg_pool2d(coarse.reshape(1, 1, size[0] // step, size[1] // step), 3, 1, 1, count_include_pad=False)
        return F.interpolate(coarse, size=size, mode="bilinear").reshape(-1, 1)

    lifted = every(2, points + 0.01 * normals)
    index = torch.arange(len(lifted), dtype=torch.float32)
    walls = scene.colours[3, 0] * 0.5 + 0.5  # light bounced around the room takes its colour
    ambient = float(rng.uniform(0.12, 0.5)) * walls * (0.75 + 0.25 * normals[:, 1:2])
    light = ambient * upsample(4, scene.openness(every(4, points), every(4, normals)))
    view = F.normalize(-rays, dim=1)
    gloss = scene.gloss.index_select(0, primitive + 6)[:, None]
    for i, (position, power) in enumerate(scene.lights):
        jitter = torch.stack([hash01(index, index * 0 + axis, index * 0 + i) - 0.5 for axis in range(3)], dim=1)
        shadow = upsample(2, scene.visible(lifted, position, 2 * LAMP_RADIUS_M * jitter, (size[0] // 2, size[1] // 2)))
        to_lamp = position - points
        distance2 = to_lamp.square().sum(1, keepdim=True)
        to_lamp = to_lamp * distance2.rsqrt()
        lambert = (normals * to_lamp).sum(1, keepdim=True).clamp(min=0)
        shine = (normals * F.normalize(to_lamp + view, dim=1)).sum(1, keepdim=True).clamp(min=0) ** 40
        light = light + power * shadow * (lambert + gloss * shine) * 4 / (1 + distance2)
    return light


def photograph(radiance: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Linear radiance [3, H, W] to a camera's uint8 [H, W, 3]: exposure, colour temperature, vignetting, blur of lens
    and motion, shot and read noise, sRGB, JPEG."""
    _, height, width = radiance.shape

    def tensor(values):
        return torch.as_tensor(np.asarray(values), dtype=torch.float32)

    gains = np.exp(rng.normal(0, 0.12) * np.array([1, 0, -1]) + rng.normal(0, 0.05, 3))
    exposure = rng.uniform(0.1, 0.5) / radiance.clamp(max=4).mean().clamp(min=1e-4)
    exposed = radiance * exposure * tensor(gains)[:, None, None]
    y, x = (torch.linspace(-1, 1, extent) for extent in (height, width))
    exposed = exposed * (1 - rng.uniform(0, 0.2) * (x * x + y[:, None] * y[:, None]))
    blur = tensor(_blur_kernel(rng, width))[None, None]
    exposed = F.conv2d(F.pad(exposed[:, None], (3, 3, 3, 3), mode="replicate"), blur)[:, 0]
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    noise = torch.randn(exposed.shape, generator=generator)
    exposed = exposed + noise * (rng.uniform(0, 0.004) + rng.uniform(0.002, 0.02) * exposed.clamp(min=0).sqrt())
    exposed = exposed.clamp(0, 1) ** rng.uniform(0.9, 1.4)  # cheap cameras exaggerate contrast
    srgb = torch.where(exposed <= 0.0031308, 12.92 * exposed, 1.055 * exposed ** (1 / 2.4) - 0.055)
    rgb = (srgb * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    if rng.random() < 0.6:
        _, coded = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))])
        rgb = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))  # either order of colours
    return np.ascontiguousarray(rgb)


def _blur_kernel(rng: np.random.Generator, width: int) -> np.ndarray:
    """[7, 7]: the lens' point spread, for one image in four drawn out along the motion of the camera."""
    sigma = rng.uniform(0.35, 0.8) * width / 256
    length = rng.uniform(0, 4) * width / 256 if rng.random() < 0.25 else 0.0
    angle = rng.uniform(0, math.pi)
    taps = np.arange(-3, 4)
    path = np.linspace(-0.5, 0.5, 9)[:, None, None] * length
    dx, dy = taps[None, None] - path * math.cos(angle), taps[None, :, None] - path * math.sin(angle)
    kernel = np.exp(-0.5 * (dx**2 + dy**2) / sigma**2).sum(0)
    return kernel / kernel.sum()
