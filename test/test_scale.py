"""The posterior of the scale, against numerical integration of its own model and against truths that are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from support.models import embedded_without_sigma

from spd_core import SPD, Camera, Predictor, checkpoint
from spd_core.floor import FloorPlane
from spd_core.predictor import EncodedFrame
from spd_core.scale import (
    ALIKE_WIDTHS,
    MOST_AT_ONCE,
    OUTLIER,
    REFERENCE_SIGMA,
    FixedScale,
    ScaleError,
    ScaleFilter,
    ScalePrior,
)
from spd_core.scale_posterior import ALIKE_LOG, NU, OUTLIER_LOG, REFERENCE, posterior
from spd_core.status import Status
from spd_rooms.synthetic import random_frame

PRIOR = ScalePrior()
DENSE: dict = {}


@pytest.fixture(scope="module")
def predictor():
    return embedded_without_sigma()


@pytest.fixture(scope="module")
def frame(predictor):
    room = random_frame(77, (240, 320))
    return predictor.encode(room.rgb, room.camera)


def places(rng, count, size=(240, 320)):
    """Pixels [K, 2], each once."""
    return np.stack(np.divmod(rng.permutation(size[0] * size[1])[:count], size[1])[::-1], axis=1).astype(float)


def network_depth(frame, uv):
    """What the network says at whole pixels [K, 2], m; the dense map is kept, tests ask for it often."""
    if id(frame) not in DENSE:
        DENSE[id(frame)] = frame.dense_depth()
    return DENSE[id(frame)][uv[:, 1].astype(int), uv[:, 0].astype(int)].astype(float)


def references(frame, rng, count, factor=1.0, noise=0.05, outlier=0.0):
    """Pixels [K, 2] and depths [K] m of a scene that is `factor` times as large as the network says."""
    uv = places(rng, count)
    depth_m = factor * network_depth(frame, uv) * np.exp(noise * rng.standard_normal(count))
    return uv, np.where(rng.random(count) < outlier, rng.uniform(0.3, 10, count), depth_m)


def integrated(frame, prior, uv, depth_m, sigma_m):
    """Mean and standard deviation of s, mean of b, by summing the density of the documented model on a fine grid."""
    network_m = frame.depth_at(uv).astype(float)
    count = len(uv)
    x = [math.log(z / prior.pivot_m) for z in network_m]
    weights = []
    for i in range(count):
        alike = 0.0
        for j in range(count):
            apart_px = math.dist(uv[i], uv[j]) / frame.size[1] / ALIKE_WIDTHS
            alike += math.exp(-0.5 * (apart_px**2 + ((x[i] - x[j]) / ALIKE_LOG) ** 2))
        weights.append(1 / max(alike, 1))
    s, b = np.meshgrid(np.arange(-1.2, 1.2, 0.004), np.arange(-0.9, 0.9, 0.015), indexing="ij")
    log_density = -0.5 * (s / prior.sigma_log) ** 2 - 0.5 * (b / prior.sigma_slope) ** 2
    for i in range(count):
        sigma = REFERENCE_SIGMA if sigma_m is None else sigma_m[i] / depth_m[i]
        width = math.hypot(prior.spread_log, sigma)
        e = math.log(depth_m[i] / network_m[i]) - s - b * x[i]
        likelihood = (1 - OUTLIER) * stats.t.pdf(e, NU, scale=width) + OUTLIER / OUTLIER_LOG
        log_density = log_density + weights[i] * np.log(likelihood)
    density = np.exp(log_density - log_density.max())
    density = density / density.sum()
    mean = (s * density).sum()
    return mean, math.sqrt(((s - mean) ** 2 * density).sum()), (b * density).sum()


@pytest.mark.parametrize("count", [1, 2, 5, 20])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_estimate_is_the_posterior_of_the_documented_model(predictor, frame, count, seed):
    rng = np.random.default_rng([seed, count])
    prior = ScalePrior(rng.uniform(0.1, 0.25), rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.2), rng.uniform(1.5, 4))
    uv, depth_m = references(frame, rng, count, math.exp(rng.uniform(-0.4, 0.4)), 0.15, outlier=0.2)
    sigma_m = None if seed == 0 else depth_m * rng.uniform(0.01, 0.3, count)
    scale = ScaleFilter(predictor, prior)
    scale.update(frame, uv, depth_m, sigma_m)
    mean, deviation, slope = integrated(frame, prior, uv, depth_m, sigma_m)
    assert math.log(scale.factor) == pytest.approx(mean, abs=0.005)
    assert scale.sigma_log == pytest.approx(deviation, rel=0.03)
    assert scale.slope == pytest.approx(slope, abs=0.01)


def remembered(count, spread, sigma, rng) -> np.ndarray:
    """References of now, none of them alike."""
    found = np.zeros(count, REFERENCE)
    found["u"], found["v"], found["alike"] = rng.uniform(0, 1, count), rng.uniform(0, 0.75, count), 1e-4
    found["log_depth"], found["spread"], found["sigma"] = rng.uniform(-1, 1.2, count), spread, sigma
    found["network_sigma"], found["outlier"] = PRIOR.network_sigma, OUTLIER
    return found


@pytest.mark.parametrize("spread", [0.03, 0.12])
def test_many_references_are_summed_as_finely_as_they_are_sure(spread):
    rng = np.random.default_rng(4)
    found = remembered(128, spread, 0.02, rng)
    found["log_ratio"] = 0.1 + 0.07 * found["log_depth"] + spread * rng.standard_t(NU, 128)
    width = math.hypot(spread, 0.02)
    s, b = np.meshgrid(0.1 + np.linspace(-1, 1, 161) * width, 0.07 + np.linspace(-1, 1, 161) * width, indexing="ij")
    log_density = -0.5 * (s / PRIOR.sigma_log) ** 2 - 0.5 * (b / PRIOR.sigma_slope) ** 2
    for row in found:
        e = row["log_ratio"] - s - b * row["log_depth"]
        log_density += np.log((1 - OUTLIER) * stats.t.pdf(e, NU, scale=width) + OUTLIER / OUTLIER_LOG)
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    expected = np.array([(s * density).sum(), (b * density).sum()])
    deviations = np.sqrt([((axis - m) ** 2 * density).sum() for axis, m in zip((s, b), expected)])
    mean, covariance = posterior(found, np.zeros(2), PRIOR, 0.0)
    np.testing.assert_allclose(mean, expected, atol=0.1 * deviations.min())
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), deviations, rtol=0.05)


def test_a_reference_that_says_nothing_leaves_a_wide_prior_as_wide():
    prior = replace(PRIOR, sigma_log=0.7, sigma_slope=0.4)
    mean, covariance = posterior(remembered(1, 50.0, 50.0, np.random.default_rng(0)), np.zeros(2), prior, 0.0)
    np.testing.assert_allclose(mean, 0, atol=0.01)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), [0.7, 0.4], rtol=0.03)


def test_references_that_a_mask_hides_are_not_used(predictor, frame):
    uv, depth_m = references(frame, np.random.default_rng(3), 20)
    hidden = np.arange(20) % 2 == 0
    masked, without = ScaleFilter(predictor, PRIOR), ScaleFilter(predictor, PRIOR)
    masked.update(frame, uv, np.ma.masked_array(np.where(hidden, 2 * depth_m, depth_m), hidden))
    without.update(frame, uv, np.where(hidden, np.nan, depth_m))
    assert (masked.used, masked.ignored) == (10, 10)
    assert masked.factor == without.factor
    hidden_places = ScaleFilter(predictor, PRIOR)
    hidden_places.update(frame, np.ma.masked_array(uv, np.stack([hidden] * 2, axis=1)), depth_m)
    assert hidden_places.used == 10
    masked.update(frame, [], [])
    assert masked.used == 10


def test_before_any_reference_it_is_the_prior(predictor, frame):
    scale = ScaleFilter(predictor, PRIOR)
    assert (scale.factor, scale.slope) == (1.0, 0.0)
    assert scale.sigma_log == pytest.approx(PRIOR.sigma_log)
    scale.update(frame, np.zeros((0, 2)), np.zeros(0), stamp_s=5.0)
    assert (scale.factor, scale.used, scale.ignored) == (1.0, 0, 0)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.3, 1.9])
def test_good_references_find_a_scale_and_answers_have_it(predictor, frame, factor):
    rng = np.random.default_rng(3)
    scale = ScaleFilter(predictor)
    for i in range(20):
        scale.update(frame, *references(frame, rng, 20, factor), stamp_s=i / 10)
    assert scale.factor == pytest.approx(factor, rel=0.05)
    assert scale.sigma_log < 0.1
    uv = places(rng, 50)
    plain, scaled = frame.answer(uv), frame.answer(uv, scale=scale)
    np.testing.assert_allclose(scaled.depth_m, factor * plain.depth_m, rtol=0.08)
    np.testing.assert_allclose(scaled.xyz_m[:, 2], scaled.depth_m, rtol=1e-6)
    np.testing.assert_array_equal(scaled.status, np.full(50, Status.OK))


@pytest.mark.parametrize("factor", [0.1, 0.2, 5.0, 10.0])
def test_a_scale_far_from_the_prior_is_found_and_no_surer_than_another(predictor, frame, factor):
    """Beyond the first table, at whose edge everything would pile up."""
    rng, scale, near = np.random.default_rng(1), ScaleFilter(predictor), ScaleFilter(predictor)
    for i in range(20):
        for filter_, of_scene in ((scale, factor), (near, 1.0)):
            filter_.update(frame, *references(frame, rng, 10, of_scene), stamp_s=i / 10)
    assert scale.factor == pytest.approx(factor, rel=0.15)
    assert 0.7 * near.sigma_log < scale.sigma_log < 2 * near.sigma_log
    assert abs(scale.slope) < 0.2


def test_a_slope_is_found_where_depths_span_one(predictor, frame):
    rng, scale = np.random.default_rng(4), ScaleFilter(predictor)
    for i in range(20):
        uv = places(rng, 20)
        network_m = frame.depth_at(uv).astype(float)
        scale.update(frame, uv, 1.1 * network_m * (network_m / PRIOR.pivot_m) ** 0.25, stamp_s=i / 10)
    uv = places(rng, 200)
    network_m = frame.depth_at(uv).astype(float)
    truth_m = 1.1 * network_m * (network_m / PRIOR.pivot_m) ** 0.25
    np.testing.assert_allclose(frame.answer(uv, scale=scale).depth_m, truth_m, rtol=0.05)


def test_a_fifth_of_outliers_does_not_matter(predictor, frame):
    rng, errors, medians, truths = np.random.default_rng(5), [], [], []
    for _ in range(60):
        truths.append(PRIOR.sigma_log * rng.standard_normal())
        uv, depth_m = references(frame, rng, 5, math.exp(truths[-1]), 0.15, outlier=0.2)
        scale = ScaleFilter(predictor)
        scale.update(frame, uv, depth_m)
        errors.append(math.log(scale.factor) - truths[-1])
        medians.append(np.median(np.log(depth_m / frame.depth_at(uv))) - truths[-1])
    assert np.std(errors) < 0.75 * np.std(truths)
    assert np.std(errors) < 0.85 * np.std(medians)


def test_one_reference_moves_it_a_part_of_the_way_and_a_wild_one_hardly(predictor, frame):
    uv = np.array([[100.0, 120.0]])
    scales = {}
    for factor in (1.2, 1 / 1.2, 8.0):
        scales[factor] = ScaleFilter(predictor)
        scales[factor].update(frame, uv, factor * frame.depth_at(uv))
    assert 1.03 < scales[1.2].factor < 1.15
    assert 1 / 1.15 < scales[1 / 1.2].factor < 1 / 1.03
    assert 1 < scales[8.0].factor < 1.12
    assert 0.6 * PRIOR.sigma_log < scales[1.2].sigma_log < scales[8.0].sigma_log <= 1.1 * PRIOR.sigma_log


def test_nothing_but_outliers_moves_it_less_than_a_median_and_leaves_it_unsure(predictor, frame):
    moved, medians, sigmas = [], [], []
    for seed in range(30):
        rng, scale = np.random.default_rng(seed), ScaleFilter(predictor)
        uv = places(rng, 8)
        depth_m = np.median(network_depth(frame, places(rng, 100))) * np.exp(rng.uniform(-1.5, 1.5, 8))
        scale.update(frame, uv, depth_m)
        moved.append(math.log(scale.factor))
        medians.append(np.median(np.log(depth_m / network_depth(frame, uv))))
        sigmas.append(scale.sigma_log)
    assert np.std(moved) < 0.6 * np.std(medians)
    assert np.median(np.abs(moved)) < PRIOR.sigma_log
    assert np.mean(sigmas) > 0.6 * PRIOR.sigma_log


def test_a_jump_is_followed_within_two_seconds(predictor, frame):
    for count in (5, 20):
        rng, scale, before = np.random.default_rng(count), ScaleFilter(predictor), []
        for i in range(60):
            scale.update(frame, *references(frame, rng, count, outlier=0.2), stamp_s=i / 10)
            before += [scale.factor] * (i >= 20)
        for i in range(60, 80):
            scale.update(frame, *references(frame, rng, count, 1.3, outlier=0.2), stamp_s=i / 10)
        assert scale.factor / np.mean(before) == pytest.approx(1.3, rel=0.05)


def test_a_sequence_of_few_references_is_as_good_as_many_at_once(predictor, frame):
    """Twenty in one image against two in each of ten, at other pixels each time."""
    rng, errors, sigmas = np.random.default_rng(6), [], []
    for truth in np.exp(PRIOR.sigma_log * rng.standard_normal(60)):
        at_once, spread = ScaleFilter(predictor), ScaleFilter(predictor)
        at_once.update(frame, *references(frame, rng, 20, truth, 0.1, outlier=0.2))
        for i in range(20):
            spread.update(frame, *references(frame, rng, 2, truth, 0.1, outlier=0.2), stamp_s=i / 10)
        errors.append([math.log(scale.factor / truth) for scale in (at_once, spread)])
        sigmas.append([at_once.sigma_log, spread.sigma_log])
    at_once_rms, spread_rms = np.sqrt(np.mean(np.square(errors), axis=0))
    assert spread_rms < 1.1 * at_once_rms < 0.06
    assert np.divide(*np.mean(sigmas, axis=0)) == pytest.approx(1.0, rel=0.15)


def test_order_of_updates_does_not_matter_and_late_ones_count(predictor, frame):
    rng = np.random.default_rng(7)
    parts = [(*references(frame, rng, 4, 1.25), None, stamp_s) for stamp_s in (10.0, 10.0, 10.1, 10.2)]
    factors = []
    for order in ([0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0], [0, 2, 3, 1]):
        scale = ScaleFilter(predictor)
        for i in order:
            scale.update(frame, *parts[i])
        factors.append(scale.factor)
    assert factors[0] == pytest.approx(factors[1], rel=1e-5)
    np.testing.assert_allclose(factors, factors[0], rtol=0.01)


def test_without_references_the_estimate_stays_and_its_sigma_grows_to_the_priors(predictor, frame):
    rng, scale = np.random.default_rng(8), ScaleFilter(predictor)
    for i in range(20):
        scale.update(frame, *references(frame, rng, 10, 1.25), stamp_s=i / 10)
    factor, sigmas = scale.factor, [scale.sigma_log]
    for stamp_s in (2.0, 2.5, 3.0, 4.0, 6.0, 60.0):
        scale.update(frame, np.zeros((0, 2)), np.zeros(0), stamp_s=stamp_s)
        assert scale.factor == factor
        sigmas.append(scale.sigma_log)
    assert sigmas == sorted(sigmas)
    assert sigmas[-1] == pytest.approx(PRIOR.sigma_log, rel=1e-3)
    scale.update(frame, *references(frame, rng, 1, 1.25), stamp_s=61.0)
    assert scale.factor == pytest.approx(1.25, rel=0.08)


def test_a_camera_that_is_always_off_is_known_to_be(predictor, frame):
    """References that come one by one, always at the same pixel: soon half-believed, in two minutes believed."""
    uv = np.array([[160.0, 120.0]])
    scale, factors = ScaleFilter(predictor), []
    depth_m = 1.3 * frame.depth_at(uv)
    for i in range(300):
        scale.update(frame, uv, depth_m, stamp_s=0.4 * i)
        factors.append(scale.factor)
    assert factors[5] < 1.25 < factors[-1] < 1.35
    assert scale.sigma_log > 0.6 * PRIOR.sigma_log


@pytest.mark.parametrize("at_once", [False, True])
def test_many_references_at_one_place_say_hardly_more_than_one(predictor, frame, at_once):
    uv = np.array([[160.0, 120.0]]) + np.random.default_rng(9).uniform(-2, 2, (30, 2))
    depth_m = 1.2 * frame.depth_at(uv)
    one, many = ScaleFilter(predictor), ScaleFilter(predictor)
    one.update(frame, uv[:1], depth_m[:1])
    for i in range(1 if at_once else len(uv)):
        part = slice(None) if at_once else slice(i, i + 1)
        many.update(frame, uv[part], depth_m[part], stamp_s=i / 100)
    assert many.sigma_log > 0.85 * one.sigma_log
    assert many.factor < 1.03 * one.factor


def test_a_surer_reference_weighs_more(predictor, frame):
    uv = np.array([[40.0, 60.0], [280.0, 180.0]])
    depth_m = frame.depth_at(uv) * [1.25, 0.8]
    for sigmas, sign in (([0.01, 0.5], 1), ([0.5, 0.01], -1), ([np.nan, 0.5], 1)):
        scale = ScaleFilter(predictor, replace(PRIOR, sigma_slope=1e-3))
        scale.update(frame, uv, depth_m, depth_m * sigmas)
        assert sign * math.log(scale.factor) > 0.02


def test_what_is_not_usable_is_ignored_and_counted(predictor, frame):
    uv = np.array(
        [[10, 10], [-1, 5], [np.nan, 3], [320, 3], [20, 20], [30, 30], [40, 40], [50, 50], [60, 60], [70, 70]]
    )
    depth_m = np.array([2.0, 2, 2, 2, np.nan, -1, 0, np.inf, 2, 2])
    sigma_m = np.array([np.nan, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, -0.1, np.inf])
    scale, alone = ScaleFilter(predictor), ScaleFilter(predictor)
    scale.update(frame, uv, depth_m, sigma_m)
    alone.update(frame, uv[:1], depth_m[:1])
    assert (scale.used, scale.ignored) == (1, 9)
    assert (scale.factor, scale.sigma_log) == (alone.factor, alone.sigma_log)


def test_a_whole_lidar_cloud_costs_no_more_than_a_few_references(predictor, frame, monkeypatch):
    asked = []
    uv = places(np.random.default_rng(10), 60_000)
    depth_m = 1.2 * network_depth(frame, uv)
    answer = EncodedFrame.answer
    monkeypatch.setattr(EncodedFrame, "answer", lambda frame, uv: asked.append(len(uv)) or answer(frame, uv))
    scale = ScaleFilter(predictor)
    for i in range(3):
        scale.update(frame, uv, depth_m, stamp_s=i / 10)
    assert asked == [MOST_AT_ONCE] * 3
    assert (scale.used, scale.ignored) == (3 * MOST_AT_ONCE, 3 * (len(uv) - MOST_AT_ONCE))
    assert scale.factor == pytest.approx(1.2, rel=0.02)


@pytest.mark.parametrize(
    ("uv", "depth_m", "sigma_m", "message"),
    [
        (np.zeros((3, 3)), np.ones(3), None, r"got \[3, 3\], \[3\] and \[3\]"),
        (np.zeros((3, 2)), np.ones(2), None, r"got \[3, 2\], \[2\] and \[2\]"),
        (np.zeros((3, 2)), np.ones((3, 1)), None, r"\[3, 1\]"),
        (np.zeros((3, 2)), np.ones(3), np.ones(2), r"and \[2\]"),
        (np.zeros(2), 1.0, None, r"got \[2\], \[\]"),
        ([["a", "b"]], [1.0], None, "must be numbers"),
    ],
)
def test_wrong_references_are_named_and_change_nothing(predictor, frame, uv, depth_m, sigma_m, message):
    scale = ScaleFilter(predictor)
    with pytest.raises(ScaleError, match=message):
        scale.update(frame, uv, depth_m, sigma_m)
    assert (scale.factor, scale.used, scale.ignored) == (1.0, 0, 0)


@pytest.mark.parametrize("stamp_s", [np.nan, np.inf, None, "1"])
def test_a_stamp_that_is_no_time_is_named_and_changes_nothing(predictor, frame, stamp_s):
    scale = ScaleFilter(predictor)
    plane = FloorPlane.from_tilt(1.3, 10)
    asks = (
        lambda: scale.update(frame, [[1, 2]], [1.0], stamp_s=stamp_s),
        lambda: scale.update_floor(frame, plane, stamp_s),
        lambda: scale.advance(stamp_s),
    )
    for ask in asks:
        with pytest.raises(ScaleError, match="a stamp must be a time in seconds, got "):
            ask()
    scale.advance(1.0)
    assert (scale.factor, scale.used) == (1.0, 0)


def test_no_garbage_makes_the_estimate_infinite(predictor, frame):
    rng, scale = np.random.default_rng(11), ScaleFilter(predictor)
    odd = np.array([0.0, -1.0, np.nan, np.inf, -np.inf, 1e-300, 1e300, 1e9, 3.0])
    for _ in range(60):
        count = rng.integers(0, 12)
        uv = rng.choice([*odd, 100.0, 200.0], (count, 2))
        sigma_m = rng.choice(odd, count) if rng.random() < 0.5 else None
        scale.update(frame, uv, rng.choice(odd, count), sigma_m, rng.choice([0.0, -5.0, 1e9, 1e-9, 7.0]))
        assert 0.01 < scale.factor < 100
        assert 0 < scale.sigma_log < 1
        assert np.isfinite(frame.answer(np.array([[100.0, 100.0]]), scale=scale).depth_m).all()


def test_a_range_finder_that_is_stuck_does_not_make_everything_as_far_as_it_says(predictor, frame):
    rng, scale = np.random.default_rng(13), ScaleFilter(predictor)
    uv = places(rng, 500)
    for i in range(1000):
        scale.update(frame, uv[i % 500, None], np.array([0.3]), stamp_s=i)
    assert abs(scale.slope) < 0.7
    depth_m, _ = scale.correct(np.float32([0.5, 1, 2, 4]), np.zeros(4))
    assert np.all(np.diff(np.log(depth_m)) > 0.2)
    answer = frame.answer(uv, scale)
    np.testing.assert_allclose(answer.scale, answer.depth_m / frame.depth_at(uv), rtol=1e-6)
    assert np.ptp(answer.scale) > 0.001


def test_of_a_time_long_before_the_last_reference_nothing_is_known(predictor, frame):
    rng, scale = np.random.default_rng(14), ScaleFilter(predictor)
    for i in range(20):
        scale.update(frame, *references(frame, rng, 10, 1.25), stamp_s=100 + i / 10)
    sure = scale.sigma_log
    scale.advance(0.0)  # a bag that has started again, and no references
    assert scale.sigma_log == pytest.approx(PRIOR.sigma_log, rel=1e-3)
    scale.update(frame, *references(frame, rng, 10, 1.25), stamp_s=0.1)
    assert sure < scale.sigma_log < 0.5 * PRIOR.sigma_log


def test_a_late_reference_erases_nothing(predictor, frame):
    """Of a SLAM a second behind the LiDAR, say: only frames tell that a bag has started again."""
    rng = np.random.default_rng(15)
    parts = [references(frame, rng, 10, 1.25) for _ in range(20)]
    late = references(frame, rng, 1, 1.0)
    estimates = []
    for late_s in (None, 0.9, 1.1, 2.5, 60.0):
        scale = ScaleFilter(predictor)
        for i, part in enumerate(parts):
            scale.advance(100 + i / 10)
            scale.update(frame, *part, stamp_s=100 + i / 10)
        if late_s is not None:
            scale.update(frame, *late, stamp_s=101.9 - late_s)
        estimates.append((scale.factor, scale.sigma_log))
    np.testing.assert_allclose(estimates, [estimates[0]] * 5, rtol=0.02)


def test_a_late_reference_does_not_make_sure_of_what_was_long_ago(predictor, frame):
    rng, scale = np.random.default_rng(16), ScaleFilter(predictor)
    scale.update(frame, *references(frame, rng, 20, 1.25), stamp_s=100.0)
    scale.advance(110.0)
    scale.update(frame, *references(frame, rng, 20, 1.25), stamp_s=100.1)
    assert scale.sigma_log == pytest.approx(PRIOR.sigma_log, rel=1e-3)


def test_stamps_that_fall_back_start_anew_from_the_estimate(predictor, frame):
    rng, scale = np.random.default_rng(12), ScaleFilter(predictor)
    for i in range(30):
        scale.update(frame, *references(frame, rng, 10, 1.25), stamp_s=100 + i / 10)
    scale.advance(1.0)
    scale.update(frame, *references(frame, rng, 1, 1.25), stamp_s=1.0)
    assert scale.factor == pytest.approx(1.25, rel=0.08)
    for i in range(20):
        scale.update(frame, *references(frame, rng, 10, 1.0), stamp_s=1 + i / 10)
    assert scale.factor == pytest.approx(1.0, rel=0.06)


def test_sigma_of_an_answer_holds_the_networks_own_and_the_scales(predictor, frame):
    rng, scale = np.random.default_rng(13), ScaleFilter(predictor, PRIOR)
    depth_m = np.array([1.0, 2.5, 6.0, np.nan], np.float32)
    network = np.array([0.2, 0.2, np.nan, 0.2], np.float32)
    own = 0.2 * PRIOR.spread_log / math.hypot(PRIOR.spread_log, PRIOR.sigma_log)
    before_m, before = scale.correct(depth_m, network)
    np.testing.assert_array_equal(before_m, depth_m)
    assert before[1] == pytest.approx(math.hypot(own, PRIOR.sigma_log), rel=1e-5)
    assert np.isnan(before[2])
    for i in range(20):
        scale.update(frame, *references(frame, rng, 20, 1.2), stamp_s=i / 10)
    after_m, after = scale.correct(depth_m, network)
    assert after_m.dtype == after.dtype == np.float32
    assert after_m[1] == pytest.approx(2.5 * scale.factor, rel=1e-5)
    assert np.isnan(after_m[3])
    assert after[1] == pytest.approx(math.hypot(own, scale.sigma_log), rel=1e-5)
    assert (after[:2] < before[:2]).all()


@pytest.mark.parametrize(
    "bad", [{"factor": value} for value in (0.0, np.nan, "1", None)] + [{"factor": 1, "sigma_log": -1}]
)
def test_a_fixed_scale_is_positive(bad):
    with pytest.raises(ScaleError, match="positive factor"):
        FixedScale(**bad)


def test_the_prior_is_wider_in_an_image_of_which_the_network_is_unsure(embedded):
    prior = ScalePrior(sigma_log=0.1, network_sigma=0.2)
    assert prior.sigma_log_where(np.full(6, 0.2)) == pytest.approx(0.1)
    assert prior.sigma_log_where(np.array([0.4, np.nan, 0.6])) == pytest.approx(0.1 * (0.4 + 0.6 + 3 * 0.2) / 5 / 0.2)
    assert ScalePrior(sigma_log=0.1).sigma_log_where(np.array([np.nan])) == 0.1  # a network that says none
    rgb = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    frame = embedded.encode(rgb, Camera(259.0, 259.0, 159.5, 119.5))
    uv = places(np.random.default_rng(1), 5)
    said = np.mean(frame.answer(uv).sigma_m / frame.depth_at(uv))
    moved = []
    for usual in (0.5 * said, said, 2 * said):
        scale = ScaleFilter(embedded, replace(prior, network_sigma=float(usual)))
        scale.update(frame, uv, 1.3 * frame.depth_at(uv))
        moved.append(scale.factor)
    as_ever = ScaleFilter(embedded, replace(prior, network_sigma=0.0))
    as_ever.update(frame, uv, 1.3 * frame.depth_at(uv))
    assert moved[0] > moved[1] > moved[2]
    assert moved[1] == pytest.approx(as_ever.factor, rel=1e-3)


@pytest.mark.parametrize(
    "bad",
    [{"sigma_log": 0.0}, {"spread_log": np.nan}, {"pivot_m": -1.0}, {"sigma_slope": "0.1"}, {"network_sigma": -0.1}],
)
def test_a_prior_has_positive_widths(bad):
    with pytest.raises(ScaleError, match="must be positive and finite"):
        ScalePrior(**bad)


def test_the_prior_is_that_of_the_checkpoint(tmp_path):
    torch.manual_seed(0)
    model = SPD.from_preset("lite")
    checkpoint.save(model, tmp_path / "a.safetensors", scale_prior={"sigma_log": 0.3, "pivot_m": 4.0})
    checkpoint.save(model, tmp_path / "b.safetensors")
    checkpoint.save(model, tmp_path / "c.safetensors", scale_prior={"sigma": 0.3})
    scales = [Predictor.load(tmp_path / f"{name}.safetensors", device="cpu", runtime="torch") for name in "abc"]
    assert ScaleFilter(scales[0]).prior == ScalePrior(sigma_log=0.3, pivot_m=4.0)
    assert ScaleFilter(scales[0]).sigma_log == pytest.approx(0.3)
    assert ScaleFilter(scales[1]).prior == ScalePrior()
    with pytest.raises(ScaleError, match=r"scale_prior is \{'sigma': 0\.3\}; expected some of"):
        ScaleFilter(scales[2])
    with pytest.raises(ScaleError, match="of a Predictor's answers, got 'embedded'; Predictor"):
        ScaleFilter("embedded")
