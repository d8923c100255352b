"""The layer algebra: everything a decoder may be built from, so that one `forward` runs on dense maps and on sites.

Dense maps are channels-last tensors [B, H, W, C]; sparse maps are rows [S, C] over a `Sites` set. A *pointwise* layer
works on the last dimension and cannot tell the two apart: 1x1 convolutions are `nn.Linear`, channel normalisation is
`nn.LayerNorm`, activations are their `nn` modules, sums are `+`. Only two layers look at other sites, and they say
which: `Conv3x3` and `Resize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import SPDError
from .sites import Grid, Sites, neighbours_3x3, resize_taps

ACTIVATIONS = ("exp", "softplus", "sigmoid")


class Head(nn.Linear):
    """1x1 convolution to one channel and a positive activation, always in float32: bf16 has three digits, depth needs
    more. With `sigma` a second channel is the scale of the error of log depth (the b of a Laplace distribution).

    Args:
        features: input channels.
        activation: of `ACTIVATIONS`; "sigmoid" is scaled to `max_depth_m`. Never ReLU: from a random start half of its
            outputs are dead.
        max_depth_m: largest depth of "sigmoid".
        sigma: answer the uncertainty too.
    """

    # What a zero feature answers, through the bias; of depth, half of `max_depth_m` at most.
    INITIAL_DEPTH_M, INITIAL_SIGMA = 2.5, 0.2
    SIGMA_RANGE = (0.005, 2.0)  # e ** 2 is a factor of 7: nothing is known there

    def __init__(self, features: int, activation: str, max_depth_m: float | None = None, sigma: bool = False):
        super().__init__(features, 2 if sigma else 1)
        if activation not in ACTIVATIONS or (activation == "sigmoid") != (max_depth_m is not None):
            raise SPDError(
                f"head activation must be one of {ACTIVATIONS}, 'sigmoid' with a max_depth_m, got {activation!r} with"
                f" {max_depth_m}"
            )
        self.activation = activation
        self.max_depth_m = max_depth_m if max_depth_m is not None else math.inf
        inverse = {
            "exp": math.log,
            "softplus": lambda depth: math.log(math.expm1(depth)),
            "sigmoid": lambda depth: -math.log(self.max_depth_m / depth - 1),
        }
        nn.init.normal_(self.weight, std=0.01)
        with torch.no_grad():
            self.bias[0] = inverse[activation](min(self.INITIAL_DEPTH_M, 0.5 * self.max_depth_m))
            self.bias[1:] = math.log(self.INITIAL_SIGMA)

    def forward(self, x: Tensor) -> Tensor:  # [..., D] -> [..., 1] m, or [..., 2] m and 1
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x)
        x = F.linear(x.float(), self.weight.float(), self.bias.float())
        if len(self.bias) == 1:
            return self._depth(x)
        sigma = x[..., 1:].clamp(*map(math.log, self.SIGMA_RANGE)).exp()
        return torch.cat([self._depth(x[..., :1]), sigma], dim=-1)

    def _depth(self, x: Tensor) -> Tensor:
        if self.activation == "sigmoid":
            return x.sigmoid() * self.max_depth_m
        return x.exp() if self.activation == "exp" else F.softplus(x)


class GELU(nn.GELU):
    """Rows go in transposed, which keeps oneDNN out: it compiles and caches a kernel for each number of rows that it
    has not seen, which is slow (about 0.3 ms) and grew a process by hundreds of MB. Torch's own kernel is as fast, and
    elementwise does not mind the order."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x.T).T if x.dim() == 2 else F.gelu(x)


POINTWISE = (nn.Linear, nn.LayerNorm, GELU, nn.ReLU)


class TapLayer(nn.Module):
    """A layer that reads more than one site of its input for a site of its output. A second input only lends its
    size."""

    def forward(self, x: Tensor, *like: Tensor) -> Tensor:  # [B, H, W, C] -> [B, H', W', C']
        return self.on_map(x, self.output_size(*((other.shape[1], other.shape[2]) for other in (x, *like))))

    def output_size(self, size: tuple[int, int], *like: tuple[int, int]) -> tuple[int, int]:
        """(H', W') of the output for an input of `size`."""
        return size

    def on_map(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Dense map [B, H, W, C] -> [B, *size, C']."""
        raise TypeError(f"{type(self).__name__} must say how it runs on a map")

    def taps(self, out: Sites, source: Grid) -> tuple[np.ndarray, np.ndarray | None]:
        """Input site numbers [S, T] that the sites `out` read, and their weights [S, T]; or, without weights, [S * T]
        numbers each of which is the first of three consecutive sites."""
        raise TypeError(f"{type(self).__name__} must say which sites it reads")

    def on_rows(self, rows: Tensor, taps: Tensor, weights: Tensor | None) -> Tensor:
        """Rows [N, C] of the input -> rows [S, C'] of the output; `taps` are row numbers of the input, as in `taps`."""
        raise TypeError(f"{type(self).__name__} must say how it runs on rows")


class Conv3x3(TapLayer):
    """3x3 convolution of stride 1 with zero padding. On rows: gather nine neighbours, one GEMM."""

    # Rows gathered at a time on a CPU: small enough to stay in cache (of 12,000 with 64 channels 1.1 to 1.3 x over one
    # large gather), large enough for the GEMM (2,048 rows cost 1.3 x on AVX-512 where 2,800 to 6,000 are gathered).
    CPU_CHUNK = 4096

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features, 3, 3).to(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self._matrix: Tensor | None = None

    def matrix(self) -> Tensor:
        """The kernel as a matrix [9C, C'] in the order of gathered rows: a view, because the weight is channels-last;
        kept, because making one takes as long as convolving a dozen sites."""
        if torch.is_grad_enabled():
            return self.weight.permute(2, 3, 1, 0).reshape(-1, len(self.weight))
        if self._matrix is None or self._matrix.data_ptr() != self.weight.data_ptr():
            self._matrix = self.weight.detach().permute(0, 2, 3, 1).reshape(len(self.weight), -1).T
        return self._matrix

    def on_map(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, padding=1).permute(0, 2, 3, 1)

    def taps(self, out: Sites, source: Grid) -> tuple[np.ndarray, None]:
        return neighbours_3x3(out).reshape(-1), None

    def on_rows(self, rows: Tensor, taps: Tensor, weights: Tensor | None = None) -> Tensor:
        """`taps` [3 S]: numbers of the first of three consecutive rows each."""
        kernel, channels = self.matrix(), rows.shape[1]
        count, chunk = len(taps) // 3, self.CPU_CHUNK
        if torch.is_grad_enabled() or count == 0:
            neighbours = (taps[:, None] + torch.arange(3, device=taps.device)).reshape(-1)
            out = rows.index_select(0, neighbours).view(count, 9 * channels) @ kernel
            return out if self.bias is None else out + self.bias
        # Three rows each, overlapping: a third of the copies.
        runs = rows.contiguous().as_strided((len(rows) - 2, 3 * channels), (channels, 1))
        is_autocast = torch.is_autocast_enabled("cpu")  # which does not see operators with an `out`
        if rows.device.type != "cpu" or count <= chunk or is_autocast:
            return _affine(runs.index_select(0, taps).view(count, -1), kernel, self.bias)
        chunk = -(-count // -(-count // chunk))  # equal parts
        out, gathered = rows.new_empty(count, kernel.shape[1]), rows.new_empty(chunk * 3, 3 * channels)
        for part, out_part in zip(taps.split(3 * chunk), out.split(chunk)):
            block = torch.index_select(runs, 0, part, out=gathered[: len(part)])
            _affine(block.view(len(out_part), -1), kernel, self.bias, out_part)
        return out


def _affine(x: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """x [N, C] @ matrix [C, C'] + bias."""
    return torch.mm(x, matrix, out=out) if bias is None else torch.addmm(bias, x, matrix, out=out)


class Resize(TapLayer):
    """Bilinear resize by `scale`, or to the size of a second input. On rows: weighted sum of four rows."""

    def __init__(self, scale: int | Fraction = 1, align_corners: bool = True):
        super().__init__()
        self.scale = scale
        self.align_corners = align_corners

    def output_size(self, size: tuple[int, int], *like: tuple[int, int]) -> tuple[int, int]:
        if like:
            return like[0]
        up, down = self.scale.numerator, self.scale.denominator
        return size[0] * up // down, size[1] * up // down

    def on_map(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(
            x.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=self.align_corners
        ).permute(0, 2, 3, 1)

    def taps(self, out: Sites, source: Grid) -> tuple[np.ndarray, np.ndarray]:
        return resize_taps(out, source, self.align_corners)

    def on_rows(self, rows: Tensor, taps: Tensor, weights: Tensor | None) -> Tensor:
        assert weights is not None  # as `taps` made them
        return weighted_sum(rows, taps, weights)


def weighted_sum(rows: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
    """Rows [N, C], row numbers [S, T], weights [S, T] -> [S, C], in one fused kernel."""
    if len(taps) == 0:  # embedding_bag insists on at least one
        return rows.new_zeros(0, rows.shape[1])
    return F.embedding_bag(taps, rows, per_sample_weights=weights.to(rows.dtype), mode="sum")


class ResidualUnit(nn.Module):
    """x + conv(act(conv(act(x)))): the ResidualConvUnit of RefineNet and DPT (Ranftl et al. 2021); `v15` has GELU
    where they have ReLU."""

    def __init__(self, features: int, act: Callable[[], nn.Module] = GELU):
        super().__init__()
        self.act1, self.conv1 = act(), Conv3x3(features, features)
        self.act2, self.conv2 = act(), Conv3x3(features, features)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act2(self.conv1(self.act1(x))))


class Projection(nn.Sequential):
    """Encoder level to D channels: 1x1 convolution, then normalisation over channels (DPT's "reassembly" for a
    pyramid)."""

    def __init__(self, in_features: int, features: int):
        super().__init__(nn.Linear(in_features, features), nn.LayerNorm(features))


class FeatureFusion(nn.Module):
    """DPT's FeatureFusionBlock: [coarse + unit(skip)] -> unit -> 1x1 -> x2, or to the size of a map `like`.

    The 1x1 convolution commutes with a bilinear resize (its weights sum to 1, so the bias passes unchanged): it runs
    before it, at a quarter of the cost.
    """

    def __init__(self, features: int, has_coarse: bool = True, act: Callable[[], nn.Module] = GELU):
        super().__init__()
        if has_coarse:
            self.skip_unit = ResidualUnit(features, act)
        self.unit = ResidualUnit(features, act)
        self.out = nn.Linear(features, features)
        self.resize = Resize(2)

    def forward(self, skip: Tensor, coarse: Tensor | None = None, like: Tensor | None = None) -> Tensor:
        fused = skip if coarse is None else coarse + self.skip_unit(skip)
        fused = self.out(self.unit(fused))
        return self.resize(fused) if like is None else self.resize(fused, like)
