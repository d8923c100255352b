"""Real short training runs: they learn, survive a kill, agree with their distributed twin, and say what is wrong."""

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from spd_core import SPD, Predictor, checkpoint, training, training_record
from spd_core.checkpoint import CheckpointError
from spd_core.data import loader
from spd_core.data.augment import Augmentation
from spd_core.data.samples import Subset
from spd_core.errors import SPDError
from spd_core.evaluation import Protocol, score
from spd_core.losses import Loss
from spd_core.model import PRESETS
from spd_core.training import TrainConfig, TrainingError, TrainingRun, _fabric, learning_rate, train
from spd_core.training_config import open_training_data

SIZE = (64, 96)
MODEL = {"fit": "inside"}


def config(rooms, out, **changes) -> TrainConfig:
    settings = {
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
    return TrainConfig(**{"out": out, **settings, **changes})


def command(settings: TrainConfig, folder) -> list[str]:
    """`spd train` on these settings, written to YAML by hand."""
    file = folder / "train.yaml"
    keys = (
        "out",
        "data",
        "val",
        "preset",
        "batch_size",
        "steps",
        "warmup",
        "ema",
        "validate_every",
        "save_every",
        "workers",
        "pictures",
        "device",
        "threads",
        "drop_path",
    )
    lines = [f"{key}: {getattr(settings, key)}" for key in keys]
    file.write_text(
        "\n".join(
            [
                *lines,
                f"model: {json.dumps(MODEL)}",
                "augment: {crop: [64, 64], rotate_deg: 1}",
                "validation: {limit: 4}",
            ]
        )
        + "\n"
    )
    return [sys.executable, "-m", "spd_cli", "train", "--config", str(file)]


def step_of(out) -> int:
    """Of the last save."""
    return json.loads((out / "run.json").read_text())["step"] if (out / "run.json").exists() else 0


def weights(out, name="last") -> dict:
    return checkpoint.load(out / f"{name}.safetensors").state_dict()


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


def test_training_learns_and_writes_its_record(rooms, tmp_path):
    report = train(config(rooms, tmp_path, steps=50, validate_every=25, encoder_lr=2e-3, decoder_lr=2e-3))
    first, *_, last = report["history"]
    assert last["abs_rel"] < 0.6 * first["abs_rel"]
    on_disk = json.loads((tmp_path / "run.json").read_text())
    assert on_disk == report
    assert (report["ended"], report["step"], report["environment"]["torch"]) == ("complete", 50, torch.__version__)
    assert report["best"]["abs_rel"] == min(v["abs_rel"] for v in report["history"])
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert checkpoint.provenance(tmp_path / "last.safetensors")["config"]["steps"] == 50
    for name in ("pred_min", "pred_max", "gt_max", "s_star", "scale_gap", "pred_cv", "abs_rel_2_5m"):
        assert np.isfinite(last[name])


@pytest.fixture(scope="module")
def reference(rooms, tmp_path_factory):
    """A run of four steps of four images, validated at each."""
    return train(config(rooms, tmp_path_factory.mktemp("one"), steps=4, validate_every=1, ema=0.0))


@pytest.mark.parametrize("how", ["two processes", "torchrun", "accumulation"])
def test_same_curve_as_twice_the_batch(how, reference, rooms, tmp_path):
    if how == "accumulation":
        other = train(config(rooms, tmp_path / "two", steps=4, batch_size=2, accumulate=2, validate_every=1, ema=0.0))
    else:
        settings = config(rooms, tmp_path / "two", steps=4, batch_size=2, validate_every=1, ema=0.0, threads=1)
        program, *arguments = command(settings, tmp_path)
        if how == "torchrun":
            run = [program, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
        else:
            run = [program, *arguments, "--devices", "2"]
        subprocess.run(run, check=True, timeout=200, stdout=subprocess.DEVNULL)
        other = json.loads((tmp_path / "two" / "run.json").read_text())
        assert (other["environment"]["processes"], other["config"]["devices"]) == (2, 2)
    assert len(other["history"]) == 5
    for a, b in zip(reference["history"][1:], other["history"][1:]):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-4)
        assert b["abs_rel"] == pytest.approx(a["abs_rel"], abs=1e-3)


def test_schedule_ends_at_the_last_step():
    for final in (0.0, 0.1):
        rates = [learning_rate(step, 100, 10, 2.0, final) for step in range(100)]
        assert rates[0] == pytest.approx(0.2)
        assert rates[9] == rates[10] == 2
        assert rates[-1] == pytest.approx(final, abs=1e-12)
        assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
        assert {learning_rate(step, 100, 10, 0.0, final) for step in range(100)} == {0.0}


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


def test_epochs_count_actual_steps(rooms, tmp_path):
    report = train(config(rooms, tmp_path, steps=None, epochs=0.05, batch_size=2, accumulate=2))
    assert report["steps"] == 4  # 0.05 * 250 / 4, rounded up


def test_stops_early_and_stays_where_it_is(rooms, tmp_path):
    settings = config(
        rooms,
        tmp_path,
        steps=20,
        validate_every=2,
        patience=2,
        ema=0.0,
        encoder_lr=0.0,
        decoder_lr=0.0,
        final_lr=0.0,
    )
    report = train(settings)
    assert report["step"] == 4
    assert "2 validations without a smaller AbsRel" in report["ended"]
    assert train(settings) == report


def scalars(out, name) -> list[int]:
    """The steps of which TensorBoard shows a number."""
    return [event.step for event in EventAccumulator(str(out / "tensorboard")).Reload().Scalars(name)]


def test_going_on_keeps_what_tensorboard_shows_and_what_was_counted(rooms, tmp_path):
    settings = config(rooms, tmp_path, steps=2, validate_every=2)
    report = train(settings)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state |= {"broken": 3, "trained_s": 50.0, "waited_s": 10.0}
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
    for name in ("broken", "first_step", "trained_s", "waited_s"):
        del state[name]
    state["average"] = {"n_averaged": torch.tensor(2), **{f"module.{n}": x for n, x in state["average"].items()}}
    torch.save(state, file)
    report = train(config(rooms, tmp_path / "run", steps=2, in_memory=True))
    assert (report["step"], report["step_s"]) == (2, None)
    with pytest.raises(TrainingError, match=r"other settings \(augment\.noise: 0\.0 -> 2\.0\); go on"):
        train(config(rooms, tmp_path / "run", steps=2, augment=Augmentation(crop=(64, 64), rotate_deg=1, noise=2.0)))


def test_other_settings_do_not_continue_a_run(rooms, tmp_path):
    train(config(rooms, tmp_path, steps=2))
    with pytest.raises(TrainingError, match="steps: 2 -> 3"):
        train(config(rooms, tmp_path, steps=3))


def test_nan_loss_names_the_samples(rooms, tmp_path):
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf) at step \d+ of the batch rooms_00000900\[\d+\], rooms_"
    ):
        train(
            config(rooms, tmp_path, encoder_lr=1e30, decoder_lr=1e30, clip=0.0, warmup=1, loss=Loss(square_root=False))
        )


class InfiniteGradient(TrainingRun):
    def loss(self, images, target_m):
        pred, loss = super().loss(images, target_m)
        return pred, loss + (0 * pred.sum()).sqrt()


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_no_number_names_the_samples(rooms, tmp_path, clip):
    with pytest.raises(
        TrainingError, match=r"the gradient is nan at step 0 of the batch rooms_00000900\[\d+\], rooms_"
    ):
        train(config(rooms, tmp_path, clip=clip), InfiniteGradient)


class Started:
    """A run that only says how it was started."""

    def __init__(self, config, fabric):
        self.started = {"device": str(fabric.device), "tf32": torch.backends.cudnn.allow_tf32}

    def loop(self):
        return self.started


def test_fp32_is_fp32_from_the_first_step_on(rooms, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert train(config(rooms, tmp_path), Started) == {"device": "cpu", "tf32": False}


@pytest.mark.parametrize(
    ("found", "changes", "message"),
    [
        (0, {"device": "cuda"}, "device 'cuda' was asked for, but torch .* finds no CUDA device"),
        (0, {"device": "tpu"}, "device must be auto, cpu, cuda or cuda:<n>, got 'tpu'"),
        (1, {"device": "cuda", "devices": 2}, "device 'cuda:1' was asked for, but torch .* finds 1 CUDA device"),
        (2, {"device": "cuda:1", "devices": 2}, "device cuda:1 is one device, got devices=2 and num_nodes=1"),
    ],
)
def test_devices_that_are_not_there(rooms, tmp_path, monkeypatch, found, changes, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(SPDError, match=message):
        train(config(rooms, tmp_path, **changes), Started)


def test_one_device_of_several(rooms, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("spd_core.training.Fabric", lambda **settings: settings)
    settings = _fabric(config(rooms, tmp_path, device="cuda:1"))
    assert (settings["accelerator"], settings["devices"], settings["strategy"]) == ("gpu", [1], "auto")


def test_a_folder_that_cannot_be_written_to_is_said_at_the_start(rooms):
    with pytest.raises(SPDError, match=r"the folder /proc cannot be written to \(.+\); choose another place"):
        train(config(rooms, Path("/proc")), Started)


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


def test_sigma_is_not_trained_where_there_is_none(rooms, tmp_path):
    with pytest.raises(TrainingError, match=r"loss\.sigma is 0\.1, but preset 'atto' .* answers no sigma"):
        train(config(rooms, tmp_path, loss=Loss(sigma=0.1)))


def test_collapsed_output_is_said(rooms, tmp_path, capsys):
    dead = checkpoint.load(checkpoint.EMBEDDED)
    with torch.no_grad():
        for parameter in dead.decoder.parameters():
            parameter.zero_()
    checkpoint.save(dead, tmp_path / "dead.safetensors")
    still = {"steps": 1, "encoder_lr": 0.0, "decoder_lr": 0.0}
    train(config(rooms, tmp_path / "run", preset="lite", model=None, init=tmp_path / "dead.safetensors", **still))
    assert "the output has collapsed" in capsys.readouterr().out


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


def test_rooms_need_a_validation_set(rooms, tmp_path):
    with pytest.raises(TrainingError, match="no test split of its own; set `val`"):
        train(config(rooms, tmp_path, val=None))


@pytest.mark.parametrize("crop", [{"crop": (64, 48)}, {"crop": (96, 80), "crop_variation": 0.3}])
def test_crops_that_the_network_cannot_see_are_refused_at_the_start(rooms, tmp_path, crop):
    """A batch of some thousand steps later would be the first of such a size."""
    with pytest.raises(TrainingError, match=r"\(augment\.crop\), up to \d+% .* sides of 64 px at least"):
        train(config(rooms, tmp_path, augment=Augmentation(**crop)))


def test_a_gpu_that_is_full_is_said_with_the_way_on(rooms, tmp_path):
    class Full(Started):
        def loop(self):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    with pytest.raises(TrainingError, match=r"allocate 9 GiB\.; a smaller batch_size with a larger accumulate"):
        train(config(rooms, tmp_path), Full)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def stuck():
    time.sleep(60)


@pytest.mark.parametrize("fate", [killed, stuck])
def test_a_process_that_reads_no_more_ends_the_run_with_words(rooms, tmp_path, monkeypatch, fate):
    """Killed where memory ends; a batch that does not fit into shared memory never comes."""
    monkeypatch.setattr(loader, "PATIENCE_S", 2.0)
    run = config(rooms, tmp_path, workers=1)
    test = os.getpid()

    class Ends(Subset):
        def __getitem__(self, index):
            return super().__getitem__(index) if os.getpid() == test else fate()

    dataset = open_training_data(run)[0][0]
    ends = Ends(dataset, range(len(dataset)))
    monkeypatch.setattr(training, "open_training_data", lambda config: [(ends, 1.0)])
    with pytest.raises(TrainingError, match=r"ended by the system, or is stuck \(.*DataLoader .*workers is 1"):
        train(run)


def test_data_without_any_depth_are_refused(rooms, tmp_path):
    """After so many steps that it is no accident: one crop of sparse depth may show none."""
    for n in range(4):
        cv2.imwrite(str(tmp_path / f"{n}.rgb.png"), np.full((*SIZE, 3), 90, np.uint8))
        cv2.imwrite(str(tmp_path / f"{n}.depth.png"), np.zeros(SIZE, np.uint16))
    (tmp_path / "camera.txt").write_text("80 80 47.5 31.5\n")
    with pytest.raises(TrainingError, match=r"no depth .* first 2 steps, such as .*\d.*spd data preview"):
        train(config(rooms, tmp_path / "short", data=tmp_path, steps=2))
    with pytest.raises(TrainingError, match=r"no depth .* first 10 steps"):
        train(config(rooms, tmp_path / "long", data=tmp_path, steps=20))
    cv2.imwrite(str(tmp_path / "3.depth.png"), np.full(SIZE, 2000, np.uint16))
    one_at_a_time = config(rooms, tmp_path / "sparse", data=tmp_path, steps=4, batch_size=1)
    assert train(one_at_a_time)["ended"] == "complete"


def test_a_run_goes_on_with_a_batch_that_shows_no_depth(rooms, tmp_path):
    """As its uninterrupted twin does, which has seen some before."""
    for n in range(2):
        cv2.imwrite(str(tmp_path / f"{n}.rgb.png"), np.full((*SIZE, 3), 90, np.uint8))
        cv2.imwrite(str(tmp_path / f"{n}.depth.png"), np.full(SIZE, 2000, np.uint16))
    (tmp_path / "camera.txt").write_text("80 80 47.5 31.5\n")
    settings = config(rooms, tmp_path / "run", data=tmp_path, steps=11, batch_size=1)
    train(settings)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    torch.save(state | {"step": 10}, tmp_path / "run" / "state.pt")
    for n in range(2):
        cv2.imwrite(str(tmp_path / f"{n}.depth.png"), np.zeros(SIZE, np.uint16))
    assert train(settings)["ended"] == "complete"


def test_broken_samples_are_skipped_with_a_limit(rooms, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
        cv2.imwrite(str(folder / f"{i}.depth.png"), rng.integers(1000, 5000, SIZE).astype(np.uint16))
    (folder / "camera.txt").write_text("80 80 48 32")
    (folder / "3.png").write_bytes(b"\x89PNG half")
    train(config(rooms, tmp_path / "a", data=folder, steps=3))
    assert "skipped a broken sample (1): " in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "a" / "run.json").read_text())["broken_samples"] == 2
    )  # 12 samples are the folder twice
    with pytest.raises(TrainingError, match="1 broken samples, more than max_broken=0; `spd data check"):
        train(config(rooms, tmp_path / "b", data=folder, steps=3, max_broken=0))


def test_a_folder_that_another_training_writes_to_is_refused(rooms, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOCK_PATIENCE_S", 0.1)
    with FileLock(tmp_path / ".lock"), pytest.raises(TrainingError, match="another training is writing to"):
        train(config(rooms, tmp_path, steps=1))
    assert not (tmp_path / "state.pt").exists()
    train(config(rooms, tmp_path, steps=1))


def test_a_disk_without_locks_is_trained_on(rooms, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    assert train(config(rooms, tmp_path), Started)["device"] == "cpu"
    assert "cannot be locked ([Errno 37] No locks available)" in capsys.readouterr().out


def test_a_validation_that_fails_loses_no_training(rooms, tmp_path):
    """A picture is emptied on the way; mended, the run goes on with the validation that is due."""
    val = tmp_path / "val"
    val.mkdir()
    cv2.imwrite(str(val / "a.png"), np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))
    cv2.imwrite(str(val / "a.depth.png"), np.linspace(1000, 3000, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16))
    (val / "camera.txt").write_text("100 100 48 32")
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


def test_a_share_of_the_validation_may_have_no_depth(rooms, tmp_path, monkeypatch):
    """One process's: the others have some. Here is the second of two, and the first one's image is the same."""
    val = tmp_path / "val"
    val.mkdir()
    for n, depth_mm in enumerate((2000, 0)):
        cv2.imwrite(str(val / f"{n}.png"), np.full((*SIZE, 3), 90, np.uint8))
        cv2.imwrite(str(val / f"{n}.depth.png"), np.full(SIZE, depth_mm, np.uint16))
    (val / "camera.txt").write_text("80 80 47.5 31.5\n")
    settings = config(rooms, tmp_path / "run", val=val)
    run = TrainingRun(settings, _fabric(settings))
    of_first, _ = score(Predictor(run.record.evaluated, "cpu"), run.validation[0], settings.validation, None, 0)
    of_first_process = iter([[], [of_first]])  # faults, metrics
    run.fabric = SimpleNamespace(device=torch.device("cpu"), global_rank=1, world_size=2, print=print)
    monkeypatch.setattr(training, "_gathered", lambda part, fabric: next(of_first_process) + part)
    run._validate(loss=None)
    assert run.record.history[-1]["n_images"] == 1
    assert run.record.history[-1]["abs_rel"] == of_first["abs_rel"]


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


def emptied(file):
    file.write_bytes(b"")


def halved(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zeroed(file):
    file.write_bytes(bytes(file.stat().st_size))


def replaced_by_page(file):
    file.write_text("<!DOCTYPE html><html>")


def of_something_else(file):
    torch.save([torch.zeros(3)], file)


def with_code(file):
    torch.save({"step": Path("a")}, file)


def of_another_network(file):
    state = torch.load(file, weights_only=True)
    state["model"].popitem()
    torch.save(state, file)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (emptied, "is empty: it was not written or copied to its end"),
        (halved, "is damaged, or was not written or copied to its end"),
        (zeroed, "holds zeros, as after a power cut"),
        (replaced_by_page, "is a web page"),
        (of_something_else, "is not the state of a training"),
        (with_code, "holds more than tensors and plain values"),
        (of_another_network, "does not fit the model of its own settings"),
    ],
)
def test_a_state_that_cannot_be_used_is_named_with_the_way_on(rooms, interrupted, tmp_path, damage, fault):
    shutil.copytree(interrupted, tmp_path / "run")
    damage(tmp_path / "run" / "state.pt")
    with pytest.raises(SPDError, match=rf"run/state\.pt {fault}(.|\n)*delete it to start the run afresh, or .*`init`"):
        train(config(rooms, tmp_path / "run", steps=2))
    (tmp_path / "run" / "state.pt").unlink()
    report = train(config(rooms, tmp_path / "run", steps=2))
    assert report["step"] == 2


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


def test_an_encoder_without_a_learning_rate_stays(rooms, tmp_path):
    """The statistics of its BatchNorm too, which move in training mode."""
    torch.manual_seed(0)
    model = {**MODEL, "encoder": "resnet10t"}
    before = SPD.from_preset("atto", **model).state_dict()
    settings = config(rooms, tmp_path, model=model, steps=2, warmup=0, ema=0.0, encoder_lr=0.0, final_lr=1e-2)
    assert not any(p.requires_grad for p in TrainingRun(settings, _fabric(settings)).model.encoder.parameters())
    train(settings)
    after = checkpoint.load(tmp_path / "last.safetensors").state_dict()
    same = {name.split(".")[0]: True for name in before}
    for name, tensor in before.items():
        same[name.split(".")[0]] &= torch.equal(tensor, after[name])
    assert [part for part, stays in same.items() if stays] == ["encoder"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("augment:\n#  crop: [96, 128]\n", "augment is None; expected lines of 'name: value' below it"),
        ("loss: 3\n", "loss is 3; expected lines"),
        ("validation: null\n", "validation is None; expected lines"),
        ("steps: 7\n", "line 2: steps is there a second time"),
        ("augment: {flip: 0.5, flip: 0.1}\n", "line 2: flip is there a second time"),
    ],
)
def test_settings_that_are_no_settings_are_one_line(tmp_path, monkeypatch, capsys, content, fault):
    from spd_cli import main

    (tmp_path / "c.yaml").write_text(f"steps: 1\n{content}")
    monkeypatch.setattr(sys, "argv", ["spd", "train", "--config", str(tmp_path / "c.yaml")])
    with pytest.raises(SystemExit):
        main()
    assert fault in capsys.readouterr().err


def test_fields_of_the_model_on_the_command_line_are_numbers(monkeypatch):
    from spd_cli import main

    runs = []
    monkeypatch.setattr("spd_core.training.train", runs.append)
    fields = ["--model.features", "32", "--model.sigma", "true", "--model.max_depth_m", "8.5", "--model.fit", "focal"]
    monkeypatch.setattr(sys, "argv", ["spd", "train", "--steps", "1", *fields, "--model.input_size", "[64,96]"])
    main()
    expected = {"features": 32, "sigma": True, "max_depth_m": 8.5, "fit": "focal", "input_size": [64, 96]}
    assert runs[0].model == expected
    assert type(runs[0].model["features"]) is int


def test_bad_settings_end_the_command_without_a_traceback(monkeypatch, capsys):
    from spd_cli import main

    monkeypatch.setattr(sys, "argv", ["spd", "train"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "give either steps or epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["--stpes", "3"], "Did you mean steps"),
        (["--loss.lamda_var", "0.5"], "Did you mean loss.lambda_var"),
        (["--config", "CONFIG"], "Did you mean loss.lambda_var"),
    ],
)
def test_typo_in_the_configuration_suggests_the_near_name(tmp_path, monkeypatch, capsys, arguments, suggestion):
    from spd_cli import main

    (tmp_path / "c.yaml").write_text("steps: 3\nloss: {lambda_vra: 0.5}\n")
    monkeypatch.setattr(
        sys, "argv", ["spd", "train", *(str(tmp_path / "c.yaml") if a == "CONFIG" else a for a in arguments)]
    )
    with pytest.raises(SystemExit):
        main()
    assert suggestion in capsys.readouterr().err


@pytest.mark.parametrize(
    "recipe", sorted((Path(__file__).parents[1] / "training").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_recipe_is_understood(monkeypatch, recipe):
    from spd_cli import main

    runs = []
    monkeypatch.setattr("spd_core.training.train", runs.append)
    monkeypatch.setattr(sys, "argv", ["spd", "train", "--config", str(recipe)])
    main()
    assert len(runs) == 1
    assert isinstance(runs[0], TrainConfig)
    assert runs[0].preset in PRESETS
    SPD.from_preset(runs[0].preset, **(runs[0].model or {}))
