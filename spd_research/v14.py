"""The decoder of experiments 8 to 10: deformable and full cross-attention, queries that attend to each other, and
canvases that all of them write to and read from. What one query answers depends on the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spd_core.layers import GELU, Conv3x3, Head, Projection

from .layers import HEADS, Attention, Block, D, PlaceCode, QueryDecoder, cell_size, cells, depth_head, places, sampled

SAMPLES = 4  # of a head on a level


class V14(QueryDecoder):
    """Neck, self-attention on level 4, seed, three deformable and two full cross-attention layers, head.

    Args:
        channels: of the encoder's levels.
        triple_canvas: experiment 9's canvases at strides 8, 16 and 32, instead of 8 and 16.
    """

    def __init__(self, channels: Sequence[int], triple_canvas: bool = False):
        super().__init__()
        kernels = (5, 5, 3) if triple_canvas else (5, 3)
        self.canvases = len(kernels)
        self.neck = nn.ModuleList(Projection(c, D) for c in channels)
        self.place_code = PlaceCode()
        self.self_attention = nn.ModuleList(Block() for _ in range(2))
        self.seed = nn.Linear(4 * D, D)
        self.seed_norm = nn.LayerNorm(D)
        self.layers = nn.ModuleList(Layer(cross, kernels) for cross in [Deformable] * 3 + [Attention] * 2)
        self.head = depth_head()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.auxiliary_heads = nn.ModuleList(nn.Sequential(Conv3x3(D, 32), GELU(), Head(32, "exp")) for _ in range(2))

    def forward(self, levels: Sequence[Tensor], points_px: Tensor) -> Tensor:  # 4 x [B, h, w, C], [B, K, 2] -> [B, K] m
        at = places(points_px, levels[0])
        levels = [neck(level) for neck, level in zip(self.neck, levels)]
        tokens = levels[3].flatten(1, 2) + self.place_code(cells(levels[3]))
        for block in self.self_attention:
            tokens = block(tokens)[0]
        levels[3] = tokens.unflatten(1, levels[3].shape[1:3])
        h = self.seed_norm(self.seed(torch.cat([sampled(level, at) for level in levels], dim=-1)) + self.place_code(at))
        canvases = [torch.zeros_like(level) for level in levels[1 : 1 + self.canvases]]
        for layer in self.layers:
            memory = (levels, at) if isinstance(layer.cross, Deformable) else (tokens,)
            h, canvases = layer(h, memory, canvases, at)
        return self.head(h)[..., 0] * self.log_scale.exp()

    def auxiliary(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Depth from levels 2 and 3 alone, at their strides: 2 x [B, 1, h, w] m; trained beside the queries."""
        return [head(self.neck[i](levels[i])).permute(0, 3, 1, 2) for i, head in zip((1, 2), self.auxiliary_heads)]


class Layer(nn.Module):
    """Cross-attention, write to the canvases, smooth them, read from them, attention among queries, feed-forward."""

    def __init__(self, cross: type[nn.Module], kernels: Sequence[int]):
        super().__init__()
        self.cross_norm, self.cross = nn.LayerNorm(D), cross()
        self.write, self.read = (nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Linear(D, D)) for _ in range(2))
        self.smooth = nn.ModuleList(nn.Conv2d(D, D, kernel, padding=kernel // 2, groups=D) for kernel in kernels)
        self.write_gate, self.read_gate, self.read_out = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.among = Block()

    def forward(
        self, h: Tensor, memory: tuple, canvases: list[Tensor], at: Tensor
    ) -> tuple[Tensor, list[Tensor]]:  # [B, K, D], what `cross` takes, canvases [B, h, w, D], places [B, K, 2]
        h = h + self.cross(self.cross_norm(h), *memory)[0]
        written = self.write(h) * self.write_gate(h).sigmoid()
        canvases = [canvas + splat(written, at, canvas.shape[1:3]) for canvas in canvases]
        canvases = [
            canvas + smooth(canvas.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            for canvas, smooth in zip(canvases, self.smooth)
        ]
        seen = torch.stack([sampled(canvas, at) for canvas in canvases]).mean(0)
        h = h + self.read_out(self.read(seen) * self.read_gate(h).sigmoid())
        return self.among(h)[0], canvases


class Deformable(nn.Module):
    """Multi-scale deformable attention (Zhu et al. 2021): each head reads four places of each level beside the query's
    own, chosen and weighted by the query."""

    def __init__(self):
        super().__init__()
        self.offsets = nn.Linear(D, HEADS * 4 * SAMPLES * 2)
        self.weights = nn.Linear(D, HEADS * 4 * SAMPLES)
        self.value, self.out = nn.Linear(D, D), nn.Linear(D, D)
        nn.init.normal_(self.offsets.weight, std=1e-3)
        nn.init.normal_(self.weights.weight, std=1e-3)
        angle = 2 * math.pi * torch.arange(HEADS) / HEADS  # each head starts out in its own direction, 1 to 4 sites off
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)[:, None, None]
        distance = torch.arange(1, SAMPLES + 1).view(1, 1, -1, 1)
        with torch.no_grad():
            self.offsets.bias.copy_((direction * distance).expand(-1, 4, -1, -1).flatten())

    def forward(self, x: Tensor, levels: Sequence[Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, K, D] at places [B, K, 2] of levels [B, h, w, D]: what was read [B, K, D], and the weights
        [B, K, heads, 4, samples]."""
        offsets = self.offsets(x).unflatten(-1, (HEADS, 4, SAMPLES, 2))
        weights = self.weights(x).unflatten(-1, (HEADS, -1)).softmax(-1).unflatten(-1, (4, SAMPLES))
        read = x.new_zeros(*x.shape[:2], HEADS, D // HEADS)
        for i, level in enumerate(levels):
            where = at[:, :, None, None] + offsets[..., i, :, :] * cell_size(level)  # [B, K, heads, samples, 2]
            values = self.value(level).unflatten(-1, (HEADS, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)
            samples = sampled(values, where.transpose(1, 2).flatten(0, 1))  # [B * heads, K, samples, D / heads]
            samples = samples.unflatten(0, (-1, HEADS)).transpose(1, 2)
            read = read + (samples * weights[..., i, :, None]).sum(-2)
        return self.out(read.flatten(2)), weights


def splat(values: Tensor, at: Tensor, size: Sequence[int]) -> Tensor:
    """Values [B, K, D] at places [B, K, 2] into a map [B, h, w, D], each to its four nearest sites with the weights of
    bilinear sampling: their sum, and where the weights of a site exceed one their mean, so that many queries at one
    place do not shout."""
    height, width = size
    extent = at.new_tensor([width, height])
    position = ((at + 1) * extent / 2 - 0.5).clamp(min=0).minimum(extent - 1)
    low = position.floor()
    high_share = position - low
    counted = torch.cat([values, values.new_ones(*values.shape[:2], 1)], dim=-1)
    total = values.new_zeros(len(values), height * width, counted.shape[-1])
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
        step = at.new_tensor(corner)
        share = (step * high_share + (1 - step) * (1 - high_share)).prod(-1, keepdim=True)
        x, y = (low + step).minimum(extent - 1).long().unbind(-1)
        total = total.scatter_add(1, (y * width + x)[..., None].expand_as(counted), (counted * share).to(total.dtype))
    return (total[..., :-1] / total[..., -1:].clamp(min=1)).unflatten(1, (height, width))
