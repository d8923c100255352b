"""SPD: an image to metric depth at every pixel, or at the pixels asked, with the same values.

images [B, 3, H, W] -> encoder -> global path -> Features -> local decoder -> depth, m
                                                    dense: [B, 1, H, W]   at points: [B, K]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .camera import NYU_FOCAL_PX
from .decoders import DECODERS
from .encoders import create_encoder, keep_channels_last
from .engine import SparseDecoder
from .errors import SPDError
from .layers import Head
from .plan import DENSE_ABOVE, DENSE_ABOVE_SHARED, NOTHING, UNKNOWN, Coverage, Known, Plan
from .sites import Grid

MIN_SIZE = 64  # px: two sites of the stride-32 level
MOST_PX = 8192**2  # of network input: more takes all memory, as a checkpoint with a mistake in its input_size would


def check_input_size(input_size: Sequence[int] | np.ndarray) -> tuple[int, int]:
    """`input_size` as a tuple; SPDError where it is not (height, width) px that the network can see."""
    sizes = list(input_size) if isinstance(input_size, tuple | list | np.ndarray) else []
    fit = [isinstance(n, int | float | np.number) and n >= MIN_SIZE and float(n).is_integer() for n in sizes]
    if len(sizes) != 2 or not all(fit):
        raise SPDError(f"input_size must be (height, width) of at least {MIN_SIZE} px, got {input_size!r}")
    if math.prod(sizes) > MOST_PX:
        raise SPDError(f"input_size must be (height, width) of at most {MOST_PX:,} px in all, got {input_size!r}")
    return int(sizes[0]), int(sizes[1])


@dataclass(frozen=True)
class SPDConfig:
    """Everything that defines a model; travels inside its checkpoint.

    Attributes:
        encoder: timm name of the backbone.
        decoder: key of `decoders.DECODERS`.
        activation: of the head, "exp", "softplus" or "sigmoid".
        features: D, channels of the global path and, but for `lite`'s, of the decoder.
        input_size: (height, width) px that camera images are scaled to; the network itself takes any size >= 64.
        training_focal_px: focal length, at `input_size`, at which network depth is metres.
        max_depth_m: what a "sigmoid" is scaled to.
        fit: "inside" scales an image to fit into `input_size` (bilinear, antialiased); "focal" to the training focal
            length, whatever size that gives, so that a thing of 10 cm at 1 m has the same size for every camera (the
            canonical camera of Metric3D, Yin et al. 2023; of narrower view somewhat larger, docs/models.md; without
            intrinsics as "inside"); "cover" scales its shorter side to that of `input_size` and both to multiples of
            the encoder's stride (cubic), as Depth Anything V2 does.
        sigma: the head answers the scale of its error beside depth.
    """

    encoder: str
    decoder: str
    activation: str
    features: int = 64
    input_size: tuple[int, int] = (416, 544)
    training_focal_px: float = NYU_FOCAL_PX
    max_depth_m: float | None = None
    fit: str = "inside"
    sigma: bool = False

    def __post_init__(self):
        object.__setattr__(self, "input_size", check_input_size(self.input_size))
        if self.decoder not in DECODERS:
            raise SPDError(f"decoder must be one of {sorted(DECODERS)}, got {self.decoder!r}")
        if self.fit not in ("inside", "focal", "cover"):
            raise SPDError(f"fit must be inside, focal or cover, got {self.fit!r}")
        max_depth_m = 1.0 if self.max_depth_m is None else self.max_depth_m
        for name, value in (("training_focal_px", self.training_focal_px), ("max_depth_m", max_depth_m)):
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise SPDError(f"{name} must be a positive number, got {value!r}")


# NYU presets train on 416x544 crops, which keep NYU's focal length. `lite` sees images at half of it. `atto` has no
# weights: it learns from nothing within minutes on small images, which shows whether training works at all.
# Depth Anything V2's metric models: max_depth 20 for Hypersim, whose focal length of 886.81 px at 768 px height was
# scaled with the image (metric_depth/dataset/hypersim.py); their Virtual KITTI models have 80 and 725 px at 375 px
# height (`spd convert` sets that).
_DEPTH_ANYTHING = SPDConfig(
    "vit_small_patch14_dinov2",
    "reassembled",
    "sigmoid",
    input_size=(518, 686),
    training_focal_px=886.81 * 518 / 768,
    max_depth_m=20.0,
    fit="cover",
)
PRESETS = {
    "v15": SPDConfig("convnextv2_tiny", "v15", "exp"),
    "v15_refinenet": SPDConfig("convnextv2_tiny", "refinenet", "softplus"),
    "v15_dinov2": SPDConfig("vit_small_patch14_dinov2", "reassembled", "softplus"),
    "dpt": SPDConfig("convnextv2_tiny", "dpt", "softplus"),
    "atto": SPDConfig(
        "convnextv2_atto",
        "v15",
        "softplus",
        features=32,
        input_size=(192, 256),
        training_focal_px=0.4 * NYU_FOCAL_PX,
        fit="focal",
    ),
    "lite": SPDConfig(
        "tf_efficientnet_lite1",
        "lite",
        "exp",
        features=96,
        input_size=(240, 320),
        training_focal_px=0.5 * NYU_FOCAL_PX,
        fit="focal",
        sigma=True,
    ),
    "depth_anything_v2_vits": _DEPTH_ANYTHING,
    "depth_anything_v2_vitb": replace(_DEPTH_ANYTHING, encoder="vit_base_patch14_dinov2", features=128),
    "depth_anything_v2_vitl": replace(_DEPTH_ANYTHING, encoder="vit_large_patch14_dinov2", features=256),
}


@dataclass(frozen=True)
class Features:
    """What the network keeps of an image batch: channels-last maps [B, h, w, C] by name, and the image size (H, W) px
    asked about."""

    maps: dict[str, Tensor]
    size: tuple[int, int]

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The positions of each map: all that a plan needs to know of them."""
        return tuple(Grid(*x.shape[:3]) for x in self.maps.values())


def preset_config(name: str) -> SPDConfig:
    """The configuration of a preset.

    Raises:
        SPDError: there is none of that name.
    """
    if name not in PRESETS:
        raise SPDError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


class SPD(nn.Module):
    """The network. Points are (x, y) px with pixel centres at integers (`camera.py`), depths are metres at
    `training_focal_px`."""

    def __init__(self, config: SPDConfig, pretrained: bool | str = False):
        super().__init__()
        self.config = config
        self.encoder = create_encoder(config.encoder, pretrained)
        channels, make_decoder = self.encoder.channels, DECODERS[config.decoder]
        if self.encoder.stride != make_decoder.ENCODER_STRIDE:
            fitting = [name for name, other in DECODERS.items() if self.encoder.stride == other.ENCODER_STRIDE]
            raise SPDError(
                f"the decoder {config.decoder} is for encoders of stride {make_decoder.ENCODER_STRIDE} px, and"
                f" {config.encoder} has {self.encoder.stride}; expected the decoder {' or '.join(fitting)}"
            )
        make_head = partial(Head, activation=config.activation, max_depth_m=config.max_depth_m, sigma=config.sigma)
        self.decoder = make_decoder(channels, config.features, make_head)
        self.sparse_decoder = SparseDecoder(self.decoder)
        make_global_path = self.decoder.GLOBAL_PATH
        self.global_path = make_global_path(channels, config.features) if make_global_path is not None else None
        keep_channels_last(self)

    @classmethod
    def from_preset(cls, name: str, pretrained: bool | str = False, **changes) -> SPD:
        """A model by preset name; `pretrained` as in `PyramidEncoder`, `changes` replace fields of its `SPDConfig`."""
        return cls(replace(preset_config(name), **changes), pretrained)

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, 1, H, W] m, or [B, 2, H, W] with `sigma`
        return self.decode_maps(self.encode(images))

    def encode(self, images: Tensor) -> Features:
        """The part that does not depend on the points.

        Args:
            images: [B, 3, H, W], ImageNet-normalised, H and W >= 64. Other sizes than multiples of the encoder's stride
                are padded right and below.
        """
        if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < MIN_SIZE:
            raise ValueError(f"images must be [B, 3, H, W] with H and W >= {MIN_SIZE}, got {list(images.shape)}")
        height, width = images.shape[2:]
        levels = self.encoder(self.padded(images))
        maps = {f"level{i}": level for i, level in enumerate(levels, start=1)}
        if self.global_path is not None:
            maps["stride8"] = self.global_path(maps["level3"], maps["level4"])
        return Features({name: maps[name] for name in self.sparse_decoder.inputs}, (height, width))

    def padded(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] with zeros right and below, up to multiples of the encoder's stride."""
        height, width = images.shape[2:]
        return F.pad(images, (0, -width % self.encoder.stride, 0, -height % self.encoder.stride))

    def decode_maps(self, features: Features) -> Tensor:
        """What the head answers at every pixel, float32: [B, 1, H, W] depth, m; with `SPDConfig.sigma` [B, 2, H, W],
        the second the scale of the error of log depth."""
        height, width = features.size
        return self.decoder(**features.maps).permute(0, 3, 1, 2)[:, :, :height, :width]

    def decode_dense(self, features: Features) -> Tensor:
        """Depth at every pixel, [B, 1, H, W] m, float32."""
        return self.decode_maps(features)[:, :1]

    def plan_points(
        self,
        points: Tensor | np.ndarray,
        grids: tuple[Grid, ...],
        size: tuple[int, int],
        before: Coverage = NOTHING,
        is_shared: bool = False,
    ) -> Plan:
        """Plan `decode_points` for `points` [B, K, 2]; reusable for feature maps of the same sizes.

        Args:
            grids: of the feature maps, `Features.grids`.
            size: (H, W) px of the image, `Features.size`.
            before: what earlier queries evaluated, `Known.coverage`.
            is_shared: later queries are likely, and will cost less if this one costs a little more.
        """
        batch = grids[0].batch
        values = points.detach().cpu().double() if isinstance(points, Tensor) else points
        points_px = np.asarray(values, np.float64)  # half precision has no 2,049
        if points_px.ndim != 3 or points_px.shape[0] != batch or points_px.shape[2] != 2:
            raise ValueError(f"points must be [B, K, 2] with B = {batch}, got {list(points_px.shape)}")
        points_px = np.where(np.isfinite(points_px), points_px, np.nan)  # which stays where it is clipped
        for axis, side in enumerate(reversed(size)):  # to the image's border, not that of its padding
            np.clip(points_px[..., axis], 0, side - 1, out=points_px[..., axis])
        dense_above = DENSE_ABOVE_SHARED if is_shared else DENSE_ABOVE
        return self.sparse_decoder.plan(points_px, grids, dense_above, before).to(next(self.parameters()).device)

    def decode_points(
        self, features: Features, points: Tensor | np.ndarray | None = None, plan: Plan | None = None
    ) -> Tensor:
        """Depth at points: exactly the bilinear samples of `decode_dense`, without computing the rest.

        Args:
            points: [B, K, 2] (x, y) px. Beyond the image the border's value is answered, for non-finite points NaN.
            plan: from `plan_points`, instead of points.

        Returns:
            [B, K] m, float32.
        """
        if (points is None) == (plan is None):
            raise ValueError("decode_points takes either points or a plan")
        if points is not None:
            plan = self.plan_points(points, features.grids, features.size)
        assert plan is not None
        return self.decode_planned(features, plan)[0][..., 0]

    def decode_planned(self, features: Features, plan: Plan, known: Known = UNKNOWN) -> tuple[Tensor, Known]:
        """The samples of `decode_maps` at the points of a plan: [B, K, 1] m, or [B, K, 2] with sigma; and what is known
        then. What is `known` of these features from earlier queries is not evaluated again."""
        return self.sparse_decoder.run(plan, list(features.maps.values()), known)

    def multiply_depth(self, factor: float) -> None:
        """Answer `factor` times the depth from now on: of an "exp" head, where that is a sum in the bias.

        Raises:
            SPDError: another head, or a factor that is no positive number.
        """
        if self.config.activation != "exp" or not 0 < factor < math.inf:
            raise SPDError(
                f"depth can be multiplied by a positive number where the head's activation is 'exp'; got {factor} for"
                f" {self.config.activation!r}"
            )
        for head in (module for module in self.modules() if isinstance(module, Head)):
            with torch.no_grad():
                head.bias[0] += math.log(factor)
