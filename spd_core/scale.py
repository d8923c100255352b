"""Metres from what a robot knows: a posterior of the scale of the network's depths, from distances known otherwise.

A network that looks through one lens gets the shape of a scene right and its size wrong by about one number an image,
and distances that a robot knows (a range finder, a LiDAR, the floor it stands on) say that number. In logarithms:

    log true depth = log network depth + s + b * log(network depth / pivot) + e

- **s**, the log scale, and **b**, a slope for rooms deeper or flatter than answered, are of the moment: before any
  reference s ~ N(0, prior.sigma_log), wider in images of which the network is unsure, b ~ N(0, prior.sigma_slope),
  widths measured on held-out images.
- **e**, what is left at a reference: Student's t, or with a probability of OUTLIER anything. Its width is the
  reference's own sigma and `prior.spread_log`, or what the network itself says of the point.
- **Something may stand in front.** Behind a pixel below the horizon there is floor, whose depth is known, but the pixel
  may show a chair: with a probability that the picture says, such a reference is only the farthest that it can be, and
  anything up to a third of it is as likely.
- **Neighbours say the same thing.** The network's errors are alike within a surface: references that are as close as
  ALIKE_WIDTHS share the weight of one, also if they come one after the other, as those of a fixed range finder do.
- **Time.** What a reference said fades with a time constant of FADE_S. The centre of the prior of s follows the
  estimate within CENTRE_S, so a camera that is always 20 % off is known to be; that of b stays at nought, or references
  at one depth would make everything as far as they are. Without references the estimate stays as it is
  and its sigma grows to the prior's.

What a set of references says is `scale_posterior.posterior`; here is what is remembered, and for how long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .arrays import all_finite, float64
from .camera import inside_image
from .floor import FloorPlane, floor_chance, floor_points
from .predictor import EncodedFrame, Predictor
from .scale_posterior import FADE_S, REFERENCE, posterior, share_seen
from .scale_prior import ScaleError, ScalePrior
from .status import Answer

ALIKE_WIDTHS = 0.03  # of an image: one standard deviation of being alike
CENTRE_S, PAUSE_S = 20.0, 0.5
JUMP_S = 1.0  # a stamp that falls back by more is of a bag that loops; by less, of images in a slightly wrong order
MOST_AT_ONCE = 64  # references of an update: more cost time and say little more
MOST_KEPT = 128
FAR_OFF = 7.0  # no lens does that: references in millimetres, or of another camera
REFERENCE_SIGMA = 0.05  # of the log of a reference that comes without a sigma
OUTLIER = 0.2  # probability that a reference is any depth; of floor another thing is said, below
FLOOR_SPREAD = 0.6  # of the network's own errors: a plane is answered better than other things
FLOOR_ALIKE_WIDTHS = 0.2  # as ALIKE_WIDTHS, for floor: one surface, and one error of its pose
# Nothing is said of a floor that a smaller share of the pixels looked at fits, or whose scale the prior finds so odd: a
# table is a floor of another scale.
LEAST_FLOOR, MOST_FLOOR_SIGMAS = 0.1, 2.0
LEAST_FLOOR_PIXELS = 16  # of the grid: fewer that may show floor are not worth a look


@dataclass(frozen=True)
class FixedScale:
    """A factor measured once (`spd calibrate-scale`), and the standard deviation of its logarithm."""

    factor: float
    sigma_log: float = 0.0

    def __post_init__(self) -> None:
        if not all_finite(self.factor, self.sigma_log) or self.factor <= 0 or self.sigma_log < 0:
            raise ScaleError(f"a scale needs a positive factor and a sigma_log >= 0, got {self}")

    def correct(self, depth_m: np.ndarray, sigma_log: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `ScaleFilter.correct`."""
        return depth_m * np.float32(self.factor), np.hypot(sigma_log, np.float32(self.sigma_log))


class ScaleFilter:
    """The posterior of the scale, over time. One for each camera; not for two threads at once.

    Args:
        predictor: whose answers are corrected.
        prior: of its errors; without it that of its checkpoint.
        factor: that is expected before any reference, of a camera that was measured.

    Attributes:
        used, ignored: references taken so far, and those that were not usable: not finite, not positive, outside the
            image, or more than MOST_AT_ONCE.
    """

    def __init__(self, predictor: Predictor, prior: ScalePrior | None = None, factor: float = 1.0) -> None:
        if not isinstance(prior, ScalePrior | None):
            raise ScaleError(f"prior must be a ScalePrior, got {prior!r}")
        self.prior = prior or ScalePrior.of(predictor)
        self.used = self.ignored = 0
        self._rng = np.random.default_rng(0)
        self._kept = np.zeros(0, REFERENCE)
        self._stamp_s = self._now_s = -math.inf  # of the newest references, and of the newest frame
        self._expected = math.log(FixedScale(factor).factor)
        self._centre = self._mean = np.array([self._expected, 0.0])
        self._covariance = self._prior_covariance = np.diag([self.prior.sigma_log**2, self.prior.sigma_slope**2])

    # --- the estimate

    @property
    def factor(self) -> float:
        """What depths are multiplied with: true / network, for things `prior.pivot_m` away."""
        return math.exp(self._mean[0])

    @property
    def slope(self) -> float:
        """Things twice as far have a factor 2 ** slope times as large."""
        return float(self._mean[1])

    @property
    def sigma_log(self) -> float:
        """Standard deviation of the logarithm of `factor`."""
        return math.sqrt(self._current_covariance()[0, 0])

    @property
    def share_far_off(self) -> float:
        """Share of the references remembered that say more than FAR_OFF times what the network does with the factor
        expected, or less than one in so many."""
        ratios = self._kept["log_ratio"]
        return float(np.mean(np.abs(ratios - self._expected) > math.log(FAR_OFF))) if len(ratios) else 0.0

    def correct(self, depth_m: np.ndarray, sigma_log: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depths of the network in true metres, float32 [...], and the standard deviation of their logarithm: of that
        of the network (`sigma_log` [...], NaN where it says none) the part that is a point's own, and the scale's."""
        with np.errstate(invalid="ignore", divide="ignore"):
            x = np.log(depth_m.astype(np.float64) / self.prior.pivot_m)
        x = np.where(np.isfinite(x), x, 0.0)
        (var_s, cov), (_, var_b) = self._current_covariance()
        variance = np.maximum(var_s + 2 * cov * x + var_b * x * x, 0)
        corrected_m = depth_m * np.exp(self._mean[0] + self._mean[1] * x)
        sigma = np.sqrt((self.prior.own_share * sigma_log.astype(np.float64)) ** 2 + variance)
        return corrected_m.astype(np.float32), sigma.astype(np.float32)

    def _current_covariance(self) -> np.ndarray:
        silent_s = max(self._now_s - self._stamp_s - PAUSE_S, 0.0) if math.isfinite(self._stamp_s) else math.inf
        grown = 1 - math.exp(-silent_s / FADE_S)  # how far it has grown back to the prior's
        return self._covariance + grown * (self._prior_covariance - self._covariance)

    # --- references in

    def update(
        self,
        frame: EncodedFrame,
        uv: np.ndarray,
        depth_m: np.ndarray,
        sigma_m: np.ndarray | None = None,
        stamp_s: float = 0.0,
    ) -> None:
        """Take the references of one frame; the network is asked at those pixels.

        Args:
            frame: the image that they belong to.
            uv: [K, 2] px of that image.
            depth_m: [K] true z-depth, m.
            sigma_m: [K] its standard deviation, m, NaN where unknown; without it REFERENCE_SIGMA of the depth.
            stamp_s: time of the frame, s. References may come late; `advance` alone notices that stamps have started
                again.

        Raises:
            ScaleError: arrays of wrong shapes, or a stamp that is not a time.
        """
        _check_time(stamp_s)
        uv, depth_m, sigma_m = _checked(uv, depth_m, sigma_m)
        usable = inside_image(uv, frame.size) & np.isfinite(depth_m) & (depth_m > 0)
        usable &= np.isnan(sigma_m) | ((sigma_m >= 0) & np.isfinite(sigma_m))
        chosen = usable.nonzero()[0]
        if len(chosen) > MOST_AT_ONCE:
            chosen = np.sort(self._rng.choice(chosen, MOST_AT_ONCE, replace=False))
        with np.errstate(all="ignore"):  # of those that are not usable
            sigma_log = np.where(np.isnan(sigma_m), REFERENCE_SIGMA, sigma_m / depth_m)
        new = self._references(frame, uv[chosen], depth_m[chosen], sigma_log[chosen], frame.answer(uv[chosen]), stamp_s)
        self.used += len(new)
        self.ignored += len(uv) - len(new)
        self._now_s = max(self._now_s, stamp_s)
        self._take(new, stamp_s)

    def update_floor(self, frame: EncodedFrame, plane: FloorPlane, stamp_s: float = 0.0) -> bool:
        """Take the floor of one frame as references, where enough of it is seen.

        Returns:
            Whether LEAST_FLOOR of the pixels that may show floor fit it, at a likely scale; otherwise nothing is taken.

        Raises:
            ScaleError: the frame has no camera, or the stamp is not a time.
        """
        _check_time(stamp_s)
        if frame.camera is None:
            raise ScaleError("the floor needs the camera's intrinsics: pass camera= to Predictor.encode")
        uv, floor_m, sigma_log = floor_points(plane, frame.camera, frame.size)
        may_show = np.isfinite(floor_m).nonzero()[0]
        self._now_s = max(self._now_s, stamp_s)
        if len(may_show) < LEAST_FLOOR_PIXELS:
            return False
        answer = frame.answer(uv[may_show])
        network_m = np.full(len(uv), np.nan)
        network_m[may_show] = answer.depth_m
        chance = floor_chance(plane, floor_m, network_m)[may_show]
        reference_m = floor_m[may_show] / math.exp(self.prior.floor_log)
        new = self._references(frame, uv[may_show], reference_m, sigma_log[may_show], answer, stamp_s)
        if len(new) != len(may_show):
            return False  # a network that fails
        new["is_limit"], new["outlier"], new["alike"] = 1 - chance, 0.0, FLOOR_ALIKE_WIDTHS
        new["spread"] *= FLOOR_SPREAD
        alone, _ = posterior(new, self._centre, self.prior, stamp_s)
        moved = abs(alone[0] - self._centre[0])
        if share_seen(new, alone, stamp_s) < LEAST_FLOOR or moved > MOST_FLOOR_SIGMAS * self.prior.sigma_log:
            return False
        self._take(new if len(new) <= MOST_AT_ONCE else self._rng.choice(new, MOST_AT_ONCE, replace=False), stamp_s)
        return True

    def _references(
        self,
        frame: EncodedFrame,
        uv: np.ndarray,
        depth_m: np.ndarray,
        sigma_log: np.ndarray,
        answer: Answer,
        stamp_s: float,
    ) -> np.ndarray:
        """What is remembered of references [K] and the network's answer at them, without those that it does not
        answer."""
        with np.errstate(invalid="ignore", divide="ignore"):
            network_sigma = answer.sigma_log
            log_network = np.log(answer.depth_m.astype(np.float64))
        new = np.zeros(len(uv), REFERENCE)
        new["u"], new["v"] = uv.T / frame.size[1]
        new["log_depth"] = log_network - math.log(self.prior.pivot_m)
        new["log_ratio"] = np.log(depth_m) - log_network
        new["network_sigma"] = network_sigma
        new["spread"] = np.where(
            np.isfinite(network_sigma), self.prior.own_share * network_sigma, self.prior.spread_log
        )
        new["sigma"], new["outlier"], new["alike"], new["stamp_s"] = sigma_log, OUTLIER, ALIKE_WIDTHS, stamp_s
        return new[np.isfinite(log_network)]

    def advance(self, stamp_s: float) -> None:
        """Let time pass to that of a new frame: without references the estimate stays and its sigma grows to the
        prior's. A frame long before the last one is the first of a bag that has started again: what references said is
        forgotten, but for the estimate.

        Raises:
            ScaleError: the stamp is not a time.
        """
        _check_time(stamp_s)
        if stamp_s < self._now_s - JUMP_S:
            self._kept, self._stamp_s = self._kept[:0], -math.inf
            self._centre = np.array([self._mean[0], 0.0])
            self._now_s = stamp_s
        self._now_s = max(self._now_s, stamp_s)

    def _take(self, new: np.ndarray, stamp_s: float) -> None:
        if len(new) == 0:
            return
        passed_s = max(stamp_s - self._stamp_s, 0.0)
        self._stamp_s = max(stamp_s, self._stamp_s)
        if math.isfinite(passed_s):
            silent_s = max(passed_s - PAUSE_S, 0.0)
            kept = math.exp(-silent_s / FADE_S - (passed_s - silent_s) / CENTRE_S)
            self._centre = np.array([self._mean[0] + kept * (self._centre[0] - self._mean[0]), 0.0])
        everything = np.concatenate([self._kept, new])
        newest_last = np.argsort(everything["stamp_s"], kind="stable")
        self._kept = everything[newest_last[-MOST_KEPT:]]
        self._mean, self._covariance = posterior(self._kept, self._centre, self.prior, self._stamp_s)


# What is known of the scene beside the image: both have `factor`, which turns answered metres into true ones, with
# `sigma_log`, the standard deviation of its logarithm, and the method `correct`.
MetricScale = FixedScale | ScaleFilter


def _check_time(stamp_s: float) -> None:
    if not all_finite(stamp_s):
        raise ScaleError(f"a stamp must be a time in seconds, got {stamp_s!r}")


def _checked(
    uv: np.ndarray, depth_m: np.ndarray, sigma_m: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """References as float64 [K, 2], [K], [K] (NaN where there is no sigma)."""
    try:
        sigma_m = np.full(np.shape(depth_m), np.nan) if sigma_m is None else sigma_m
        uv, depth_m, sigma_m = map(float64, (uv, depth_m, sigma_m))
    except (TypeError, ValueError, RuntimeError) as error:  # the last of tensors that numpy cannot take
        raise ScaleError(f"references must be numbers: pixels [K, 2], depths [K] and sigmas [K], m; {error}") from error
    uv = uv.reshape(-1, 2) if uv.shape == (0,) else uv  # an empty list is no references
    if uv.ndim != 2 or uv.shape[1] != 2 or depth_m.shape != uv.shape[:1] or sigma_m.shape != uv.shape[:1]:
        raise ScaleError(
            "references must be pixels [K, 2], depths [K] and, if at all, sigmas [K]; got"
            f" {list(uv.shape)}, {list(depth_m.shape)} and {list(sigma_m.shape)}"
        )
    return uv, depth_m, sigma_m
