"""Image encoders from timm: an image to four feature maps, fine to coarse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import MEAN, STD, EncoderError, create_backbone, keep_channels_last, timm
from .errors import SPDError, first_line
from .lite_encoder import LiteEncoder

DROP_PATHS = ("drop_path", "drop_path1", "drop_path2")  # names that timm's blocks have for it


class ResponseMlp(timm.layers.GlobalResponseNormMlp):
    """ConvNeXt V2's two linear layers with response normalisation between them, the same function and parameters in
    fewer passes over the widest map of a block. The normalisation scales each channel of an image by a factor and adds
    a bias: both go into the second layer, whose matrix is small. Without gradients only: a square root has none at
    zero, where the norm has.

    A map is [B, H, W, C], or [B, C, H, W] where timm has 1x1 convolutions for the linear layers.
    """

    fc1: nn.Linear | nn.Conv2d
    fc2: nn.Linear | nn.Conv2d
    grn: Any

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        is_conv = isinstance(self.fc1, nn.Conv2d)
        x = x.permute(0, 2, 3, 1) if is_conv else x
        height, width = x.shape[1:3]
        x = self.act(F.linear(x, self.fc1.weight.flatten(1), self.fc1.bias)).flatten(1, 2)  # [B, H * W, 4 C]
        if x.device.type == "cpu":  # as a product with ones: reductions over the inner dimensions are slow there
            response = (x.new_ones(len(x), 1, height * width) @ x.square()).sqrt()
        else:  # fp16 holds the norm, not its square
            response = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32).to(x.dtype)
        factor = 1 + self.grn.weight * (response / (response.mean(-1, keepdim=True) + self.grn.eps))  # [B, 1, 4 C]
        weight = self.fc2.weight.flatten(1)
        x = x @ (weight * factor).transpose(1, 2) + (self.fc2.bias + weight @ self.grn.bias)
        x = x.unflatten(1, (height, width))
        return x.permute(0, 3, 1, 2) if is_conv else x


class PyramidEncoder(nn.Module):
    """A timm backbone with `features_only`, channels-last.

    Args:
        name: timm model whose last feature maps are at strides 4, 8, 16, 32, e.g. "convnextv2_tiny".
        pretrained: as in `create_backbone`.
    """

    stride = 32

    def __init__(self, name: str, pretrained: bool | str | Path = False):
        super().__init__()
        self.backbone = create_backbone(name, pretrained, features_only=True, out_indices=(-4, -3, -2, -1))
        for module in self.backbone.modules():
            if type(module) is timm.layers.GlobalResponseNormMlp:
                module.__class__ = ResponseMlp
        reductions = tuple(self.backbone.feature_info.reduction())
        if reductions != (4, 8, 16, 32):
            raise EncoderError(f"encoder {name} has feature maps at strides {reductions}, expected (4, 8, 16, 32)")
        own = self.backbone.pretrained_cfg or {}
        if pretrained and (tuple(own.get("mean", MEAN)), tuple(own.get("std", STD))) != (MEAN, STD):
            raise EncoderError(
                f"the weights of {name} were trained on images of mean {own['mean']}, deviation {own['std']}; expected"
                f" those of ImageNet, {MEAN} and {STD}, which images have here (an encoder of its own has another)"
            )
        if own.get("fixed_input_size"):  # so says timm, of some that take others too
            try:
                self.backbone.eval()(torch.zeros(1, 3, 64, 96))
            except (AssertionError, RuntimeError) as error:
                size = "x".join(map(str, own["input_size"][1:]))
                why = f"takes images of {size} px alone ({first_line(error)}); expected one that takes any size"
                raise EncoderError(f"encoder {name} {why}") from error
            self.backbone.train()
        self.channels: tuple[int, int, int, int] = tuple(self.backbone.feature_info.channels())
        # In an ONNX graph. Others (MobileViT, say) may trace a size into constants, and then answer wrong at another.
        self.size_is_free = name.startswith("convnext")
        keep_channels_last(self)

    def forward(self, images: Tensor) -> list[Tensor]:  # [B, 3, H, W], H and W multiples of 32 -> 4 x [B, H/s, W/s, C]
        levels = self.backbone(images.contiguous(memory_format=torch.channels_last))
        if getattr(self.backbone, "output_fmt", "NCHW") != "NHWC":  # EfficientNet's and HRNet's do not say
            levels = [level.permute(0, 2, 3, 1) for level in levels]
        return [level.contiguous() for level in levels]


class DINOv2Encoder(nn.Module):
    """A DINOv2 vision transformer and DPT's reassembly: four of its blocks' outputs as maps at 4, 2, 1 and 1/2 times
    the patch grid.

    The reassembly of Ranftl et al. 2021 as Depth Anything V2 has it; modules bear that network's names, so that its
    weights fit.

    Args:
        name: timm model with patches of 14 px, e.g. "vit_small_patch14_dinov2".
        pretrained: as in `create_backbone` (DINOv2's weights are Apache-2.0).
    """

    stride = 14
    size_is_free = False  # the position embedding is resampled for one size
    # Blocks whose outputs are taken, and channels of the four maps (Depth-Anything-V2, metric_depth/README.md).
    VARIANTS: ClassVar = {
        "vit_small_patch14_dinov2": ((2, 5, 8, 11), (48, 96, 192, 384)),
        "vit_base_patch14_dinov2": ((2, 5, 8, 11), (96, 192, 384, 768)),
        "vit_large_patch14_dinov2": ((4, 11, 17, 23), (256, 512, 1024, 1024)),
    }

    def __init__(self, name: str, pretrained: bool | str | Path = False):
        super().__init__()
        self.blocks, self.channels = self.VARIANTS[name]
        self.pretrained = create_backbone(name, pretrained, num_classes=0, dynamic_img_size=True)
        dim = self.pretrained.embed_dim
        self.projects = nn.ModuleList(nn.Conv2d(dim, out, 1) for out in self.channels)
        c = self.channels
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(c[0], c[0], 4, stride=4),
                nn.ConvTranspose2d(c[1], c[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(c[3], c[3], 3, stride=2, padding=1),
            ]
        )
        keep_channels_last(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, 14 h, 14 w] -> [B, 4h, 4w, C1], [B, 2h, 2w, C2], [B, h, w, C3], [B, ceil(h/2), ceil(w/2), C4]."""
        vit = self.pretrained
        height, width = (int(extent) // self.stride for extent in images.shape[2:])
        patches = vit.patch_embed(images)  # [B, h, w, dim]
        position = self._position_embedding(height, width)
        x = torch.cat([vit.cls_token.expand(len(images), -1, -1), patches.flatten(1, 2)], dim=1)
        x = x + position.to(patches.dtype)
        taken = []
        for i, block in enumerate(vit.blocks):
            x = block(x)
            if i in self.blocks:
                taken.append(vit.norm(x)[:, 1:].unflatten(1, (height, width)).permute(0, 3, 1, 2))
        levels = [resize(project(level)) for project, resize, level in zip(self.projects, self.resize_layers, taken)]
        return [level.permute(0, 2, 3, 1).contiguous() for level in levels]

    def _position_embedding(self, height: int, width: int) -> Tensor:
        """Position embedding [1, 1 + height * width, dim], resampled as DINOv2's own code does it (bicubic, by (size +
        0.1) / trained size); timm's way antialiases and differs by several percent."""
        embedding = self.pretrained.pos_embed
        side = math.isqrt(int(embedding.shape[1]) - 1)
        if (height, width) == (side, side):
            return embedding
        patches = embedding[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, scale_factor=((height + 0.1) / side, (width + 0.1) / side), mode="bicubic")
        return torch.cat([embedding[:, :1].float(), patches.flatten(2).transpose(1, 2)], dim=1)


def set_drop_path(encoder: nn.Module, rate: float) -> None:
    """Stochastic depth in training (Huang et al. 2016): a residual block is left out of a sample with a probability
    that grows linearly with depth, up to `rate`.

    Raises:
        SPDError: the rate is no probability, or timm's encoder has no such blocks.
    """
    blocks = [(module, name) for module in encoder.modules() for name in DROP_PATHS if hasattr(module, name)]
    if not blocks or not 0 <= rate < 1:
        raise SPDError(f"drop_path must be in [0, 1), of an encoder with residual blocks; got {rate} for {len(blocks)}")
    for i, (block, name) in enumerate(blocks):
        setattr(block, name, timm.layers.DropPath(rate * (i + 1) / len(blocks)).train(block.training))


def licence(name: str) -> str:
    """Licence of timm's pretrained weights for an encoder."""
    if "dinov2" in name or name in LiteEncoder.NAMES:
        return "Apache-2.0"
    return "CC-BY-NC-4.0" if name.startswith("convnextv2") else "see timm"


def create_encoder(name: str, pretrained: bool | str | Path = False) -> PyramidEncoder | DINOv2Encoder | LiteEncoder:
    """The encoder for a timm model name."""
    if name in DINOv2Encoder.VARIANTS:
        return DINOv2Encoder(name, pretrained)
    return (LiteEncoder if name in LiteEncoder.NAMES else PyramidEncoder)(name, pretrained)
