"""What the query decoders are built from. Shapes: B batch, K points, D channels; levels are channels-last maps
[B, h, w, C], places are (x, y) in -1 ... 1 from the left and upper border of the padded image to the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_core.decoders import Decoder
from spd_core.layers import Head

D = 192  # channels of a query, in every experiment
HEADS = 6


def places(points_px: Tensor, level1: Tensor) -> Tensor:
    """Points [B, K, 2] px, pixel centres at integers, as places [B, K, 2]; level 1 has a stride of 4 px."""
    return (points_px + 0.5) / (2 * points_px.new_tensor([level1.shape[2], level1.shape[1]])) - 1


def cells(level: Tensor) -> Tensor:
    """The places [h * w, 2] of a map's sites, row by row."""
    y, x = (
        (torch.arange(extent, device=level.device) + 0.5) * 2 / extent - 1
        for extent in (level.shape[1], level.shape[2])
    )
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def cell_size(level: Tensor) -> Tensor:
    """How far two neighbours of a map are apart, [2]."""
    return 2 / torch.tensor([level.shape[2], level.shape[1]], dtype=torch.float32, device=level.device)


def sampled(level: Tensor, at: Tensor) -> Tensor:
    """Bilinear samples [B, ..., C] of a map at places [B, ..., 2]; beyond the border the border's value."""
    samples = F.grid_sample(
        level.permute(0, 3, 1, 2).float(), at.flatten(1, -2)[:, None], padding_mode="border", align_corners=False
    )
    return samples[:, :, 0].transpose(1, 2).unflatten(1, at.shape[1:-1])


class PlaceCode(nn.Linear):
    """Places [..., 2] -> [..., D]: sines and cosines of 16 wavelengths, from the image to a 32nd of it."""

    frequency: Tensor

    def __init__(self):
        super().__init__(64, D)
        self.register_buffer("frequency", math.pi * 2 ** torch.linspace(0, 5, 16), persistent=False)

    def forward(self, at: Tensor) -> Tensor:
        angle = (at[..., None] * self.frequency).flatten(-2)
        return super().forward(torch.cat([angle.sin(), angle.cos()], dim=-1))


class Attention(nn.Module):
    """Multi-head attention of x [..., N, D] to tokens [..., M, D]."""

    def __init__(self):
        super().__init__()
        self.query, self.value, self.out = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.key = nn.Linear(D, D, bias=False)  # softmax does not see a bias of keys

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what was read [..., N, D], and the weights [..., N, M], mean over heads."""
        if x.shape[-2] == 1:
            return self._of_one(x, tokens)
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(-3, -2)
            for part in (self.query(x), self.key(tokens), self.value(tokens))
        )
        weights = (query @ key.transpose(-1, -2) / math.sqrt(D // HEADS)).softmax(-1)
        return self.out((weights @ value).transpose(-3, -2).flatten(-2)), weights.mean(-3)

    def _of_one(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The same for an x with tokens of its own: keys and values of a window would cost a hundred times what is done
        with them, so their matrices go to the side of x, where they may stand as well."""
        key, value = (layer.weight.unflatten(0, (HEADS, -1)) for layer in (self.key, self.value))  # [heads, d, D]
        query = torch.einsum("...hd,hdc->...hc", self.query(x[..., 0, :]).unflatten(-1, (HEADS, -1)), key)
        weights = (query @ tokens.transpose(-1, -2) / math.sqrt(D // HEADS)).softmax(-1)  # [..., heads, M]
        read = torch.einsum("...hc,hdc->...hd", weights @ tokens, value).flatten(-2) + self.value.bias
        return self.out(read)[..., None, :], weights.mean(-2, keepdim=True)


def feed_forward(ratio: int) -> nn.Sequential:
    """Normalisation and two layers, `ratio` * D wide between them."""
    return nn.Sequential(nn.LayerNorm(D), nn.Linear(D, ratio * D), nn.GELU(), nn.Linear(ratio * D, D))


class Block(nn.Module):
    """A transformer layer, normalised before: attention to `tokens`, or of x to itself, then the feed-forward part."""

    def __init__(self, ratio: int = 4):
        super().__init__()
        self.norm, self.attention, self.feed_forward = nn.LayerNorm(D), Attention(), feed_forward(ratio)

    def forward(self, x: Tensor, tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [..., N, D], tokens [..., M, D] -> x and the attention weights [..., N, M]."""
        normal = self.norm(x)
        read, weights = self.attention(normal, normal if tokens is None else tokens)
        x = x + read
        return x + self.feed_forward(x), weights


class QueryDecoder(Decoder):
    """What `V13` and `V14` are: forward(levels 4 x [B, h, w, C], points [B, K, 2] px) -> depth [B, K] m."""

    def auxiliary(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Maps of depth [B, 1, h, w] m that are trained beside the queries."""
        return []


def depth_head() -> nn.Sequential:
    """[..., D] -> depth [..., 1] m: exp of an MLP whose bias is the logarithm of 2.5 m."""
    return nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 2 * D), nn.GELU(), Head(2 * D, "exp"))
