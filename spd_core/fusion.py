"""The global path: encoder levels 3 and 4 to one map, dense, once per image. At the stride of level 2: 8, or half a
patch of a DINOv2."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from .layers import GELU, Conv3x3, FeatureFusion, Projection


class GlobalPath(nn.Module):
    """refinenet4 and refinenet3 of DPT: D channels, twice the size of level 3.

    Args:
        channels: of the four encoder levels.
        features: D.
        project: makes a level's projection to D channels.
        act: makes the activations.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        features: int,
        project: Callable[[int, int], nn.Module] = Projection,
        act: Callable[[], nn.Module] = GELU,
    ):
        super().__init__()
        self.project3 = project(channels[2], features)
        self.project4 = project(channels[3], features)
        self.refine4 = FeatureFusion(features, has_coarse=False, act=act)
        self.refine3 = FeatureFusion(features, act=act)

    def forward(self, level3: Tensor, level4: Tensor) -> Tensor:
        """[B, H3, W3, C3], [B, H4, W4, C4] -> [B, 2 H3, 2 W3, D]."""
        coarse = self.refine4(self.project4(level4), like=level3)
        return self.refine3(self.project3(level3), coarse)


class ReassembledGlobalPath(GlobalPath):
    """The same over DPT's reassembled transformer levels, as Depth Anything V2 has it: 3x3 projections without bias,
    ReLU."""

    def __init__(self, channels: tuple[int, int, int, int], features: int):
        super().__init__(channels, features, partial(Conv3x3, bias=False), nn.ReLU)
