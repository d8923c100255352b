"""What a training leaves on the disk: it goes on from there to the same end, or says why it cannot."""

import json
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from support.data_sets import write_rgbd
from support.training import SIZE, command, config, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from spd_core import SPD, checkpoint, training_record
from spd_core.checkpoint import CheckpointError
from spd_core.data.augment import Augmentation
from spd_core.errors import SPDError
from spd_core.training import TrainingError, TrainingRun, train


def step_of(out) -> int:
    """Of the last save."""
    return json.loads((out / "run.json").read_text())["step"] if (out / "run.json").exists() else 0


def test_killed_run_ends_with_the_same_weights(rooms, tmp_path):
    threads = torch.get_num_threads()  # sums depend on it, to the last bit
    changes = {"steps": 20, "save_every": 3, "validate_every": 10, "threads": threads, "drop_path": 0.2}
    whole = config(rooms, tmp_path / "whole", **changes)
    train(whole)
    cut = config(rooms, tmp_path / "cut", **changes)
    with subprocess.Popen(command(cut, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 120
            while step_of(tmp_path / "cut") == 0 and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.02)
            time.sleep(0.5 * np.random.default_rng().random())
        finally:
            process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()[-2000:]
    killed_at = torch.load(tmp_path / "cut" / "state.pt", weights_only=True)["step"]
    assert 0 < killed_at < 20
    train(cut)
    for name in ("last", "best"):
        expected, got = weights(tmp_path / "whole", name), weights(tmp_path / "cut", name)
        assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_ctrl_c_saves_a_whole_step(rooms, tmp_path, capsys):
    changes = {"steps": 4, "save_every": 100, "validate_every": 100, "drop_path": 0.2, "ema": 0.9}
    train(config(rooms, tmp_path / "whole", **changes))
    cut = config(rooms, tmp_path / "cut", **changes)

    class Interrupted(TrainingRun):
        def _optimise(self, step, micro_batches):
            if step == 2:
                signal.raise_signal(signal.SIGINT)
            return super()._optimise(step, micro_batches)

    with pytest.raises(KeyboardInterrupt):
        train(cut, Interrupted)
    assert "interrupted after step 3, and saved: the same command goes on" in capsys.readouterr().out
    train(cut)
    assert "at step 3 of 4" in capsys.readouterr().out
    expected, got = weights(tmp_path / "whole", "last"), weights(tmp_path / "cut", "last")
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_the_average_is_that_of_torch(rooms, tmp_path):
    model = SPD.from_preset("atto")
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True)
    fabric = SimpleNamespace(device=torch.device("cpu"), world_size=1, is_global_zero=False)
    record = training_record.Record(config(rooms, tmp_path, ema=0.7), fabric, model, None, 4, 1)
    for record.step in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape)
        average.update_parameters(model)
        record.update_average()
    for name, tensor in average.module.state_dict().items():
        assert torch.equal(record.average.state_dict()[name], tensor), name


def test_stops_early_and_stays_where_it_is(rooms, tmp_path, capsys):
    settings = config(
        rooms, tmp_path, steps=20, validate_every=2, patience=2, ema=0.0, encoder_lr=0.0, decoder_lr=0.0, final_lr=0.0
    )
    report = train(settings)
    assert report["step"] == 4
    assert "2 validations without a smaller AbsRel" in report["ended"]
    assert train(settings) == report
    assert capsys.readouterr().out.count(report["ended"]) == 2  # a bar at 4/20 does not say why


def scalars(out, name) -> list[int]:
    """The steps of which TensorBoard shows a number."""
    return [event.step for event in EventAccumulator(str(out / "tensorboard")).Reload().Scalars(name)]


def test_going_on_keeps_what_tensorboard_shows_and_what_was_counted(rooms, tmp_path):
    settings = config(rooms, tmp_path, steps=2, validate_every=2)
    report = train(settings)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state |= {"skipped": ["a", "b", "c"], "trained_s": 50.0, "waited_s": 10.0}
    torch.save(state, tmp_path / "state.pt")
    again = train(settings)
    counted = {"broken_samples": 3, "step_s": 25.0, "data_wait_fraction": 0.2}
    assert again == {**report, **counted}
    assert scalars(tmp_path, "val/abs_rel") == [0, 2]
    assert scalars(tmp_path, "train/loss") == [1, 2]


def test_a_state_of_before_some_settings_goes_on(rooms, interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path / "run")
    file = tmp_path / "run" / "state.pt"
    state = torch.load(file, weights_only=True)
    del state["recipe"]["augment"]["cut_depth"], state["recipe"]["loss"]["sigma"], state["recipe"]["clip"]
    state["recipe"]["augment"]["crop_scale"] = [1.0, 1.2]  # a setting that is gone
    torch.save(state, file)
    assert train(config(rooms, tmp_path / "run", steps=2, in_memory=True))["step"] == 2
    with pytest.raises(TrainingError, match=r"other settings \(augment\.noise: 0\.0 -> 2\.0\); go on"):
        train(config(rooms, tmp_path / "run", steps=2, augment=Augmentation(crop=(64, 64), rotate_deg=1, noise=2.0)))


def test_other_settings_do_not_continue_a_run(rooms, tmp_path):
    train(config(rooms, tmp_path, steps=2))
    with pytest.raises(TrainingError, match="steps: 2 -> 3"):
        train(config(rooms, tmp_path, steps=3))


def test_the_revision_is_that_of_this_code(tmp_path, monkeypatch):
    fabric = SimpleNamespace(device=torch.device("cpu"), world_size=1)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *author, "commit", "-qm", "x", "--allow-empty"], cwd=tmp_path, check=True)
    installed = tmp_path / "training_record.py"
    installed.touch()
    monkeypatch.setattr(training_record, "__file__", str(installed))
    assert training_record.environment(fabric)["revision"] is None  # of a repository that has it not
    subprocess.run(["git", "add", installed], cwd=tmp_path, check=True)
    assert training_record.environment(fabric)["revision"].endswith("-dirty")
    monkeypatch.setenv("PATH", str(tmp_path / "without git"))
    assert training_record.environment(fabric)["revision"] is None


def test_what_init_or_a_state_replaces_is_not_fetched(rooms, tmp_path):
    init = tmp_path / "init.safetensors"
    shutil.copy(checkpoint.EMBEDDED, init)
    changes = {"preset": "lite", "model": None, "init": init, "pretrained": str(tmp_path / "nowhere")}
    settings = config(rooms, tmp_path / "run", steps=1, **changes)
    report = train(settings)
    init.unlink()
    assert train(settings) == report


def test_a_run_goes_on_with_a_batch_that_shows_no_depth(rooms, tmp_path):
    """As its uninterrupted twin does, which has seen some before."""
    grey = np.full((*SIZE, 3), 90, np.uint8)
    write_rgbd(tmp_path, "a", grey, 2.0, "80 80 47.5 31.5")
    settings = config(rooms, tmp_path / "run", data=tmp_path, steps=11, batch_size=1)
    train(settings)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    torch.save(state | {"step": 10}, tmp_path / "run" / "state.pt")
    write_rgbd(tmp_path, "a", grey, 0.0)
    assert train(settings)["ended"] == "complete"


def test_a_folder_that_another_training_writes_to_is_refused(rooms, tmp_path, monkeypatch):
    monkeypatch.setattr(training_record, "LOCK_PATIENCE_S", 0.1)
    with FileLock(tmp_path / ".lock"), pytest.raises(TrainingError, match="another training is writing to"):
        train(config(rooms, tmp_path, steps=1))
    assert not (tmp_path / "state.pt").exists()
    train(config(rooms, tmp_path, steps=1))


def test_a_validation_that_fails_loses_no_training(rooms, tmp_path):
    """A picture is emptied on the way; mended, the run goes on with the validation that is due."""
    val = tmp_path / "val"
    rgb = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    write_rgbd(val, "a", rgb, np.linspace(1, 3, rgb[..., 0].size).reshape(SIZE), "100 100 48 32")
    broken = val / "a.png"
    content = broken.read_bytes()
    run = config(rooms, tmp_path / "out", val=val, steps=4, validate_every=2, save_every=100)

    class Breaks(TrainingRun):
        def loss(self, images, target_m):
            broken.write_bytes(b"")
            return super().loss(images, target_m)

    with pytest.raises(SPDError, match="is empty"):
        train(run, Breaks)
    broken.write_bytes(content)
    assert torch.load(tmp_path / "out" / "state.pt", weights_only=True)["step"] == 2
    assert [validation["step"] for validation in train(run)["history"]] == [0, 2, 4]


def test_data_that_changed_are_another_run(rooms, tmp_path):
    train(config(rooms, tmp_path, steps=1))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save(state | {"samples": state["samples"] + 3}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"holds a run over \d+ samples, and its data have \d+ now"):
        train(config(rooms, tmp_path, steps=1))


def test_full_disk_leaves_the_previous_checkpoint(rooms, tmp_path):
    """A limit on the size of files stands for a full disk: both fail in the middle of a write."""
    train(config(rooms, tmp_path, steps=2))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    model = checkpoint.load(tmp_path / "last.safetensors")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["step"] = 1
    torch.save(state, tmp_path / "state.pt")  # as if killed after step 1
    before["state.pt"] = (tmp_path / "state.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"last\.safetensors could not be written.*Is the disk full"):
            checkpoint.save(model, tmp_path / "last.safetensors")
        with pytest.raises((CheckpointError, TrainingError), match="could not be written"):
            train(config(rooms, tmp_path, steps=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for name, content in before.items():
        if not name.startswith("run"):
            assert (tmp_path / name).read_bytes() == content, name
    assert not list(tmp_path.glob("*.partial"))


@pytest.fixture(scope="module")
def interrupted(rooms, tmp_path_factory):
    """The folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    train(config(rooms, folder, steps=2))
    return folder


def halved(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def of_something_else(file):
    torch.save([torch.zeros(3)], file)


def of_another_version(file):
    state = torch.load(file, weights_only=True)
    torch.save({name: part for name, part in state.items() if name != "skipped"}, file)


def with_code(file):
    torch.save({"step": Path("a")}, file)


def of_another_network(file):
    state = torch.load(file, weights_only=True)
    state["model"].popitem()
    torch.save(state, file)


def test_a_state_that_cannot_be_used_is_named_with_the_way_on(rooms, interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path / "run")
    state = tmp_path / "run" / "state.pt"
    for damage, fault in (
        (halved, "is damaged, or was not written or copied to its end"),
        (of_something_else, "is not the state of a training"),
        (of_another_version, "is not the state of a training as this version writes it"),
        (with_code, "holds more than tensors and plain values"),
        (of_another_network, "does not fit the model of its own settings"),
    ):
        shutil.copy(interrupted / "state.pt", state)
        damage(state)
        with pytest.raises(SPDError, match=rf"state\.pt {fault}(.|\n)*delete it to start the run afresh, or .*`init`"):
            train(config(rooms, tmp_path / "run", steps=2))
    state.unlink()
    assert train(config(rooms, tmp_path / "run", steps=2))["step"] == 2
