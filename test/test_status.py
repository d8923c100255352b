"""The status of every point, and what stands beside it: the contract of `EncodedFrame.answer`."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.models import lively

from spd_core import SPD, Camera, Predictor
from spd_core.scale import FixedScale
from spd_core.status import Status

CAMERA = Camera(525.0, 525.0, 319.5, 239.5)
UV = np.array([[100.5, 200.25], [-0.6, 10.0], [np.nan, 3.0], [639.5, 479.5], [5.0, np.inf], [639.6, 479.5]])
STATUS = [Status.OK, Status.OUTSIDE_IMAGE, Status.NOT_FINITE, Status.OK, Status.NOT_FINITE, Status.OUTSIDE_IMAGE]


class HalfLens(Camera):
    """A lens whose model says nothing to the right of the principal point."""

    def unproject(self, points_px, depth_m):
        xyz_m = super().unproject(points_px, depth_m)
        xyz_m[points_px[..., 0] > self.cx, :2] = np.nan
        return xyz_m


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    return Predictor(lively(SPD.from_preset("lite")), "cpu")


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)


def assert_consistent(answer, count, has_camera=True):
    """Shapes, types, and that numbers are there exactly where the status says so."""
    assert [x.dtype for x in (answer.depth_m, answer.sigma_m, answer.xyz_m)] == [np.float32] * 3
    assert answer.status.dtype == np.uint8
    assert answer.depth_m.shape == answer.sigma_m.shape == answer.status.shape == (count,)
    assert answer.xyz_m.shape == (count, 3)
    with_depth = np.isin(answer.status, [Status.OK, Status.NO_CAMERA_INFO, Status.INVALID_RAY])
    np.testing.assert_array_equal(np.isfinite(answer.depth_m), with_depth)
    np.testing.assert_array_equal(np.isnan(answer.depth_m), ~with_depth)
    np.testing.assert_array_equal(np.isfinite(answer.xyz_m).all(axis=1), answer.status == Status.OK)
    np.testing.assert_array_equal(np.isnan(answer.xyz_m).all(axis=1), answer.status != Status.OK)
    np.testing.assert_array_equal(np.isfinite(answer.sigma_m), with_depth)
    assert has_camera or Status.OK not in answer.status


def test_every_point_has_the_status_of_its_place(predictor, rgb):
    frame = predictor.encode(rgb, CAMERA)
    answer = frame.answer(UV)
    assert answer.status.tolist() == STATUS
    assert_consistent(answer, len(UV))
    np.testing.assert_array_equal(answer.depth_m, frame.depth_at(UV))
    np.testing.assert_array_equal(answer.xyz_m, frame.points_at(UV))
    assert_consistent(frame.answer(np.zeros((0, 2))), 0)


def test_without_a_camera_there_is_depth_but_no_xyz(predictor, rgb):
    with pytest.warns(UserWarning, match="no camera intrinsics"):
        frame = Predictor(predictor.model, "cpu").encode(rgb)
    answer = frame.answer(UV)
    assert answer.status.tolist() == [Status.NO_CAMERA_INFO if s == Status.OK else s for s in STATUS]
    assert_consistent(answer, len(UV), has_camera=False)
    np.testing.assert_array_equal(answer.depth_m, frame.depth_at(UV))


def test_where_the_lens_has_no_ray_depth_stays(predictor, rgb):
    frame = predictor.encode(rgb, HalfLens(525.0, 525.0, 319.5, 239.5))
    answer = frame.answer(UV)
    assert answer.status.tolist() == [*STATUS[:3], Status.INVALID_RAY, *STATUS[4:]]
    assert_consistent(answer, len(UV))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("camera", [CAMERA, None])
def test_a_network_that_fails_at_some_points_says_so_there_alone(predictor, rgb, value, camera):
    """One feature vector of the top left corner is not a number: far points do not see it."""
    frame = predictor.encode(rgb, camera)
    healthy = frame.answer(UV)
    with torch.inference_mode():
        frame.features.maps["stride8"][:, 0, 0] = value
    near, uv = len(UV), np.concatenate([UV, [[0.0, 0.0]]])
    answer = frame.answer(uv)
    assert answer.status[near] == Status.NETWORK_NAN
    np.testing.assert_array_equal(answer.status[:near], healthy.status)
    np.testing.assert_allclose(answer.depth_m[:near], healthy.depth_m, rtol=1e-5)
    assert_consistent(answer, len(uv), camera is not None)


def test_a_scale_multiplies_all_metres(predictor, rgb):
    frame = predictor.encode(rgb, CAMERA)
    plain, scaled = frame.answer(UV), frame.answer(UV, FixedScale(1.25, 0.1))
    np.testing.assert_array_equal(scaled.status, plain.status)
    np.testing.assert_allclose(scaled.depth_m, 1.25 * plain.depth_m, rtol=1e-6)
    np.testing.assert_allclose(scaled.xyz_m, 1.25 * plain.xyz_m, rtol=1e-5)
    np.testing.assert_allclose(scaled.scale, np.full(len(UV), 1.25), rtol=1e-6)  # also where there is no depth
    assert_consistent(scaled, len(UV))


def test_a_network_without_sigma_says_none(rgb):
    answer = Predictor(SPD.from_preset("lite", sigma=False), "cpu").encode(rgb, CAMERA).answer(UV)
    assert answer.status.tolist() == STATUS
    assert np.isnan(answer.sigma_m).all()


@pytest.mark.parametrize("scale", [None, FixedScale(2.0, 0.3)])
def test_sigma_is_that_of_the_network_and_of_the_scale_in_quadrature(rgb, scale):
    """Of a Laplace distribution of log depth, sampled from the dense map by torch's own grid_sample."""
    torch.manual_seed(1)
    model = lively(SPD.from_preset("lite"))
    uv = np.array([[10.0, 20.0], [333.3, 222.2], [-7.0, 3.0], [600.5, 470.25]])
    frame = Predictor(model, "cpu", runtime="torch").encode(rgb, CAMERA)
    answer = frame.answer(uv, scale)
    with torch.inference_mode():
        maps = model.decode_maps(model.encode(frame.transform.tensor(rgb, torch.device("cpu"), torch.float32)))
    grid = (torch.tensor(uv) + 0.5) / torch.tensor([640, 480]) * 2 - 1
    scale_map = F.grid_sample(maps[:, 1:].double(), grid[None, None], padding_mode="border", align_corners=False)
    network = np.sqrt(2) * scale_map[0, 0, 0].numpy()
    expected = answer.depth_m * np.hypot(network, 0.0 if scale is None else scale.sigma_log)
    assert answer.sigma_m.dtype == np.float32
    assert scale_map.std() > 1e-4
    assert np.isnan(answer.sigma_m).tolist() == [False, False, True, False]
    np.testing.assert_allclose(answer.sigma_m, expected, rtol=1e-4)
