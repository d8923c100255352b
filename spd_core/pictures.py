"""Pictures for people: depth in colours, points on their image, samples side by side."""

from __future__ import annotations

import itertools

import cv2
import numpy as np


def depth_range(depth_m: np.ndarray) -> tuple[float, float]:
    """Near and far end of a colour scale, m: percentiles 1 and 99 of the known depths, at least 0.1 m apart."""
    known = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
    near, far = np.percentile(known, [1, 99]) if known.size else (0.0, 1.0)
    return float(near), float(max(far, near + 0.1))


def colour_depth(depth_m: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """Depth [...] m as RGB uint8 [..., 3]: red is near, blue far, black unknown (not finite or not positive)."""
    if depth_m.size == 0:
        return np.zeros((*depth_m.shape, 3), np.uint8)  # OpenCV raises for nothing
    known = np.isfinite(depth_m) & (depth_m > 0)
    shade = np.clip(255 * (np.where(known, depth_m, near_m) - near_m) / (far_m - near_m), 0, 255).astype(np.uint8)
    colours = cv2.applyColorMap(255 - shade.reshape(-1, 1), cv2.COLORMAP_TURBO)[:, 0, ::-1].reshape(*depth_m.shape, 3)
    return np.where(known[..., None], colours, 0).astype(np.uint8)


def side_by_side(rows: list[list[np.ndarray]]) -> np.ndarray:
    """One picture from rows of RGB images; each is scaled to the size of the first."""
    size = rows[0][0].shape[1::-1]
    gap = [(0, 4), (0, 4), (0, 0)]  # px right of and below each

    def cell(image: np.ndarray) -> np.ndarray:
        return np.pad(cv2.resize(image, size, interpolation=cv2.INTER_AREA), gap, constant_values=255)

    return np.vstack([np.hstack([cell(image) for image in row]) for row in rows])[:-4, :-4]


def draw_overlay(
    rgb: np.ndarray, uv: np.ndarray, depth_m: np.ndarray, labels: int = 12, caption: str = ""
) -> np.ndarray:
    """RGB uint8 [H, W, 3] with points [K, 2] px in the colour of their depth [K] m; points without depth are grey
    rings. The caption stands in the upper left corner."""
    picture = np.ascontiguousarray(rgb).copy()
    height, width = picture.shape[:2]
    unit = max(height, width) / 640
    known = np.isfinite(depth_m)
    low, high = depth_range(depth_m)
    colours = colour_depth(depth_m, low, high)
    radius = max(2, round((4 if len(uv) <= 400 else 2) * unit))
    visible = np.isfinite(uv).all(axis=1) & (np.abs(uv) < 1e5).all(axis=1)
    for (x, y), colour, ok in zip(uv[visible].round().astype(int), colours[visible], known[visible]):
        cv2.circle(picture, (int(x), int(y)), radius + 1, (20, 20, 20), -1 if ok else 1, cv2.LINE_AA)
        if ok:
            cv2.circle(picture, (int(x), int(y)), radius, colour.tolist(), -1, cv2.LINE_AA)
    taken = [_scale_bar(picture, low, high, unit)]
    if caption:
        taken.append(_text(picture, caption, (round(8 * unit), round(18 * unit)), 0.5 * unit))
    chosen = np.flatnonzero(known & visible)
    for i in chosen[np.linspace(0, len(chosen) - 1, min(labels, len(chosen))).astype(int)] if len(chosen) else []:
        _label(picture, f"{depth_m[i]:.2f}", uv[i], 0.42 * unit, taken)
    return picture


Box = tuple[float, float, float, float]  # left, top, right, bottom, px


def _label(picture: np.ndarray, text: str, at: np.ndarray, scale: float, taken: list[Box]) -> None:
    """Write beside a point, where nothing is written yet, or leave it: a depth that cannot be read says less."""
    height, width = picture.shape[:2]
    (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    gap = 14 * scale
    corners = itertools.product((gap, -w - gap), (-gap, h + gap))
    for dx, dy in (*corners, (-w / 2, -2 * gap), (-w / 2, h + 2 * gap)):
        left, bottom = at[0] + dx, at[1] + dy
        box = (left - 2, bottom - h - 2, left + w + 2, bottom + 2)
        inside = box[0] >= 0 and box[1] >= 0 and box[2] < width and box[3] < height
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            taken.append(_text(picture, text, (round(left), round(bottom)), scale))
            return


def _text(picture: np.ndarray, text: str, at: tuple[int, int], scale: float) -> Box:
    """Write from the lower left corner `at`. Returns what it covers."""
    thick = max(1, round(scale / 0.42))
    for colour, thickness in (((0, 0, 0), 3 * thick), ((255, 255, 255), thick)):
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)
    (w, h), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    return at[0] - thick, at[1] - h - thick, at[0] + w + thick, at[1] + below


def _scale_bar(picture: np.ndarray, low_m: float, high_m: float, unit: float) -> Box:
    """Draw it in the upper right corner. Returns what it covers."""
    height, width = picture.shape[:2]
    bar_width, bar_height, margin = round(12 * unit), round(min(160 * unit, height - 40 * unit)), round(12 * unit)
    if bar_height < 20 or width < 120:
        return 0, 0, 0, 0
    bar = colour_depth(np.linspace(high_m, low_m, bar_height)[:, None].repeat(bar_width, 1), low_m, high_m)
    left, top = width - margin - bar_width, margin + round(8 * unit)
    picture[top : top + bar_height, left : left + bar_width] = bar
    cv2.rectangle(picture, (left - 1, top - 1), (left + bar_width, top + bar_height), (255, 255, 255), 1)
    covered = left - 4 * unit
    for fraction in (0.0, 0.5, 1.0):  # the top of the bar is far
        text = f"{high_m + fraction * (low_m - high_m):.1f} m"
        at = left - round(48 * unit), top + round(fraction * bar_height + 4 * unit)
        covered = min(covered, _text(picture, text, at, 0.42 * unit)[0])
    return covered, 0, width, top + bar_height + 10 * unit
