"""Depth maps of Depth Anything V2's own code, at some pixels, for weights that anyone can make from their names.

To write depth_anything.json anew, with a clone of https://github.com/DepthAnything/Depth-Anything-V2 (it was made from
commit a561b84):

    python test/golden/depth_anything.py path/to/Depth-Anything-V2
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

FILE = Path(__file__).with_suffix(".json")
SIZES = ((518, 518), (392, 518))


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """A state dict with lively random values, each from its own name."""
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(crc32(name.encode())))
        if name.endswith(("pos_embed", "cls_token")):
            state[name] = 0.5 * noise
        elif name.endswith("gamma"):
            state[name] = 0.3 + 0.1 * noise
        elif "norm" in name and name.endswith("weight"):
            state[name] = 1 + 0.1 * noise
        elif noise.dim() > 1:
            state[name] = noise * (noise[0].numel()) ** -0.5
        else:
            state[name] = 0.1 * noise
    return state


def network_input(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(size[0]))


def camera_image() -> np.ndarray:
    """An RGB image uint8 [480, 640, 3] of waves."""
    y, x = np.mgrid[:480, :640]
    return np.stack([127 + 120 * np.sin(x / a + y / b) for a, b in ((11, 23), (37, 9), (5, 61))], axis=-1).astype(
        np.uint8
    )


def pixels(shape: tuple[int, int]) -> np.ndarray:
    """Whole pixels [200, 2] (x, y), corners among them."""
    height, width = shape
    chosen = np.random.default_rng(0).integers(0, [width, height], (200, 2))
    chosen[:4] = [[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]
    return chosen


def main(repository: str) -> None:
    sys.path.insert(0, str(Path(repository) / "metric_depth"))
    from depth_anything_v2.dpt import DepthAnythingV2

    theirs = DepthAnythingV2(encoder="vits", features=64, out_channels=[48, 96, 192, 384], max_depth=20).eval()
    shapes = {name: list(tensor.shape) for name, tensor in theirs.state_dict().items()}
    theirs.load_state_dict(weights(shapes))
    inputs = {f"{height}x{width}": network_input((height, width)) for height, width in SIZES}
    inputs["camera"] = theirs.image2tensor(np.ascontiguousarray(camera_image()[..., ::-1]))[0].float()
    depths = {}
    with torch.inference_mode():
        for name, images in inputs.items():
            depth = theirs(images)[0].numpy()
            x, y = pixels(depth.shape).T
            depths[name] = {"size": list(depth.shape), "depth_m": [round(float(z), 5) for z in depth[y, x]]}
    FILE.write_text(json.dumps({"shapes": shapes, "depths": depths}))


if __name__ == "__main__":
    main(sys.argv[1])
