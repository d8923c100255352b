"""The global path: encoder levels 3 and 4 to one stride-8 map, dense, once per image."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import FeatureFusion, Projection


class GlobalPath(nn.Module):
    """refinenet4 and refinenet3 of DPT (plan, section 5): stride 32 and stride 16 -> stride 8, D channels.

    The plan's third projection (level 2) only lent its size to a resize; it is not here, because a parameter without a gradient breaks DDP.
    """

    def __init__(self, channels: tuple[int, int, int, int], features: int):
        super().__init__()
        self.project3 = Projection(channels[2], features)
        self.project4 = Projection(channels[3], features)
        self.refine4 = FeatureFusion(features, has_coarse=False)
        self.refine3 = FeatureFusion(features)

    def forward(self, level3: Tensor, level4: Tensor) -> Tensor:  # [B, H/16, W/16, C3], [B, H/32, W/32, C4] -> [B, H/8, W/8, D]
        return self.refine3(self.project3(level3), self.refine4(self.project4(level4)))
