"""The scheduler's promises, with an encoder under the test's control."""

import threading
import time

import numpy as np
import pytest

from spd_core.errors import SPDError
from spd_core.status import Status
from spd_ros import scheduler
from spd_ros.notes import PATIENCE_S, Note
from spd_ros.scheduler import ANSWER, ENCODE, FrameScheduler, Query

MS = 1_000_000


class Bench:
    """A scheduler's client whose encoder waits for permission; frames are their stamps."""

    def __init__(self, **settings):
        self.gate = threading.Semaphore(0)
        self.encoded, self.answers, self.errors, self.frames, self.prepared = [], [], [], [], []
        self.notes, self.skipped, self.lost_notes = [], 0, []
        self.not_yet = []  # contents of notes that will not be taken, once for each time they are here
        self.encoding, self.answering = threading.Event(), threading.Event()
        self.may_answer = threading.Event()  # for queries that are slow
        self.started = {}
        self.answer_s = self.frame_s = 0.0
        settings = {"capacity": 3, "timeout_s": 5.0, **settings}
        self.scheduler = FrameScheduler(self, **settings)
        self.scheduler.start()

    def on_start(self, thread):
        self.started[thread] = threading.current_thread().name

    def encode(self, image):
        self.encoding.set()
        self.gate.acquire(timeout=10)
        self.encoding.clear()
        self.encoded.append(image.stamp_ns)
        if image.message == "bad":
            raise SPDError("broken image")
        if image.message == "too much":
            raise MemoryError("no room")
        return image.stamp_ns

    def prepare(self, query):
        self.prepared.append(query.header)

    def answer(self, query, frame):
        if query.header == "explode":
            raise RuntimeError("answering failed")
        if str(query.header).startswith("slow"):
            self.answering.set()
            self.may_answer.wait(10)
        time.sleep(self.answer_s)
        self.answers.append((query.header, frame, None))

    def refuse(self, query, why):
        self.answers.append((query.header, None, why))

    def on_frame(self, frame):
        time.sleep(self.frame_s)
        self.frames.append(frame)

    def take(self, note, frame):
        if note.content in self.not_yet:
            self.not_yet.remove(note.content)
            note.failure = SPDError("not yet")
            return False
        self.notes.append((note.content, frame))
        return True

    def on_lost_notes(self, notes):
        self.lost_notes += [note.content for note in notes]

    def on_skip(self):
        self.skipped += 1

    def on_error(self, work, error):
        self.errors.append(f"{work}: {error}")

    def image(self, stamp, message="fine"):
        self.scheduler.add_image(stamp, message)

    def query(self, name, stamp, **fields):
        self.scheduler.add_query(Query(stamp, np.zeros((1, 2)), np.zeros(1, np.uint32), name, **fields))

    def show(self, stamp, message="fine"):
        """An image that may be encoded."""
        self.gate.release()
        self.image(stamp, message)

    def occupy(self, stamp=1):
        """Make the encoder busy with an image."""
        self.image(stamp)
        assert self.encoding.wait(5)

    def occupy_answers(self):
        """Encode image 1 and make the other thread busy with an answer from it."""
        self.gate.release(1)
        self.query("slow", 1)
        self.image(1)
        assert self.answering.wait(5)

    def wait(self, answers):
        until(lambda: len(self.answers) >= answers)
        assert len(self.answers) == answers
        return self.answers


def until(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.fixture
def bench():
    made = []

    def make(**settings):
        made.append(Bench(**settings))
        return made[-1]

    yield make
    for one in made:
        one.gate.release(100)
        one.may_answer.set()
        one.scheduler.stop()


@pytest.fixture
def b(bench):
    return bench()


def test_each_thread_starts_by_its_name(b):
    b.occupy()
    b.gate.release(1)
    b.query("one", 1)
    b.wait(1)
    assert b.started == {ENCODE: ENCODE, ANSWER: ANSWER}


def test_newest_image_wins_and_the_rest_is_counted(b):
    b.occupy(1)
    for stamp in (2, 3, 4, 5):
        b.image(stamp)
    b.gate.release(2)
    b.query("q", 5)
    assert b.wait(1) == [("q", 5, None)]
    assert b.encoded == [1, 5]
    assert b.skipped == 3


def test_an_image_that_a_query_names_is_kept_and_encoded_first(b):
    b.occupy(1)
    b.image(2)
    b.query("two", 2)
    b.image(3)
    b.image(4)
    b.gate.release(3)
    b.query("four", 4)
    assert dict((name, frame) for name, frame, _ in b.wait(2)) == {"two": 2, "four": 4}
    assert 3 not in b.encoded
    assert b.skipped == 1


def test_a_query_for_a_skipped_frame_says_so(b):
    b.occupy(1)
    b.image(2)
    b.image(3)
    b.gate.release(2)
    b.query("late", 2)
    assert b.wait(1) == [("late", None, Status.FRAME_SKIPPED)]


def test_a_query_may_come_before_its_image(b):
    b.gate.release(5)
    b.query("early", 7)
    time.sleep(0.05)
    assert b.answers == []
    b.image(7)
    assert b.wait(1) == [("early", 7, None)]


def test_a_stamp_that_never_comes_times_out(bench):
    b = bench(timeout_s=0.1)
    b.query("never", 99)
    assert b.wait(1) == [("never", None, Status.NO_IMAGE)]
    b.query("no image at all", 0)
    assert b.wait(2)[1] == ("no image at all", None, Status.NO_IMAGE)


def test_a_stamp_older_than_the_stream_is_answered_at_once(bench):
    b = bench(timeout_s=60)
    b.show(10)
    b.query("old", 4)
    assert b.wait(1) == [("old", None, Status.NO_IMAGE)]


def test_an_image_that_is_not_encoded_in_time(bench):
    b = bench(timeout_s=0.1)
    b.occupy(1)
    b.image(2)
    b.query("two", 2)
    b.image(3)
    time.sleep(0.2)
    b.gate.release(1)
    assert b.wait(1) == [("two", None, Status.TIMED_OUT)]


def test_zero_stamp_is_the_newest_encoded_frame(b):
    b.gate.release(2)
    b.query("first", 0)
    b.image(5)
    assert b.wait(1) == [("first", 5, None)]
    b.image(6)
    b.query("six", 6)
    b.wait(2)
    b.query("newest", 0)
    assert b.wait(3)[2] == ("newest", 6, None)


def encode_the_second_last(b):
    """Three images of which the second, which a query names, is encoded after the third."""
    b.occupy(1)
    for stamp in (2, 3):
        b.image(stamp)
        b.query(stamp, stamp)
    b.gate.release(3)
    assert b.wait(2) == [(3, 3, None), (2, 2, None)]


def test_zero_stamp_is_the_image_that_came_last_and_not_the_one_encoded_last(b):
    encode_the_second_last(b)
    b.query("newest", 0)
    assert b.wait(3)[2] == ("newest", 3, None)
    b.occupy(4)
    b.image(5)
    b.query(5, 5)
    b.image(6)
    b.query(6, 6)
    b.gate.release(2)
    assert b.wait(4)[3] == (6, 6, None)
    until(b.encoding.is_set)  # the fifth
    b.scheduler.add_note(Note(0, "of the newest", None, MS))
    until(lambda: b.notes)
    assert b.notes == [("of the newest", 6)]


def test_the_frame_of_the_oldest_image_expires_whenever_it_was_encoded(bench):
    b = bench(capacity=2)
    encode_the_second_last(b)
    b.show(4)
    b.query("four", 4)
    b.wait(3)
    b.query("two", 2)
    b.query("three", 3)
    assert b.wait(5)[3:] == [("two", None, Status.FRAME_EXPIRED), ("three", 3, None)]


def test_one_place_for_frames_does_for_a_query_of_an_older_image(bench):
    b = bench(capacity=1)
    encode_the_second_last(b)
    b.query("newest", 0)
    assert b.wait(3)[2] == ("newest", 3, None)


def test_an_encoded_frame_answers_while_the_next_image_is_encoded(b):
    b.show(1)
    b.query("one", 1)
    b.wait(1)
    b.occupy(2)
    b.query("one again", 1)
    b.query("newest", 0)
    b.query("unreadable", 2, failure=Status.BAD_QUERY)
    assert b.wait(4)[1:] == [("one again", 1, None), ("newest", 1, None), ("unreadable", None, Status.BAD_QUERY)]
    assert b.encoding.is_set()
    assert b.encoded == [1]
    assert b.prepared == []


def test_a_query_waits_for_the_image_that_is_being_encoded_however_long(bench):
    b = bench(timeout_s=0.3)
    b.query("early", 1)
    b.occupy(1)
    b.image(2)
    b.query("one", 1)
    b.query("newest", 0)
    b.query("two", 2)
    assert b.wait(1) == [("two", None, Status.TIMED_OUT)]
    assert b.prepared == ["early"], "once; what a later plan needs depends on what the first one finds"
    b.gate.release(1)
    assert b.wait(4)[1:] == [("early", 1, None), ("one", 1, None), ("newest", 1, None)]


def test_images_wait_for_answers_that_are_slower(b):
    b.occupy_answers()
    b.gate.release(4)
    b.query("behind", 1)
    b.image(2)
    b.image(3)
    time.sleep(0.05)
    assert b.encoded == [1]
    b.may_answer.set()
    b.query("three", 3)
    assert b.wait(3) == [("slow", 1, None), ("behind", 1, None), ("three", 3, None)]
    assert b.encoded == [1, 3]
    assert b.frames == [1, 3]


def test_more_queries_than_can_be_answered_stop_no_image_and_do_not_grow_old(bench):
    b = bench(timeout_s=1.0)
    b.gate.release(1000)
    b.answer_s, asked, started_s = 0.02, 0, time.monotonic()
    while time.monotonic() - started_s < 2.5:
        b.image(1 + asked)
        b.query(time.monotonic(), 0)
        asked += 1
        time.sleep(0.005)
    assert len(b.encoded) > 2
    last_s, _, _ = b.answers[-1]
    assert time.monotonic() - last_s < 2.0
    b.wait(asked)
    assert {why for _, _, why in b.answers} == {None, Status.TIMED_OUT}


def test_more_answerable_queries_than_there_is_room_for(bench):
    b = bench(timeout_s=60)
    b.occupy_answers()
    for i in range(300):
        b.query(i, 0)
    b.may_answer.set()
    assert [why for _, _, why in b.wait(301)] == [None] + [Status.TIMED_OUT] * 44 + [None] * 256


def test_a_timeout_of_nought_is_not_for_queries_whose_frame_is_there(bench, monkeypatch):
    monkeypatch.setattr(scheduler, "LEAST_PATIENCE_S", 60.0)
    b = bench(timeout_s=0.0)
    b.show(1)
    until(lambda: b.frames)
    b.query("slow", 1)
    b.query("one", 1)
    b.query("newest", 0)
    time.sleep(0.05)
    b.may_answer.set()
    assert b.wait(3)[1:] == [("one", 1, None), ("newest", 1, None)]


def test_the_next_image_is_encoded_beside_the_last_answer(b):
    b.occupy_answers()
    b.occupy(2)
    b.gate.release(1)
    b.may_answer.set()
    b.query("two", 2)
    assert b.wait(2) == [("slow", 1, None), ("two", 2, None)]


def test_late_queries_find_frames_in_the_ring(bench):
    b = bench(capacity=2)
    for stamp in (1, 2, 3):
        b.show(stamp)
        b.query(f"at {stamp}", stamp)
        b.wait(stamp)
    b.query("kept", 2)
    b.query("gone", 1)
    assert dict((name, (frame, why)) for name, frame, why in b.wait(5)[3:]) == {
        "kept": (2, None),
        "gone": (None, Status.FRAME_EXPIRED),
    }


def test_stamps_within_the_tolerance_belong_together(bench):
    b = bench(tolerance_ns=MS)
    b.show(100 * MS)
    b.query("near", 100 * MS + MS // 2)
    assert b.wait(1) == [("near", 100 * MS, None)]


def test_a_neighbour_within_the_tolerance_does_not_stand_in_for_the_image_itself(bench):
    b = bench(tolerance_ns=50 * MS)
    b.gate.release(1)
    b.query("first", 1000 * MS)
    b.image(1000 * MS)
    b.wait(1)
    b.occupy(1020 * MS)
    b.image(1040 * MS)  # has to wait
    b.query("of the third", 1040 * MS)
    b.image(1060 * MS)
    b.gate.release(2)
    assert b.wait(2)[1] == ("of the third", 1040 * MS, None)


def test_a_query_for_a_stamp_that_comes_again_waits_for_it(b):
    b.occupy(100_000 * MS)
    b.image(100_100 * MS)
    b.image(5 * MS)  # a bag has started again, and what waited is gone
    b.query("ahead", 100_100 * MS)
    time.sleep(0.1)
    assert b.answers == []
    b.image(100_100 * MS)
    b.gate.release(3)
    assert b.wait(1) == [("ahead", 100_100 * MS, None)]


def test_a_stamp_that_is_repeated_means_the_newest_image_that_has_it(b):
    b.show(5 * MS)
    b.query("first", 5 * MS)
    b.wait(1)
    b.image(5 * MS, "bad")
    b.query("second", 5 * MS)
    time.sleep(0.1)
    assert len(b.answers) == 1
    b.gate.release(1)
    assert b.wait(2)[1] == ("second", None, Status.BAD_IMAGE)


def test_a_stamp_that_is_repeated_while_its_first_image_is_encoded_means_the_second(b):
    b.occupy(7)
    b.image(7, "bad")
    b.query("q", 7)
    b.gate.release(2)
    assert b.wait(1) == [("q", None, Status.BAD_IMAGE)]


def test_a_stamp_that_stands_still_starves_no_query(b):
    b.occupy(7)
    b.query("first", 7)
    for i in range(1, 4):  # each comes while the last is encoded
        b.image(7)
        b.gate.release()
        until(lambda count=i: len(b.encoded) == count)
        assert b.encoding.wait(5)
        b.query(str(i), 7)
    assert b.wait(3) == [(name, 7, None) for name in ("first", "1", "2")]  # each from the image after it at the latest


def test_a_query_about_the_newest_is_not_of_before_a_stamp_that_is_repeated(b):
    """A camera with stamps of whole seconds: the frame of the second before is not its newest image."""
    b.gate.release(2)
    b.image(4 * MS)
    b.query("before", 4 * MS)
    b.image(5 * MS)
    b.query("first", 5 * MS)
    b.wait(2)
    b.image(5 * MS)
    b.query("newest", 0)
    time.sleep(0.1)
    assert len(b.answers) == 2
    b.gate.release(1)
    assert b.wait(3)[2] == ("newest", 5 * MS, None)


def test_a_client_that_takes_long_for_each_frame_starves_no_query(bench, monkeypatch):
    """As a grid of a hundred thousand points with an overlay does: the next frame is there when one is done."""
    monkeypatch.setattr(scheduler, "HELD_BACK_S", 0.02)
    b = bench(timeout_s=30.0)
    b.frame_s = 0.1
    b.gate.release(1000)
    for i in range(60):
        b.image((10 + i) * MS)
        if i % 10 == 5:
            b.query(i, 0)
        time.sleep(0.02)
    assert len(b.answers) >= 5  # while images came
    assert len(b.frames) >= 5
    b.wait(6)


def test_an_image_is_held_back_for_answers_no_longer_than_promised(b):
    b.occupy_answers()
    b.query("next", 1)
    b.image(2)
    assert b.encoding.wait(10 * scheduler.HELD_BACK_S)  # although nothing else happens
    b.gate.release(1)
    b.may_answer.set()
    b.wait(2)


def test_an_image_of_before_a_bag_started_again_is_not_kept(b):
    b.occupy(100_000 * MS)
    b.image(5 * MS)
    b.gate.release(2)
    b.query("newest", 0)
    assert b.wait(1) == [("newest", 5 * MS, None)]
    assert b.frames == [5 * MS]


@pytest.mark.parametrize(
    ("message", "reason", "error"), [("bad", Status.BAD_IMAGE, "broken image"), ("too much", Status.FAILED, "no room")]
)
def test_an_image_that_fails_is_told_to_its_queries_and_the_threads_live_on(b, message, reason, error):
    b.gate.release(3)
    b.query("failing", 1)
    b.image(1, message)
    assert b.wait(1) == [("failing", None, reason)]
    assert b.errors == [f"encode: {error}"]
    b.image(2)
    b.query("good", 2)
    assert b.wait(2)[1] == ("good", 2, None)


@pytest.mark.parametrize(("message", "reason"), [("bad", Status.BAD_IMAGE), ("too much", Status.FAILED)])
def test_a_query_for_the_newest_image_is_told_why_there_is_none(bench, message, reason):
    b = bench(timeout_s=1.0)
    b.query("newest", 0)
    for stamp in (1, 2, 3):
        b.show(stamp, message)
        time.sleep(0.01)
    assert b.answers == [], "the next image may be a good one"
    assert b.wait(1) == [("newest", None, reason)]
    b.show(4)
    b.query("newest again", 0)
    assert b.wait(2)[1] == ("newest again", 4, None)


def test_a_frame_of_before_a_failure_is_not_the_newest(bench):
    b = bench(timeout_s=1.0)
    for stamp, message in ((1, "fine"), (2, "bad")):
        b.show(stamp, message)
        until(lambda: len(b.encoded) == stamp)  # noqa: B023
    b.query("newest", 0)
    time.sleep(0.05)
    assert b.answers == [], "the next image may be a good one"
    assert b.wait(1) == [("newest", None, Status.BAD_IMAGE)]
    b.query("by its stamp", 1)
    assert b.wait(2)[1] == ("by its stamp", 1, None)
    b.gate.release(1)
    b.query("newest again", 0)
    b.image(3)
    assert b.wait(3)[2] == ("newest again", 3, None)


def test_waypoints_of_no_image_are_for_the_newest_once_a_later_one_came(bench):
    """Planners stamp a path with the time at which they planned."""
    b = bench(timeout_s=1.0)
    waypoints = {"waypoints_m": np.zeros((1, 3))}
    for stamp in (10, 20):
        b.show(stamp)
        until(lambda: len(b.encoded) == stamp / 10)  # noqa: B023
    b.query("past", 15, **waypoints)
    assert b.wait(1) == [("past", 20, None)]
    b.query("of an image", 10, **waypoints)
    assert b.wait(2)[1] == ("of an image", 10, None)
    b.query("planned now", 25, **waypoints)
    time.sleep(0.05)
    assert len(b.answers) == 2, "its image may come yet"
    b.show(30)
    assert b.wait(3)[2][0] == "planned now"
    b.query("no more images", 40, **waypoints)
    b.query("no waypoints", 15)
    assert {(name, why) for name, _, why in b.wait(5)[3:]} == {
        ("no more images", Status.NO_IMAGE),
        ("no waypoints", Status.NO_IMAGE),
    }


def test_a_skipped_image_is_told_of_though_an_older_one_came_after_it(b):
    b.occupy(1)
    b.image(2000 * MS)
    b.image(1900 * MS)
    b.query("skipped", 2000 * MS)
    assert b.wait(1) == [("skipped", None, Status.FRAME_SKIPPED)]


def test_images_of_one_stamp_that_replace_each_other_are_counted(b):
    b.occupy(1)
    for _ in range(4):
        b.image(0)
    assert b.skipped == 3


@pytest.mark.parametrize("stamp", [-(2**31) * 10**9, -1, 2**31 * 10**9])
def test_a_stamp_of_any_value_costs_no_other_query_its_answer(b, stamp):
    b.gate.release(4)
    b.query("odd", stamp)
    b.image(stamp)
    assert b.wait(1) == [("odd", stamp, None)]
    b.query("usual", 100)
    b.image(100)
    assert b.wait(2)[1] == ("usual", 100, None)
    assert b.errors == []


def test_patience_may_change_while_queries_wait(bench):
    b = bench(timeout_s=60)
    b.query("impatient", 50)
    b.scheduler.change(timeout_s=0.05, tolerance_ns=0)
    assert b.wait(1) == [("impatient", None, Status.NO_IMAGE)]


def test_a_failing_answer_does_not_end_its_thread(b):
    b.show(1)
    b.query("explode", 1)
    b.query("next", 1)
    assert b.wait(1) == [("next", 1, None)]
    assert b.errors == ["answer: answering failed"]


def test_stop_answers_everyone(b):
    for i in range(5):
        b.query(i, 100 + i)
    time.sleep(0.05)
    b.scheduler.stop()
    assert b.answers == [(i, None, Status.SHUTTING_DOWN) for i in range(5)]
    b.scheduler = Bench().scheduler  # what the fixture stops


def test_more_waiting_queries_than_there_is_room_for(bench):
    b = bench(timeout_s=60)
    for i in range(300):
        b.query(i, 1000)
    assert len(b.wait(300 - 256)) == 44
    assert {why for _, _, why in b.answers} == {Status.NO_IMAGE}
    assert [name for name, _, _ in b.answers] == list(range(44))


def test_every_query_is_answered_once_under_load(bench):
    b = bench(timeout_s=0.05, capacity=2)
    done = threading.Event()

    def permit():
        while not done.is_set():
            b.gate.release()
            time.sleep(0.004)

    threading.Thread(target=permit, daemon=True).start()
    rng = np.random.default_rng(0)
    for stamp in range(1, 400):
        b.image(stamp)
        b.query(stamp, int(stamp + rng.integers(-3, 2)))
        time.sleep(0.001)
    b.wait(399)
    done.set()
    assert sorted(name for name, _, _ in b.answers) == list(range(1, 400))
    assert b.skipped > 0


def test_notes_wait_for_their_image_without_asking_for_it(b):
    b.occupy(100 * MS)
    b.image(200 * MS)  # waits, and is skipped for the next
    b.scheduler.add_note(Note(200 * MS, "of a skipped image", None, 20 * MS))
    b.scheduler.add_note(Note(310 * MS, "of the last", None, 20 * MS))
    b.image(300 * MS)
    b.query("q", 300 * MS)
    b.gate.release(3)
    until(lambda: b.notes)
    assert b.notes == [("of the last", 300 * MS)]
    assert b.encoded == [100 * MS, 300 * MS]
    assert b.skipped == 1
    assert b.answers == [("q", 300 * MS, None)]


def test_notes_without_an_image_are_given_up_and_counted(b):
    b.scheduler.add_note(Note(5 * MS, "nothing comes", None, MS))
    until(lambda: b.lost_notes)
    assert b.lost_notes == ["nothing comes"]
    assert b.notes == []


def test_a_note_waits_for_its_image_whatever_the_patience_of_queries(bench):
    b = bench(timeout_s=0.0)
    b.scheduler.add_note(Note(20 * MS, "early", None, 100 * MS))
    time.sleep(0.05)
    b.occupy(30 * MS)
    time.sleep(PATIENCE_S)
    b.image(1000 * MS)
    b.gate.release(2)
    until(lambda: b.notes)
    assert b.notes == [("early", 30 * MS)]
    assert b.lost_notes == []


def test_a_note_that_cannot_be_taken_yet_delays_no_query_and_is_taken_later(b):
    b.not_yet += ["late"] * 2 + ["never"] * 100
    b.show(10 * MS)
    b.scheduler.add_note(Note(10 * MS, "late", None, MS))
    b.scheduler.add_note(Note(10 * MS, "never", None, MS))
    b.query("q", 10 * MS)
    b.wait(1)
    until(lambda: b.notes)
    assert b.notes == [("late", 10 * MS)]
    until(lambda: b.lost_notes)
    assert b.lost_notes == ["never"]
