"""Local decoders, one class each: from the stride-8 map and the fine encoder levels to depth at every pixel, or at
some.

Each is written once, from the layers of `layers.py`. The argument names of `forward` say which feature maps it takes:
`stride8` (the global path, of the class named by `GLOBAL_PATH`) and `level1` ... `level4` (the encoder).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from .fusion import GlobalPath, ReassembledGlobalPath
from .layers import GELU, Conv3x3, FeatureFusion, Head, Projection, ResidualUnit, Resize

Channels = tuple[int, int, int, int]  # of the four encoder levels
MakeHead = Callable[[int], Head]  # by its input channels


class Decoder(nn.Module):
    """What each of them is. `GLOBAL_PATH` makes what its `stride8` comes from; the strides of its levels are those of
    encoders that pad to multiples of `ENCODER_STRIDE`: with others its map would be of another size than the image."""

    GLOBAL_PATH: ClassVar[type[nn.Module] | None] = None
    ENCODER_STRIDE: ClassVar[int] = 32


class V15Decoder(Decoder):
    """The local path of `v15`: stride-8 branch, merged with level 1, up to full resolution. Level 2 is not used."""

    GLOBAL_PATH: ClassVar[type[nn.Module] | None] = GlobalPath

    def __init__(self, channels: Channels, features: int, make_head: MakeHead):
        super().__init__()
        self.s8_1, self.s8_2 = Conv3x3(features, features), Conv3x3(features, features)
        self.project1 = nn.Linear(channels[0], features)
        self.merge1, self.merge2 = Conv3x3(features, features), Conv3x3(features, features)
        self.up1, self.up2 = Conv3x3(features, features), Conv3x3(features, features)
        self.final = Conv3x3(features, features // 2)
        self.head = make_head(features // 2)
        self.act = GELU()
        self.upsample = Resize(2)

    def forward(self, stride8: Tensor, level1: Tensor) -> Tensor:
        """[B, H/8, W/8, D], [B, H/4, W/4, C1] -> [B, H, W, 1] m."""
        x = self.act(self.s8_2(self.act(self.s8_1(stride8))))
        x = self.act(self.upsample(x) + self.project1(level1))
        x = self.upsample(self.act(self.merge2(self.act(self.merge1(x)))))
        x = self.upsample(self.act(self.up2(self.act(self.up1(x)))))
        return self.head(self.act(self.final(x)))


class RefineNetDecoder(Decoder):
    """DPT's own way to full resolution: refinenet2 with level 2, refinenet1 with level 1, its head."""

    GLOBAL_PATH: ClassVar[type[nn.Module] | None] = GlobalPath

    def __init__(
        self,
        channels: Channels,
        features: int,
        make_head: MakeHead,
        *,
        project: Callable[[int, int], nn.Module] = Projection,
        act: Callable[[], nn.Module] = GELU,
        head_features: int | None = None,
        scale: int | Fraction = 2,
    ):
        super().__init__()
        head_features = head_features or features // 2
        self.project2 = project(channels[1], features)
        self.project1 = project(channels[0], features)
        self.refine2 = FeatureFusion(features, act=act)
        self.refine1 = FeatureFusion(features, act=act)
        self.conv1 = Conv3x3(features, features // 2)
        self.upsample = Resize(scale)
        self.conv2 = Conv3x3(features // 2, head_features)
        self.act = nn.ReLU()
        self.head = make_head(head_features)

    def forward(self, stride8: Tensor, level1: Tensor, level2: Tensor) -> Tensor:  # -> [B, H, W, 1] m
        x = self.refine2(self.project2(level2), stride8)
        x = self.refine1(self.project1(level1), x)
        return self.head(self.act(self.conv2(self.upsample(self.conv1(x)))))


class ReassembledDecoder(RefineNetDecoder):
    """The same over DPT's reassembled transformer levels, as Depth Anything V2 has it. Level 1 has a stride of 3.5 px:
    refinenet1 doubles it, the head's resize makes up the patch of 14 px (7/4)."""

    GLOBAL_PATH: ClassVar[type[nn.Module] | None] = ReassembledGlobalPath
    ENCODER_STRIDE: ClassVar[int] = 14

    def __init__(self, channels: Channels, features: int, make_head: MakeHead):
        super().__init__(
            channels,
            features,
            make_head,
            project=partial(Conv3x3, bias=False),
            act=nn.ReLU,
            head_features=32,
            scale=Fraction(7, 4),
        )


class DPTDecoder(Decoder):
    """The dense baseline: all four refinenets belong to the decoder, nothing is kept per frame but
    the encoder."""

    def __init__(self, channels: Channels, features: int, make_head: MakeHead):
        super().__init__()
        self.global_path = GlobalPath(channels, features)
        self.local_path = RefineNetDecoder(channels, features, make_head)

    def forward(self, level1: Tensor, level2: Tensor, level3: Tensor, level4: Tensor) -> Tensor:  # -> [B, H, W, 1] m
        return self.local_path(self.global_path(level3, level4), level1, level2)


class LiteDecoder(Decoder):
    """For small encoders: two 3x3 convolutions at stride 4 are all that looks at neighbours, because those are what a
    query and a training step pay for. The finer the stride, the more sites: a point sees 6x6 of them here.

    The head works at stride 4, and its depth is what is upsampled. Level 2 joins at stride 8, where it costs nothing.
    """

    GLOBAL_PATH: ClassVar[type[nn.Module] | None] = GlobalPath
    FEATURES = 32

    def __init__(self, channels: Channels, features: int, make_head: MakeHead):
        super().__init__()
        width = self.FEATURES
        self.project8 = nn.Linear(features, width)
        self.project2 = nn.Linear(channels[1], width)
        self.project1 = nn.Linear(channels[0], width)
        self.upsample2 = Resize(2)
        self.unit = ResidualUnit(width, nn.ReLU)
        self.act = nn.ReLU()
        self.head = make_head(width)
        self.upsample4 = Resize(4)

    def forward(self, stride8: Tensor, level1: Tensor, level2: Tensor) -> Tensor:  # -> [B, H, W, 1 or 2]
        x = self.upsample2(self.project8(stride8) + self.project2(level2)) + self.project1(level1)
        return self.upsample4(self.head(self.act(self.unit(x))))


DECODERS: dict[str, type[Decoder]] = {
    "v15": V15Decoder,
    "lite": LiteDecoder,
    "refinenet": RefineNetDecoder,
    "reassembled": ReassembledDecoder,
    "dpt": DPTDecoder,
}
