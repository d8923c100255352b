"""A short real training run: it learns, and an interrupted one ends with the same weights."""

import pytest
import torch

from spd_core import checkpoint
from spd_core.data.shards import RoomShards, draw_rooms
from spd_core.evaluation import evaluate
from spd_core.training import TrainConfig, train


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    draw_rooms(folder, count=250, first_seed=900, size=(64, 96))
    return folder


def config(rooms, out, **changes) -> TrainConfig:
    return TrainConfig(**{"out": out, "train": rooms, "val": rooms, "batch_size": 4, "val_images": 8, "validate_every": 4, "warmup": 2, **changes})


def test_interrupted_run_ends_with_the_same_weights(rooms, tmp_path):
    class Stop(Exception):
        pass

    train(config(rooms, tmp_path / "whole", steps=8))
    original = torch.optim.AdamW.step
    calls = []

    def dying_step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 7:  # between two checkpoints
            raise Stop
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", dying_step)
        with pytest.raises(Stop):
            train(config(rooms, tmp_path / "cut", steps=8))
    train(config(rooms, tmp_path / "cut", steps=8))
    whole, cut = (checkpoint.load(tmp_path / name / "last.safetensors").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_training_learns(rooms, tmp_path):
    first = train(config(rooms, tmp_path / "a", steps=1))
    last = train(config(rooms, tmp_path / "b", steps=60, validate_every=60, ema=0.9, learning_rate=2e-3))
    assert last["abs_rel"] < first["abs_rel"]
    assert last["silog"] < 0.9 * first["silog"]
    provenance = checkpoint.provenance(tmp_path / "b" / "last.safetensors")
    assert provenance["config"]["steps"] == 60
    model = checkpoint.load(tmp_path / "b" / "last.safetensors")
    again = evaluate(model, RoomShards(rooms), limit=8)["mean"]
    assert again["abs_rel"] == pytest.approx(last["abs_rel"], rel=1e-4)
