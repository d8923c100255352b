"""Settings of a training: which are refused, what follows from them, and that every recipe is one."""

import itertools
from pathlib import Path

import pytest
import torch
from support import data_sets
from support.training import config

from spd_core import SPD, checkpoint
from spd_core.data.augment import Augmentation
from spd_core.data.layouts import open_dataset
from spd_core.losses import Loss
from spd_core.model import PRESETS
from spd_core.training import TrainConfig, TrainingError, learning_rate, train


def test_schedule_ends_at_the_last_step():
    for final in (0.0, 0.1):
        rates = [learning_rate(step, 100, 10, 2.0, final) for step in range(100)]
        assert rates[0] == pytest.approx(0.2)
        assert rates[9] == rates[10] == 2
        assert rates[-1] == pytest.approx(final, abs=1e-12)
        assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
        assert {learning_rate(step, 100, 10, 0.0, final) for step in range(100)} == {0.0}


def test_sigma_is_not_trained_where_there_is_none(rooms, tmp_path):
    with pytest.raises(TrainingError, match=r"loss\.sigma is 0\.1, but preset 'atto' .* answers no sigma"):
        train(config(rooms, tmp_path, loss=Loss(sigma=0.1)))


def test_checkpoint_of_another_preset(rooms, tmp_path):
    with pytest.raises(
        TrainingError,
        match=r"is not a checkpoint of preset 'atto'.*encoder 'tf_efficientnet_lite1', not 'convnextv2_atto'",
    ):
        train(config(rooms, tmp_path, init=checkpoint.EMBEDDED))


def test_the_embedded_weights_may_learn_another_size(rooms, tmp_path):
    train(
        config(
            rooms,
            tmp_path,
            steps=1,
            preset="lite",
            init="embedded",
            model={"input_size": [64, 96], "training_focal_px": 80.0},
            encoder_lr=0.0,
            decoder_lr=0.0,
        )
    )
    learned, embedded = checkpoint.load(tmp_path / "last.safetensors"), checkpoint.load(checkpoint.EMBEDDED)
    assert (learned.config.input_size, learned.config.training_focal_px) == ((64, 96), 80.0)
    for name, tensor in embedded.state_dict().items():
        torch.testing.assert_close(learned.state_dict()[name], tensor)


def test_a_focal_length_that_was_learned_is_not_replaced_without_a_word(rooms, tmp_path):
    file = tmp_path / "own.safetensors"
    checkpoint.save(SPD.from_preset("atto", training_focal_px=300.0), file)
    with pytest.raises(TrainingError, match=r"it has training_focal_px 300\.0, not 207\."):
        train(config(rooms, tmp_path / "run", init=file, model=None))
    train(config(rooms, tmp_path / "run", steps=1, init=file, model={"training_focal_px": 80.0}))


def test_an_encoder_that_timm_cannot_take_apart_is_named(rooms, tmp_path):
    with pytest.raises(TrainingError, match=r"cannot be built \(AssertionError: feature index -1 is out of range"):
        train(config(rooms, tmp_path, model={"encoder": "levit_128s"}))


def test_truth_in_another_unit_is_doubted_before_it_is_learned(rooms, tmp_path):
    dataset = open_dataset(rooms)
    for i in range(2):
        camera = dataset[i].camera
        numbers = f"{camera.fx} {camera.fy} {camera.cx} {camera.cy}"
        data_sets.write_rgbd(tmp_path / "data", str(i), dataset[i].rgb, 0.2 * dataset[i].depth_m, numbers)
    model = {"input_size": [64, 96], "training_focal_px": 80.0}
    with pytest.warns(UserWarning, match="true depths are 0.* times the network's: are they in metres"):
        train(config(tmp_path / "data", tmp_path / "run", steps=1, preset="lite", init="embedded", model=model))


def test_rooms_need_a_validation_set(rooms, tmp_path):
    with pytest.raises(TrainingError, match="no test split of its own; set `val`"):
        train(config(rooms, tmp_path, val=None))


@pytest.mark.parametrize("crop", [{"crop": (64, 48)}, {"crop": (96, 80), "crop_variation": 0.3}])
def test_crops_that_the_network_cannot_see_are_refused_at_the_start(rooms, tmp_path, crop):
    """A batch of some thousand steps later would be the first of such a size."""
    with pytest.raises(TrainingError, match=r"\(augment\.crop\), up to \d+% .* sides of 64 px at least"):
        train(config(rooms, tmp_path, augment=Augmentation(**crop)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1.0}, "either steps or epochs"),
        ({"batch_size": 0}, "batch_size must be positive and finite, got 0"),
        ({"steps": None, "epochs": float("nan")}, "epochs must be positive and finite, got nan"),
        ({"steps": None, "epochs": float("inf")}, "epochs must be positive and finite, got inf"),
        ({"encoder_lr": -1e-4}, r"encoder_lr must not be negative, got -0\.0001"),
        ({"final_lr": float("nan")}, "final_lr must not be negative, got nan"),
        ({"precision": "16"}, "precision must be 32-true or bf16-mixed, got '16'"),
        ({"warmup": -1}, "warmup must not be negative, got -1"),
        ({"workers": -2}, "workers must not be negative, got -2"),
        ({"workers": 10_000}, "workers must be 256 at most, got 10000"),
        ({"devices": 1000}, "devices must be 256 at most, got 1000"),
        ({"threads": 100_000}, "threads must be 1024 at most, got 100000"),
        ({"seed": -3}, "seed must not be negative, got -3"),
        ({"ema": float("nan")}, "ema must not be negative, got nan"),
        ({"ema": 1.0}, r"ema and drop_path must be below 1, got 1\.0 and 0\.0"),
        ({"data": {"a": 1.0, "b": 0.0}}, r"folders with their positive shares, got {'a': 1\.0, 'b': 0\.0}"),
        ({"data": {}}, "folders with their positive shares, got {}"),
        ({"data": Path("{a:0.9,b:0.1}")}, r"with a space after each colon, got \{a:0\.9,b:0\.1\}"),
    ],
)
def test_bad_settings(rooms, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(rooms, tmp_path, **changes)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"nope": 1}, r"with model {'nope': 1} cannot be built .*; expected some of encoder: str, .*features: int"),
        ({"features": 32.5}, r"with model {'features': 32\.5} cannot be built .*features: int"),
        ({"features": -3}, r"with model {'features': -3} cannot be built"),
    ],
)
def test_a_model_that_cannot_be_is_said_before_data_are_read(rooms, tmp_path, model, message):
    with pytest.raises(TrainingError, match=message):
        train(config(rooms, tmp_path, model=model, data=tmp_path / "none"))


@pytest.mark.parametrize(
    "recipe", sorted((Path(__file__).parents[1] / "training").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_recipe_is_understood(monkeypatch, recipe, spd):
    runs = []
    monkeypatch.setattr("spd_core.training.train", runs.append)
    spd("train", "--config", recipe)
    assert len(runs) == 1
    assert isinstance(runs[0], TrainConfig)
    assert runs[0].preset in PRESETS
    SPD.from_preset(runs[0].preset, **(runs[0].model or {}))
