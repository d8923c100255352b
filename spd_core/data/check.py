"""What a data set holds: every sample opened, counted and measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from rich.progress import track

from .loader import read_all
from .samples import DataError, Dataset, Sample, limited


@dataclass
class Summary:
    """What opening every sample of a data set showed."""

    count: int = 0
    broken: list[str] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    focals_px: list[float] = field(default_factory=list)
    nearest_m: float = np.inf
    farthest_m: float = 0.0
    medians_m: list[float] = field(default_factory=list)
    invalid: list[float] = field(default_factory=list)

    def add(self, sample: Sample | DataError) -> None:
        """Count one sample, or the error that opening it raised."""
        self.count += 1
        if isinstance(sample, DataError):
            self.broken.append(str(sample))
            return
        self.sizes.add(sample.rgb.shape[:2])
        if sample.camera is not None:
            self.focals_px.append(sample.camera.focal_px)
        known = sample.depth_m[sample.depth_m > 0] if sample.depth_m is not None else np.empty(0)
        self.invalid.append(1 - known.size / (sample.rgb.shape[0] * sample.rgb.shape[1]))
        if known.size:
            self.nearest_m = min(self.nearest_m, float(known.min()))
            self.farthest_m = max(self.farthest_m, float(known.max()))
            self.medians_m.append(float(np.median(known)))

    def row(self) -> list[str]:
        """The cells of `spd data check`: images, broken, sizes, depth, median, without depth, focal."""
        sizes = ", ".join(f"{width}x{height}" for height, width in sorted(self.sizes)[:3])
        sizes += f" and {len(self.sizes) - 3} more" * (len(self.sizes) > 3)
        depth = f"{self.nearest_m:.2f} ... {self.farthest_m:.2f}" if self.medians_m else "-"
        median = f"{np.median(self.medians_m):.2f}" if self.medians_m else "-"
        invalid = f"{np.mean(self.invalid):.1%}" if self.invalid else "-"
        focal = f"{min(self.focals_px):.0f} ... {max(self.focals_px):.0f}" if self.focals_px else "unknown"
        return [f"{self.count:,}", f"{len(self.broken):,}", sizes, depth, median, invalid, focal]


def summarise(dataset: Dataset, workers: int = 0) -> Summary:
    """Open every sample, with a progress bar."""
    summary = Summary()
    for sample in track(read_all(dataset, workers), "opening", total=len(dataset)):
        summary.add(sample)
    return summary


def mean_depth(dataset: Dataset) -> float:
    """Mean depth, m, over the known pixels of (at most) 1,000 samples spread over the data set.

    Raises:
        DataError: a sample cannot be read or has no depth, or none has a known pixel.
    """
    chosen, total_m, count = limited(dataset, 1000), 0.0, 0
    for sample in (chosen[i] for i in range(len(chosen))):
        known_m = sample.truth_m[sample.truth_m > 0]
        total_m, count = total_m + float(known_m.sum(dtype=np.float64)), count + known_m.size
    if not count:
        raise DataError(f"none of {len(chosen)} samples of {dataset.layout} has a pixel of known depth")
    return total_m / count
