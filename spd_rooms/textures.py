"""Procedural textures: a pattern value in [0, 1] at surface coordinates, which mixes a material's two colours.

`u`, `v` [N] are surface coordinates in periods of the material, `seed` [N] makes two surfaces of one texture differ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hash01(a: Tensor, b: Tensor, seed: Tensor) -> Tensor:
    """White noise in [0, 1) of lattice cells."""
    return torch.frac(torch.sin(a * 12.9898 + b * 78.233 + seed * 37.719) * 43758.5453).abs()


def value_noise(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """Smooth noise in [0, 1]: lattice noise, interpolated with a smoothstep."""
    i, j = u.floor(), v.floor()
    fu, fv = u - i, v - j
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    top = torch.lerp(hash01(i, j, seed), hash01(i + 1, j, seed), fu)
    bottom = torch.lerp(hash01(i, j + 1, seed), hash01(i + 1, j + 1, seed), fu)
    return torch.lerp(top, bottom, fv)


def plain(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """Paint and plastic: hardly a pattern."""
    return 0.2 * value_noise(u * 0.3, v * 0.3, seed)


def wood(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """Planks along u, one period wide, each of its own shade, with grain."""
    plank = v.floor()
    shade = hash01(plank, plank * 0, seed)
    grain = value_noise(u * 0.7 + shade * 50, v * 14, seed + 1)
    joint = ((v - plank) < 0.03) | (torch.frac(u * 0.11 + shade * 7).abs() < 0.006)
    return (0.55 * shade + 0.45 * grain).clamp(0, 1).masked_fill(joint, 1.0)


def brick(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    v = v * 3
    row = v.floor()
    u = u + 0.5 * torch.remainder(row, 2)
    mortar = (torch.frac(u).abs() < 0.05) | ((v - row) < 0.13)
    shade = 0.6 * hash01(u.floor(), row, seed) + 0.15 * value_noise(u * 20, v * 7, seed)
    return shade.masked_fill(mortar, 1.0)


def tile(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    i, j = u.floor(), v.floor()
    grout = ((u - i) < 0.03) | ((v - j) < 0.03)
    chequered = torch.frac(seed * 0.37).abs() < 0.4
    shade = torch.where(chequered, torch.remainder(i + j, 2) * 0.7, hash01(i, j, seed) * 0.25)
    return (shade + 0.1 * value_noise(u * 4, v * 4, seed)).masked_fill(grout, 1.0)


def noise(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """Carpet and fabric: noise of three octaves."""
    return (value_noise(u, v, seed) + value_noise(u * 4, v * 4, seed) + value_noise(u * 16, v * 16, seed)) / 3


def printed(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """Posters, covers, labels: patches and waves."""
    patches = hash01((u * 1.7).floor(), (v * 1.3).floor(), seed)
    waves = 0.5 + 0.5 * torch.sin(2 * math.pi * (u * 0.6 + value_noise(u, v, seed)))
    return torch.where(torch.frac(seed * 0.61).abs() < 0.5, patches, waves)


def stripes(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """Book spines and wallpaper: upright stripes of uneven shade."""
    return hash01((u * 5).floor(), (u * 0).floor(), seed) * 0.8 + 0.2 * value_noise(u * 5, v * 2, seed)


PATTERNS = {
    "plain": plain,
    "wood": wood,
    "brick": brick,
    "tile": tile,
    "noise": noise,
    "print": printed,
    "stripes": stripes,
}
