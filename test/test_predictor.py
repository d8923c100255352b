"""Numpy in, numpy out: pixels of the camera image, metres, NaN where there is no answer."""

import copy
import os
import pickle
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from inspect import signature

import numpy as np
import pytest
import torch
from support.models import lively, needs_onnx

from spd_cli import commands, recordings
from spd_core import SPD, Camera, Predictor, runtimes
from spd_core.encoders import create_encoder
from spd_core.errors import SPDError
from spd_core.export import onnx_session
from spd_core.pixels import checked_points
from spd_core.predictor import KEPT_FRAMES
from spd_core.status import Status
from spd_ros.parameters import PARAMETERS

CAMERA = Camera(525.0, 525.0, 319.5, 239.5)


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    return Predictor(lively(SPD.from_preset("lite")), device="cpu", runtime="torch")


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)


def test_a_frame_is_shown_in_a_line_without_its_features(predictor, rgb):
    shown = repr(predictor.encode(rgb, CAMERA))
    assert len(shown) < 400
    assert repr(CAMERA) in shown


def test_depth_at_every_pixel_is_the_dense_map(predictor, rgb):
    frame = predictor.encode(rgb, CAMERA)
    dense = frame.dense_depth()
    assert dense.shape == (480, 640)
    y, x = np.mgrid[:480:7, :640:7]
    uv = np.stack([x, y], axis=-1).reshape(-1, 2)
    depth = frame.depth_at(uv)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, dense[uv[:, 1], uv[:, 0]], rtol=1e-4)
    assert dense.std() > 0.02


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (100, 90), (192, 256), (300, 64), (40, 500)])
def test_any_image_size_is_answered_in_its_own_pixels(predictor, size):
    rgb = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    frame = predictor.encode(rgb, Camera(525.0, 525.0, (size[1] - 1) / 2, (size[0] - 1) / 2))
    corners = np.array([[0, 0], [size[1] - 1, size[0] - 1], [-0.5, -0.5], [size[1] - 0.5, size[0] - 0.5]])
    assert np.isfinite(frame.depth_at(corners)).all()
    outside = np.array([[-0.6, 0], [size[1] - 0.4, 0], [0, size[0]], [np.nan, 3], [3, -np.inf], [1e30, 1e30]])
    assert np.isnan(frame.depth_at(outside)).all()


def test_order_is_kept_among_points_inside_and_outside(predictor, rgb):
    frame = predictor.encode(rgb, CAMERA)
    uv = np.array([[10, 10], [-5, 0], [600, 400], [np.nan, 0], [10, 10]])
    depth = frame.depth_at(uv)
    assert np.isnan(depth[[1, 3]]).all()
    assert depth[0] == depth[4] == pytest.approx(frame.depth_at(uv[:1])[0], rel=1e-6)
    assert frame.depth_at(np.zeros((0, 2))).shape == (0,)


def test_depth_grows_with_the_focal_length(rgb):
    predictor = Predictor(SPD.from_preset("lite", fit="inside"), "cpu")
    uv = np.array([[100.5, 200.25]])
    near, far = (predictor.encode(rgb, Camera(f, f, 319.5, 239.5)).depth_at(uv) for f in (400, 800))
    assert far == pytest.approx(2 * near, rel=1e-6)


@pytest.mark.parametrize(
    ("focal_px", "size"), [(350, (356, 474)), (525, (238, 317)), (900, (163, 218)), (100, (416, 554)), (5000, (64, 85))]
)
def test_images_are_scaled_to_the_training_focal_length(predictor, rgb, focal_px, size):
    """Up to three times the input size, and down to 64 px; what would be smaller than the input, by the 0.3rd power
    less. The correction of depth makes up what is left."""
    frame = predictor.encode(rgb, Camera(focal_px, focal_px, 319.5, 239.5))
    assert frame.features.size == size
    assert frame.focal_factor == pytest.approx(
        focal_px * size[1] / 640 / predictor.model.config.training_focal_px, rel=0.01
    )
    assert (abs(frame.focal_factor - 1) < 0.01) == (focal_px in (350, 525))
    assert np.isfinite(frame.depth_at(np.array([[0.0, 0.0], [639, 479]]))).all()


def test_training_focal_length_needs_no_correction(predictor, rgb):
    focal = predictor.model.config.training_focal_px / 0.5  # 640 px are scaled to 320
    with pytest.warns(UserWarning, match="no camera intrinsics: depth assumes a focal length of 519 px at 640x480"):
        blind = Predictor(predictor.model, "cpu").encode(rgb)
    uv = np.array([[100.5, 200.25]])
    assert blind.depth_at(uv) == pytest.approx(
        predictor.encode(rgb, Camera(focal, focal, 319.5, 239.5)).depth_at(uv), rel=1e-5
    )
    with pytest.raises(ValueError, match="needs the camera's intrinsics"):
        blind.points_at(uv)


def test_points_project_back_to_their_pixels(predictor, rgb):
    uv = np.array([[0.0, 0.0], [639.0, 479.0], [319.5, 239.5], [12.25, 400.75]])
    frame = predictor.encode(rgb, CAMERA)
    xyz = frame.points_at(uv)
    assert xyz.shape == (4, 3)
    np.testing.assert_allclose(xyz[:, 2], frame.depth_at(uv))
    np.testing.assert_allclose(CAMERA.project(xyz), uv, atol=1e-3)


@pytest.fixture
def planned(predictor, rgb, monkeypatch):
    """The arguments of each plan that is made from now on, the frame before having been asked once."""
    predictor.encode(rgb, CAMERA).depth_at(np.zeros((1, 2)))
    made, plan_points = [], predictor.model.plan_points
    monkeypatch.setattr(predictor.model, "plan_points", lambda *a: made.append(a) or plan_points(*a))
    return made


def test_same_points_are_planned_once(predictor, rgb, planned):
    uv = np.random.default_rng(5).uniform(0, 400, (30, 2))
    first = predictor.encode(rgb, CAMERA).depth_at(uv)
    again = predictor.encode(rgb[::-1].copy(), CAMERA).depth_at(uv.copy())
    assert len(planned) == 1
    assert not np.allclose(first, again)
    predictor.encode(rgb, CAMERA).depth_at(uv[:-1])
    assert len(planned) == 2


def test_points_planned_ahead_are_not_planned_again(predictor, rgb, monkeypatch):
    uv = np.random.default_rng(6).uniform(-20, 420, (30, 2))  # some outside
    expected = predictor.encode(rgb, CAMERA).depth_at(uv)
    other = Predictor(predictor.model, "cpu", runtime="torch")
    frame = other.encode(rgb, CAMERA)
    other.prepare(uv, (480, 640))
    other.prepare(uv, (333, 555))  # no image of that size came yet: nothing to plan for
    monkeypatch.setattr(other.model, "plan_points", None)
    np.testing.assert_array_equal(frame.depth_at(uv), expected)


def test_queries_of_one_frame_share_what_was_evaluated(predictor, rgb):
    """A later query evaluates less than on a fresh frame and answers the same, after `dense_depth` too."""
    rng = np.random.default_rng(11)
    queries = [rng.uniform(0, 470, (128, 2)) for _ in range(3)]
    expected = [predictor.encode(rgb, CAMERA).depth_at(uv) for uv in queries]
    frame = predictor.encode(rgb, CAMERA)
    dense = frame.dense_depth()
    for uv, depth in [*zip(queries, expected)] * 2:
        np.testing.assert_allclose(frame.depth_at(uv), depth, rtol=1e-4)
    known = predictor.known_of(frame)
    assert sum(rows.nbytes for rows in known.values.values()) < 2.4e6
    plan = predictor.plan(
        frame.transform.points(queries[0])[None], frame.features.grids, frame.features.size, known.coverage
    )
    assert predictor.model.sparse_decoder.multiply_accumulates(plan) == 0  # all of it was asked before
    np.testing.assert_array_equal(frame.dense_depth(), dense)


def test_queries_that_stay_are_planned_once_and_the_first_for_the_second_too(predictor, rgb, planned):
    first, second = np.random.default_rng(12).uniform(0, 400, (2, 30, 2))
    for image in (rgb, rgb[::-1].copy(), rgb):
        frame = predictor.encode(image, CAMERA)
        frame.depth_at(first)
        frame.depth_at(second)
    # Of the first frame nobody knows that it will be asked again.
    assert [is_shared for *_, is_shared in planned] == [False, False, True, False]
    for _ in range(2):
        predictor.encode(rgb, CAMERA).depth_at(first)  # nor of one after a frame that was asked once
    assert len(planned) == 4


def test_the_frames_asked_last_remember(predictor, rgb):
    uv = np.random.default_rng(13).uniform(0, 400, (30, 2))
    frames = [predictor.encode(rgb, CAMERA) for _ in range(KEPT_FRAMES + 2)]
    answers = [frame.depth_at(uv) for frame in frames]
    frames[2].depth_at(uv + 1)
    assert [bool(predictor.known_of(frame).values) for frame in frames] == [False, False] + KEPT_FRAMES * [True]
    frames[0].depth_at(uv)
    assert [bool(predictor.known_of(frame).values) for frame in frames] == [True, False, True, False, True, True]
    np.testing.assert_array_equal(frames[3].depth_at(uv), answers[3])


def test_threads_ask_one_frame_at_once(predictor, rgb):
    """Every answer is that of a thread alone, while memories are filled and, of other frames, emptied."""
    rng = np.random.default_rng(14)
    queries = [rng.uniform(0, 470, (count, 2)) for count in (1, 30, 128, 128, 400, 3000)]
    images = [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(KEPT_FRAMES + 1)]
    expected = [[predictor.encode(image, CAMERA).depth_at(uv) for uv in queries] for image in images]
    frames = [predictor.encode(image, CAMERA) for image in images]

    def ask(seed: int) -> float:
        worst, rng = 0.0, np.random.default_rng(seed)
        for _ in range(20):
            frame, query = rng.integers(len(frames)) if seed % 2 else 0, rng.integers(len(queries))
            depth = frames[frame].depth_at(queries[query])
            worst = max(worst, float(np.abs(depth / expected[frame][query] - 1).max()))
        return worst

    with ThreadPoolExecutor(6) as threads:
        assert max(threads.map(ask, range(6))) < 1e-4


def test_a_query_of_many_points_is_answered_in_parts(predictor, rgb, monkeypatch):
    frame, uv = predictor.encode(rgb, CAMERA), np.random.default_rng(7).uniform(-5, 470, (300, 2))
    expected = frame.depth_at(uv)
    monkeypatch.setattr("spd_core.predictor.MOST_POINTS", 70)
    np.testing.assert_allclose(frame.depth_at(uv), expected, rtol=1e-5)


def test_an_input_size_is_an_argument_of_one_image(predictor, rgb):
    """Answered as by a predictor that has that size for all of its images, and forgotten after it."""
    uv = np.random.default_rng(9).uniform(0, 470, (40, 2))
    own = predictor.encode(rgb, CAMERA).depth_at(uv)
    sized = predictor.encode(rgb, CAMERA, input_size=(96, 128))
    assert sized.features.size == (96, 128)
    always = Predictor(predictor.model, "cpu", input_size=(96, 128), runtime="torch")
    np.testing.assert_array_equal(sized.depth_at(uv), always.encode(rgb, CAMERA).depth_at(uv))
    assert not np.allclose(sized.depth_at(uv), own, rtol=0.01)
    np.testing.assert_array_equal(predictor.encode(rgb, CAMERA).depth_at(uv), own)
    with pytest.raises(SPDError, match="at least 64"):
        predictor.encode(rgb, CAMERA, input_size=(32, 640))
    for size in (("a", "b"), (np.nan, np.nan), (96, np.inf), np.ones((2, 2)), 96):
        with pytest.raises(SPDError, match=r"input_size must be \(height, width\) of at least 64 px, got"):
            predictor.encode(rgb, CAMERA, input_size=size)
    again = predictor.encode(rgb, CAMERA, input_size=np.array([96, 128]))
    np.testing.assert_array_equal(again.depth_at(uv), sized.depth_at(uv))


@pytest.mark.parametrize(
    ("preset", "training", "precision", "is_shared"),
    [
        ("v15", False, "fp32", True),
        ("v15", True, "fp32", False),
        ("v15", False, "bf16", False),
        ("lite", False, "fp32", False),  # has BatchNorm
    ],
)
def test_the_model_given_is_never_changed(preset, training, precision, is_shared):
    model = SPD.from_preset(preset).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predictor = Predictor(model, "cpu", precision)
    assert before.keys() == model.state_dict().keys()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.training == model.encoder.training == training
    assert (predictor.model is model) == is_shared
    assert not predictor.model.training
    assert {p.dtype for p in predictor.model.parameters()} == {predictor.dtype}


def test_there_is_one_default_runtime():
    """For Python, the command line and the node: numbers of one are numbers of the other."""
    defaults = {
        signature(function).parameters["runtime"].default
        for function in (Predictor.__init__, Predictor.load, commands.evaluate_checkpoint, recordings.replay)
    }
    assert defaults == {PARAMETERS["runtime"].default} == {"auto"}


@needs_onnx
@pytest.mark.parametrize(("preset", "runtime", "graphs"), [("lite", "auto", 1), ("v15_dinov2", "onnxruntime", 2)])
def test_onnxruntime_encodes_as_torch_does(models, preset, runtime, graphs, rgb, monkeypatch):
    uv = np.random.default_rng(8).uniform(0, 400, (100, 2))
    answers, made = {}, []
    monkeypatch.setattr(runtimes.OnnxRuntime, "IMAGES_BEFORE_GRAPH", 1)
    monkeypatch.setattr(runtimes, "onnx_session", lambda graph: made.append(1) or onnx_session(graph))
    for name in ("torch", runtime):
        predictor = Predictor(models[preset], "cpu", input_size=(140, 154), runtime=name)
        answers[name] = [
            predictor.encode(image, CAMERA).depth_at(uv) for image in [rgb, rgb[:, :500].copy()] * 3
        ]  # two sizes
    assert predictor.runtime == "onnxruntime"
    assert len(made) == graphs
    np.testing.assert_allclose(answers[runtime], answers["torch"], rtol=1e-3)


@needs_onnx
def test_where_onnxruntime_fails_torch_goes_on_unless_it_was_asked_for(models, rgb, monkeypatch):

    def fails(graph):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(runtimes, "onnx_session", fails)
    ours, asked, plain = (Predictor(models["lite"], "cpu", runtime=name) for name in ("auto", "onnxruntime", "torch"))
    with pytest.warns(
        UserWarning, match="onnxruntime cannot run the encoder, torch does: RuntimeError: no such"
    ) as said:
        answers = [ours.encode(rgb, CAMERA).depth_at([[100, 80]]) for _ in range(6)]
    assert len(said) == 1
    np.testing.assert_array_equal(answers, [plain.encode(rgb, CAMERA).depth_at([[100, 80]])] * 6)
    with pytest.raises(RuntimeError, match="no such operator"):
        asked.warm_up()


def test_sizes_are_free_in_a_graph_of_known_networks_alone():
    """The sizes that MobileViT folds its maps by become constants."""
    assert create_encoder("convnextv2_atto").size_is_free
    assert not create_encoder("mobilevitv2_050").size_is_free


@needs_onnx
@pytest.mark.parametrize("preset", ["lite", "v15_dinov2"])
def test_nothing_is_made_at_the_first_image_after_warming_up(models, preset, rgb, monkeypatch):
    predictor = Predictor(models[preset], "cpu", input_size=(140, 154), runtime="onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warm-up says nothing of intrinsics
        predictor.warm_up()
    monkeypatch.setattr(runtimes, "onnx_session", None)
    monkeypatch.setattr(predictor.model, "encode", None)  # nor does torch encode it
    assert np.isfinite(predictor.encode(rgb[:420, :462], CAMERA).depth_at(np.array([[5.0, 6.0]]))).all()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no C++ compiler found\nat all"), r"RuntimeError: no C\+\+ compiler found"),
        (AssertionError(), "no message"),
    ],
)
def test_a_compiler_that_fails_is_named_and_done_without(models, rgb, monkeypatch, error, said):
    def broken(function):
        def run(*arguments):
            raise error

        return run

    monkeypatch.setattr(torch, "compile", broken)
    compiled = Predictor(models["lite"], "cpu", runtime="compile")
    with pytest.warns(UserWarning, match=f"torch.compile failed.*{said}$"):
        frame = compiled.encode(rgb, CAMERA)
    uv = np.array([[5.0, 6.0]])
    np.testing.assert_array_equal(frame.depth_at(uv), Predictor(models["lite"], "cpu").encode(rgb, CAMERA).depth_at(uv))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 5)),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((4, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
        "image.png",
    ],
)
def test_bad_images_are_named(predictor, bad):
    with pytest.raises(ValueError, match=r"uint8 array \[H, W, 3\] in RGB order, got"):
        predictor.encode(bad)


@pytest.mark.parametrize("fy", [52.5, 5250])
def test_a_camera_with_pixels_of_no_sensor_is_named(predictor, rgb, fy):
    """A slip of the finger in one of two numbers, which would put depths off by their root."""
    with pytest.raises(SPDError, match=rf"fx = 525 px and fy = {fy:g} px; expected nearly the same"):
        predictor.encode(rgb, Camera(525, fy, 319.5, 239.5))


def test_a_camera_of_another_size_is_doubted(predictor, rgb):
    with pytest.warns(UserWarning, match="the calibration of a 1280x960 image"):
        predictor.encode(rgb, CAMERA.scaled(2))


@pytest.mark.parametrize("camera", [None, CAMERA.scaled(2)])
def test_who_says_what_is_assumed_is_not_warned(predictor, rgb, camera):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert predictor.encode_quietly(rgb, camera).camera is camera


def test_an_image_that_may_not_be_written_to_is_no_reason_to_warn(predictor):
    rgb = np.zeros((240, 320, 3), np.uint8)
    rgb.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.encode(rgb, CAMERA.scaled(0.5))


@pytest.mark.parametrize("size", [(1, 2000), (2000, 100)])
def test_slivers_are_refused(predictor, size):
    with pytest.raises(ValueError, match="ratio up to 16"):
        predictor.encode(np.zeros((*size, 3), np.uint8))


@pytest.mark.parametrize(
    ("points", "fault"),
    [
        ([1, 2, 3], r"got shape \[3\]"),
        ("90,60", "got str of <U5"),
        ([[1, 2], [3]], "got list: ValueError"),
        ({"u": 1}, "got dict of object"),
        ([[None, 2]], "got list of object"),
        ([[1 + 2j, 3]], "got list of complex128"),
        (np.array([["2026-01-01", "2026-01-02"]], "datetime64[D]"), "got ndarray of datetime64"),
        (torch.ones(1, 2, requires_grad=True), "got Tensor: RuntimeError"),
        (torch.ones(1, 2, dtype=torch.bfloat16), "got Tensor: TypeError"),
    ],
)
def test_points_that_are_no_numbers_are_named(points, fault):
    with pytest.raises(SPDError, match=rf"points must be an array \[K, 2\] of \(u, v\) px, {fault}"):
        checked_points(points)


def test_points_that_are_masked_are_not_answered(predictor, rgb):
    points = np.ma.masked_array([[9.0, 9.0], [20.0, 9.0]], mask=[[False, False], [True, False]])
    answer = predictor.encode(rgb, CAMERA).answer(points)
    assert answer.status.tolist() == [Status.OK, Status.NOT_FINITE]


def test_no_points_have_an_empty_answer(predictor, rgb):
    frame = predictor.encode(rgb, CAMERA)
    for nothing in ([], np.empty((0, 2))):
        answer = frame.answer(nothing)
        assert [len(values) for values in (answer.depth_m, answer.sigma_m, answer.status)] == [0, 0, 0]
        assert (answer.xyz_m.shape, frame.depth_at(nothing).shape) == ((0, 3), (0,))


def test_a_camera_that_is_none_is_named(predictor, rgb):
    with pytest.raises(SPDError, match=r"camera must be a Camera\(fx, fy, cx, cy\), got \[525, 525, 319, 239\]"):
        predictor.encode(rgb, [525, 525, 319, 239])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "/nowhere/w.safetensors"}, "does not exist"),
        ({"device": "abacus"}, "device must be auto, cpu, cuda"),
        ({"weights": None}, 'weights must be "embedded", a file or the name of a preset, got None'),
        ({"device": None}, "device must be auto, cpu, cuda or cuda:<n>, got None"),
        ({"device": "meta"}, "device must be auto, cpu, cuda or cuda:<n>, got 'meta'"),
        ({"device": "cuda:99"}, "'cuda:99' was asked for, but torch .* finds .* CUDA device"),
        ({"precision": "fp7"}, "precision must be one of"),
        ({"precision": "fp16"}, "fp16 is for GPUs"),
        ({"runtime": "abacus"}, "one of auto, torch, onnxruntime, compile, cuda_graph, got 'abacus'"),
        ({"runtime": "cuda_graph"}, "needs a CUDA device; got cpu"),
        ({"runtime": "onnxruntime", "precision": "bf16"}, "a CPU and fp32; got cpu, torch.bfloat16"),
        ({"input_size": (32, 640)}, "at least 64"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(SPDError, match=message):
        Predictor.load(**{"device": "cpu", **arguments})


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_a_predictor_says_that_it_is_not_copied(predictor, rgb, copied):
    for what in (predictor, predictor.encode(rgb, CAMERA)):
        with pytest.raises(SPDError, match="a Predictor cannot be copied, pickled or forked; make one in each process"):
            copied(what)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_fork_is_told_that_the_predictor_is_not_its_own(predictor, rgb):
    """It would wait for ever for the threads of its parent."""
    frame = predictor.encode(rgb, CAMERA)
    asks = [lambda: predictor.encode(rgb), predictor.warm_up, lambda: frame.answer([[1, 2]]), frame.dense_depth]
    asks += [lambda: frame.depth_at([[1, 2]]), lambda: frame.points_at([[1, 2]])]
    if torch.get_num_threads() > 1:
        model = lively(SPD.from_preset("lite"))
        asks += [lambda: Predictor.load(device="cpu"), lambda: Predictor(model, "cpu", runtime="torch").encode(rgb)]
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # what waits within torch hears no other handler
        signal.alarm(20)
        for ask in asks:
            try:
                ask()
            except SPDError as error:
                os.write(writing, b"1" if "or forked; make one" in str(error) else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"1" * len(asks)
    for end in (reading, writing):
        os.close(end)


def test_a_scale_and_a_model_that_are_none_are_named(predictor, rgb):
    frame = predictor.encode(rgb, CAMERA)
    for ask in (lambda: frame.answer([[1, 2]], 1.2), lambda: frame.dense_depth(1.2)):
        with pytest.raises(SPDError, match=r"scale must be a FixedScale or a ScaleFilter .*, got 1\.2"):
            ask()
    with pytest.raises(SPDError, match=r"model must be an SPD, got 'embedded'; Predictor\.load takes weights by name"):
        Predictor("embedded")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_are_read_as_they_are_whatever_torch_s_default(dtype, rgb):
    expected = Predictor.load(device="cpu").encode(rgb, CAMERA).depth_at([[100, 80]])
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            predictor = Predictor.load(device="cpu")
    finally:
        torch.set_default_dtype(before)
    np.testing.assert_array_equal(predictor.encode(rgb, CAMERA).depth_at([[100, 80]]), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_graphs_are_made_as_ever_whatever_torch_s_default(dtype, predictor, rgb):
    """By its process; and after it, that default is what it was."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            other = Predictor(predictor.model, "cpu", runtime="onnxruntime")
            other.warm_up()
        assert torch.get_default_dtype() == dtype
        for _ in range(3):
            answer = other.encode(rgb, CAMERA).depth_at([[100, 80]])
    finally:
        torch.set_default_dtype(before)
    np.testing.assert_allclose(answer, predictor.encode(rgb, CAMERA).depth_at([[100, 80]]), rtol=1e-4)


def test_preset_name_warns_that_weights_are_random():
    with pytest.warns(UserWarning, match="random weights"):
        assert Predictor.load("lite", device="cpu").model.config == SPD.from_preset("lite").config


def test_bf16_is_close_to_fp32(predictor, rgb):
    torch.manual_seed(0)
    rounded = Predictor(lively(SPD.from_preset("lite")), device="cpu", precision="bf16").encode(rgb, CAMERA)
    uv = np.random.default_rng(2).uniform(0, 470, (64, 2))
    exact = predictor.encode(rgb, CAMERA).depth_at(uv)
    assert np.abs(rounded.depth_at(uv) / exact - 1).mean() < 0.03


def test_autocast_around_it_changes_nothing(predictor, rgb):
    uv = np.array([(100.0, 80.0), (320.5, 240.0)])
    alone = predictor.encode(rgb, CAMERA)
    expected = alone.depth_at(uv), alone.dense_depth()
    with torch.autocast("cpu", torch.bfloat16):
        frame = predictor.encode(rgb, CAMERA)
        found = frame.depth_at(uv), frame.dense_depth()
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)
