"""Which depth, calibration and queries belong to an image: by their stamps, and where clocks differ."""

import numpy as np
import pytest
from support import recorded
from support.bags import COLOUR, DEPTH, INFO, TOPICS, frames_of
from support.recorded import CAMERA, T0_NS, depth_mm, image, info, picture, stamp, usual

from spd_core.camera import Camera
from spd_core.data.bag import MOST_HELD, MOST_NS, Bag
from spd_core.data.bag_writing import query_message
from spd_core.data.serialised import TYPES
from spd_core.data.topics import Topics

ZOOMED = Camera(120.0, 120.0, 31.5, 23.5)


def cameras_of(path):
    """The focal length, px, of each frame's camera, None where it has none; and of the camera_info that is replayed."""
    with Bag(path) as bag:
        frames = list(bag.frames(bag.choose().topics))
        said = bag.left_out()
    infos = [frame.info_data and TYPES.deserialize_cdr(frame.info_data, recorded.INFO).k[0] for frame in frames]
    assert [frame.stamp_ns for frame in frames] == sorted(frame.stamp_ns for frame in frames)
    return [frame.camera and frame.camera.fx for frame in frames], infos, said


def with_infos(count, infos):
    """Colour images alone, and (place of the stamp, ns after its image, camera_info's fields or None)."""
    messages = [(COLOUR, stamp(i), image(stamp(i), picture(i), "rgb8")) for i in range(count)]
    messages += [(INFO, stamp(i) + ns, info(stamp(i), **fields)) for i, ns, fields in infos]
    return sorted(messages, key=lambda message: message[1])


@pytest.mark.parametrize("after_ns", [-1000, 1000, 150_000_000])  # the last: after the next image
@pytest.mark.parametrize("times", [1, 2])
def test_each_image_has_the_calibration_of_its_stamp(tmp_path, after_ns, times):
    zoomed = [i % 2 == 1 for i in range(6)]
    infos = [(i, after_ns, {"camera": ZOOMED if zoomed[i] else CAMERA}) for i in range(6)]
    messages = [(t, ns + k * 10**9, m) for k in range(times) for t, ns, m in with_infos(6, infos)]
    path = recorded.write(tmp_path / "bag", messages)
    with Bag(path) as bag:
        frames = list(bag.frames(bag.choose().topics))
    assert len(frames) == 6 * times
    for frame in frames:
        expected = ZOOMED if zoomed[(frame.stamp_ns - T0_NS) // 10**8] else CAMERA
        assert frame.camera == expected
        assert TYPES.deserialize_cdr(frame.info_data, recorded.INFO).k[0] == expected.fx


def test_images_without_a_calibration_of_their_stamp_have_the_latest_before_them(tmp_path):
    infos = [(1, 1000, {}), (3, 1000, {"camera": ZOOMED})]  # of 1 and 3 alone; before 1 came none
    found, infos, said = cameras_of(recorded.write(tmp_path / "bag", with_infos(6, infos)))
    assert found == infos == [60, 60, 60, 120, 120, 120]
    assert not said


def test_a_calibration_that_cannot_be_used_hides_none_of_its_stamp(tmp_path):
    infos = [(0, -5, {"k": [0.0] * 9}), (0, 1000, {}), (1, 1000, {"camera": ZOOMED}), (1, 2000, {"k": [0.0] * 9})]
    found, infos, said = cameras_of(recorded.write(tmp_path / "bag", with_infos(2, infos)))
    assert found == infos == [60, 120]
    assert [line.partition(";")[0] for line in said] == [f"left out: 1 CameraInfo messages on {INFO}"]


@pytest.mark.parametrize("offset_s", [0.04, 2.5, -2.5, 12.345])
def test_depth_of_another_clock(tmp_path, offset_s):
    path = recorded.write(tmp_path / "bag", usual(8, depth_offset_ns=round(offset_s * 1e9)))
    with Bag(path) as bag:
        pairing = bag.pairing(bag.choose().topics)
        assert pairing.partner == {}
        assert pairing.offset_s == pytest.approx(offset_s)
        nearest = min(abs(0.1 * i + offset_s - 0.1 * k) for i in range(8) for k in range(8))
        assert abs(pairing.nearest_s) == pytest.approx(nearest, abs=1e-6)
        assert "0 of 8 images have depth within the tolerance of 0.02 s; of 8 depth images the nearest is" in str(
            pairing
        )
        advice = f"--depth_offset_s {-offset_s} corrects the clock"
        assert advice in str(pairing)
        assert advice in str(bag.pairing(TOPICS, depth_offset_s=1.3))  # in place of that, not beside it
        assert bag.pairing(TOPICS, tolerance_s=abs(offset_s) + 0.001).partner
    frames, _ = frames_of(path, 8, depth_offset_s=-offset_s)
    assert all(f.depth_m is not None for f in frames)


def test_a_correction_that_was_wrong_is_taken_back(tmp_path):
    with Bag(recorded.write(tmp_path / "bag", usual(8))) as bag:
        assert "--depth_offset_s 0 corrects the clock" in str(bag.pairing(TOPICS, depth_offset_s=5.05))


def test_each_depth_image_belongs_to_one_image_and_the_nearer_wins(tmp_path):
    messages = [(COLOUR, stamp(0) + k * 10**7, image(stamp(0) + k * 10**7, picture(), "rgb8")) for k in range(5)]
    messages += [(DEPTH, stamp(0), image(stamp(0) + ns, depth_mm(), "16UC1")) for ns in (11_000_000, 39_000_000)]
    with Bag(recorded.write(tmp_path / "bag", sorted(messages, key=lambda m: m[1]))) as bag:
        assert bag.pairing(TOPICS).partner == {1: 0, 4: 1}


@pytest.mark.parametrize("late_ns", [50_000_000, 150_000_000])
def test_frames_come_in_order_where_only_some_have_depth_and_it_is_late(tmp_path, late_ns):
    """Of a depth camera of half the rate, whose images take their time to be registered."""
    colours = [m for m in usual(8) if m[0] == COLOUR]
    depths = [(DEPTH, ns + late_ns, m) for topic, ns, m in usual(8) if topic == DEPTH][::2]
    path = recorded.write(tmp_path / "bag", sorted([*colours, *depths], key=lambda m: m[1]))
    with Bag(path) as bag:
        frames = list(bag.frames(Topics(COLOUR, DEPTH)))
        assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in range(8)]
        assert [frame.depth_m is not None for frame in frames] == [True, False] * 4
        [file] = bag._files
        read = file.messages  # one that is lost since it was counted costs itself
        file.messages = lambda topics: (m for m in read(topics) if m.log_ns != depths[1][1])
        frames = list(bag.frames(Topics(COLOUR, DEPTH)))
    assert [frame.depth_m is not None for frame in frames] == [True, False, False, False, True, False, True, False]


def test_a_query_about_the_first_image_at_the_end_holds_not_all_in_memory(tmp_path):
    colours = [(COLOUR, stamp(i), image(stamp(i), picture(i), "rgb8")) for i in range(MOST_HELD + 20)]
    asked = ("/q", stamp(MOST_HELD + 20), query_message(stamp(0), np.array([[3.0, 4.0]]), np.array([7])))
    with Bag(recorded.write(tmp_path / "bag", [*colours, asked])) as bag:
        frames = list(bag.frames(Topics(COLOUR, query="/q")))
    numbers = [*range(1, MOST_HELD + 20)]
    numbers.insert(21, 0)  # at each of the last 21 images there were MOST_HELD
    assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in numbers]
    assert [len(frame.queries) for frame in frames if frame.stamp_ns == stamp(0)] == [1]


def test_a_recording_that_was_played_twice_has_its_truth_twice(tmp_path):
    messages = [(topic, ns + k * 10**9, message) for k in range(2) for topic, ns, message in usual(3)]
    with Bag(recorded.write(tmp_path / "bag", messages)) as bag:
        assert bag.pairing(TOPICS).partner == {i: i for i in range(6)}


def test_messages_without_a_stamp_have_the_time_of_recording(tmp_path):
    messages = list(usual(3))
    for _, _, message in messages:
        message.header.stamp.sec = message.header.stamp.nanosec = 0
    frames, _ = frames_of(recorded.write(tmp_path / "bag", messages), 3)
    assert all(f.depth_m is not None for f in frames)
    for frame in frames:  # and a node that is shown the image gets it too
        shown = TYPES.deserialize_cdr(frame.image_data, recorded.IMAGE).header.stamp
        assert shown.sec * 10**9 + shown.nanosec == frame.stamp_ns


def test_a_recorder_whose_clock_is_past_2038(tmp_path):
    late_ns, messages = 3_155_760_000 * 10**9, list(usual(3))
    for _, _, message in messages:
        message.header.stamp.sec = message.header.stamp.nanosec = 0
    path = recorded.write(tmp_path / "bag", [(topic, ns - T0_NS + late_ns, message) for topic, ns, message in messages])
    with Bag(path) as bag:
        frames = list(bag.frames(TOPICS))
    assert [frame.stamp_ns for frame in frames] == [late_ns + i * 10**8 for i in range(3)]
    shown = [TYPES.deserialize_cdr(frame.image_data, recorded.IMAGE).header.stamp for frame in frames]
    assert [(stamp.sec, stamp.nanosec) for stamp in shown] == [divmod(f.stamp_ns % MOST_NS, 10**9) for f in frames]


def test_queries_belong_to_the_image_of_their_stamp_or_the_newest(tmp_path):
    uv = np.array([[3.0, 4.0]])
    asked = [(stamp(1) + 5, stamp(0)), (stamp(1) + 6, 0), (stamp(1) + 7, 77)]
    messages = [("/q", log_ns, query_message(ns, uv + i, np.array([i]))) for i, (log_ns, ns) in enumerate(asked)]
    path = recorded.write(tmp_path / "bag", sorted([*usual(3), *messages], key=lambda m: m[1]))
    with Bag(path) as bag:
        topics = bag.choose().topics
        assert topics.query == "/q"
        frames = list(bag.frames(topics))
        assert bag.left_out() == ["left out: 1 queries on /q; the first at 0.000 s: names no image of the bag"]
    assert [[int(ids[0]) for _, ids in f.queries] for f in frames] == [[0], [1], []]
    assert frames[0].queries[0][0].tolist() == [[3, 4]]


def test_queries_of_a_recording_that_was_played_twice_are_of_their_own_time(tmp_path):
    asked = [("/q", stamp(1) + 5, query_message(stamp(1), np.array([[3.0, 4.0]]), np.array([7])))]
    once = sorted([*usual(3), *asked], key=lambda m: m[1])
    messages = [(topic, ns + k * 10**9, message) for k in range(2) for topic, ns, message in once]
    with Bag(recorded.write(tmp_path / "bag", messages)) as bag:
        frames = list(bag.frames(bag.choose().topics))
    assert [len(frame.queries) for frame in frames] == [0, 1, 0, 0, 1, 0]
