"""What is said of every point that was asked about."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Status(IntEnum):
    """Why a point has the depth it has; the `status` field of an answer."""

    OK = 0
    NO_CAMERA_INFO = 1  # depth is answered for the training focal length; x y z are NaN
    OUTSIDE_IMAGE = 2
    NOT_FINITE = 3  # the point itself is NaN or infinite
    NO_IMAGE = 4  # no image with that stamp (or none at all) came
    FRAME_SKIPPED = 5  # the image came, but a newer one was encoded instead
    TIMED_OUT = 6  # the image came, but was not encoded, or the query not answered, in time
    BAD_IMAGE = 7  # the image message could not be decoded
    BAD_QUERY = 8  # the query message could not be read
    SHUTTING_DOWN = 9
    BEHIND_CAMERA = 10  # a waypoint that is not in front of the camera
    NO_TRANSFORM = 11  # a waypoint's frame is not known relative to the camera's
    FRAME_EXPIRED = 12  # the image was encoded, but is not kept any more
    FAILED = 13  # the network failed on this image or these points (out of memory, say); the log says how
    INVALID_RAY = 14  # the lens model says nothing of this pixel: depth is answered, x y z are NaN
    NETWORK_NAN = 15  # the network's depth is not a finite number


@dataclass(frozen=True)
class Answer:
    """What is answered at K points.

    Attributes:
        depth_m: z-depth, float32 [K]; NaN where there is none.
        sigma_m: its standard deviation, float32 [K]; NaN where there is no depth, or the model says none.
        xyz_m: in the optical frame (x right, y down, z forward), float32 [K, 3]; NaN rows where there is no depth, no
            camera, or no ray of its lens.
        status: why, uint8 [K] of `Status`: OK, NOT_FINITE, OUTSIDE_IMAGE, NETWORK_NAN, INVALID_RAY or NO_CAMERA_INFO.
        scale: what the network's metres were multiplied with, [K], or 1 for all.
    """

    depth_m: np.ndarray
    sigma_m: np.ndarray
    xyz_m: np.ndarray
    status: np.ndarray
    scale: np.ndarray | float = 1.0

    @property
    def sigma_log(self) -> np.ndarray:
        """Standard deviation of the logarithm of depth, [K]."""
        return self.sigma_m / self.depth_m
