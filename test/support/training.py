"""Short trainings on drawn rooms."""

import json
import sys

from spd_core import checkpoint
from spd_core.data.augment import Augmentation
from spd_core.evaluation import Protocol
from spd_core.training import TrainConfig

SIZE = (64, 96)


MODEL = {"fit": "inside"}


def settings_of(rooms, out, **changes) -> dict:
    settings = {
        "out": out,
        "data": rooms,
        "val": rooms,
        "preset": "atto",
        "model": MODEL,
        "batch_size": 4,
        "steps": 8,
        "warmup": 2,
        "ema": 0.9,
        "validate_every": 4,
        "workers": 0,
        "pictures": 1,
        "device": "cpu",
        "augment": Augmentation(crop=(64, 64), rotate_deg=1),
        "validation": Protocol(limit=4),
    }
    return settings | changes


def config(rooms, out, **changes) -> TrainConfig:
    return TrainConfig(**settings_of(rooms, out, **changes))


def command(settings: TrainConfig, folder) -> list[str]:
    """`spd train` on these settings, written to YAML by hand."""
    file = folder / "train.yaml"
    keys = "out data val preset batch_size steps warmup ema validate_every save_every workers pictures device threads"
    lines = [f"{key}: {getattr(settings, key)}" for key in [*keys.split(), "drop_path"]]
    lines += [f"model: {json.dumps(MODEL)}", "augment: {crop: [64, 64], rotate_deg: 1}", "validation: {limit: 4}"]
    file.write_text("\n".join(lines))
    return [sys.executable, "-m", "spd_cli", "train", "--config", str(file)]


def weights(out, name="last") -> dict:
    return checkpoint.load(out / f"{name}.safetensors").state_dict()
