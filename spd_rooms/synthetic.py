"""Synthetic rooms: seeded furnished rooms (`rooms.py`), seen by a random pinhole camera, drawn by ray casting in torch.

Depth is exact. The colours are meant to read as a room, not to be a photograph: numbers measured on these images say
nothing about real ones, and wherever they appear that is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from spd_core.camera import NYU_FOCAL_PX, Camera
from spd_core.errors import SPDError

from .casting import Pose, Scene, camera_rays
from .primitives import Room
from .rooms import random_room
from .shading import illumination, photograph

# Most of a room's scale is in the height of the camera: a picture does not change if room and camera height grow
# together.
CAMERA_HEIGHT_M = (0.9, 1.5)
KINECT_FOCAL_RATIO = NYU_FOCAL_PX / 640
# Focal lengths, in image widths: 320 to 928 px at 640 px, an opening of 90 to 38 degrees.
FOCAL_RATIO = (0.5, 1.45)
COARSE = 16  # px of the image for each ray by which a pose is judged


@dataclass(frozen=True)
class Frame:
    """One drawn image: `rgb` uint8 [H, W, 3], `depth_m` float32 [H, W] (z-depth), `camera`, `pose`."""

    rgb: np.ndarray
    depth_m: np.ndarray
    camera: Camera
    pose: Pose


def check_size(size: tuple[int, int]) -> None:
    """Raise SPDError where `size` (height, width) px cannot be drawn."""
    if len(size) != 2 or min(size) < COARSE or size[0] % 4 or size[1] % 4:
        raise SPDError(f"size must be (height, width) in multiples of 4 px, {COARSE} at least, got {tuple(size)}")


@torch.inference_mode()
def draw(room: Room, camera: Camera, pose: Pose, size: tuple[int, int], seed: int = 0) -> Frame:
    """Draw a room. `seed` sets the camera's exposure, blur and noise.

    Args:
        size: (H, W) px, multiples of 4, 16 at least.
        camera: intrinsics at that size.
    """
    check_size(size)
    scene = Scene(room)
    rng = np.random.default_rng([seed, 0xCA3])
    rays = camera_rays(camera, pose, size)
    eye = torch.as_tensor(pose.position, dtype=torch.float32)
    depth, primitive = scene.cast(eye, rays, size)
    points = eye + depth[:, None] * rays
    normals, albedo = scene.surface(points, primitive)
    light = illumination(scene, points, normals, rays, primitive, size, rng)
    glow = (scene.emission[:, None] * scene.colours[:, 0]).index_select(0, primitive + 6)
    radiance = (albedo * light + glow).reshape(*size, 3).permute(2, 0, 1)
    rgb = photograph(radiance, rng)
    return Frame(rgb, depth.reshape(size).cpu().numpy(), camera, pose)


def random_camera(rng: np.random.Generator, size: tuple[int, int], focal_ratio: tuple[float, float]) -> Camera:
    """A camera whose focal length is a random multiple of the image width, square pixels, principal point near the
    middle.

    One in four is a Kinect, if the range has it: the camera of NYU Depth V2 and of most indoor recordings.
    """
    height, width = size
    ratio = math.exp(rng.uniform(*np.log(focal_ratio)))
    if rng.random() < 0.25 and focal_ratio[0] <= KINECT_FOCAL_RATIO <= focal_ratio[1]:
        ratio = KINECT_FOCAL_RATIO
    focal_px = width * ratio
    cx, cy = ((extent - 1) / 2 + rng.uniform(-0.02, 0.02) * extent for extent in (width, height))
    return Camera(focal_px, focal_px, cx, cy)


def random_pose(room: Room, rng: np.random.Generator, camera: Camera, size: tuple[int, int]) -> Pose:
    """A pose at a height between that of a robot and of a person, which sees the room and not the back of a
    cupboard."""
    scene = Scene(room)
    width, height, length = room.size
    coarse, coarse_size = camera.scaled(1 / COARSE), (size[0] // COARSE, size[1] // COARSE)
    for _ in range(40):
        x, y = rng.uniform(0.3, width - 0.3), min(rng.uniform(*CAMERA_HEIGHT_M), height - 0.3)
        position = np.array([x, y, rng.uniform(0.3, length - 0.3)])
        target = np.array([rng.uniform(0.2, 0.8) * width, 0, rng.uniform(0.2, 0.8) * length])
        yaw = math.atan2(target[0] - position[0], target[2] - position[2])
        pose = Pose(position, yaw, math.radians(rng.uniform(-30, 8)), math.radians(rng.normal(0, 2)))
        rays = camera_rays(coarse, pose, coarse_size)
        depth, _ = scene.cast(torch.as_tensor(position, dtype=torch.float32), rays, coarse_size)
        if depth.min() > 0.4 and depth.median() > 1.3:
            return pose
    return pose


@torch.inference_mode()
def random_frame(
    seed: int,
    size: tuple[int, int] = (192, 256),
    focal_ratio: tuple[float, float] = FOCAL_RATIO,
    rooms: int | None = None,
) -> Frame:
    """The frame of a seed: its own room, camera and pose. Same seed, same frame.

    Args:
        size: as `draw` takes it.
        focal_ratio: range of focal length / image width.
        rooms: number of different rooms that all seeds share; without it each has its own.
    """
    rng = np.random.default_rng([seed, 0xF0CA])
    room = random_room(seed % rooms if rooms else seed)
    camera = random_camera(rng, size, focal_ratio)
    pose = random_pose(room, rng, camera, size)
    return draw(room, camera, pose, size, seed)
