"""What references say of a scale and a slope: the posterior of the model that `scale.py` describes.

It is a table over log scale s and slope b, so its mean and width are sums, not approximations. K references.
"""

from __future__ import annotations

import numpy as np

from .scale_prior import ScalePrior

NU, T_PEAK = 2.0, 8**-0.5  # of Student's t, and its density at 0
ALIKE_LOG = 0.2  # of log depth: one standard deviation of being alike
FADE_S = 0.7
# What stands in front of a reference: e is anything up to a width, in log depth; a few in a hundred are even behind it.
IN_FRONT_LOG, BEHIND = 1.2, 0.03
# The table: log scale and slope, about the centre; or farther off, as long as more than EDGE_SHARE of what is likely is
# beyond NEAR_EDGE of it: cut off at its edge, that would look sure.
NEAR_EDGE, EDGE_SHARE, MOST_TABLES = 0.8, 0.01, 8
LOG_SCALES, SLOPES = np.linspace(-1.0, 1.0, 101), np.linspace(-0.6, 0.6, 11)
_CELLS = np.stack([axis.ravel() for axis in np.meshgrid(LOG_SCALES, SLOPES, indexing="ij")])  # [2, cells]

# A reference that is remembered: its place in image widths, log network depth over the pivot, log of reference over
# network depth, standard deviations of e and of the reference, the probability that it is only the farthest that the
# thing can be, how close others are alike in image widths, and its time.
_FIELDS = ("u", "v", "log_depth", "log_ratio", "spread", "sigma", "is_limit", "alike", "stamp_s")
REFERENCE = np.dtype([(name, np.float64) for name in _FIELDS])


def posterior(
    references: np.ndarray, centre: np.ndarray, prior: ScalePrior, now_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [2] and covariance [2, 2] of (s, b) given REFERENCEs [K], of a prior about `centre` [2]."""
    rows = np.stack([np.ones(len(references)), references["log_depth"]], axis=1)
    offset = references["log_ratio"] - rows @ centre
    weights = _weights(references, now_s).astype(np.float32)
    mean = np.zeros(2)
    for _ in range(MOST_TABLES):
        cells = np.add(_CELLS, [[mean[0]], [0.0]])
        log_prior = -0.5 * ((cells / [[prior.sigma_log], [prior.sigma_slope]]) ** 2).sum(axis=0)
        errors = offset.astype(np.float32)[:, None] - rows.astype(np.float32) @ cells.astype(np.float32)
        density = log_prior + weights @ _log_likelihood(references, errors)
        density = np.exp(density - density.max())
        density /= density.sum()
        mean = cells @ density
        if density[np.abs(_CELLS[0]) > NEAR_EDGE].sum() < EDGE_SHARE:
            break
    centred = cells - mean[:, None]
    return centre + mean, (centred * density) @ centred.T


def share_seen(references: np.ndarray, estimate: np.ndarray, now_s: float) -> float:
    """Share of REFERENCEs [K] that show what they are references for, at an estimate of (s, b)."""
    weights = _weights(references, now_s)
    errors = references["log_ratio"] - estimate[0] - estimate[1] * references["log_depth"]
    in_front = references["is_limit"] * _in_front(errors / np.hypot(references["spread"], references["sigma"]))
    seen = 1 - in_front / np.exp(_log_likelihood(references, errors[:, None])[:, 0])
    return float(weights @ seen / weights.sum())


def _log_likelihood(references: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Of e [K, cells], up to a constant for each reference."""
    width = np.sqrt(references["spread"] ** 2 + references["sigma"] ** 2).astype(np.float32)[:, None]
    errors = errors / width
    result = -0.5 * (NU + 1) * np.log(1 + errors * errors / np.float32(NU))
    limits = references["is_limit"].nonzero()[0]
    if len(limits):
        is_limit = references["is_limit"].astype(np.float32)[limits, None]
        seen = (1 - is_limit) * T_PEAK / width[limits] * np.exp(result[limits])
        result[limits] = np.log(seen + is_limit * _in_front(errors[limits]))
    return result


def _in_front(errors: np.ndarray) -> np.ndarray:
    """Density of e, in units of its width, where something stands in front of the reference."""
    return ((1 - BEHIND) / (1 + np.exp(-1.7 * errors)) + BEHIND / 2) / IN_FRONT_LOG


def _weights(references: np.ndarray, now_s: float) -> np.ndarray:
    """How many references each one counts for: less than one where it is old, or among others that are alike."""
    fade = np.exp((references["stamp_s"] - now_s) / FADE_S)
    u, v, log_depth = references["u"], references["v"], references["log_depth"]
    apart = ((u[:, None] - u) ** 2 + (v[:, None] - v) ** 2) / references["alike"][:, None] ** 2
    apart += ((log_depth[:, None] - log_depth) / ALIKE_LOG) ** 2
    return fade / np.maximum(np.exp(-0.5 * apart) @ fade, 1.0)
