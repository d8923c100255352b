"""Depth Anything V2's metric checkpoints: their own code's depth, and what is refused. The file compared with is made
by golden/depth_anything.py."""

import json
import re

import numpy as np
import pytest
import torch
from golden import depth_anything as golden
from support.law import assert_lawful, random_points, sample

from spd_cli import commands, listing
from spd_core import Predictor, checkpoint
from spd_core.checkpoint import CheckpointError
from spd_core.convert import ROOM, ROOM_CAMERA, depth_anything_v2
from spd_core.data.images import read_colour
from spd_rooms.synthetic import random_frame

RECORD = json.loads(golden.FILE.read_text())


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file as they publish it."""
    path = tmp_path_factory.mktemp("released") / "depth_anything_v2_metric_hypersim_vits.pth"
    torch.save(golden.weights(RECORD["shapes"]), path)
    return path


@pytest.fixture(scope="module")
def converted(released, tmp_path_factory):
    """That file as our checkpoint, loaded."""
    path = tmp_path_factory.mktemp("converted") / "vits.safetensors"
    model, origin = depth_anything_v2(released)
    checkpoint.save(model, path, **origin)
    assert checkpoint.provenance(path)["license"] == "Apache-2.0"
    return checkpoint.load(path)


def assert_theirs(depth_m: torch.Tensor, name: str):
    expected = RECORD["depths"][name]
    assert list(depth_m.shape) == expected["size"]
    x, y = golden.pixels(depth_m.shape).T
    ours, theirs = depth_m.numpy()[y, x], np.array(expected["depth_m"])
    assert theirs.std() > 0.1, "a constant map would prove nothing"
    assert (np.abs(ours - theirs) / theirs).max() < 1e-3


def test_commands_convert_and_list(released, tmp_path, capsys):
    commands.convert(released, tmp_path / "indoor.safetensors")
    listing.info(folder=tmp_path)
    printed = capsys.readouterr().out
    assert "depth up to 20 m, licence Apache-2.0" in printed
    assert re.search(r"v15 .*CC-BY-NC-4.0 .*28.4 M .*20\.\d+ .*9.74", printed)
    assert "indoor.safetensors" in printed
    assert Predictor.load(tmp_path / "indoor.safetensors", "cpu").model.config.max_depth_m == 20


@pytest.mark.parametrize("size", golden.SIZES, ids=str)
@torch.inference_mode()
def test_dense_depth_is_theirs_and_points_are_its_samples(converted, size):
    features = converted.encode(golden.network_input(size))
    dense = converted.decode_dense(features)
    assert_theirs(dense[0, 0], "x".join(map(str, size)))
    for count in (32, 128, 2000):
        points = random_points(1, count, size)
        assert_lawful(converted.decode_points(features, points), sample(dense, points))


@torch.inference_mode()
def test_a_camera_image_is_prepared_as_theirs(converted):
    frame = Predictor(converted, "cpu").encode(golden.camera_image())
    assert frame.features.size == (518, 686)
    dense = converted.decode_dense(frame.features)
    assert_theirs(dense[0, 0], "camera")
    uv = np.random.default_rng(0).uniform(0, [639, 479], (128, 2))
    network = (uv + 0.5) * [686 / 640, 518 / 480] - 0.5
    expected = sample(dense, torch.from_numpy(network)[None])[0].numpy()
    np.testing.assert_allclose(frame.depth_at(uv), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("depth_anything_v2_vits.pth", {}, "relative-depth checkpoint"),
        ("depth_anything_v2_vitl.pth", {"max_depth_m": 20}, "relative-depth checkpoint"),
        ("mine.pth", {}, "--max_depth_m 20 for the Hypersim"),
        ("mine.pth", {"max_depth_m": 10}, "max_depth_m is 10; expected 20"),
        (
            "depth_anything_v2_metric_vkitti_vits.pth",
            {"max_depth_m": 20},
            "trained with a largest depth of 80 m, not 20",
        ),
        (
            "depth_anything_v2_metric_hypersim_vits.pth",
            {"max_depth_m": 80},
            "trained with a largest depth of 20 m, not 80",
        ),
    ],
)
def test_refused_by_name(released, tmp_path, name, options, error):
    (tmp_path / name).symlink_to(released)
    with pytest.raises(CheckpointError, match=re.escape(error)):
        depth_anything_v2(tmp_path / name, **options)


def test_a_relative_checkpoint_under_another_name_is_found_out(released, tmp_path):
    state = torch.load(released)
    state["depth_head.scratch.output_conv2.2.bias"] += 30.0  # disparities of tens, where the metric head has logits
    path = tmp_path / released.name
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="relative-depth checkpoint under another name"):
        depth_anything_v2(path)


def test_the_room_that_files_are_tested_with_is_the_one_that_is_drawn():
    drawn = random_frame(0, (196, 252))
    assert np.abs(read_colour(ROOM).astype(float) - drawn.rgb).mean() < 3, "JPEG loses less"
    for name in ("fx", "fy", "cx", "cy"):
        assert getattr(ROOM_CAMERA, name) == pytest.approx(getattr(drawn.camera, name), abs=1e-4)


def test_virtual_kitti_and_renamed_files(released, tmp_path):
    for name, options in (("depth_anything_v2_metric_vkitti_vits.pth", {}), ("mine.pth", {"max_depth_m": 80})):
        (tmp_path / name).symlink_to(released)
        model, origin = depth_anything_v2(tmp_path / name, **options)
        assert (model.config.max_depth_m, model.config.training_focal_px, origin["trained_on"]) == (
            80,
            pytest.approx(1001.5, abs=0.1),
            "vkitti",
        )


def test_files_that_are_not_theirs(released, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist; the released files are linked in"):
        depth_anything_v2(tmp_path / "nowhere.pth", 20)
    cases = {
        "foreign.pth": ({"a.weight": torch.zeros(3)}, "its tensors are a.weight"),
        "part.pth": (
            {k: v for k, v in torch.load(released).items() if "blocks.3" not in k},
            "does not fit Depth Anything V2 vits",
        ),
        "code.pth": (released, "holds more than tensors and plain values"),  # a pickled object
        "list.pth": ([torch.zeros(3)], "holds no tensors by name"),
        "nested.pth": ({"model": torch.zeros(3)}, "holds no tensors by name"),
        "flat.pth": ({"depth_head.projects.0.weight": torch.zeros(3)}, "is not a Depth Anything V2 checkpoint"),
    }
    for name, (content, error) in cases.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(CheckpointError, match=error):
            depth_anything_v2(tmp_path / name, 20)
    (tmp_path / "half.pth").write_bytes(released.read_bytes()[: 1 << 20])
    with pytest.raises(CheckpointError, match="can be read safely"):
        depth_anything_v2(tmp_path / "half.pth", 20)
