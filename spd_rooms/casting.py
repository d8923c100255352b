"""Rays against a room: where they hit, what is in the way, and which surface is there. In closed form, so depth is
exact.

Shapes: R rays (innermost, so that arithmetic runs along them), P primitives, H, W image height and width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spd_core.camera import Camera

from .primitives import BOX, CYLINDER, ELLIPSOID, Room
from .textures import PATTERNS

# Rays are cast by image tile, against the primitives that the tile can see: a block of rays x primitives stays in
# cache.
TILE_PX = 48
LAMP_RADIUS_M = 0.12


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


def camera_rays(camera: Camera, pose: Pose, size: tuple[int, int]) -> Tensor:
    """Ray directions [H * W, 3] in the room, of unit depth: the distance along them is z-depth."""
    y, x = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    rays = camera.unproject(np.stack([x, y], axis=-1).reshape(-1, 2), np.ones(size[0] * size[1]))
    return torch.as_tensor(rays @ pose.rotation().T, dtype=torch.float32)


class Scene:
    """The primitives of a room as tensors, and the ray casts against them. Primitive -1-i is surface i of the shell."""

    def __init__(self, room: Room):
        def tensor(values):
            return torch.as_tensor(np.asarray(values), dtype=torch.float32)

        order = np.argsort(room.kinds, kind="stable")
        self.kinds = torch.as_tensor(np.asarray(room.kinds)[order])
        self.centre, self.half = tensor(room.centres)[order], tensor(room.halves)[order]
        yaw = tensor(room.yaws)[order]
        self.cos, self.sin = yaw.cos(), yaw.sin()
        self.size = tensor(room.size)
        self.lights = [(tensor(position), tensor(power)) for position, power in room.lights]
        materials = [*room.surfaces[::-1], *(room.materials[i] for i in order)]  # at primitive + 6
        self.texture = torch.tensor([list(PATTERNS).index(m.texture) for m in materials])
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
                if kind == CYLINDER:
                    enter, leave = torch.maximum(near, enter), torch.minimum(far, leave)
                near, far = enter, leave
            found.append(near.masked_fill_((near >= far) | (near <= 1e-4), torch.inf))
        return torch.cat(found)

    def _tiles(
        self, apex: Tensor, rays: Tensor, size: tuple[int, int], margin_m: float = 0.0
    ) -> list[tuple[Tensor, Tensor]]:
        """Ray numbers and candidate primitives of each image tile. The rays [H * W, 3] start within `margin_m` of
        `apex` [3]."""
        bands = torch.arange(len(rays)).reshape(size).split(TILE_PX)
        tiles = [tile.reshape(-1) for band in bands for tile in band.split(TILE_PX, dim=1)]
        unit = F.normalize(rays, dim=1)
        axes = F.normalize(torch.stack([unit[tile].mean(0) for tile in tiles]), dim=1)
        cone = torch.stack([(unit[tile] @ axis).min() for tile, axis in zip(tiles, axes)]).clamp(-1, 1).acos()
        offset = self.centre - apex
        distance = offset.norm(dim=1)
        # Angular radius of the sphere about a primitive; 90 degrees where it holds the apex.
        sphere = ((self.half.norm(dim=1) + margin_m) / distance).clamp(max=1).asin()
        angle = (axes @ (offset / distance[:, None]).T).clamp(-1, 1).acos()
        seen = (angle <= cone[:, None] + sphere + 1e-3) | (sphere >= math.pi / 2 - 1e-3)
        return [(tile, row.nonzero()[:, 0]) for tile, row in zip(tiles, seen)]

    def cast(self, origin: Tensor, direction: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """First hit of the rays of an image of `size`. origin [3] in the room, direction [R, 3] -> distance [R],
        primitive [R]."""
        inverse = 1 / direction
        to_walls = torch.maximum(-origin * inverse, (self.size - origin) * inverse)  # [R, 3]: leaving each slab
        distance, axis = to_walls.min(dim=1)
        positive = torch.gather(direction, 1, axis[:, None])[:, 0] > 0
        primitive = -1 - torch.tensor([[2, 3], [0, 1], [4, 5]])[axis, positive.long()]
        for rays, candidates in self._tiles(origin, direction, size):
            if len(candidates):
                nearest, which = self._distances(origin[None], direction[rays], candidates).min(dim=0)
                hit = nearest < distance[rays]
                distance[rays[hit]], primitive[rays[hit]] = nearest[hit], candidates[which[hit]]
        return distance, primitive

    def visible(self, points: Tensor, lamp: Tensor, jitter: Tensor, size: tuple[int, int]) -> Tensor:
        """Whether nothing stands between points [R, 3] and a lamp [3] + jitter [R, 3]; float [R]."""
        free = torch.ones(len(points))
        for rays, candidates in self._tiles(lamp, points - lamp, size, margin_m=math.sqrt(3) * LAMP_RADIUS_M):
            if len(candidates):
                origin = points[rays]
                distances = self._distances(origin, lamp + jitter[rays] - origin, candidates)
                free[rays] = (distances > 0.97).all(dim=0).float()
        return free

    def openness(self, points: Tensor, normals: Tensor) -> Tensor:
        """Soft occlusion [R] in [0, 1] from what stands close: distance to boxes around the primitives, a step off the
        surface."""
        reach_m = 0.15
        lifted = points + reach_m * normals
        local = self._local((lifted - self.centre[:, None]).unbind(-1), slice(None))
        halves = self.half[:, None].unbind(-1)
        gap2 = sum((component.abs() - half).clamp(min=0).square() for component, half in zip(local, halves))
        walls = torch.minimum(lifted, self.size - lifted).clamp(min=0).amin(dim=1)
        return 0.45 + 0.55 * (torch.minimum(gap2.amin(dim=0).sqrt(), walls) / reach_m).clamp(0, 1)

    def surface(self, points: Tensor, primitive: Tensor) -> tuple[Tensor, Tensor]:
        """Normals [R, 3] and albedo [R, 3] at hit points."""
        inward = [[0, 0, -1], [0, 0, 1], [-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0]]
        shell = torch.tensor(inward, dtype=torch.float32)
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
        barrel = round_ * torch.tensor([1.0, 0.0, 1.0])
        barrel[is_cap] = local[is_cap] * torch.tensor([0.0, 1.0, 0.0])
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
        for i, name in enumerate(PATTERNS):
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
