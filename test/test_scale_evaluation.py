"""What a scale and a sigma are worth, measured: on rooms whose truth and whose network's errors are known."""

import copy
import json
import math
import warnings
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from support import recorded
from support.data_sets import Samples, write_rgbd
from support.models import embedded_without_sigma, lively

from spd_core import SPD, Camera, Predictor, checkpoint
from spd_core.data.bag import BagFrame
from spd_core.data.bag_writing import write_bag
from spd_core.data.samples import DataError, Sample
from spd_core.evaluation import Protocol
from spd_core.scale_evaluation import draw_references, evaluate_scale, fit_prior, measure_scale, narrowed, sigma_report
from spd_core.scale_prior import ScalePrior
from spd_rooms.synthetic import random_frame

SIZE = (96, 128)


@pytest.fixture(scope="module")
def predictor():
    return embedded_without_sigma()


@pytest.fixture(scope="module")
def truths(predictor):
    """Images whose true depth is the network's, times a factor of the image and noise of the pixel."""
    rng, samples, factors = np.random.default_rng(0), [], []
    for i in range(12):
        room = random_frame(4_200_000 + i, SIZE)
        network_m = predictor.encode(room.rgb, room.camera).dense_depth()
        factors.append(0.2 * rng.standard_normal())
        depth_m = network_m * np.exp(factors[-1] + 0.1 * rng.standard_t(4, SIZE)).astype(np.float32)
        samples.append(Sample(f"room {i}", room.rgb, np.clip(depth_m, 0.2, 9).astype(np.float32), room.camera))
    return Samples(samples), np.array(factors)


def test_references_are_noisy_pixels_and_some_are_anything():
    truth_m = np.linspace(1, 4, 100_000)
    chosen, said_m = draw_references(truth_m, 50_000, np.random.default_rng(0), noise=0.05, outliers=0.2)
    assert len(np.unique(chosen)) == 50_000
    off = np.log(said_m / truth_m[chosen])
    assert np.mean(np.abs(off) < 0.05) == pytest.approx(0.8 * 0.683 + 0.02, abs=0.03)
    assert np.mean(np.abs(off) > 0.3) == pytest.approx(0.2 * 0.8, abs=0.03)
    _, exact_m = draw_references(truth_m, 10, np.random.default_rng(0), noise=0, outliers=0)
    assert set(exact_m) <= set(truth_m)


def test_more_references_are_better_and_scored_elsewhere(predictor, truths):
    dataset, _ = truths
    result = evaluate_scale(predictor, dataset, counts=(2, 20), prior=ScalePrior(0.2, 0.1, 0.1))
    errors = [result["references"][count]["abs_rel"] for count in ("0", "2", "20")]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 1.1 * result["exact"]["abs_rel"]
    assert result["references"]["20"]["n_valid"] == sum(4000 - 20 for _ in dataset.samples)
    networks_m = [predictor.encode(s.rgb, s.camera).dense_depth() for s in dataset.samples]
    own = [np.mean(np.abs(n / s.depth_m - 1)) for n, s in zip(networks_m, dataset.samples)]
    assert errors[0] == pytest.approx(np.mean(own), rel=0.03)
    assert result["sigma"] == {}  # the embedded weights say none here
    assert json.loads(json.dumps(result)) == result


def test_the_prior_that_is_fitted_is_that_of_the_errors(predictor, truths):
    dataset, factors = truths
    prior = fit_prior(predictor, dataset)
    assert prior.sigma_log == pytest.approx(np.std(factors), rel=0.05)
    assert prior.sigma_slope < 0.05
    errors = 0.1 * np.random.default_rng(2).standard_t(4, 100_000)
    assert prior.spread_log == pytest.approx(1.2 * np.median(np.abs(errors)) / 0.765, rel=0.05)
    assert prior.pivot_m == pytest.approx(
        math.exp(
            np.mean([np.log(np.median(predictor.encode(s.rgb, s.camera).dense_depth())) for s in dataset.samples])
        ),
        rel=0.02,
    )


def test_no_prior_is_fitted_to_what_is_not_finite(predictor, truths):
    model = copy.deepcopy(predictor.model)
    next(model.decoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="depth of room 0 is not finite"):
        fit_prior(Predictor(model, "cpu", runtime="torch"), truths[0])


def test_a_prior_that_lets_outliers_pull_is_narrowed_and_one_that_is_narrow_stays(predictor, truths):
    dataset, factors = truths
    wide, narrow = (ScalePrior(sigma_log=times * np.std(factors)) for times in (2.0, 0.5))
    chosen = narrowed(wide, predictor, dataset, counts=(1, 3))
    assert 0.55 * wide.sigma_log < chosen.sigma_log < 0.95 * wide.sigma_log
    assert (chosen.sigma_slope, chosen.spread_log, chosen.pivot_m) == (0.2, 0.12, 2.5)
    assert narrowed(narrow, predictor, dataset, counts=(1, 3)) == narrow


def test_a_few_images_are_scored_with_many_draws(predictor, truths):
    few = Samples(truths[0].samples[:2])
    one, many = (evaluate_scale(predictor, few, counts=(1,), least_draws=n)["references"] for n in (1, 40))
    assert one["0"]["abs_rel"] == many["0"]["abs_rel"]
    assert one["1"]["scale_68"] in (0.0, 0.5, 1.0)
    assert many["1"]["scale_68"] not in (0.0, 0.5, 1.0)  # a mean of 40
    assert many["1"]["n_valid"] == one["1"]["n_valid"]


def test_an_image_with_fewer_known_pixels_than_references_does_not_count(predictor, truths):
    whole, other = truths[0].samples[:2]
    sparse = np.zeros(SIZE, np.float32)
    sparse[10, 10:25] = 2.0
    dataset = Samples([whole, Sample("sparse", other.rgb, sparse, other.camera)])
    result = evaluate_scale(predictor, dataset, counts=(1, 20), least_draws=4)["references"]
    assert (result["1"]["n_images"], result["20"]["n_images"]) == (2, 1)


def test_sigma_that_is_right_covers_what_it_says():
    rng = np.random.default_rng(3)
    sigma = rng.uniform(0.02, 0.4, 40_000)
    truth_m = rng.uniform(1, 5, 40_000)
    depth_m = truth_m * np.exp(sigma * rng.standard_normal(40_000))
    report = sigma_report(depth_m, sigma, truth_m)
    assert report["covered_68"] == pytest.approx(0.683, abs=0.01)
    assert report["covered_95"] == pytest.approx(0.95, abs=0.01)
    assert report["temperature"] == pytest.approx(1.0, abs=0.02)
    assert sigma_report(depth_m, sigma / 2, truth_m)["temperature"] == pytest.approx(2.0, abs=0.04)
    assert report["certain_half"] < 0.65
    assert report["abs_rel_by_share"] == sorted(report["abs_rel_by_share"])
    assert all(oracle <= ours for oracle, ours in zip(report["oracle_by_share"], report["abs_rel_by_share"]))
    blind = sigma_report(depth_m, np.full(40_000, 0.2), truth_m)
    assert blind["certain_half"] == pytest.approx(1.0, abs=0.05)


def test_a_sample_without_depth_is_named(predictor, truths):
    sample = truths[0].samples[0]
    with pytest.raises(DataError, match="room 0 has no depth"):
        evaluate_scale(predictor, Samples([replace(sample, depth_m=None)]))


def test_images_without_truth_in_range_are_left_out_and_counted(predictor, truths):
    """As in the mean without references; none that is left is an error."""
    samples = truths[0].samples
    empty = [replace(samples[0], depth_m=np.full(SIZE, depth_m, np.float32)) for depth_m in (0, 15)]
    result, alone = (
        evaluate_scale(predictor, Samples(some), counts=(1,), least_draws=1)
        for some in ([*samples[1:3], *empty], samples[1:3])
    )
    assert (result.pop("without_truth"), result.pop("pixels_beyond")) == (2, SIZE[0] * SIZE[1])
    assert (alone.pop("without_truth"), alone.pop("pixels_beyond")) == (0, 0)
    assert result == alone
    assert fit_prior(predictor, Samples([*samples, *empty])) == fit_prior(predictor, Samples(samples))
    with pytest.raises(DataError, match="none of 2 images has a pixel of known depth below 10 m"):
        evaluate_scale(predictor, Samples(empty))


def test_a_few_images_give_no_prior(predictor, truths):
    samples = truths[0].samples
    with pytest.raises(DataError, match="9 images are too few for a prior"):
        fit_prior(predictor, Samples(samples[:9]))
    empty = replace(samples[0], depth_m=np.zeros(SIZE, np.float32))
    with pytest.raises(DataError, match="9 of 10 images have a pixel of known depth"):
        fit_prior(predictor, Samples([*samples[:9], empty]))


def recording(truths):
    dataset, factors = truths
    frames = [
        BagFrame(
            (i + 1) * 10**8, s.rgb, (s.depth_m * 1000).round().astype(np.uint16).astype(np.float32) / 1000, s.camera, []
        )
        for i, s in enumerate(dataset.samples)
    ]
    return frames, factors


def test_a_recordings_scale_is_the_median_of_its_frames(predictor, truths):
    frames, factors = recording(truths)
    measured = measure_scale(frames, predictor)
    assert math.log(measured.factor) == pytest.approx(np.median(factors), abs=0.02)
    assert measured.sigma_log == pytest.approx(np.std(factors, ddof=1), abs=0.02)
    assert measured[2:] == (len(frames), 0, 0)
    with pytest.raises(DataError, match="no frame of the recording has depth"):
        measure_scale([BagFrame(1, frames[0].rgb, None, frames[0].camera, [])], predictor)


def test_truth_beyond_what_the_network_knows_is_left_out_of_a_scale(predictor, truths):
    [frame, *_], _ = recording(truths)
    far_m = frame.depth_m.copy()
    far_m[:, : SIZE[1] * 2 // 3] = 20
    known = replace(frame, depth_m=np.where(far_m < 10, far_m, 0))
    measured = measure_scale([replace(frame, depth_m=far_m), replace(frame, camera=None)], predictor)
    assert measured[2:] == (2, 1, np.count_nonzero(far_m == 20))
    alone = measure_scale([known], predictor)
    assert math.isnan(alone.sigma_log)  # one frame says nothing of others
    assert measure_scale([replace(frame, depth_m=far_m)], predictor).factor == alone.factor
    with pytest.warns(UserWarning, match="are they in metres"):
        beyond = measure_scale([replace(frame, depth_m=far_m)], predictor, max_depth_m=80)
    assert beyond.factor > 1.5 * alone.factor
    with pytest.raises(DataError, match="no frame of the recording has depth below 10 m"):
        measure_scale([replace(frame, depth_m=np.full(SIZE, 20, np.float32))], predictor)


def test_measuring_a_scale_says_what_the_recording_is(truths, tmp_path, spd, failing):
    frames, _ = recording(truths)
    far = [replace(f, camera=None, depth_m=np.where(f.depth_m > 2, 20, f.depth_m)) for f in frames[:2]]
    write_bag(tmp_path / "bag", far)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    said = spd("calibrate-scale", tmp_path / "bag").out
    beyond = sum((frame.depth_m == 20).sum() for frame in far)
    for words in (
        "metadata.yaml is missing",
        "image       /camera/image_raw",
        "2 of 2 images have depth",
        f"left out: {beyond:,} pixels whose true depth is more than 10 m",
        "2 of 2 frames have no calibration: the factor makes up for the focal length too",
    ):
        assert words in said
    assert "max_depth_m must be finite" in failing("calibrate-scale", tmp_path / "bag", "--max_depth_m", ".nan")


@pytest.mark.parametrize("factor", [5, 0.1])
def test_depth_in_another_unit_is_doubted(truths, predictor, factor):
    frames, _ = recording(truths)
    with pytest.warns(UserWarning, match="true depths are .* times the network's: are they in metres"):
        measure_scale([replace(f, depth_m=f.depth_m * factor) for f in frames[:3]], predictor, max_depth_m=80)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure_scale(frames[:3], predictor)


def test_each_second_frame_is_of_those_with_depth(truths, tmp_path, spd):
    """Depth cameras are often half as fast."""
    frames, _ = recording(truths)
    write_bag(tmp_path / "bag", [replace(f, depth_m=f.depth_m if i % 2 else None) for i, f in enumerate(frames[:8])])
    said = spd("calibrate-scale", tmp_path / "bag", "--every", 2).out
    assert "4 of 8 images have depth" in said
    assert "of 2 frames;" in said


def test_a_scale_is_measured_past_a_clock_of_its_own(tmp_path, spd, failing):
    moved = recorded.write(tmp_path / "bag", recorded.usual(2, depth_offset_ns=2_500_000_000))
    said = failing("calibrate-scale", moved)
    assert said.startswith("error: nothing to measure: 0 of 2 images have depth within the tolerance")
    said = spd("calibrate-scale", moved, "--depth-offset-s", said.split("--depth_offset_s ")[1].split()[0]).out
    assert "2 of 2 images have depth" in said
    assert "scale_factor: " in said


def test_a_replay_with_references_is_nearer_to_the_truth_at_other_pixels(truths, tmp_path, spd, failing):
    """All frames of one scale: the camera's."""
    frames, factors = recording(truths)
    one_camera = [replace(f, depth_m=f.depth_m * np.float32(1.25 / math.exp(own))) for f, own in zip(frames, factors)]
    write_bag(tmp_path / "bag", one_camera)
    errors = {}
    for references in (0, 8):
        out = tmp_path / str(references)
        spd("replay", tmp_path / "bag", "--offline", "--references", references, "--out", out)
        result = json.loads((out / "result.json").read_text())
        assert result["references"] == references
        errors[references] = result["metrics"]["abs_rel"]
    assert errors[8] < 0.7 * errors[0]
    failing("replay", tmp_path / "bag", "--references", 5)


def test_commands(monkeypatch, truths, tmp_path, spd):
    frames, factors = recording(truths)
    write_bag(tmp_path / "bag", frames)
    said = spd("calibrate-scale", tmp_path / "bag").out
    assert float(said.split("scale_factor: ")[1].split()[0]) == pytest.approx(math.exp(np.median(factors)), rel=0.03)
    assert f"of {len(frames)} frames" in said

    folder = tmp_path / "images"
    camera: Camera = frames[0].camera
    for i, frame in enumerate(frames[:10]):
        numbers = f"{camera.fx} {camera.fy} {camera.cx} {camera.cy}"
        write_rgbd(folder, str(i), frame.rgb, frame.depth_m, numbers)
    torch.manual_seed(0)
    checkpoint.save(lively(SPD.from_preset("lite")), tmp_path / "raw.safetensors", torch.float16, data="rooms")
    said = spd("calibrate", tmp_path / "raw.safetensors", folder, folder, code=1)
    assert "is a folder; expected the name of a file to write" in said.err
    assert "prior" not in said.out  # nothing was measured
    words = ["calibrate", tmp_path / "raw.safetensors", folder, tmp_path / "c.safetensors"]
    temperatures = []  # with which references are weighed when the prior is chosen

    def narrowing(fitted, predictor, *how, **options):
        temperatures.append(predictor.sigma_temperature)
        return narrowed(fitted, predictor, *how, **options)

    monkeypatch.setattr("spd_cli.scales.narrowed", narrowing)
    assert "left out" not in spd(*words).out
    known = checkpoint.provenance(tmp_path / "c.safetensors")
    assert known["data"] == "rooms"
    raw, calibrated = (Predictor.load(tmp_path / f"{name}.safetensors", device="cpu") for name in ("raw", "c"))
    assert ScalePrior.of(calibrated) == ScalePrior(**known["scale_prior"]) != ScalePrior.of(raw)
    uv = np.array([[20.0, 30.0], [100.5, 60.25]])
    one, other = (p.encode(frames[0].rgb, camera).answer(uv) for p in (raw, calibrated))
    np.testing.assert_allclose(other.sigma_m, known["sigma_temperature"] * one.sigma_m, rtol=1e-5)
    np.testing.assert_array_equal(other.depth_m, one.depth_m)
    spread_uv = np.random.default_rng(0).uniform(0, 1, (500, 2)) * np.array(frames[0].rgb.shape[1::-1]) - 0.5
    answers = [calibrated.encode(f.rgb, camera).answer(spread_uv) for f in frames[:10]]
    said = np.mean([answer.sigma_m / answer.depth_m for answer in answers])
    assert known["scale_prior"]["network_sigma"] == pytest.approx(said, rel=0.05)
    assert known["calibrated_to_m"] == 10
    assert temperatures == [known["sigma_temperature"]]
    words += ["--depth_factor", 1.25, "--half", "--max_depth_m", 4]
    said = spd(*words).out
    assert checkpoint.provenance(tmp_path / "c.safetensors")["calibrated_to_m"] == 4
    far = sum((np.round(frame.depth_m * 1000) > 4000).sum() for frame in frames[:10])
    assert f"left out: {far:,} pixels whose true depth is more than 4 m" in said
    nearer = Predictor.load(tmp_path / "c.safetensors", device="cpu").encode(frames[0].rgb, camera).answer(uv)
    np.testing.assert_allclose(nearer.depth_m, 1.25 * one.depth_m, rtol=1e-3)
    torch.manual_seed(1)
    checkpoint.save(lively(SPD.from_preset("lite")), tmp_path / "sibling.safetensors")
    measured = checkpoint.provenance(tmp_path / "c.safetensors")["scale_prior"]
    spd(*words, "--errors_of", tmp_path / "sibling.safetensors")
    again = Predictor.load(tmp_path / "c.safetensors", device="cpu").encode(frames[0].rgb, camera).answer(uv)
    np.testing.assert_array_equal(again.depth_m, nearer.depth_m)
    assert checkpoint.provenance(tmp_path / "c.safetensors")["scale_prior"] != measured

    options = ["--weights", tmp_path / "c.safetensors", "--references", "[1,5]"]
    said = spd("eval", folder, *options, "--out", tmp_path / "out").out
    assert "sigma covers" in said
    written = json.loads((tmp_path / "out" / "scale.json").read_text())
    assert list(written["references"]) == ["0", "1", "5"]
    assert cv2.imread(str(tmp_path / "out" / "scale.png")) is not None


def test_sigma_of_a_model_that_is_calibrated_covers_its_errors(truths, tmp_path):
    """`Protocol` goes through: a limit takes fewer images."""
    dataset, _ = truths
    torch.manual_seed(0)
    predictor = Predictor(lively(SPD.from_preset("lite")), "cpu", runtime="torch")
    sigma = evaluate_scale(predictor, dataset, Protocol(limit=5), counts=())["sigma"]
    predictor.provenance = {"sigma_temperature": sigma["temperature"]}
    again = evaluate_scale(predictor, dataset, Protocol(limit=5), counts=())["sigma"]
    assert again["covered_68"] == pytest.approx(0.683, abs=0.005)
    sibling = Predictor(predictor.model, "cpu", runtime="torch")
    sibling.provenance = {"sigma_temperature": sigma["temperature"] / 2}
    halved = evaluate_scale(predictor, dataset, Protocol(limit=5), counts=(), sigma_of=sibling)["sigma"]
    assert halved["temperature"] == pytest.approx(2 * again["temperature"], rel=1e-5)
    predictor.provenance = {"sigma_temperature": -1}
    with pytest.raises(checkpoint.CheckpointError, match="sigma_temperature is -1; expected a positive number"):
        evaluate_scale(predictor, dataset, Protocol(limit=1), counts=())
