"""Data loading: images per second of each layout through augmentation, and the share of a training step that waits for
data.

Files in each layout's exact format are written to a temporary folder (random images compress worse than photographs:
PNG figures are pessimistic).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from spd_core.data.augment import Augmentation
from spd_core.data.layouts import open_dataset
from spd_core.data.loader import AugmentedSamples, training_batches
from spd_core.evaluation import Protocol
from spd_core.training import TrainConfig, train
from spd_rooms.shards import draw_rooms

sys.path.insert(0, str(Path(__file__).parent.parent / "test"))
from test_data import write_bts, write_h5, write_mat  # the tests' writers of the formats

BATCH = 4


def images_per_second(folder: Path, augment: Augmentation, workers: int, batches: int) -> float:
    """Rate of the loader alone, after its workers have started."""
    samples = AugmentedSamples([(open_dataset(folder), 1.0)], augment, training_focal_px=518.86, seed=0)
    loader = iter(training_batches(samples, 0, batches + 4, BATCH, workers=workers))
    for _ in itertools.islice(loader, 4):
        pass
    started = time.perf_counter()
    count = sum(len(batch["names"]) for batch in loader)
    return count / (time.perf_counter() - started)


def main() -> None:
    """Write the files, time the loaders, train a few steps, print a table and write bench/data.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=24)
    batches = parser.parse_args().batches
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as root:
        nyu = Augmentation(crop=(416, 544))
        for name, write in (("h5", write_h5), ("bts", write_bts), ("mat", write_mat)):
            folder = Path(root) / name
            folder.mkdir()
            write(folder)
            results[name] = {f"workers_{w}": images_per_second(folder, nyu, w, batches) for w in (1, 2)}
        rooms = Path(root) / "rooms"
        draw_rooms(rooms, count=250)
        results["rooms"] = {
            f"workers_{w}": images_per_second(rooms, Augmentation(crop=(192, 256)), w, 10 * batches) for w in (1, 2)
        }
        for preset, folder in (("lite", rooms), ("v15", Path(root) / "h5")):
            steps = 20 if preset == "lite" else 3
            settings = {
                "ema": 0.0,
                "validation": Protocol(limit=1),
                "warmup": 1,
                "workers": 1,
                "pictures": 0,
                "augment": Augmentation(),
            }
            run = train(
                TrainConfig(
                    out=Path(root) / preset,
                    data=folder,
                    val=folder,
                    preset=preset,
                    steps=steps,
                    batch_size=BATCH,
                    **settings,
                )
            )
            results[f"train {preset}"] = {"waits_for_data": run["data_wait_fraction"]}
    table = Table(
        "layout",
        "1 worker, img/s",
        "2 workers, img/s",
        title=f"through augmentation, torch {torch.__version__}, {torch.get_num_threads()} threads",
    )
    for name, rates in results.items():
        if "workers_1" in rates:
            table.add_row(name, f"{rates['workers_1']:.0f}", f"{rates['workers_2']:.0f}")
    Console().print(table)
    for name, rates in results.items():
        if "waits_for_data" in rates:
            print(f"{name}, batch {BATCH}, 1 worker: {rates['waits_for_data']:.1%} of a step waits for data")
    (Path(__file__).parent / "data.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
