"""Pictures for people: depth in colours, samples side by side."""

from __future__ import annotations

import cv2
import numpy as np


def depth_range(depth_m: np.ndarray) -> tuple[float, float]:
    """Near and far end of a colour scale, m: percentiles 1 and 99 of the known depths, at least 0.1 m apart."""
    known = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
    near, far = np.percentile(known, [1, 99]) if known.size else (0.0, 1.0)
    return float(near), float(max(far, near + 0.1))


def colour_depth(depth_m: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """Depth [...] m as RGB uint8 [..., 3]: red is near, blue far, black unknown (not finite or not positive)."""
    known = np.isfinite(depth_m) & (depth_m > 0)
    shade = np.clip(255 * (np.where(known, depth_m, near_m) - near_m) / (far_m - near_m), 0, 255).astype(np.uint8)
    colours = cv2.applyColorMap(255 - shade.reshape(-1, 1), cv2.COLORMAP_TURBO)[:, 0, ::-1].reshape(*depth_m.shape, 3)
    return np.where(known[..., None], colours, 0).astype(np.uint8)


def side_by_side(rows: list[list[np.ndarray]], gap: int = 4) -> np.ndarray:
    """One picture from rows of RGB images; each is scaled to the size of the first."""
    height, width = rows[0][0].shape[:2]
    picture = np.full((len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            if image.shape[:2] != (height, width):
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            picture[r * (height + gap) : r * (height + gap) + height, c * (width + gap) : c * (width + gap) + width] = image
    return picture
