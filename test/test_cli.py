"""The command line: text from outside stays text, errors are one line, bugs show themselves."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from jsonargparse import auto_cli, capture_parser
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from spd_cli import COMMANDS, _loaded, commands, main
from spd_cli.console import INTERRUPTED, TERMINATED, make_console, reported, say
from spd_cli.parser import Parser, spelled_out
from spd_core import checkpoint
from spd_core.data.bag import BagFrame
from spd_core.data.bag_writing import write_bag
from spd_core.errors import SPDError
from spd_core.files import printable
from spd_core.training import TrainConfig

# Names that a console with markup, emoji codes or control sequences would change, or die of.
NAMES = ["NYU [raw]", "bags[/old]", "[red]x", "[link=x]a", ":warning: a", "a\x1b[31mred\x07", "größe", "日本"]


def spd(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["spd", *map(str, arguments)])
    main()


def failing(monkeypatch, capsys, *arguments, code=1):
    """What a command says that does not succeed: one line, on the error stream."""
    with pytest.raises(SystemExit) as stop:
        spd(monkeypatch, *arguments)
    said = capsys.readouterr().err
    assert stop.value.code == code, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    return said


def spd_process(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "spd_cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # which a job in the background ignores
        **options,
    )


# --- text from outside


@pytest.mark.parametrize("name", NAMES)
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
def test_an_error_names_what_was_given_as_it_was_given(monkeypatch, capsys, tmp_path, name, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spd_core.training.TrainConfig.out", tmp_path / "run", raising=False)
    words = [word.format(name) for word in arguments]
    said = failing(monkeypatch, capsys, *words)
    assert printable(name) in said


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


def test_a_damaged_checkpoint_costs_its_own_line_of_the_list(monkeypatch, capsys, damaged):
    monkeypatch.setattr(commands, "_presets", lambda: "")  # seconds, for what is not looked at here
    spd(monkeypatch, "info", "--folder", damaged)
    said = capsys.readouterr().out
    for whole in ("embedded", "b.safetensors", "deep/c[raw].safetensors", "[red]me"):
        assert whole in said
    faults = [line for line in said.splitlines() if line.startswith("damaged: ")]
    for name in ("a", "p", "half", "empty", "page"):
        assert sum(f"{damaged}/{name}.safetensors" in line for line in faults) == 1, name
    assert len(faults) == 5
    for other in ("._b", "others", "folder.safetensors", "gone"):
        assert other not in said


@pytest.mark.parametrize("name", ["a", "half", "empty", "page", "folder", "gone"])
def test_a_damaged_checkpoint_asked_for_is_one_line(monkeypatch, capsys, damaged, name):
    for arguments in (["info"], ["export", "out"], ["eval", damaged]):
        said = failing(monkeypatch, capsys, *arguments, "--weights", damaged / f"{name}.safetensors")
        assert f"{damaged}/{name}.safetensors" in said


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(1000), "is damaged, or was not written or copied to its end"),
        (b"\x80\x02}q\x00", "is a Python pickle"),
        (bytes(4096), "holds zeros"),
        (bytes(range(256)), "is damaged or of another format"),
    ],
)
def test_weights_to_convert_that_are_something_else(monkeypatch, capsys, tmp_path, content, fault):
    file = tmp_path / "depth_anything_v2_metric_hypersim_vits.pth"
    file.write_bytes(content)
    said = failing(monkeypatch, capsys, "convert", file, tmp_path / "out.safetensors")
    assert f"{file} " in said
    assert fault in said
    assert not (tmp_path / "out.safetensors").exists()


def test_an_average_is_written_with_the_origins_of_its_parts(monkeypatch, capsys, tmp_path):
    assert "two or more" in failing(monkeypatch, capsys, "average", "embedded")
    out = tmp_path / "mean.safetensors"
    spd(monkeypatch, "average", "embedded", "embedded", "--out", out)
    embedded = checkpoint.provenance("embedded")
    assert checkpoint.provenance(out)["average_of"] == [embedded] * 2
    assert checkpoint.provenance(out)["license"] == embedded["license"]
    assert "spd calibrate" in capsys.readouterr().out


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
def test_a_place_that_cannot_be_written_is_named_before_the_work(monkeypatch, capsys, tmp_path, arguments):
    def work(*arguments, **options):
        raise AssertionError("it has begun")

    for name in ("checkpoint.average", "evaluate", "side_by_side"):
        monkeypatch.setattr(f"spd_cli.commands.{name}", work)
    monkeypatch.setattr("spd_cli.recordings.answer_offline", work)
    (tmp_path / "data").mkdir()
    for name, pixels in (("rgb", np.zeros((64, 80, 3), np.uint8)), ("depth", np.full((64, 80), 1000, np.uint16))):
        cv2.imwrite(str(tmp_path / "data" / f"a.{name}.png"), pixels)
    (tmp_path / "data" / "camera.txt").write_text("70 70 39.5 31.5")
    write_bag(tmp_path / "bag", [BagFrame(10**9, np.zeros((64, 80, 3), np.uint8), None, None, [])])
    capsys.readouterr()
    said = failing(monkeypatch, capsys, *(word.format(tmp_path) for word in arguments))
    assert "is a folder; expected the name of a file" in said or "cannot be made" in said


def test_names_that_the_output_cannot_show_are_escaped(tmp_path, damaged):
    folder = tmp_path / os.fsdecode(b"gr\xf6\xdfe")  # latin-1, where names are UTF-8
    folder.mkdir()
    shutil.copy(damaged / "b.safetensors", folder / "größe.safetensors")
    (folder / "leer.safetensors").touch()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "300"}
    with spd_process("info", "--folder", tmp_path, env=environment) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert rb"gr\udcf6\udcdfe/gr\xf6\xdfe.safetensors" in out
    assert rb"gr\udcf6\udcdfe/leer.safetensors is empty" in out


# --- settings in files


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "git lfs pull"),
        (b"steps: 3\nout: [runs", "line 2: expected ',' or ']'"),
        (b"\x00\x01\x02\xff\xfe", "is not text"),
        ("steps: 3\nout: Läufe".encode("latin-1"), "line 2 is not UTF-8"),
        (b"config:\n  steps: 3\n", "has the key config; expected the settings themselves"),
        (b"just words", "is text that begins with 'just words'; expected YAML"),
        (b"- 1\n- 2\n", "expected YAML, lines of 'name: value'"),
        (b"steps: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_settings_that_are_something_else(monkeypatch, capsys, tmp_path, content, fault):
    file = tmp_path / "settings [1].yaml"
    if content is not None:
        file.write_bytes(content)
    said = failing(monkeypatch, capsys, "train", "--config", file)
    assert "settings [1].yaml" in said
    assert fault in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_settings_of_other_editors_and_paths_from_the_home_directory(monkeypatch, tmp_path, encoding):
    started = []
    monkeypatch.setattr("spd_core.training.train", started.append)
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "steps: 3\r\nout: ~/run\r\ndata: ~/rooms [1]\r\n"
    (tmp_path / "settings.yaml").write_bytes(text.encode(encoding))
    spd(monkeypatch, "train", "--config=~/settings.yaml", "--val=~/others")
    assert started == [TrainConfig(out=tmp_path / "run", data=tmp_path / "rooms [1]", val=tmp_path / "others", steps=3)]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["train", "--steps", "many"], "steps"),
        (["info", "--wieghts", "a"], "Did you mean weights?"),
        (["replay"], "replay.bag"),
        (["bag", "make"], "(`spd bag make --help` lists what there is)"),
        (["export", "out", "--size", "[1,x]"], "size"),
        (["eval", ".", "--limit", "1", "--out"], "--out needs a value"),
        (["eval", ".", "--out", "--flip-average"], "--out needs a value"),
        (["train", "--validation.seed", "--steps", "3"], "--validation.seed needs a value"),
        (["data", "preview", ".", "--out"], "--out needs a value"),
        (["ask", "p.jpg", "3,4", "--out", "--json"], "--out needs a value"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(monkeypatch, capsys, arguments, fault):
    assert fault in failing(monkeypatch, capsys, *arguments, code=2)


@pytest.mark.parametrize(
    ("command", "argument"), [("view", "what ..."), ("data check", "path"), ("average", "weights ...")]
)
def test_help_has_the_arguments_as_one_writes_them(monkeypatch, capsys, command, argument):
    with pytest.raises(SystemExit):
        spd(monkeypatch, *command.split(), "--help")
    said = capsys.readouterr().out
    assert re.match(rf"usage: spd {command} \[--config CONFIG\][^.]* {re.escape(argument)}\n", said)
    assert not re.search(r"required|ITEM|<class", said)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
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
        ("data rooms out --count -5", "count must be at least 1, got -5"),
        ("data rooms out --first_seed -1", "first_seed must be at least 0, got -1"),
        ("data rooms out --size [8,8]", "in multiples of 4 px, 16 at least, got (8, 8)"),
        ("export out --size [32,32]", "input_size must be (height, width) of at least 64 px, got (32, 32)"),
        ("export out --size [0,0]", "of at least 64 px, got (0, 0)"),
    ],
)
def test_values_that_cannot_be_are_one_line_and_leave_nothing(monkeypatch, capsys, tmp_path, arguments, fault):
    monkeypatch.chdir(tmp_path)
    assert fault in failing(monkeypatch, capsys, *arguments.split())
    assert not list(tmp_path.iterdir())


def test_flags_need_no_value(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr("spd_core.training.train", started.append)
    spd(monkeypatch, "train", "--steps", 3, "--in-memory", "--validation.flip-average", "--pretrained")
    assert started[0].in_memory is started[0].validation.flip_average is started[0].pretrained is True


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        ("demo --camera 518,518,319.5,239.5", {"camera": [518, 518, 319.5, 239.5]}),
        ("demo --camera=[1,2,3,4] --image_dir 4,3", {"camera": [1, 2, 3, 4], "image_dir": Path("4,3")}),
        ("export out --size 96,128", {"size": (96, 128)}),
        ("eval . --resize-eval=96,128 --references 5", {"resize_eval": (96, 128), "references": [5]}),
        ("eval . --references 1,5,20 --grid 4x3", {"references": [1, 5, 20], "grid": (4, 3)}),
        ("replay . --grid 4,3 --points 5", {"grid": (4, 3), "points": 5}),
        ("train --data 96,128 --augment.crop 96,128", {"data": Path("96,128"), "augment.crop": (96, 128)}),
    ],
)
def test_lists_of_numbers_need_no_brackets(arguments, taken):
    words = spelled_out(arguments.split())
    command = {words[0]: _loaded(COMMANDS[words[0]])}
    parser = capture_parser(lambda: auto_cli(command, args=words, parser_class=Parser))
    found = parser.parse_args(words)
    assert {name: found[f"{words[0]}.{name}"] for name in taken} == taken


# --- ends


def test_a_bug_shows_its_traceback(monkeypatch):
    def faulty(*arguments, **options):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(commands, "_presets", lambda: "")  # as above
    monkeypatch.setattr(commands, "_list_checkpoints", faulty)
    with pytest.raises(ValueError, match="broadcast"):
        spd(monkeypatch, "info")


def test_an_error_of_several_lines_keeps_them(capsys):
    with pytest.raises(SystemExit), reported():
        raise SPDError("none found. Known:\n  one\n  two")
    assert capsys.readouterr().err == "error: none found. Known:\n  one\n  two\n"


def test_a_warning_is_one_line(capsys):
    with reported():
        warnings.warn("a frame [b]\n  is left out", stacklevel=1)
    assert capsys.readouterr().err == "warning: a frame [b] is left out\n"


def test_long_lines_are_not_broken(capsys):
    say("word " * 100)
    assert capsys.readouterr().out == "word " * 100 + "\n"


def test_an_output_that_cannot_be_written_is_one_line():
    room = Path(checkpoint.__file__).parent / "weights" / "room.jpg"
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "spd_cli", "ask", room, "1,1", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "error: the output could not be written (No space left on device)\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interruption_is_quiet(capsys):
    with pytest.raises(SystemExit) as stop, reported():
        raise KeyboardInterrupt
    assert stop.value.code == INTERRUPTED == 130
    assert capsys.readouterr() == ("", "")


def test_a_service_that_is_stopped_leaves_nothing_behind(tmp_path, capsys):
    """SIGTERM, of systemd, `docker stop` and `timeout`; it would end the process where it stands."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, reported(), tempfile.TemporaryDirectory(dir=tmp_path):
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.code == TERMINATED == 143
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("name", ["a" * 300, "loop"])
def test_a_name_that_cannot_be_opened_is_one_line(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SystemExit) as stop, reported():
        (tmp_path / name).open()
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / name} cannot be opened (")


def test_a_table_that_nobody_reads_ends_as_a_line_does():
    reading, writing = os.pipe()
    os.close(reading)
    console = make_console()
    console.file = os.fdopen(writing, "w")
    with pytest.raises(BrokenPipeError):
        console.print("a table")
    with suppress(BrokenPipeError):
        console.file.close()


def test_interrupted_workers_end_quietly(tmp_path):
    with spd_process(
        "data", "rooms", tmp_path, "--count", 20000, "--size", "[240,320]", start_new_session=True
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 200
        while len(children.read_text().split()) < 2:  # the workers
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers too
        _, err = process.communicate()
    assert process.returncode == INTERRUPTED, err
    assert b"Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["rooms.json"]  # without waiting for a shard of 250 frames
