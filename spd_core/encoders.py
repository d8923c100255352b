"""Image encoders from timm: an image to four feature maps of strides 4, 8, 16 and 32."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep torch's compiler from being imported: torchvision and timm import it for a decorator and a check of operators that nothing here
    uses, and it takes half of the time in which a node starts. It can be imported afterwards as ever."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    package, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    package.__path__ = []
    package.disable = lambda function=None, *arguments, **options: function if function is not None else lambda f: f
    utils.is_compile_supported = lambda device: False
    stand_ins = {"torch._dynamo": package, "torch._dynamo.utils": utils}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


with _without_compiler():
    import timm

# ImageNet statistics, which every timm encoder used here was trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """RGB [..., 3, H, W] in [0, 1] to what the encoders take."""
    shape = (3, 1, 1)
    return (images - images.new_tensor(MEAN).reshape(shape)) / images.new_tensor(STD).reshape(shape)


class PyramidEncoder(nn.Module):
    """A timm backbone with `features_only`, channels-last.

    Args:
        name: timm model with feature maps at strides 4, 8, 16, 32, e.g. "convnextv2_tiny".
        pretrained: True loads timm's published weights (mind their licence: ConvNeXt V2's are CC-BY-NC-4.0), False starts from random,
            a path loads a local checkpoint file of that timm model.
    """

    stride = 32

    def __init__(self, name: str, pretrained: bool | str | Path = False):
        super().__init__()
        overlay = None
        if isinstance(pretrained, (str, Path)):
            if not Path(pretrained).is_file():
                raise FileNotFoundError(f"encoder weights {pretrained} do not exist; expected True, False or a checkpoint file of timm's {name}")
            overlay = {"file": str(pretrained)}
        self.backbone = timm.create_model(name, pretrained=bool(pretrained), features_only=True, pretrained_cfg_overlay=overlay)
        reductions = tuple(self.backbone.feature_info.reduction())
        if reductions != (4, 8, 16, 32):
            raise ValueError(f"encoder {name} has feature maps at strides {reductions}, expected (4, 8, 16, 32)")
        self.channels: tuple[int, int, int, int] = tuple(self.backbone.feature_info.channels())
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:  # [B, 3, H, W], H and W multiples of 32 -> 4 x [B, H/s, W/s, C]
        levels = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return [level.permute(0, 2, 3, 1).contiguous() for level in levels]
