"""The command line's arguments and settings files: as people write them, and refused in a line."""

import os
import re
from pathlib import Path

import pytest
from jsonargparse import auto_cli, capture_parser

from spd_cli import COMMANDS, _loaded
from spd_cli.parser import Parser, gathered, spelled_out
from spd_cli.viewing import view
from spd_core.training import TrainConfig


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"steps: 3\nout: [runs", "line 2: expected ',' or ']'"),
        (b"\x00\x01\x02\xff\xfe", "is not text"),
        ("steps: 3\nout: Läufe".encode("latin-1"), "line 2 is not UTF-8"),
        (b"config:\n  steps: 3\n", "has the key config; expected the settings themselves"),
        (b"just words", "is text that begins with 'just words'; expected YAML"),
        (b"- 1\n- 2\n", "expected YAML, lines of 'name: value'"),
        (b"steps: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        (b"augment:\n#  crop: [96, 128]\n", "augment is None; expected lines of 'name: value' below it"),
        (b"loss: 3\n", "loss is 3; expected lines"),
        (b"steps: 1\nsteps: 7\n", "line 2: steps is there a second time"),
        (b"augment: {flip: 0.5, flip: 0.1}\n", "line 1: flip is there a second time"),
    ],
)
def test_settings_that_are_something_else(failing, tmp_path, content, fault):
    file = tmp_path / "settings [1].yaml"
    if content is not None:
        file.write_bytes(content)
    said = failing("train", "--config", file)
    assert "settings [1].yaml" in said
    assert fault in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_settings_of_other_editors_and_paths_from_the_home_directory(monkeypatch, tmp_path, encoding, spd):
    started = []
    monkeypatch.setattr("spd_core.training.train", started.append)
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "steps: 3\r\nout: ~/run\r\ndata: ~/rooms [1]\r\n"
    (tmp_path / "settings.yaml").write_bytes(text.encode(encoding))
    spd("train", "--config=~/settings.yaml", "--val=~/others")
    assert started == [TrainConfig(out=tmp_path / "run", data=tmp_path / "rooms [1]", val=tmp_path / "others", steps=3)]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["train", "--steps", "many"], "steps"),
        (["ask", "p.jpg", "--fov", "63deg"], "fov: expected a number, got 63deg"),
        (["bag", "make", "b", "--rooms", "1.5"], "rooms: expected a whole number, got 1.5"),
        (["eval", ".", "--resize_eval", "3"], "resize_eval: expected two numbers, got [3]"),
        (["info", "--wieghts", "a"], "Did you mean weights?"),
        (["train", "--stpes", "3"], "Did you mean steps"),
        (["train", "--loss.lamda_var", "0.5"], "Did you mean loss.lambda_var"),
        (["replay"], "required: bag (`spd replay --help` lists what there is)"),
        (["bag", "make"], "(`spd bag make --help` lists what there is)"),
        (["export", "out", "--size", "[1,x]"], "size"),
        (["eval", ".", "--limit", "1", "--out"], "--out needs a value"),
        (["eval", ".", "--out", "--flip-average"], "--out needs a value"),
        (["train", "--validation.seed", "--steps", "3"], "--validation.seed needs a value"),
        (["data", "preview", ".", "--out"], "--out needs a value"),
        (["info", "--config"], "--config needs a value"),
        (["eval", ".", "--out", "#1"], "--out #1 is nothing in YAML; write ./#1"),
        (["ask", "p.jpg", "3,4", "--out", "--json"], "--out needs a value"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(failing, arguments, fault):
    assert fault in failing(*arguments, code=2)


@pytest.mark.parametrize(
    ("command", "argument"), [("view", "what ..."), ("data check", "path"), ("average", "weights ...")]
)
def test_help_has_the_arguments_as_one_writes_them(spd, command, argument):
    said = spd(*command.split(), "--help").out
    assert re.match(rf"usage: spd {command} \[--config CONFIG\][^.]* {re.escape(argument)}\n", said)
    assert not re.search(r"required|ITEM|<class", said)


def test_a_typo_in_a_settings_file_suggests_the_near_name(failing, tmp_path):
    for line, near in {
        "loss: {lambda_vra: 0.5}": "loss.lambda_var",
        "stpes: 3": "steps",
        "augment: {flop: 1}": "augment.flip",
    }.items():
        (tmp_path / "c.yaml").write_text(f"batch_size: 3\n{line}\n")
        assert f"Did you mean {near}" in failing("train", "--config", tmp_path / "c.yaml", code=2)


def test_flags_need_no_value(monkeypatch, tmp_path, spd):
    started = []
    monkeypatch.setattr("spd_core.training.train", started.append)
    spd("train", "--steps", 3, "--in-memory", "--validation.flip-average", "--pretrained")
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
    command, words = _loaded(COMMANDS[words[0]]), words[1:]
    parser = capture_parser(lambda: auto_cli(command, args=words, parser_class=Parser))
    found = parser.parse_args(words)
    assert {name: found[name] for name in taken} == taken


def test_a_name_that_is_no_text_is_named(failing):
    for arguments in ([os.fsdecode(b"b\xff.jpg"), "9,9"], ["p.jpg", "--camera", os.fsdecode(b"b\xff.txt")]):
        said = failing("ask", *arguments)
        assert re.fullmatch(r"error: the name b\\udcff\.\w+ is not UTF-8; expected one that is: rename it\n", said)


def test_help_and_flags_take_no_picture(spd):
    words = gathered(["--browser", "p.jpg", "--node", "q.jpg", "--browser", "false", "-h"], view)
    assert words == ['["p.jpg", "q.jpg"]', "--browser=true", "--node=true", "--browser", "false", "-h"]
    assert "usage: spd" in spd("ask", "-h").out


def test_fields_of_the_model_on_the_command_line_are_numbers(monkeypatch, spd):
    runs = []
    monkeypatch.setattr("spd_core.training.train", runs.append)
    fields = ["--model.features", "32", "--model.sigma", "true", "--model.max_depth_m", "8.5", "--model.fit", "focal"]
    spd("train", "--steps", 1, *fields, "--model.input_size", "[64,96]")
    expected = {"features": 32, "sigma": True, "max_depth_m": 8.5, "fit": "focal", "input_size": [64, 96]}
    assert runs[0].model == expected
    assert type(runs[0].model["features"]) is int
