"""The decoders of experiments 1 to 7: each query looks at a window around it and at tokens of the coarse levels, and
knows nothing of the other queries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_core.layers import Projection

from .layers import Block, D, PlaceCode, QueryDecoder, cell_size, cells, depth_head, feed_forward, places, sampled

WIDTHS = (64, 128, 192, 384)  # of the projected levels
WINDOWS = (8, 3, 3, 3)  # side, sites, of the window on each level: 91 tokens


class V13(QueryDecoder):
    """B1 (central tokens, window), B2 (the window), B3 (coarse levels), B5 (what was found), head.

    Args:
        channels: of the encoder's levels.
        variant: "routed": v13.1 of experiments 5 to 7, B3a and B3b choose 20 tokens of level 3 and 10 of level 4, B5
            reads those and the central ones. "deformable": experiments 3 and 4, B3 chooses 32 tokens of level 4, B4
            samples all levels about each, B5 reads those and the window. "calibrated": experiments 1 and 2, B1 to B3,
            inverse depth by a scale and a shift of the image.

    Attributes:
        chosen: numbers [B, K, k] of the tokens that the last call chose, by level ("3", "4").
    """

    def __init__(self, channels: Sequence[int], variant: str = "routed"):
        super().__init__()
        self.variant = variant
        self.chosen: dict[str, Tensor] = {}
        self.neck = nn.ModuleList(Projection(c, width) for c, width in zip(channels, WIDTHS))
        self.to_token = nn.ModuleList(nn.Linear(width, D) for width in WIDTHS)
        self.place_code = PlaceCode()
        self.centre = nn.Linear(3 * D, D)
        self.window_code = nn.Parameter(0.02 * torch.randn(sum(side * side for side in WINDOWS), D))
        self.b2 = nn.ModuleList(Block() for _ in range(2))
        routed = {"3": 20, "4": 10} if variant == "routed" else {"4": 32}
        self.b3 = nn.ModuleDict({level: Routing(count) for level, count in routed.items()})
        self.head = depth_head()
        if variant == "calibrated":
            self.head[-1] = nn.Linear(2 * D, 1)
            scale_and_shift = nn.Linear(D // 3, 2)
            with torch.no_grad():  # a zero answers 2.5 m: softplus(-0.709) is 1 / 2.5
                scale_and_shift.bias.copy_(torch.tensor([1.0, -0.709]))
            self.calibration = nn.Sequential(nn.Linear(D, D // 3), nn.GELU(), scale_and_shift)
            return
        self.type_code = nn.Parameter(0.02 * torch.randn(3, D))
        self.b5 = nn.ModuleList(Block() for _ in range(2))
        if variant == "deformable":
            self.offsets = nn.Sequential(nn.Linear(2 * D, D), nn.GELU(), nn.Linear(D, 8))
            self.merge = nn.Linear(4 * D, D)
            self.merged = feed_forward(4)

    def forward(self, levels: Sequence[Tensor], points_px: Tensor) -> Tensor:  # 4 x [B, h, w, C], [B, K, 2] -> [B, K] m
        at = places(points_px, levels[0])
        levels = [to_token(neck(level)) for to_token, neck, level in zip(self.to_token, self.neck, levels)]
        central = torch.stack([sampled(level, at) for level in levels[1:]], dim=2)  # [B, K, 3, D]
        window = torch.cat([_window(level, at, side) for level, side in zip(levels, WINDOWS)], dim=2) + self.window_code
        h = self.centre(central.flatten(2)) + self.place_code(at)
        for block in self.b2:
            h = block(h[:, :, None], torch.cat([h[:, :, None], window], dim=2))[0][:, :, 0]
        found = {}
        for name, routed in self.b3.items():
            level = levels[int(name) - 1]
            h, found[name], self.chosen[name] = routed(h, level.flatten(1, 2) + self.place_code(cells(level)))
        if self.variant == "calibrated":
            scale, shift = self.calibration(levels[3].mean((1, 2)))[..., None].unbind(1)  # [B, 1] each
            return 1 / F.softplus(self.head(h)[..., 0] * scale + shift).float().clamp(min=1e-3)
        parts = [central, *found.values()]
        if self.variant == "deformable":
            parts = [window, self._deformed(levels, h, found["4"], cells(levels[3])[self.chosen["4"]])]
        tokens = torch.cat([part + code for part, code in zip(parts, self.type_code)], dim=2)
        for block in self.b5:
            h = block(h[:, :, None], tokens)[0][:, :, 0]
        return self.head(h)[..., 0]

    def _deformed(self, levels: Sequence[Tensor], h: Tensor, anchors: Tensor, at: Tensor) -> Tensor:
        """B4: a token for each anchor, of a sample of each level beside it: h [B, K, D], anchors [B, K, k, D] at places
        [B, K, k, 2] -> [B, K, k, D]."""
        offsets = self.offsets(torch.cat([h[:, :, None].expand_as(anchors), anchors], dim=-1)).unflatten(-1, (4, 2))
        samples = [sampled(level, at + offsets[..., i, :] * cell_size(level)) for i, level in enumerate(levels)]
        merged = self.merge(torch.cat(samples, dim=-1))
        return merged + self.merged(merged)


class Routing(nn.Module):
    """B3: two layers of attention to all tokens of a level; those that the second weighs most are what a query chooses.

    Args:
        count: of them, or all where a level has fewer.
    """

    def __init__(self, count: int):
        super().__init__()
        self.count = count
        self.first, self.second = Block(3), Block(3)

    def forward(self, h: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h [B, K, D], tokens [B, N, D] -> h, the tokens chosen [B, K, k, D], and their numbers [B, K, k]."""
        h, weights = self.second(self.first(h, tokens)[0], tokens)
        chosen = weights.topk(min(self.count, tokens.shape[1])).indices
        return h, tokens[torch.arange(len(tokens), device=h.device)[:, None, None], chosen], chosen


def _window(level: Tensor, at: Tensor, side: int) -> Tensor:
    """Samples [B, K, side * side, C] about each place, a site apart."""
    steps = torch.arange(side, device=at.device) - (side - 1) / 2
    offsets = torch.cartesian_prod(steps, steps) * cell_size(level)
    return sampled(level, at[:, :, None] + offsets)


def routing_diversity(chosen: Tensor) -> float:
    """How many different tokens all queries of an image chose, mean over images; `chosen` [B, K, k]."""
    return sum(len(image.unique()) for image in chosen) / len(chosen)
