"""Replay evaluation without a node: which points are asked, and what the report says of the answers."""

import numpy as np
import pytest
from support.bags import CAMERA, asked_of, frames

from spd_core.data.bag import BagFrame
from spd_core.data.bag_writing import write_bag
from spd_core.recording import Asked, Replayed, Reply, Sampling, answer_offline, draw, gaps, report
from spd_core.status import Status


def test_samplings(tmp_path):
    write_bag(tmp_path / "bag", frames(2, queries=3))
    for sampling, queries, points in (
        (Sampling(points=40), 1, 40),
        (Sampling(grid=(8, 6)), 1, 48),
        (Sampling(recorded=True), 3, 5),
    ):
        asked = asked_of(tmp_path / "bag", sampling)
        assert [[len(uv) for uv, _ in f.queries] for f in asked] == [[points] * queries] * 2
        ids = np.concatenate([ids for f in asked for _, ids in f.queries])
        assert np.array_equal(ids, np.arange(len(ids)))
    with pytest.raises(ValueError, match="exclude each other"):
        Sampling(grid=(2, 2), recorded=True)


def test_report_by_hand():
    uv, ids, nan = np.zeros((2, 2)), np.arange(2), float("nan")

    def played(stamp, replies, truth=(2.0, nan)):
        return Replayed(stamp, [Asked(uv, ids, np.array(truth), reply) for reply in replies])

    ok = Reply(np.array([1.0, 5.0]), np.array([0.5, 1.0]), np.array([0, 0]), 0.010)
    skipped = Reply(np.array([nan, nan]), np.array([nan, nan]), np.array([Status.FRAME_SKIPPED] * 2), 0.030)
    result = report(
        [played(0, [ok, ok]), played(1, [skipped]), played(2, [None]), played(3, [None]), played(4, [ok])],
        {"mode": "x"},
    ).summary
    assert (
        result["frames"],
        result["queries"],
        result["answered"],
        result["points"],
        result["points_without_depth"],
    ) == (5, 6, 4, 12, 6)
    assert result["points_by_status"] == {"OK": 6, "FRAME_SKIPPED": 2}
    assert result["dropped_frames"] == 3
    assert result["metrics"]["abs_rel"] == 0.5
    assert result["metrics"]["n_images"] == 2
    sigma = result["sigma"]  # |ln 2/1| = 1.39 times 0.5/1; of the point without truth it says nothing
    assert (sigma["covered_68"], sigma["covered_95"], sigma["temperature"]) == (0, 1, pytest.approx(np.log(2) / 0.5))
    assert result["latency_ms"] == pytest.approx({"p50": 10, "p90": 10, "p99": 10})  # a refusal is no answer
    assert (
        result["gaps"]
        == gaps([played(i, [a]) for i, a in enumerate((ok, ok, None, None, ok))])
        == [{"from_s": 2e-9, "to_s": 3e-9, "frames": 2}]
    )


def test_truth_beyond_max_depth_is_counted_and_compared_where_it_is_asked_for():
    reply = Reply(np.array([1.0, 50.0, 7.0]), np.full(3, np.nan), np.zeros(3, int), 0.01)
    played = [Replayed(0, [Asked(np.zeros((3, 2)), np.arange(3), np.array([2.0, 40.0, np.nan]), reply)])]
    for max_depth_m, beyond, abs_rel in ((10.0, 1, 0.5), (80.0, 0, (0.5 + 0.25) / 2)):
        summary = report(played, {}, max_depth_m).summary
        assert (summary["max_depth_m"], summary["points_beyond"]) == (max_depth_m, beyond)
        assert summary["metrics"]["abs_rel"] == pytest.approx(abs_rel)
        assert summary["sigma"] == {}  # of a network that says none


def test_offline_is_the_predictor(embedded, tmp_path):
    write_bag(tmp_path / "bag", frames(2))
    asked = asked_of(tmp_path / "bag", Sampling(points=30))
    for frame, played in zip(asked, answer_offline(iter(asked), embedded)):
        [asked_here] = played.asked
        uv = frame.queries[0][0]
        np.testing.assert_allclose(asked_here.reply.depth_m, embedded.encode(frame.rgb, CAMERA).depth_at(uv), rtol=1e-5)
        at = uv.astype(int)
        np.testing.assert_allclose(asked_here.truth_m, frame.depth_m[at[:, 1], at[:, 0]])


@pytest.mark.parametrize(
    ("count", "with_depth", "uv", "replied", "words"),
    [
        (2, True, [[5, 5], [-5, 5]], True, []),
        (2, True, [[5, 5]], True, ["all 2 points: OK"]),
        (2, False, [[5, 5], [-5, 5]], True, ["no true depth to compare with"]),
        (1, True, [[5, 5]], True, ["one frame, AbsRel 0.500", "one answer, after 40.0 ms", "all 1 points: OK"]),
        (2, True, [[5, 5]], False, ["no query was answered"] * 4),
        (2, True, [], False, ["nothing was asked"] * 4),
    ],
)
def test_panels_of_the_report_that_would_show_nothing_say_so(count, with_depth, uv, replied, words):
    played = []
    for i in range(count):
        depth_m = np.full((20, 30), 2, np.float32) if with_depth else None
        queries = [(np.array(uv, float), np.arange(len(uv)))] if uv else []
        frame = Replayed.of(BagFrame(i, np.zeros((20, 30, 3), np.uint8), depth_m, CAMERA, queries), keep_picture=False)
        for asked in frame.asked if replied else []:
            outside = asked.uv[:, 0] < 0
            status = np.where(outside, Status.OUTSIDE_IMAGE, Status.OK)
            depth_m = np.where(outside, np.nan, 3.0)
            asked.reply = Reply(depth_m, 0.1 * depth_m, status, 0.040)
        played.append(frame)
    figure = draw(report(played, {"mode": "offline", "bag": "$a bag$"}))
    assert [text.get_text() for axis in figure.axes for text in axis.texts if not axis.axison] == words
    assert figure.get_suptitle() == "offline: $a bag$"
