"""Lens distortion, as OpenCV defines it, answered only where the model is valid.

A *ray* is the ideal (x, y) = (X / Z, Y / Z) of a point in front of the camera, its *image* is what the lens makes of
it; both [K, 2], in focal lengths from the principal point. Points without an answer are NaN, which `Camera` asks numpy
not to warn of.

A distortion polynomial is fitted to the angles that a calibration has seen. Farther out it turns back, and images of
rays far outside lie among those of the picture. So a ray is valid if the model keeps its sense all the way to it from
the optical axis: the determinant of its Jacobian and its denominator stay positive. There the model is one-to-one, and
an image has the one ray that it had before anything turned back. Where that ends is found once for each lens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial.polynomial import polyval

# of sensor_msgs/CameraInfo, with the numbers of coefficients they may have
DISTORTION_MODELS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}

WIDEST_RAD = np.pi / 2 - 1e-4  # farther from the axis, x / z says nothing
SOLVED = 1e-12  # of an image, in focal lengths (relative beyond one)
ANGLES, DIRECTIONS = 1025, 129  # at which the ends of validity are looked for, before they are bisected


@lru_cache(maxsize=64)
def lens(model: str, coefficients: tuple[float, ...]) -> Lens:
    """The lens of a model of DISTORTION_MODELS with as many coefficients as it may have."""
    if model == "equidistant":
        return RadialLens(lambda angle: _odd_polynomial(angle, coefficients), WIDEST_RAD, np.arctan, np.tan)
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tilt_x, tilt_y = (*coefficients, *[0.0] * 14)[:14]
    radial = RationalRadius((k1, k2, k3), (k4, k5, k6))
    last = radial.end()
    found: Lens = RadialLens(radial.with_slope, last)
    if any((p1, p2, s1, s2, s3, s4)):
        found = DecentredLens(radial, (p1, p2), (s1, s2, s3, s4), last)
    return TiltedLens(found, tilt_x, tilt_y) if tilt_x or tilt_y else found


def _odd_polynomial(angle: np.ndarray, k: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """angle * (1 + k1 angle^2 + k2 angle^4 + ...), and its derivative."""
    square, coefficients = angle * angle, np.array([1, *k])
    return angle * polyval(square, coefficients), polyval(square, coefficients * (2 * np.arange(len(k) + 1) + 1))


@dataclass(frozen=True)
class RationalRadius:
    """g(t) = (1 + k1 t + k2 t^2 + k3 t^3) / (1 + k4 t + k5 t^2 + k6 t^3), t the squared radius: radial distortion."""

    above: tuple[float, float, float]
    below: tuple[float, float, float]

    def end(self) -> float:
        """The radius up to which g is finite, at most that of the widest angle."""
        nodes = np.tan(np.linspace(0, WIDEST_RAD, ANGLES))
        return float(_ends(lambda r: _cubic(r * r, self.below)[0], nodes)[0])

    def __call__(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """g and dg/dt; NaN from the first pole on."""
        above, above_slope = _cubic(t, self.above)
        if not any(self.below):
            return above, above_slope
        below, below_slope = _cubic(t, self.below)
        below = np.where(below > 0, below, np.nan)
        g = above / below
        return g, (above_slope - g * below_slope) / below

    def with_slope(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """r g(r^2), and its derivative."""
        g, slope = self(r * r)
        return r * g, g + 2 * r * r * slope


def _cubic(t: np.ndarray, k: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """1 + k1 t + k2 t^2 + k3 t^3, and its derivative."""
    return 1 + t * (k[0] + t * (k[1] + t * k[2])), k[0] + t * (2 * k[1] + t * 3 * k[2])


def _ends(margin: Callable[[np.ndarray], np.ndarray], nodes: np.ndarray, columns: int = 1) -> np.ndarray:
    """How far `columns` functions of one variable stay positive from the first of `nodes` [N] on: [columns].

    `margin` gives their values at places [..., columns]; positive at the first node. Of nodes so near to each other,
    what ends between two is not back at the second.
    """
    valid = margin(np.repeat(nodes[:, None], columns, axis=1)) > 0
    count = np.where(valid.all(axis=0), len(nodes), valid.argmin(axis=0))
    good, bad = nodes[count - 1], nodes[np.minimum(count, len(nodes) - 1)]
    for _ in range(60):
        middle = (good + bad) / 2
        is_good = margin(middle) > 0
        good, bad = np.where(is_good, middle, good), np.where(is_good, bad, middle)
    return good


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.hypot(vectors[:, 0], vectors[:, 1])


def _tolerance(lengths: np.ndarray) -> np.ndarray:
    return SOLVED * np.maximum(1.0, lengths)


class RadialLens:
    """A lens that moves images along the radius alone.

    Args:
        function: image radius and its derivative, of the parameter.
        last: largest value of the parameter.
        to_parameter: of the radius of a ray; the radius itself if it is not given.
        to_radius: the inverse.
    """

    def __init__(
        self,
        function: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        last: float,
        to_parameter: Callable[[np.ndarray], np.ndarray] = np.positive,
        to_radius: Callable[[np.ndarray], np.ndarray] = np.positive,
    ):
        self._function, self._to_parameter, self._to_radius = function, to_parameter, to_radius
        nodes = to_parameter(np.tan(np.linspace(0, np.arctan(to_radius(np.array(last))), ANGLES)))
        end = _ends(lambda value: function(value)[1], nodes)
        self._values = np.append(nodes[nodes < end], end)
        self._images = np.maximum.accumulate(function(self._values)[0])

    def distort(self, rays: np.ndarray) -> np.ndarray:
        radius = _lengths(rays)
        value = self._to_parameter(radius)
        image, _ = self._function(np.where(value <= self._values[-1] * (1 + SOLVED), value, np.nan))
        return rays * np.where(radius == 0, 1.0, image / radius)[:, None]

    def undistort(self, images: np.ndarray) -> np.ndarray:
        wanted = _lengths(images)
        return images * np.where(wanted == 0, 1.0, self._to_radius(self._solve(wanted)) / wanted)[:, None]

    def near(self, images: np.ndarray) -> np.ndarray:
        """About the rays of images; that of the edge for those beyond."""
        wanted = _lengths(images)
        radius = self._to_radius(np.interp(wanted, self._images, self._values))
        return images * (radius / np.where(wanted > 0, wanted, 1.0))[:, None]

    def _solve(self, wanted: np.ndarray) -> np.ndarray:
        """The parameters of image radii: Newton, between the two tabulated values on each side."""
        wanted = np.where(wanted <= self._images[-1] * (1 + SOLVED), wanted, np.nan)
        at = np.clip(np.searchsorted(self._images, wanted), 1, len(self._images) - 1)
        low, high = self._values[at - 1], self._values[at]
        value = np.interp(wanted, self._images, self._values)
        for _ in range(60):
            image, slope = self._function(value)
            residual = image - wanted
            off = np.abs(residual) > _tolerance(wanted)
            if not off.any():
                break
            low, high = np.where(residual < 0, value, low), np.where(residual > 0, value, high)
            next_value = value - residual / slope
            between = (next_value > low) & (next_value < high)
            value = np.where(off, np.where(between, next_value, (low + high) / 2), value)
        image, _ = self._function(value)
        return np.where(np.abs(image - wanted) <= 100 * _tolerance(wanted), value, np.nan)


class DecentredLens:
    """Radial distortion with tangential (`p`) and thin prism (`s`) terms."""

    def __init__(
        self, radial: RationalRadius, p: tuple[float, float], s: tuple[float, float, float, float], last: float
    ):
        self._radial, self._along, self._p, self._s = radial, RadialLens(radial.with_slope, last), p, s
        directions = np.linspace(-np.pi, np.pi, DIRECTIONS)
        unit = np.stack([np.cos(directions), np.sin(directions)], axis=1)
        nodes = np.tan(np.linspace(0, np.arctan(last), ANGLES // 2))
        # The radius at which the valid rays end, for each of the directions.
        self._edges = _ends(lambda r: _orientation(self._map(unit * r[..., None])[1]), nodes, DIRECTIONS)
        end, _ = self._map(unit * self._edges[:, None])
        turns = np.unwrap(np.arctan2(end[:, 1], end[:, 0]))
        self._end_turns, self._end_radii = turns, _lengths(end)
        # A curve that turns once, steadily, encloses the images of all valid rays.
        self._encloses = bool((np.diff(turns) > 0).all() and np.isfinite(end).all())

    def distort(self, rays: np.ndarray) -> np.ndarray:
        images, jacobian = self._map(rays)
        return np.where(self._is_valid(rays, jacobian)[:, None], images, np.nan)

    def undistort(self, images: np.ndarray) -> np.ndarray:
        """Newton, with steps that stay among the valid rays and come nearer each time."""
        rays = np.full(images.shape, np.nan)
        todo: np.ndarray = np.flatnonzero(self._may_have_ray(images))
        wanted = images[todo]
        tolerance = _tolerance(_lengths(wanted))
        here = self._along.near(wanted)
        here *= np.minimum(1.0, 0.999 * self._edge(here) / np.maximum(_lengths(here), 1e-300))[:, None]
        image, jacobian = self._map(here)
        residual = np.where(self._is_valid(here, jacobian), _lengths(wanted - image), np.inf)
        step = _solved(jacobian, wanted - image)
        share: np.ndarray = np.ones(len(todo))
        for _ in range(60):
            rays[todo] = np.where((residual <= 100 * tolerance)[:, None], here, np.nan)
            left = (residual > tolerance) & (share > 1e-4)
            if not left.any():
                break
            todo, wanted, tolerance, here, residual, step, share = (
                x[left] for x in (todo, wanted, tolerance, here, residual, step, share)
            )
            there = here + share[:, None] * step
            image, jacobian = self._map(there)
            new_residual = _lengths(wanted - image)
            nearer = (new_residual < residual) & self._is_valid(there, jacobian)
            here, residual = np.where(nearer[:, None], there, here), np.where(nearer, new_residual, residual)
            step = np.where(nearer[:, None], _solved(jacobian, wanted - image), step)
            share = np.where(nearer, 1.0, share / 2)
        return rays

    def _map(self, rays: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Images of rays wherever they lie, and the derivatives du/dx, du/dy, dv/dx, dv/dy."""
        x, y = rays[..., 0], rays[..., 1]
        (p1, p2), (s1, s2, s3, s4) = self._p, self._s
        xx, xy, yy = x * x, x * y, y * y
        t = xx + yy
        g, slope = self._radial(t)
        slope = 2 * slope
        u = x * g + 2 * p1 * xy + p2 * (t + 2 * xx) + t * (s1 + s2 * t)
        v = y * g + p1 * (t + 2 * yy) + 2 * p2 * xy + t * (s3 + s4 * t)
        prism_u, prism_v = 2 * (s1 + 2 * s2 * t), 2 * (s3 + 2 * s4 * t)
        across = xy * slope + 2 * (p1 * x + p2 * y)
        du_dx = g + xx * slope + 2 * p1 * y + 6 * p2 * x + x * prism_u
        dv_dy = g + yy * slope + 6 * p1 * y + 2 * p2 * x + y * prism_v
        return np.stack([u, v], axis=-1), (du_dx, across + y * prism_u, across + x * prism_v, dv_dy)

    def _is_valid(self, rays: np.ndarray, jacobian: tuple[np.ndarray, ...]) -> np.ndarray:
        # The table of edges is interpolated: between its directions the determinant says it exactly.
        return (_lengths(rays) <= self._edge(rays) * (1 + 1e-3)) & (_orientation(jacobian) > 0)

    def _edge(self, rays: np.ndarray) -> np.ndarray:
        """The radius at which the valid rays end, in the direction of each ray."""
        place = (np.arctan2(rays[:, 1], rays[:, 0]) + np.pi) * ((DIRECTIONS - 1) / (2 * np.pi))
        cell = np.clip(np.nan_to_num(place).astype(int), 0, DIRECTIONS - 2)
        near, far = self._edges[cell], self._edges[cell + 1]
        least = np.minimum(near, far)
        # Where a dip begins, the edge jumps.
        return np.where(np.maximum(near, far) > 1.1 * least, least, near + (place - cell) * (far - near))

    def _may_have_ray(self, images: np.ndarray) -> np.ndarray:
        """False for images that are surely beyond those of the edge."""
        if not self._encloses:
            return np.isfinite(images).all(axis=1)
        first = self._end_turns[0]
        turn = (np.arctan2(images[:, 1], images[:, 0]) - first) % (2 * np.pi) + first
        return _lengths(images) <= 1.001 * np.interp(turn, self._end_turns, self._end_radii)


def _orientation(jacobian: tuple[np.ndarray, ...]) -> np.ndarray:
    """Positive where images turn about the axis as rays do and neither axis is mirrored."""
    du_dx, du_dy, dv_dx, dv_dy = jacobian
    return np.minimum(du_dx * dv_dy - du_dy * dv_dx, du_dx + dv_dy)


def _solved(jacobian: tuple[np.ndarray, ...], residual: np.ndarray) -> np.ndarray:
    """The steps [K, 2] that would make up for residuals [K, 2] if the lens were linear."""
    du_dx, du_dy, dv_dx, dv_dy = jacobian
    u, v = residual[:, 0], residual[:, 1]
    return np.stack([dv_dy * u - du_dy * v, du_dx * v - dv_dx * u], axis=1) / (du_dx * dv_dy - du_dy * dv_dx)[:, None]


class TiltedLens:
    """A lens before a sensor that is tilted by angles (rad) about x and y (Scheimpflug): a homography of its images."""

    def __init__(self, lens: Lens, tilt_x: float, tilt_y: float):
        (sin_x, sin_y), (cos_x, cos_y) = np.sin([tilt_x, tilt_y]), np.cos([tilt_x, tilt_y])
        about_x = np.array([[1, 0, 0], [0, cos_x, sin_x], [0, -sin_x, cos_x]])
        about_y = np.array([[cos_y, 0, -sin_y], [0, 1, 0], [sin_y, 0, cos_y]])
        turn = about_y @ about_x
        self._matrix = np.array([[turn[2, 2], 0, -turn[0, 2]], [0, turn[2, 2], -turn[1, 2]], [0, 0, 1]]) @ turn
        self._inverse = np.linalg.pinv(self._matrix)
        self._lens = lens

    def distort(self, rays: np.ndarray) -> np.ndarray:
        return _in_front(self._lens.distort(rays), self._matrix)

    def undistort(self, images: np.ndarray) -> np.ndarray:
        return self._lens.undistort(_in_front(images, self._inverse))


def _in_front(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points [K, 2] under a homography [3, 3]; NaN beyond its horizon."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[:, :2] / np.where(moved[:, 2] > 0, moved[:, 2], np.nan)[:, None]


Lens = RadialLens | DecentredLens | TiltedLens  # `distort` gives images of rays, `undistort` rays of images
