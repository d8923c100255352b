"""Real short training runs: they learn, survive a kill, agree with their distributed twin, and say what is wrong."""

import errno
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from support.data_sets import write_rgbd
from support.training import MODEL, SIZE, command, config

from spd_core import SPD, Predictor, checkpoint, training
from spd_core.data import loader
from spd_core.data.samples import Subset
from spd_core.errors import SPDError
from spd_core.evaluation import score
from spd_core.losses import Loss
from spd_core.training import TrainingError, TrainingRun, _fabric, train
from spd_core.training_config import open_training_data


def test_training_learns_and_writes_its_record(rooms, tmp_path, capsys):
    report = train(config(rooms, tmp_path, steps=50, validate_every=25, encoder_lr=2e-3, decoder_lr=2e-3))
    first, *_, last = report["history"]
    assert last["abs_rel"] < 0.6 * first["abs_rel"]
    best = report["best"]
    *_, said = capsys.readouterr().out.split("wrote ")
    assert said.split("\n")[0] == (
        f"{tmp_path}/best.safetensors (of step {best['step']}, abs_rel {best['abs_rel']:.4f}) and last.safetensors"
    )
    on_disk = json.loads((tmp_path / "run.json").read_text())
    assert on_disk == report
    assert (report["ended"], report["step"], report["environment"]["torch"]) == ("complete", 50, torch.__version__)
    assert report["best"]["abs_rel"] == min(v["abs_rel"] for v in report["history"])
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert checkpoint.provenance(tmp_path / "last.safetensors")["config"]["steps"] == 50
    assert "ended" not in checkpoint.provenance(tmp_path / "best.safetensors"), "it was written while the run went on"
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


def test_epochs_count_actual_steps(rooms, tmp_path):
    report = train(config(rooms, tmp_path, steps=None, epochs=0.05, batch_size=2, accumulate=2))
    assert report["steps"] == 4  # 0.05 * 250 / 4, rounded up


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


def test_a_lock_that_fails_otherwise_is_refused(rooms, tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(TrainingError, match=r"cannot be locked \(\[Errno 5\] .*\); choose another out"):
        train(config(rooms, tmp_path), Started)


def test_a_disk_without_locks_is_trained_on(rooms, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    assert train(config(rooms, tmp_path), Started)["device"] == "cpu"
    assert "cannot be locked ([Errno 37] No locks available)" in capsys.readouterr().out


def test_collapsed_output_is_said(rooms, tmp_path, capsys):
    dead = checkpoint.load(checkpoint.EMBEDDED)
    with torch.no_grad():
        for parameter in dead.decoder.parameters():
            parameter.zero_()
    checkpoint.save(dead, tmp_path / "dead.safetensors")
    still = {"steps": 1, "encoder_lr": 0.0, "decoder_lr": 0.0}
    train(config(rooms, tmp_path / "run", preset="lite", model=None, init=tmp_path / "dead.safetensors", **still))
    assert "the output has collapsed" in capsys.readouterr().out


def test_a_gpu_that_is_full_is_said_with_the_way_on(rooms, tmp_path):
    class Full(Started):
        def loop(self):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    with pytest.raises(
        TrainingError, match=r"allocate 9 GiB\.; if another .*; if not, a smaller batch_size and a larger accumulate"
    ):
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


def test_a_share_of_the_validation_may_have_no_depth(rooms, tmp_path, monkeypatch):
    """One process's: the others have some. Here is the second of two, and the first one's image is the same."""
    for n, depth_m in (("0", 2.0), ("1", 0.0)):
        write_rgbd(tmp_path / "val", n, np.full((*SIZE, 3), 90, np.uint8), depth_m, "80 80 47.5 31.5")
    settings = config(rooms, tmp_path / "run", val=tmp_path / "val")
    run = TrainingRun(settings, _fabric(settings))
    of_first, _ = score(Predictor(run.record.evaluated, "cpu"), run.validation[0], settings.validation, None, 0)
    of_first_process = iter([[], [of_first]])  # faults, metrics
    run.fabric = SimpleNamespace(device=torch.device("cpu"), global_rank=1, world_size=2, print=print)
    monkeypatch.setattr(training, "_gathered", lambda part, fabric: next(of_first_process) + part)
    run._validate(loss=None)
    assert run.record.history[-1]["n_images"] == 1
    assert run.record.history[-1]["abs_rel"] == of_first["abs_rel"]


def test_data_without_any_depth_are_refused(rooms, tmp_path):
    """After so many steps that it is no accident: one crop of sparse depth may show none."""
    grey = np.full((*SIZE, 3), 90, np.uint8)
    for n in "0123":
        write_rgbd(tmp_path, n, grey, 0.0, "80 80 47.5 31.5")
    with pytest.raises(TrainingError, match=r"no depth .* first 2 steps, such as .*\d.*spd data preview"):
        train(config(rooms, tmp_path / "short", data=tmp_path, steps=2))
    with pytest.raises(TrainingError, match=r"no depth .* first 10 steps"):
        train(config(rooms, tmp_path / "long", data=tmp_path, steps=20))
    write_rgbd(tmp_path, "3", grey, 2.0)
    one_at_a_time = config(rooms, tmp_path / "sparse", data=tmp_path, steps=4, batch_size=1)
    assert train(one_at_a_time)["ended"] == "complete"


def test_broken_samples_are_skipped_with_a_limit(rooms, tmp_path, capsys):
    folder = tmp_path / "data"
    rng = np.random.default_rng(0)
    for name in "012345":
        rgb = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        write_rgbd(folder, name, rgb, rng.uniform(1, 5, SIZE), "80 80 48 32")
    (folder / "3.png").write_bytes(b"\x89PNG half")
    train(config(rooms, tmp_path / "a", data=folder, steps=3))
    assert "skipped a broken sample (1): " in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "a" / "run.json").read_text())["broken_samples"] == 1
    )  # though 12 samples are the folder twice
    with pytest.raises(TrainingError, match="1 broken samples, more than max_broken=0; `spd data check"):
        train(config(rooms, tmp_path / "b", data=folder, steps=3, max_broken=0))


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
