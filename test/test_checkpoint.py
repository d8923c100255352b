"""Checkpoints come back as they went, and nothing else is let in."""

import copy
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spd_core import SPD, checkpoint
from spd_core.checkpoint import EMBEDDED, CheckpointError
from spd_core.model import PRESETS


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = SPD.from_preset("lite", input_size=(64, 96)).eval()
    path = tmp_path_factory.mktemp("checkpoint") / "atto.safetensors"
    checkpoint.save(model, path, data="nothing", steps=3)
    return model, path


def rewrite(path, target, metadata=None, **tensors):
    """A copy of a checkpoint with other metadata or tensors (None removes one)."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    content = {name: tensor for name, tensor in {**load_file(path), **tensors}.items() if tensor is not None}
    save_file(content, target, old if metadata is None else metadata)
    return target


def test_round_trip(saved):
    model, path = saved
    loaded = checkpoint.load(path)
    assert loaded.config == model.config
    assert not loaded.training
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))
    assert checkpoint.provenance(path) == {"data": "nothing", "steps": 3}


def test_half_precision_files_load_as_float32(saved, tmp_path):
    model, _ = saved
    checkpoint.save(model, tmp_path / "half.safetensors", torch.float16)
    loaded = checkpoint.load(tmp_path / "half.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_a_weight_that_half_precision_cannot_hold_is_refused(saved, tmp_path):
    model = copy.deepcopy(saved[0])
    model.decoder.head.bias.data[0] = 1e5
    with pytest.raises(CheckpointError, match=r"decoder.head.bias has 100000, which torch.float16 cannot hold"):
        checkpoint.save(model, tmp_path / "half.safetensors", torch.float16)
    assert not list(tmp_path.iterdir())
    checkpoint.save(model, tmp_path / "whole.safetensors")
    assert checkpoint.stored_type(tmp_path / "whole.safetensors") == torch.float32
    assert checkpoint.stored_type("embedded") == torch.float16


def test_a_checkpoint_goes_into_a_pipe(saved, tmp_path):
    """And leaves it one: safetensors' own writer puts a file in its place, in that of /dev/null too."""
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit((tmp_path / "pipe").read_bytes)
        checkpoint.save(saved[0], tmp_path / "pipe")
        assert (tmp_path / "pipe").is_fifo()
        (tmp_path / "copy.safetensors").write_bytes(reading.result(20))
    assert checkpoint.load(tmp_path / "copy.safetensors").config == saved[0].config


def test_an_average_is_that_of_the_weights(saved, tmp_path):
    model, path = saved
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    checkpoint.save(other, tmp_path / "other.safetensors")
    mean = checkpoint.average([path, path, path, tmp_path / "other.safetensors"]).state_dict()
    named = dict(model.named_parameters())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(mean[name], tensor + 0.25 if name in named else tensor)
    with torch.no_grad():
        next(other.parameters()).fill_(torch.nan)
    checkpoint.save(other, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match=r"broken\.safetensors has values that are not finite in encoder"):
        checkpoint.average([path, tmp_path / "broken.safetensors"])
    foreign = SPD.from_preset("lite", input_size=(64, 96), features=48)
    checkpoint.save(foreign, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=r"foreign.*features=48.*expected that of.*features=96"):
        checkpoint.average([path, tmp_path / "foreign.safetensors"])
    with pytest.raises(CheckpointError, match="two or more checkpoints have an average, got 0"):
        checkpoint.average([])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"not a checkpoint at all", "is text that begins with 'not a checkpoint at all'"),
        (b"\x90\x01\x00\x00\x00\x00\x00\x00{" + bytes(range(200)), "is damaged or of another format"),
    ],
)
def test_damaged_file(tmp_path, content, what):
    file = tmp_path / "bad.safetensors"
    file.write_bytes(content)
    for read in (checkpoint.load, checkpoint.configuration, checkpoint.is_checkpoint):
        with pytest.raises(CheckpointError, match=rf"bad\.safetensors {what}.*not a readable safetensors file"):
            read(file)


def test_what_is_no_checkpoint_is_named(saved, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(saved[1].read_bytes()[:100_000])
    save_file({"x": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    for name, fault in (
        ("none.safetensors", r"none\.safetensors does not exist; give a .safetensors file"),
        (".", "is a folder, not a file"),
        ("cut.safetensors", "damaged"),
        ("foreign.safetensors", "not an SPD checkpoint: its format is None, expected 'spd-1'"),
    ):
        with pytest.raises(CheckpointError, match=fault):
            checkpoint.load(tmp_path / name)


def test_other_tensors_are_named(saved, tmp_path):
    file = rewrite(
        saved[1],
        tmp_path / "other.safetensors",
        **{"decoder.head.bias": None, "decoder.extra": torch.zeros(2), "decoder.project1.bias": torch.zeros(7)},
    )
    with pytest.raises(
        CheckpointError,
        match=(
            r"3 tensors differ: decoder.project1.bias is \(7,\), expected \(32,\); missing decoder.head.bias \(2,\);"
            r" unexpected decoder.extra \(2,\)"
        ),
    ):
        checkpoint.load(file)


def test_configuration_of_the_future_is_named(saved, tmp_path):
    config = {**asdict(saved[0].config), "telepathy": True}
    metadata = {"format": "spd-1", "config": json.dumps(config), "provenance": "{}"}
    with pytest.raises(CheckpointError, match=r"\['telepathy'\]"):
        checkpoint.load(rewrite(saved[1], tmp_path / "new.safetensors", metadata))


@pytest.mark.parametrize(
    ("part", "text", "fault"),
    [
        ("config", "{broken", "no readable 'config'"),
        ("config", "[1, 2]", "'config' in its metadata is .1, 2., expected a JSON object"),
        ("config", "{}", "describes a model that cannot be built"),
        ("config", None, "no readable 'config'"),
        ("config", '{"encoder": [], "decoder": {}, "activation": 7}', "describes a model that cannot be built"),
        ("provenance", "{broken", "no readable 'provenance'"),
        ("provenance", "3", "'provenance' in its metadata is 3"),
        ("provenance", None, "no readable 'provenance'"),
    ],
)
def test_metadata_that_says_nothing_is_named(saved, tmp_path, part, text, fault):
    metadata = {"format": "spd-1", "config": json.dumps(asdict(saved[0].config)), "provenance": "{}"}
    metadata = {key: value for key, value in {**metadata, part: text}.items() if value is not None}
    file = rewrite(saved[1], tmp_path / "odd.safetensors", metadata)
    with pytest.raises(CheckpointError, match=rf"odd\.safetensors.*{fault}"):
        checkpoint.load(file) if part == "config" else checkpoint.provenance(file)


def test_a_model_that_cannot_be_built_is_named(saved, tmp_path):
    metadata = {
        "format": "spd-1",
        "config": json.dumps({**asdict(saved[0].config), "encoder": "convnext_imaginary"}),
        "provenance": "{}",
    }
    with pytest.raises(CheckpointError, match="convnext_imaginary"):
        checkpoint.load(rewrite(saved[1], tmp_path / "odd.safetensors", metadata))


def test_embedded_weights_are_small_and_say_what_they_are():
    assert EMBEDDED.stat().st_size <= 10e6
    assert checkpoint.load(EMBEDDED).config == PRESETS["lite"]
    provenance = checkpoint.provenance(EMBEDDED)
    *last, start = provenance["average_of"]  # parts of a run, and what it started from
    recipes = [part["config"] for part in (*last, *start["average_of"])]
    assert [recipe["seed"] for recipe in recipes] == [31] * 5 + [0, 1, 2, 3]
    paths = [path for recipe in recipes for path in (*recipe["data"], recipe["init"]) if path is not None]
    assert not [path for path in paths if Path(path).is_absolute()]
    card = EMBEDDED.with_suffix(".md").read_text()
    for said in ("NYU Depth V2 (Silberman", "EfficientNet-Lite1 (Tan & Le 2019)", "Apache-2.0"):
        assert said in card
    assert provenance["license"].startswith("Apache-2.0")
    assert "history" not in json.dumps(provenance)  # of images that it has seen
    prior = provenance["scale_prior"]
    for value in (prior["sigma_log"], prior["sigma_slope"], provenance["sigma_temperature"]):
        assert f" {value:.3f}" in card
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    scores = re.search(r"^\| `lite` \|(.*)$", card, re.M)[1]
    assert len(re.findall(r"\d\.\d+", scores)) == 9
    assert scores in readme
