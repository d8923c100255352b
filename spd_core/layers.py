"""The layer algebra: everything a decoder may be built from, so that one `forward` runs on dense maps and on sites.

Dense maps are channels-last tensors [B, H, W, C]; sparse maps are rows [S, C] over a `Sites` set. A *pointwise* layer works on the
last dimension and cannot tell the two apart: 1x1 convolutions are `nn.Linear`, channel normalisation is `nn.LayerNorm`, activations
are their `nn` modules, sums are `+`. Only two layers look at other sites, and they say which: `Conv3x3` and `Resize`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sites import Grid, Sites, neighbours_3x3, resize_taps


class Head(nn.Linear):
    """1x1 convolution to one channel and a positive activation, always in float32: bf16 has three digits, depth needs more.

    Args:
        features: input channels.
        activation: "exp" or "softplus". Never ReLU: from a random start half of its outputs are dead.
        initial_depth_m: depth that a zero feature answers, through the bias.
    """

    def __init__(self, features: int, activation: str, initial_depth_m: float = 2.5):
        super().__init__(features, 1)
        inverse = {"exp": math.log, "softplus": lambda depth: math.log(math.expm1(depth))}
        if activation not in inverse:
            raise ValueError(f"head activation must be one of {sorted(inverse)}, got {activation!r}")
        self.activation = activation
        nn.init.normal_(self.weight, std=0.01)
        nn.init.constant_(self.bias, inverse[activation](initial_depth_m))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = F.linear(x.float(), self.weight.float(), self.bias.float())
            return x.exp() if self.activation == "exp" else F.softplus(x)


POINTWISE = (nn.Linear, nn.LayerNorm, nn.GELU, nn.ReLU)


class TapLayer(nn.Module):
    """A layer that reads more than one site of its input for a site of its output. A second input only lends its size."""

    def forward(self, x: Tensor, *like: Tensor) -> Tensor:  # [B, H, W, C] -> [B, H', W', C']
        return self.on_map(x, self.output_size(tuple(x.shape[1:3]), *(tuple(other.shape[1:3]) for other in like)))

    def output_size(self, size: tuple[int, int], *like: tuple[int, int]) -> tuple[int, int]:
        """(H', W') of the output for an input of `size`."""
        return size

    def on_map(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Dense map [B, H, W, C] -> [B, *size, C']."""
        raise TypeError(f"{type(self).__name__} must say how it runs on a map")

    def taps(self, out: Sites, source: Grid) -> tuple[np.ndarray, np.ndarray | None]:
        """Input site numbers [S, T] that the sites `out` read, and their weights [S, T] if they are fixed."""
        raise TypeError(f"{type(self).__name__} must say which sites it reads")

    def on_rows(self, rows: Tensor, taps: Tensor, weights: Tensor | None) -> Tensor:
        """Rows [N, C] of the input -> rows [S, C'] of the output; `taps` [S, T] are row numbers of the input."""
        raise TypeError(f"{type(self).__name__} must say how it runs on rows")


class Conv3x3(TapLayer):
    """3x3 convolution of stride 1 with zero padding. On rows: gather nine neighbours, one GEMM."""

    # Rows gathered at a time on a CPU, so that the gathered block (rows x 9C) stays in cache: 3-4 x over one large gather.
    CPU_CHUNK = 1024

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features, 3, 3).to(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def on_map(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, padding=1).permute(0, 2, 3, 1)

    def taps(self, out: Sites, source: Grid) -> tuple[np.ndarray, None]:
        return neighbours_3x3(out), None

    def on_rows(self, rows: Tensor, taps: Tensor, weights: None) -> Tensor:
        kernel = self.weight.permute(0, 2, 3, 1).reshape(len(self.weight), -1)  # [C', 9C]; a view: the weight is channels-last
        chunk = self.CPU_CHUNK if rows.device.type == "cpu" else len(taps)
        parts = taps.split(chunk)
        if torch.is_grad_enabled():
            return torch.cat([F.linear(rows.index_select(0, part.reshape(-1)).view(len(part), -1), kernel, self.bias) for part in parts])
        out, gathered = rows.new_empty(len(taps), len(kernel)), rows.new_empty(min(chunk, len(taps)) * 9, rows.shape[1])
        for part, out_part in zip(parts, out.split(chunk)):
            block = torch.index_select(rows, 0, part.reshape(-1), out=gathered[: 9 * len(part)])
            torch.addmm(self.bias, block.view(len(part), -1), kernel.T, out=out_part)
        return out


class Resize(TapLayer):
    """Bilinear resize by `scale`, or to the size of a second input. On rows: weighted sum of four rows."""

    def __init__(self, scale: int | None = None, align_corners: bool = True):
        super().__init__()
        self.scale = scale
        self.align_corners = align_corners

    def output_size(self, size: tuple[int, int], *like: tuple[int, int]) -> tuple[int, int]:
        return like[0] if like else (size[0] * self.scale, size[1] * self.scale)

    def on_map(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=self.align_corners).permute(0, 2, 3, 1)

    def taps(self, out: Sites, source: Grid) -> tuple[np.ndarray, np.ndarray]:
        return resize_taps(out, source, self.align_corners)

    def on_rows(self, rows: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
        return weighted_sum(rows, taps, weights)


def weighted_sum(rows: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
    """Rows [N, C], row numbers [S, T], weights [S, T] -> [S, C], in one fused kernel."""
    if len(taps) == 0:  # embedding_bag insists on at least one
        return rows.new_zeros(0, rows.shape[1])
    return F.embedding_bag(taps, rows, per_sample_weights=weights.to(rows.dtype), mode="sum")


class ResidualUnit(nn.Module):
    """x + conv(GELU(conv(GELU(x)))): the ResidualConvUnit of RefineNet and DPT (Ranftl et al. 2021), with GELU as in the plan."""

    def __init__(self, features: int):
        super().__init__()
        self.act1, self.conv1 = nn.GELU(), Conv3x3(features, features)
        self.act2, self.conv2 = nn.GELU(), Conv3x3(features, features)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act2(self.conv1(self.act1(x))))


class Projection(nn.Sequential):
    """Encoder level to D channels: 1x1 convolution, then normalisation over channels (DPT's "reassembly" for a pyramid)."""

    def __init__(self, in_features: int, features: int):
        super().__init__(nn.Linear(in_features, features), nn.LayerNorm(features))


class FeatureFusion(nn.Module):
    """DPT's FeatureFusionBlock: [coarse + unit(skip)] -> unit -> 1x1 -> x2.

    The 1x1 convolution commutes with a bilinear resize (its weights sum to 1, so the bias passes unchanged): it runs before it, at a
    quarter of the cost.
    """

    def __init__(self, features: int, has_coarse: bool = True):
        super().__init__()
        if has_coarse:
            self.skip_unit = ResidualUnit(features)
        self.unit = ResidualUnit(features)
        self.out = nn.Linear(features, features)
        self.resize = Resize(2)

    def forward(self, skip: Tensor, coarse: Tensor | None = None) -> Tensor:
        fused = skip if coarse is None else coarse + self.skip_unit(skip)
        return self.resize(self.out(self.unit(fused)))
