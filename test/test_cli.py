"""The command line: text from outside stays text, errors are one line, bugs show themselves."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.data_sets import write_rgbd

from spd_cli import listing
from spd_core import checkpoint
from spd_core.data.bag import BagFrame
from spd_core.data.bag_writing import write_bag
from spd_core.files import printable

# What a console with markup, emoji codes or control sequences would change, or die of.
NAME = "NYU [raw] [red]x [link=x]a :warning: a\x1b[31mred\x07 größe 日本 bags[/old]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "check", "{}"],
        ["data", "preview", "{}"],
        ["eval", "{}"],
        ["eval", ".", "--weights", "{}.safetensors"],
        ["info", "--weights", "{}.safetensors"],
        ["info", "--folder", "{}"],
        ["export", "out", "--weights", "{}"],
        ["convert", "{}.pth", "out.safetensors", "--max-depth-m", "20"],
        ["average", "embedded", "{}.safetensors"],
        ["train", "--steps", "3", "--data", "{}"],
        ["train", "--config", "{}"],
        ["replay", "{}", "--offline"],
    ],
    ids=" ".join,
)
def test_an_error_names_what_was_given_as_it_was_given(monkeypatch, failing, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spd_core.training.TrainConfig.out", tmp_path / "run", raising=False)
    assert printable(NAME) in failing(*(word.format(NAME) for word in arguments))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder of checkpoints, some of them damaged, under a name that looks like markup."""
    folder = tmp_path_factory.mktemp("weights") / "f [bold]"
    (folder / "deep").mkdir(parents=True)
    with safe_open(checkpoint.EMBEDDED, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(checkpoint.EMBEDDED)
    save_file(tensors, folder / "a.safetensors", {**metadata, "config": "{broken"})
    save_file(tensors, folder / "b.safetensors", metadata)
    save_file(tensors, folder / "deep" / "c[raw].safetensors", {**metadata, "provenance": '{"source": "[red]me"}'})
    trained = json.dumps({"config": {"out": "runs/mine", "init": "embedded", "steps": 20}})
    save_file(tensors, folder / "t.safetensors", {**metadata, "provenance": trained})
    average = json.dumps({"average_of": 2 * [json.loads(trained)]})
    save_file(tensors, folder / "average.safetensors", {**metadata, "provenance": average})
    save_file(tensors, folder / "others.safetensors")
    save_file(tensors, folder / "p.safetensors", {**metadata, "provenance": "7"})
    whole = (folder / "b.safetensors").read_bytes()
    (folder / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.safetensors").touch()
    (folder / "page.safetensors").write_text("<!DOCTYPE html><html>")
    (folder / "._b.safetensors").write_bytes(b"\x00\x05\x16\x07" + bytes(99))
    (folder / "folder.safetensors").mkdir()
    (folder / "gone.safetensors").symlink_to(folder / "nowhere")
    return folder


def test_a_damaged_checkpoint_costs_its_own_line_of_the_list(monkeypatch, spd, damaged):
    monkeypatch.setattr(listing, "_presets", lambda: "")  # seconds, for what is not looked at here
    said = spd("info", "--folder", damaged).out
    for whole in ("embedded", "b.safetensors", "deep/c[raw].safetensors", "[red]me", "average of 2 "):
        assert whole in said
    faults = [line for line in said.splitlines() if line.startswith("damaged: ")]
    for name in ("a", "p", "half", "empty", "page"):
        assert sum(f"{damaged}/{name}.safetensors" in line for line in faults) == 1, name
    assert len(faults) == 5
    assert "out runs/mine" in said
    for other in ("._b", "others", "folder.safetensors", "gone"):
        assert other not in said


@pytest.mark.parametrize("name", ["a", "half", "empty", "page", "folder", "gone"])
def test_a_damaged_checkpoint_asked_for_is_one_line(failing, damaged, name):
    for arguments in (["info"], ["export", "out"], ["eval", damaged]):
        said = failing(*arguments, "--weights", damaged / f"{name}.safetensors")
        assert f"{damaged}/{name}.safetensors" in said


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "is empty"), (b"PK\x03\x04" + bytes(1000), "is damaged, or was not written or copied to its end")],
)
def test_weights_to_convert_that_are_something_else(failing, tmp_path, content, fault):
    file = tmp_path / "depth_anything_v2_metric_hypersim_vits.pth"
    file.write_bytes(content)
    said = failing("convert", file, tmp_path / "out.safetensors")
    assert f"{file} " in said
    assert fault in said
    assert not (tmp_path / "out.safetensors").exists()


def test_an_average_is_written_with_the_origins_of_its_parts(spd, failing, tmp_path):
    assert "two or more" in failing("average", "embedded")
    out = tmp_path / "mean.safetensors"
    said = spd("average", "embedded", "embedded", "--out", out).out
    embedded = checkpoint.provenance("embedded")
    assert checkpoint.provenance(out)["average_of"] == [embedded] * 2
    assert checkpoint.provenance(out)["license"] == embedded["license"]
    assert "spd calibrate" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["average", "embedded", "embedded", "--out", "{}"],
        ["convert", "none.pth", "{}", "--max-depth-m", "20"],
        ["data", "preview", "{}/data", "--out", "{}/data/camera.txt/a.png"],
        ["eval", "{}/data", "--out", "{}/data/camera.txt"],
        ["replay", "{}/bag", "--offline", "--out", "{}/bag/metadata.yaml"],
    ],
    ids=lambda words: words[0],
)
def test_a_place_that_cannot_be_written_is_named_before_the_work(monkeypatch, failing, tmp_path, arguments):
    def work(*arguments, **options):
        raise AssertionError("it has begun")

    for name in ("checkpoint.average", "evaluate", "side_by_side"):
        monkeypatch.setattr(f"spd_cli.commands.{name}", work)
    monkeypatch.setattr("spd_cli.recordings.answer_offline", work)
    black = np.zeros((64, 80, 3), np.uint8)
    write_rgbd(tmp_path / "data", "a", black, 1.0, "70 70 39.5 31.5")
    write_bag(tmp_path / "bag", [BagFrame(10**9, black, None, None, [])])
    said = failing(*(word.format(tmp_path) for word in arguments))
    assert "is a folder; expected the name of a file" in said or "cannot be made" in said


def test_names_that_the_output_cannot_show_are_escaped(tmp_path, damaged):
    folder = tmp_path / os.fsdecode(b"gr\xf6\xdfe")  # latin-1, where names are UTF-8
    folder.mkdir()
    shutil.copy(damaged / "b.safetensors", folder / "größe.safetensors")
    (folder / "leer.safetensors").touch()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "300"}
    code = "from spd_cli import listing, main; listing._presets = lambda: ''; main()"  # as above
    command = [sys.executable, "-c", code, "info", "--folder", tmp_path]
    out = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    assert rb"gr\udcf6\udcdfe/gr\xf6\xdfe.safetensors" in out
    assert rb"gr\udcf6\udcdfe/leer.safetensors is empty" in out


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("train", "give either steps or epochs"),
        ("eval . --points 4 --seed -1", "seed must be at least 0, got -1"),
        ("eval . --min_depth_m -1", "min_depth_m must be at least 0, got -1"),
        ("eval . --max_depth_m 0", "max_depth_m must be finite and above min_depth_m (0.001 m), got 0"),
        ("eval . --workers -1", "workers must be at least 0, got -1"),
        ("replay . --offline --max_depth_m -2", "max_depth_m must be finite"),
        ("replay . --offline --seed -1", "seed must be at least 0, got -1"),
        ("replay . --offline --tolerance_s .nan", "tolerance_s must be at least 0, got nan"),
        ("replay . --offline --depth_offset_s .nan", "depth_offset_s must be finite, of 4e+09 s at most, got nan"),
        (
            "replay . --offline --depth_offset_s 1e10",
            "depth_offset_s must be finite, of 4e+09 s at most, got 10000000000",
        ),
        ("replay . --offline --grid 200000x200000", "1 to 10,000,000 cells, got 200000x200000"),
        ("eval . --grid 200000x200000", "1 to 10,000,000 cells, got 200000x200000"),
        ("eval . --references -1", "references must be 1 to 3999 of the pixels that are scored, got [-1]"),
        ("eval . --references 5,100000", "references must be 1 to 3999 of the pixels that are scored, got [5, 100000]"),
        ("bag make out --rate 1e-12", "rate must be at least 0.001, got 1e-12"),
        ("convert none.pth out.safetensors", "none.pth does not exist"),
        ("replay . --rate .nan", "rate must be positive and finite, got nan"),
        ("bag make out --rate .nan", "rate and rooms must be positive, got nan and 20"),
        ("calibrate-scale . --tolerance_s -1", "tolerance_s must be at least 0, got -1"),
        ("calibrate-scale . --every 0", "every must be at least 1, got 0"),
        ("data check . --workers -1", "workers must be at least 0, got -1"),
        ("data preview . --seed -1", "seed must be at least 0, got -1"),
        ("data preview . --count 0", "count must be at least 1, got 0"),
        ("data rooms out --workers 0", "workers must be at least 1, got 0"),
        ("data rooms out --workers 5000", "workers must be at most 256, got 5000"),
        ("eval . --workers 5000", "workers must be at most 256, got 5000"),
        ("data rooms out --count -5", "count must be at least 1, got -5"),
        ("data rooms out --first_seed -1", "first_seed must be at least 0, got -1"),
        ("data rooms out --size [8,8]", "in multiples of 4 px, 16 at least, got (8, 8)"),
        ("export out --size [32,32]", "input_size must be (height, width) of at least 64 px, got (32, 32)"),
        ("export out --size [100000,100000]", "of at most 67,108,864 px in all, got (100000, 100000)"),
        ("demo --image_dir none", "none does not exist"),
        ("export out --size [0,0]", "of at least 64 px, got (0, 0)"),
    ],
)
def test_values_that_cannot_be_are_one_line_and_leave_nothing(monkeypatch, failing, tmp_path, arguments, fault):
    monkeypatch.chdir(tmp_path)
    assert fault in failing(*arguments.split())
    assert not list(tmp_path.iterdir())
