"""Synthetic rooms: seeded furnished rooms (`rooms.py`), seen by a random pinhole camera, drawn by ray casting in torch.

Rays are intersected with boxes, cylinders and ellipsoids in closed form, so depth is exact. The colours are meant to
read as a room, not to be a photograph: numbers measured on these images say nothing about real ones, and wherever they
appear that is said.

Shapes: R rays (innermost, so that arithmetic runs along them), P primitives, H, W image height and width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spd_core.camera import NYU_FOCAL_PX, Camera
from spd_core.errors import SPDError

from .rooms import BOX, CYLINDER, ELLIPSOID, TEXTURES, Room, random_room
from .textures import PATTERNS, hash01

LAMP_RADIUS_M = 0.12
# Most of a room's scale is in the height of the camera: a picture does not change if room and camera height grow
# together.
CAMERA_HEIGHT_M = (0.9, 1.5)
KINECT_FOCAL_RATIO = NYU_FOCAL_PX / 640
# Focal lengths, in image widths: 320 to 928 px at 640 px, an opening of 90 to 38 degrees.
FOCAL_RATIO = (0.5, 1.45)
# Rays are cast by image tile, against the primitives that the tile can see: a block of rays x primitives stays in
# cache.
TILE_PX = 48


@dataclass(frozen=True)
class Pose:
    """Camera position [3] m in the room and angles in rad: yaw about the vertical (0 looks along +z), pitch up, roll
    clockwise."""

    position: np.ndarray
    yaw: float
    pitch: float
    roll: float

    def rotation(self) -> np.ndarray:
        """[3, 3] from the optical frame (x right, y down, z forward) to the room's (y up)."""
        cy, sy, cp, sp, cr, sr = (f(a) for a in (self.yaw, self.pitch, self.roll) for f in (math.cos, math.sin))
        forward = np.array([sy * cp, sp, cy * cp])
        right = np.array([-cy, 0.0, sy])
        down = np.cross(forward, right)
        return np.stack([cr * right + sr * down, cr * down - sr * right, forward], axis=1)


@dataclass(frozen=True)
class Frame:
    """One drawn image: `rgb` uint8 [H, W, 3], `depth_m` float32 [H, W] (z-depth), `camera`, `pose`."""

    rgb: np.ndarray
    depth_m: np.ndarray
    camera: Camera
    pose: Pose


class Scene:
    """The primitives of a room as tensors, and the ray casts against them. Primitive -1-i is surface i of the shell."""

    def __init__(self, room: Room, device: torch.device | str = "cpu"):
        def tensor(values):
            return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=device)

        self.device = torch.device(device)
        order = np.argsort(room.kinds, kind="stable")
        self.kinds = torch.as_tensor(np.asarray(room.kinds)[order], device=device)
        self.centre, self.half = tensor(room.centres)[order], tensor(room.halves)[order]
        yaw = tensor(room.yaws)[order]
        self.cos, self.sin = yaw.cos(), yaw.sin()
        self.size = tensor(room.size)
        self.lights = [(tensor(position), tensor(power)) for position, power in room.lights]
        materials = [*room.surfaces[::-1], *(room.materials[i] for i in order)]  # at primitive + 6
        self.texture = torch.tensor([TEXTURES.index(m.texture) for m in materials], device=device)
        self.colours = tensor([[m.colour_a, m.colour_b] for m in materials])
        self.period, self.gloss, self.emission = (
            tensor([getattr(m, name) for m in materials]) for name in ("period_m", "gloss", "emission")
        )

    def _local(self, vectors, which: slice | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Room vectors (x, y, z), each [1 or P, R], in the frames of the primitives `which`: three [P, R]."""
        cos, sin = self.cos[which, None], self.sin[which, None]
        x, y, z = vectors
        return torch.addcmul(cos * x, sin, z, value=-1), y, torch.addcmul(sin * x, cos, z)

    def _distances(self, origin: Tensor, direction: Tensor, among: Tensor) -> Tensor:
        """Entry distance [P, R] along rays for the primitives `among` [P] (ascending), inf where one is missed or holds
        the origin."""
        found = []
        for kind in (BOX, CYLINDER, ELLIPSOID):
            which = among[self.kinds[among] == kind]
            if len(which) == 0:
                continue
            ox, oy, oz = self._local((origin - self.centre[which, None]).unbind(-1), which)
            dx, dy, dz = self._local(direction.T.contiguous()[:, None], which)
            hx, hy, hz = self.half[which, None].unbind(-1)
            if kind != ELLIPSOID:
                near, far = _slab(oy, dy, hy)
            if kind == BOX:
                for slab in (_slab(ox, dx, hx), _slab(oz, dz, hz)):
                    near, far = torch.maximum(near, slab[0]), torch.minimum(far, slab[1])
            else:  # a unit circle or sphere after division by the half extents
                ox, oz, dx, dz = ox / hx, oz / hz, dx / hx, dz / hz
                a, b, c = dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz - 1
                if kind == ELLIPSOID:
                    oy, dy = oy / hy, dy / hy
                    a, b, c = a + dy * dy, b + oy * dy, c + oy * oy
                root = (b * b - a * c).clamp(min=0).sqrt()  # 0 where the ray passes by: it enters where it leaves
                enter, leave = (-b - root) / a, (-b + root) / a
                near, far = (
                    (enter, leave) if kind == ELLIPSOID else (torch.maximum(near, enter), torch.minimum(far, leave))
                )
            found.append(near.masked_fill_((near >= far) | (near <= 1e-4), torch.inf))
        return torch.cat(found)

    def _tiles(
        self, apex: Tensor, rays: Tensor, size: tuple[int, int], margin_m: float = 0.0
    ) -> list[tuple[Tensor, Tensor]]:
        """Ray numbers and candidate primitives of each image tile. The rays [H * W, 3] start within `margin_m` of
        `apex` [3]."""
        everything = torch.arange(len(self.kinds), device=self.device)
        numbers = torch.arange(len(rays), device=self.device)
        if self.device.type != "cpu":
            return [(numbers, everything)]
        tiles = [
            part.reshape(-1) for rows in numbers.reshape(size).split(TILE_PX) for part in rows.split(TILE_PX, dim=1)
        ]
        unit = F.normalize(rays, dim=1)
        axes = F.normalize(torch.stack([unit[tile].mean(0) for tile in tiles]), dim=1)
        cone = torch.stack([(unit[tile] @ axis).min() for tile, axis in zip(tiles, axes)]).clamp(-1, 1).acos()
        offset = self.centre - apex
        distance = offset.norm(dim=1)
        sphere = (
            ((self.half.norm(dim=1) + margin_m) / distance).clamp(max=1).asin()
        )  # angular radius; 90 degrees around the apex
        angle = (axes @ (offset / distance[:, None]).T).clamp(-1, 1).acos()
        seen = (angle <= cone[:, None] + sphere + 1e-3) | (sphere >= math.pi / 2 - 1e-3)
        return [(tile, everything[row]) for tile, row in zip(tiles, seen)]

    def cast(self, origin: Tensor, direction: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """First hit of the rays of an image of `size`. origin [3] in the room, direction [R, 3] -> distance [R],
        primitive [R]."""
        inverse = 1 / direction
        to_walls = torch.maximum(-origin * inverse, (self.size - origin) * inverse)  # [R, 3]: leaving each slab
        distance, axis = to_walls.min(dim=1)
        positive = torch.gather(direction, 1, axis[:, None])[:, 0] > 0
        primitive = -1 - torch.tensor([[2, 3], [0, 1], [4, 5]], device=self.device)[axis, positive.long()]
        for rays, candidates in self._tiles(origin, direction, size):
            if len(candidates):
                nearest, which = self._distances(origin[None], direction[rays], candidates).min(dim=0)
                hit = nearest < distance[rays]
                distance[rays[hit]], primitive[rays[hit]] = nearest[hit], candidates[which[hit]]
        return distance, primitive

    def visible(self, points: Tensor, lamp: Tensor, jitter: Tensor, size: tuple[int, int]) -> Tensor:
        """Whether nothing stands between points [R, 3] and a lamp [3] + jitter [R, 3]; float [R]."""
        free = torch.ones(len(points), device=self.device)
        for rays, candidates in self._tiles(lamp, points - lamp, size, margin_m=math.sqrt(3) * LAMP_RADIUS_M):
            if len(candidates):
                origin = points[rays]
                free[rays] = (
                    (self._distances(origin, lamp + jitter[rays] - origin, candidates) > 0.97).all(dim=0).float()
                )
        return free

    def openness(self, points: Tensor, normals: Tensor) -> Tensor:
        """Soft occlusion [R] in [0, 1] from what stands close: distance to boxes around the primitives, a step off the
        surface."""
        reach_m = 0.15
        lifted = points + reach_m * normals
        local = self._local((lifted - self.centre[:, None]).unbind(-1), slice(None))
        gap2 = sum(
            (component.abs() - half).clamp(min=0).square()
            for component, half in zip(local, self.half[:, None].unbind(-1))
        )
        walls = torch.minimum(lifted, self.size - lifted).clamp(min=0).amin(dim=1)
        return 0.45 + 0.55 * (torch.minimum(gap2.amin(dim=0).sqrt(), walls) / reach_m).clamp(0, 1)

    def surface(self, points: Tensor, primitive: Tensor) -> tuple[Tensor, Tensor]:
        """Normals [R, 3] and albedo [R, 3] at hit points."""
        shell = torch.tensor(
            [[0, 0, -1], [0, 0, 1], [-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0]],
            dtype=torch.float32,
            device=self.device,
        )
        normals = shell.index_select(0, (6 + primitive).clamp(0, 5))  # surface -1 - primitive, counted from the end
        local_normals, metres = normals.clone(), points.clone()

        hit = (primitive >= 0).nonzero()[:, 0]
        which = primitive[hit]
        half, kind = self.half.index_select(0, which), self.kinds.index_select(0, which)[:, None]
        cos, sin = self.cos.index_select(0, which), self.sin.index_select(0, which)
        x, y, z = (points.index_select(0, hit) - self.centre.index_select(0, which)).unbind(1)
        offset = torch.stack([cos * x - sin * z, y, sin * x + cos * z], dim=1)
        local = offset / half
        size = local.abs()
        face = local * (size == size.amax(dim=1, keepdim=True))
        round_ = local / half
        is_cap = (size[:, 1:2].square() > local[:, 0:1].square() + local[:, 2:3].square())[:, 0]
        barrel = round_ * torch.tensor([1.0, 0.0, 1.0], device=self.device)
        barrel[is_cap] = local[is_cap] * torch.tensor([0.0, 1.0, 0.0], device=self.device)
        normal = F.normalize(torch.where(kind == BOX, face, torch.where(kind == ELLIPSOID, round_, barrel)), dim=1)
        x, y, z = normal.unbind(1)
        normals[hit] = torch.stack([cos * x + sin * z, y, cos * z - sin * x], dim=1)
        local_normals[hit], metres[hit] = normal, offset

        # Texture coordinates: the two axes across the normal, upright patterns stay upright.
        axis = local_normals.abs().argmax(dim=1)
        u = torch.where(axis == 0, metres[:, 2], metres[:, 0])
        v = torch.where(axis == 1, metres[:, 2], metres[:, 1])
        period = self.period.index_select(0, primitive + 6)
        return normals, self._albedo(u / period, v / period, primitive)

    def _albedo(self, u: Tensor, v: Tensor, primitive: Tensor) -> Tensor:
        texture = self.texture.index_select(0, primitive + 6)
        mix = torch.zeros_like(u)
        for i, name in enumerate(TEXTURES):
            chosen = (texture == i).nonzero()[:, 0]
            if len(chosen):
                mix[chosen] = PATTERNS[name](u[chosen], v[chosen], primitive[chosen].float() + 10)
        colours = self.colours.index_select(0, primitive + 6)
        return torch.lerp(colours[:, 0], colours[:, 1], mix[:, None])


def _slab(origin: Tensor, direction: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave |coordinate| <= half."""
    inverse = direction.reciprocal()
    middle = origin * -inverse
    inverse = inverse.abs_()
    return torch.addcmul(middle, half, inverse, value=-1), torch.addcmul(middle, half, inverse)


def camera_rays(camera: Camera, pose: Pose, size: tuple[int, int], device) -> Tensor:
    """Ray directions [H * W, 3] in the room, of unit depth: the distance along them is z-depth."""
    y, x = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    rays = camera.unproject(np.stack([x, y], axis=-1).reshape(-1, 2), np.ones(size[0] * size[1]))
    return torch.as_tensor(rays @ pose.rotation().T, dtype=torch.float32, device=device)


@torch.inference_mode()
def draw(
    room: Room, camera: Camera, pose: Pose, size: tuple[int, int], seed: int = 0, device: torch.device | str = "cpu"
) -> Frame:
    """Draw a room. `seed` sets the camera's exposure, blur and noise.

    Args:
        size: (H, W) px, multiples of 4.
        camera: intrinsics at that size.
    """
    if size[0] % 4 or size[1] % 4:
        raise SPDError(f"size must be (height, width) in multiples of 4 px, got {size}")
    scene = Scene(room, device)
    rng = np.random.default_rng([seed, 0xCA3])
    rays = camera_rays(camera, pose, size, device)
    eye = torch.as_tensor(pose.position, dtype=torch.float32, device=device)
    depth, primitive = scene.cast(eye, rays, size)
    points = eye + depth[:, None] * rays
    normals, albedo = scene.surface(points, primitive)
    light = _illumination(scene, points, normals, rays, primitive, size, rng)
    glow = (scene.emission[:, None] * scene.colours[:, 0]).index_select(0, primitive + 6)
    radiance = (albedo * light + glow).reshape(*size, 3).permute(2, 0, 1)
    rgb = _photograph(radiance, rng)
    return Frame(rgb, depth.reshape(size).cpu().numpy(), camera, pose)


def _illumination(
    scene: Scene, points: Tensor, normals: Tensor, rays: Tensor, primitive: Tensor, size: tuple[int, int], rng
) -> Tensor:
    """Light [R, 3] arriving at the hit points: sky, and lamps of finite size with soft shadows.

    Shadows are found on every second pixel, occlusion on every fourth, and smoothed.
    """

    def every(step: int, values: Tensor) -> Tensor:
        return values.reshape(*size, -1)[::step, ::step].reshape(-1, values.shape[-1])

    def upsample(step: int, coarse: Tensor) -> Tensor:
        coarse = F.avg_pool2d(coarse.reshape(1, 1, size[0] // step, size[1] // step), 3, 1, 1, count_include_pad=False)
        return F.interpolate(coarse, size=size, mode="bilinear").reshape(-1, 1)

    lifted = every(2, points + 0.01 * normals)
    index = torch.arange(len(lifted), device=points.device, dtype=torch.float32)
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


def _photograph(radiance: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Linear radiance [3, H, W] to a camera's uint8 [H, W, 3]: exposure, colour temperature, vignetting, blur of lens
    and motion, shot and read noise, sRGB, JPEG."""
    device, (_, height, width) = radiance.device, radiance.shape

    def tensor(values):
        return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=device)

    gains = np.exp(rng.normal(0, 0.12) * np.array([1, 0, -1]) + rng.normal(0, 0.05, 3))
    exposed = (
        radiance * (rng.uniform(0.1, 0.5) / radiance.clamp(max=4).mean().clamp(min=1e-4)) * tensor(gains)[:, None, None]
    )
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=device), torch.linspace(-1, 1, width, device=device), indexing="ij"
    )
    exposed = exposed * (1 - rng.uniform(0, 0.2) * (x * x + y * y))
    exposed = F.conv2d(
        F.pad(exposed[:, None], (3, 3, 3, 3), mode="replicate"), tensor(_blur_kernel(rng, width))[None, None]
    )[:, 0]
    generator = torch.Generator(device=device).manual_seed(int(rng.integers(2**31)))
    noise = torch.randn(exposed.shape, generator=generator, device=device)
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
    kernel = np.exp(
        -0.5
        * ((taps[None, None] - path * math.cos(angle)) ** 2 + (taps[None, :, None] - path * math.sin(angle)) ** 2)
        / sigma**2
    ).sum(0)
    return kernel / kernel.sum()


def random_camera(rng: np.random.Generator, size: tuple[int, int], focal_ratio: tuple[float, float]) -> Camera:
    """A camera whose focal length is a random multiple of the image width, square pixels, principal point near the
    middle.

    One in four is a Kinect, if the range has it: the camera of NYU Depth V2 and of most indoor recordings.
    """
    height, width = size
    ratio = math.exp(rng.uniform(*np.log(focal_ratio)))
    if rng.random() < 0.25 and focal_ratio[0] <= KINECT_FOCAL_RATIO <= focal_ratio[1]:
        ratio = KINECT_FOCAL_RATIO
    focal = width * ratio
    return Camera(
        focal,
        focal,
        (width - 1) / 2 + rng.uniform(-0.02, 0.02) * width,
        (height - 1) / 2 + rng.uniform(-0.02, 0.02) * height,
    )


def random_pose(room: Room, rng: np.random.Generator, camera: Camera, size: tuple[int, int]) -> Pose:
    """A pose at a height between that of a robot and of a person, which sees the room and not the back of a
    cupboard."""
    scene = Scene(room)
    width, height, length = room.size
    coarse, coarse_size = camera.scaled(1 / 16), (size[0] // 16, size[1] // 16)
    for _ in range(40):
        position = np.array(
            [
                rng.uniform(0.3, width - 0.3),
                min(rng.uniform(*CAMERA_HEIGHT_M), height - 0.3),
                rng.uniform(0.3, length - 0.3),
            ]
        )
        target = np.array([rng.uniform(0.2, 0.8) * width, 0, rng.uniform(0.2, 0.8) * length])
        yaw = math.atan2(target[0] - position[0], target[2] - position[2])
        pose = Pose(position, yaw, math.radians(rng.uniform(-30, 8)), math.radians(rng.normal(0, 2)))
        rays = camera_rays(coarse, pose, coarse_size, "cpu")
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
    device: torch.device | str = "cpu",
) -> Frame:
    """The frame of a seed: its own room, camera and pose. Same seed, same frame.

    Args:
        size: (H, W) px, multiples of 16.
        focal_ratio: range of focal length / image width.
        rooms: number of different rooms that all seeds share; without it each has its own.
    """
    rng = np.random.default_rng([seed, 0xF0CA])
    room = random_room(seed % rooms if rooms else seed)
    camera = random_camera(rng, size, focal_ratio)
    pose = random_pose(room, rng, camera, size)
    return draw(room, camera, pose, size, seed, device)
