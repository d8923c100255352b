"""What references say of a scale and a slope: the posterior of the model that `scale.py` describes.

It is a table over log scale s and slope b, as wide and as fine as it has to be, so its mean and width are sums, not
approximations. K references.
"""

from __future__ import annotations

import math

import numpy as np

from .scale_prior import ScalePrior

# Student's t: its degrees of freedom, and its density at 0 for these. The exponent (NU + 1) / 2 = 2 is written out too.
NU, T_PEAK = 3.0, 2 / (3**0.5 * math.pi)
OUTLIER_LOG = 3.0  # how much of log depth a reference that is an outlier may be anywhere in
ALIKE_LOG = 0.2  # of log depth: one standard deviation of being alike
FADE_S = 0.7
# What stands in front of a reference: e is anything up to a width, in log depth; a few in a hundred are even behind it.
IN_FRONT_LOG, BEHIND = 1.2, 0.03
# The first table, about the likeliest of coarse scales: how far it reaches in log scale and slope at least, and in
# standard deviations of the prior. Each that follows reaches so many of what the one before has found.
REACH, OF_PRIOR, OF_FOUND = np.array([0.8, 0.6]), 3.5, 4.0
CELLS, LEAST_CELLS = (65, 11), 0.8  # of a table; in a standard deviation, or its sums are coarser than what they sum
MOST_TABLES = 5
_UNIT = np.stack([a.ravel() for a in np.meshgrid(*(np.linspace(-1, 1, n) for n in CELLS), indexing="ij")])  # [2, cells]
_COARSE = np.stack([np.linspace(-4.0, 4.0, 81), np.zeros(81)])

# A reference that is remembered: its place in image widths, log network depth over the pivot, log of reference over
# network depth, what the network says of its error, standard deviations of e and of the reference, the probability that
# it is only the farthest that the thing can be, that it is an outlier, how close others are alike in image widths, its
# time.
_FIELDS = "u v log_depth log_ratio network_sigma spread sigma is_limit outlier alike stamp_s"
REFERENCE = np.dtype([(name, np.float64) for name in _FIELDS.split()])


def posterior(
    references: np.ndarray, centre: np.ndarray, prior: ScalePrior, now_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [2] and covariance [2, 2] of (s, b) given REFERENCEs [K], of a prior about `centre` [2]."""
    rows = np.stack([np.ones(len(references)), references["log_depth"]], axis=1)
    offset = (references["log_ratio"] - rows @ centre).astype(np.float32)[:, None]
    weights = _weights(references, now_s).astype(np.float32)
    sigma_log = prior.sigma_log_where(references["network_sigma"])

    def log_density(cells: np.ndarray) -> np.ndarray:
        log_prior = -0.5 * ((cells[0] / sigma_log) ** 2 + (cells[1] / prior.sigma_slope) ** 2)
        errors = offset - rows.astype(np.float32) @ cells.astype(np.float32)
        return log_prior + weights @ np.log(_likelihood(references, errors)[1])

    mean = _COARSE[:, np.argmax(log_density(_COARSE))]
    reach = np.maximum(REACH, OF_PRIOR * np.array([sigma_log, prior.sigma_slope]))
    for _ in range(MOST_TABLES):
        cells = mean[:, None] + reach[:, None] * _UNIT
        density = log_density(cells)
        density = np.exp(density - density.max())
        density /= density.sum()
        mean = cells @ density
        centred = cells - mean[:, None]
        covariance = (centred * density) @ centred.T
        step, found = 2 * reach / (np.array(CELLS) - 1), np.sqrt(np.diag(covariance))
        if (found > LEAST_CELLS * step).all():
            break
        reach = np.maximum(OF_FOUND * found, step)  # in a cell, the deviation that is found may be 0
    return centre + mean, covariance


def share_seen(references: np.ndarray, estimate: np.ndarray, now_s: float) -> float:
    """Share of REFERENCEs [K] that show what they are references for, at an estimate of (s, b)."""
    weights = _weights(references, now_s)
    errors = references["log_ratio"] - estimate[0] - estimate[1] * references["log_depth"]
    seen, anything = _likelihood(references, errors[:, None])
    return float(weights @ (seen / anything)[:, 0] / weights.sum())


def _likelihood(references: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Densities of e [K, cells]: of a reference that shows what it is one for, times the probability that it does, and
    that and of all else it may be."""
    width = np.sqrt(references["spread"] ** 2 + references["sigma"] ** 2).astype(np.float32)[:, None]
    outlier = references["outlier"].astype(np.float32)[:, None]
    of_t = errors / (width * np.float32(math.sqrt(NU)))
    of_t *= of_t
    of_t += 1
    of_t *= of_t  # to the power of (NU + 1) / 2
    seen = (1 - outlier) * np.float32(T_PEAK) / width / of_t
    anything = seen + outlier / np.float32(OUTLIER_LOG)
    limits = references["is_limit"].nonzero()[0]
    if len(limits):
        is_limit = references["is_limit"].astype(np.float32)[limits, None]
        seen[limits] *= 1 - is_limit
        # Where something stands in front of the reference:
        hidden = (1 + (1 - BEHIND) * np.tanh(0.85 * (errors[limits] / width[limits]))) / (2 * IN_FRONT_LOG)
        anything[limits] = (1 - is_limit) * anything[limits] + is_limit * hidden
    return seen, anything


def _weights(references: np.ndarray, now_s: float) -> np.ndarray:
    """How many references each one counts for: less than one where it is old, or among others that are alike."""
    fade = np.exp((references["stamp_s"] - now_s) / FADE_S)
    u, v, log_depth = references["u"], references["v"], references["log_depth"]
    apart = ((u[:, None] - u) ** 2 + (v[:, None] - v) ** 2) / references["alike"][:, None] ** 2
    apart += ((log_depth[:, None] - log_depth) / ALIKE_LOG) ** 2
    return fade / np.maximum(np.exp(-0.5 * apart) @ fade, 1.0)
