"""What the law is held against: torch's own grid_sample of the dense map."""

import torch
import torch.nn.functional as F


def sample(dense: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bilinear samples [B, K] of [B, 1, H, W] at [B, K, 2] px, pixel centres at integers, by grid_sample."""
    height, width = dense.shape[2:]
    grid = 2 * points.double() / torch.tensor([width - 1, height - 1], device=points.device) - 1
    return F.grid_sample(dense.double(), grid[:, :, None], mode="bilinear", padding_mode="border", align_corners=True)[
        :, 0, :, 0
    ]


def random_points(batch: int, count: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Sub-pixel points, among them all four corners, edges and whole pixels, as far as `count` allows."""
    generator = torch.Generator().manual_seed(seed)
    high = torch.tensor([size[1] - 1, size[0] - 1], dtype=torch.float64)
    points = torch.rand(batch, count, 2, generator=generator, dtype=torch.float64) * high
    corners = (
        torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0], [0, 0.3], [1, 0.7], [0.2, 1]], dtype=torch.float64)
        * high
    )
    if count > len(corners):
        points[:, : len(corners)] = corners
        points[:, len(corners) : count // 2] = points[:, len(corners) : count // 2].round()
    return points


def assert_lawful(out: torch.Tensor, reference: torch.Tensor, tolerance: float = 1e-4):
    error = (out.double() - reference).abs() / reference.clamp(min=1)
    assert torch.isfinite(out).all()
    assert error.max() <= tolerance, f"max relative error {error.max():.2e}"
