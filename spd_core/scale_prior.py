"""What is known of a network's errors before any reference: measured on held-out images, kept in its checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from .arrays import all_finite
from .errors import SPDError

if TYPE_CHECKING:
    from .predictor import Predictor


FEW = 3  # the usual sigma counts as much as that of so many points of an image


class ScaleError(SPDError):
    """References or a scale that cannot be used; the text says why."""


@dataclass(frozen=True)
class ScalePrior:
    """Widths of the errors of log depth; the defaults are those of the embedded weights on NYU's held-out rooms.

    Attributes:
        sigma_log: standard deviation of the log scale of an image.
        sigma_slope: that of the slope, log scale by log depth.
        spread_log: width, of Student's t, of what is left within an image.
        pivot_m: depth at which `ScaleFilter.factor` is the scale.
        floor_log: how much larger the log scale is on the floor than in the image.
        network_sigma: what the network says itself, its sigma of log depth, on average; 0: it says none.
    """

    sigma_log: float = 0.15
    sigma_slope: float = 0.2
    spread_log: float = 0.12
    pivot_m: float = 2.5
    floor_log: float = 0.01
    network_sigma: float = 0.0

    def __post_init__(self) -> None:
        values = [getattr(self, field.name) for field in fields(self)]
        if not all_finite(*values) or min(values[:4]) <= 0 or self.network_sigma < 0:
            raise ScaleError(
                "the widths and the pivot of a prior must be positive and finite numbers, network_sigma at least 0; got"
                f" {self}"
            )

    @classmethod
    def of(cls, predictor: Predictor) -> ScalePrior:
        """That of the predictor's checkpoint (`scale_prior` of its provenance), or the default."""
        if not hasattr(predictor, "provenance"):
            raise ScaleError(f"a scale is of a Predictor's answers, got {predictor!r}; Predictor.load makes one")
        kept = predictor.provenance.get("scale_prior", {})
        known = {field.name for field in fields(cls)}
        if not isinstance(kept, dict) or not set(kept) <= known:
            raise ScaleError(f"the checkpoint's scale_prior is {kept!r}; expected some of {sorted(known)}")
        return cls(**kept)

    def sigma_log_where(self, network_sigma: np.ndarray) -> float:
        """The standard deviation of the log scale of an image, of which the network says `network_sigma` at some points
        [K]: a network that is unsure of points is in proportion unsure of the room's size."""
        if not self.network_sigma:
            return self.sigma_log
        said = network_sigma[np.isfinite(network_sigma)]
        mean = (said.sum() + FEW * self.network_sigma) / (len(said) + FEW)
        return self.sigma_log * mean / self.network_sigma

    @property
    def own_share(self) -> float:
        """The part of a model's sigma that is of the point, not of the whole image's scale."""
        return self.spread_log / math.hypot(self.spread_log, self.sigma_log)
