"""Evaluation against what its protocol says, on synthetic rooms and the embedded weights."""

import csv
import json
import os
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from support import data_sets

from spd_core import SPD, Camera, Predictor
from spd_core.data.samples import DataError
from spd_core.evaluation import Protocol, evaluate, predict, score
from spd_core.metrics import depth_metrics
from spd_core.reports import write_evaluation


@pytest.fixture(scope="module")
def rooms():
    return data_sets.rooms(4, (192, 256))


def test_is_the_mean_of_the_predictors_own_errors(embedded, rooms):
    result = evaluate(embedded, rooms, constant_m=3.0)
    expected = [depth_metrics(embedded.encode(s.rgb, s.camera).dense_depth(), s.depth_m) for s in rooms.samples]
    assert [image["abs_rel"] for image in result["per_image"]] == pytest.approx([m["abs_rel"] for m in expected])
    assert result["mean"]["abs_rel"] == pytest.approx(np.mean([m["abs_rel"] for m in expected]))
    assert result["constant"]["abs_rel"] == pytest.approx(
        np.mean([np.mean(np.abs(3 - s.depth_m) / s.depth_m) for s in rooms.samples]), rel=1e-5
    )
    assert result["protocol"]["crop"] == "none"


@pytest.mark.parametrize("flip", [False, True])
def test_sparse_evaluation_is_dense_evaluation_at_those_pixels(embedded, rooms, flip):
    height, width = rooms[0].depth_m.shape
    grid = evaluate(embedded, rooms, Protocol(grid=(16, 12), flip_average=flip))
    x, y = np.meshgrid((np.arange(16) + 0.5) * width / 16, (np.arange(12) + 0.5) * height / 12)
    at = (y.astype(int).ravel(), x.astype(int).ravel())
    for sample, image in zip(rooms.samples, grid["per_image"]):
        dense = predict(embedded, sample, Protocol(flip_average=flip))
        assert image["n_valid"] <= 192
        assert image["abs_rel"] == pytest.approx(depth_metrics(dense[at], sample.depth_m[at])["abs_rel"], rel=1e-4)
    every = evaluate(embedded, rooms, Protocol(flip_average=flip))["mean"]["abs_rel"]
    many = evaluate(embedded, rooms, Protocol(points=4000, flip_average=flip))["mean"]["abs_rel"]
    assert many == pytest.approx(every, rel=0.05)


def test_parts_are_evaluated_as_in_the_whole(embedded, rooms):
    protocol = Protocol(points=50)
    whole = evaluate(embedded, rooms, protocol)["per_image"]
    for k in range(3):
        part = [score(embedded, rooms[i], protocol, None, i)[0] for i in range(k, len(rooms), 3)]
        assert json.dumps(part) == json.dumps(whole[k::3])  # NaN, where nothing is that far, is not itself


def test_intrinsics_scale_depth_and_can_be_ignored(embedded, rooms):
    sample = rooms[0]
    ratio = sample.camera.focal_px / embedded.model.config.training_focal_px
    with_them, without = (
        predict(embedded, sample, Protocol(resize_eval=(192, 256), ignore_intrinsics=ignore))
        for ignore in (False, True)
    )
    np.testing.assert_allclose(with_them, without * ratio, rtol=1e-5)


def test_resized_evaluation_scores_the_native_truth(embedded):
    sample = data_sets.rooms(1, (96, 128))[0]
    native, resized = (predict(embedded, sample, Protocol(resize_eval=size)) for size in (None, (192, 256)))
    assert native.shape == resized.shape == (96, 128)
    expected = embedded.encode(sample.rgb, sample.camera, (192, 256)).dense_depth()
    np.testing.assert_allclose(resized, expected, rtol=1e-5)
    assert not np.allclose(native, resized, rtol=0.01)


def test_evaluation_leaves_its_predictor_as_it_was(embedded, rooms, tmp_path):
    """Its settings and its answers, and whether it says that intrinsics are missing."""
    sample, settings = rooms[0], ("input_size", "runtime", "device", "dtype")
    weights = {name: value.clone() for name, value in embedded.model.state_dict().items()}
    before = [getattr(embedded, name) for name in settings], embedded.encode(sample.rgb, sample.camera).dense_depth()
    protocol = Protocol(resize_eval=(96, 128), limit=2, flip_average=True, ignore_intrinsics=True)
    predict(embedded, sample, protocol)
    write_evaluation(evaluate(embedded, rooms, protocol), embedded, rooms, tmp_path)
    assert [getattr(embedded, name) for name in settings] == before[0]
    np.testing.assert_array_equal(embedded.encode(sample.rgb, sample.camera).dense_depth(), before[1])
    assert all(weights[name].equal(value) for name, value in embedded.model.state_dict().items())
    with pytest.warns(UserWarning, match="no camera intrinsics"):
        embedded.encode(sample.rgb)


def test_images_smaller_than_the_network_can_see_are_evaluated(rooms):
    predictor = Predictor(SPD.from_preset("lite", fit="inside"), "cpu", runtime="torch")
    small = data_sets.rooms(1, (48, 64))[0]
    assert predict(predictor, small, Protocol()).shape == (48, 64)


def test_the_data_set_says_which_crop_is_published_for_it(embedded, rooms):
    with pytest.raises(ValueError, match=r"480x640 images, got \(192, 256\)"):
        evaluate(embedded, rooms, Protocol(crop="eigen"))
    large = data_sets.rooms(1, (480, 640))
    large.evaluation_crop = "eigen"
    result = evaluate(embedded, large, Protocol(resize_eval=(192, 256)))
    assert result["protocol"]["crop"] == "eigen"
    assert result["mean"]["n_valid"] == 426 * 560
    sparse = evaluate(embedded, large, Protocol(resize_eval=(192, 256), points=10**6))
    assert sparse["mean"]["n_valid"] == 426 * 560
    assert sparse["mean"]["abs_rel"] == pytest.approx(result["mean"]["abs_rel"], rel=1e-4)


def test_report_files(embedded, rooms, tmp_path):
    result = evaluate(embedded, rooms, Protocol(limit=3, points=200))
    write_evaluation(result, embedded, rooms, tmp_path)
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["protocol"]["points"] == 200
    assert written["mean"]["n_images"] == 3
    rows = list(csv.DictReader((tmp_path / "per_image.csv").open()))
    assert [row["name"] for row in rows] == ["room 0", "room 2", "room 3"]
    assert float(rows[1]["abs_rel"]) == pytest.approx(result["per_image"][1]["abs_rel"])
    picture = cv2.imread(str(tmp_path / "report.png"))
    assert picture.shape[1] >= 1000
    assert picture.std() > 20


def test_names_may_be_any_bytes(embedded, rooms, tmp_path, monkeypatch):
    monkeypatch.setattr(type(rooms), "name", lambda self, index: os.fsdecode(b"\xff\xfe" + str(index).encode()))
    read = type(rooms).__getitem__
    monkeypatch.setattr(
        type(rooms), "__getitem__", lambda self, index: replace(read(self, index), name=self.name(index))
    )
    write_evaluation(evaluate(embedded, rooms, Protocol(limit=2, points=50)), embedded, rooms, tmp_path)
    assert cv2.imread(str(tmp_path / "report.png")) is not None


def test_an_image_that_is_not_finite_is_counted_and_drawn_nowhere(embedded, rooms, tmp_path, monkeypatch):
    def overflowing(embedded, sample, *arguments):
        return predict(embedded, sample, *arguments) * (np.nan if sample.name == "room 1" else 1)

    monkeypatch.setattr("spd_core.evaluation.predict", overflowing)
    result = evaluate(embedded, rooms)
    assert (result["mean"]["n_nan"], result["mean"]["n_images"]) == (1, 4)
    write_evaluation(result, embedded, rooms, tmp_path)
    written = json.loads(
        (tmp_path / "result.json").read_text(), parse_constant=pytest.fail
    )  # strict readers know no NaN
    assert written["mean"]["abs_rel"] is None
    assert written["mean"]["n_nan"] == 1
    assert cv2.imread(str(tmp_path / "report.png")) is not None


def test_a_sample_that_cannot_be_read_stops_it(embedded, rooms):
    samples = [*rooms.samples[:2], DataError("room 2 is broken"), rooms.samples[3]]
    with pytest.raises(DataError, match="room 2 is broken"):
        evaluate(embedded, data_sets.Samples(samples))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": 1, "grid": (2, 2)}, "exclude each other"),
        ({"crop": "garg"}, "got 'garg'"),
        ({"points": 0}, "points must be positive, got 0"),
    ],
)
def test_bad_protocol(changes, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**changes)


def test_command(tmp_path, rooms, spd):
    sample = rooms[0]
    camera: Camera = sample.camera
    numbers = f"{camera.fx} {camera.fy} {camera.cx} {camera.cy}"
    data_sets.write_rgbd(tmp_path, "a", sample.rgb, sample.depth_m, numbers)
    said = spd("eval", tmp_path, "--flip-average", "--out", tmp_path / "out").out
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert written["protocol"]["flip_average"] is True
    expected = depth_metrics(predict(Predictor.load("embedded"), sample, Protocol(flip_average=True)), sample.depth_m)
    assert written["mean"]["abs_rel"] == pytest.approx(expected["abs_rel"], rel=1e-2)  # depth rounded to millimetres
    assert "left out" not in said
    assert re.search("^evaluate .* 100%", said, re.MULTILINE), "the bar comes to its end"
    spd("eval", tmp_path, "--precision", "bf16", "--floor", "true", "--out", tmp_path / "small")
    assert json.loads((tmp_path / "small" / "result.json").read_text())["precision"] == "bf16"
    assert "floor_log" in json.loads((tmp_path / "small" / "floor.json").read_text())
    data_sets.write_rgbd(tmp_path, "b", sample.rgb, 12.0)
    said = " ".join(spd("eval", tmp_path).out.split())
    assert f"left out: {sample.depth_m.size:,} pixels whose true depth is more than 10 m" in said
    assert "left out: 1 images without a known depth below 10 m" in said
    assert "are they in metres" not in said
    data_sets.write_rgbd(tmp_path, "b", sample.rgb, 0.25 * sample.depth_m)  # KITTI's units, as millimetres
    (tmp_path / "a.depth.png").unlink()
    said = spd("eval", tmp_path)
    assert "times the network's: are they in metres" in " ".join((said.out + said.err).split())
