"""Notes on images: which image they go to, and how long they wait."""

import time

import pytest

from spd_ros.notes import MAX_WAITING_NOTES, PATIENCE_S, RETRY_S, Note, Notes

MS = 1_000_000


def note(stamp_ms, name="", tolerance_ms=100, waited_s=0.0):
    return Note(stamp_ms * MS, name, None, tolerance_ms * MS, time.monotonic() - waited_s)


def taken(notes, *stamps_ms, encoding_ms=None):
    kept = {stamp * MS: f"frame {stamp}" for stamp in stamps_ms}
    found = notes.next([*kept, *([] if encoding_ms is None else [encoding_ms * MS])], kept)
    return None if found is None else (found[0].content, kept[found[1]])


@pytest.mark.parametrize(
    ("stamp_ms", "frame"),
    [(1000, "frame 1000"), (1030, "frame 1000"), (1040, "frame 1066"), (1000 - 90, "frame 1000"), (0, "frame 1066")],
)
def test_a_note_goes_to_the_nearest_image(stamp_ms, frame):
    notes = Notes()
    notes.add(note(stamp_ms, "a"), [])
    assert taken(notes, 1000, 1066) == ("a", frame)
    assert taken(notes, 1000, 1066) is None


def test_a_note_waits_for_an_image_that_may_be_nearer():
    notes = Notes()
    notes.add(note(1050, "early"), [])
    assert taken(notes, 1000) is None
    assert taken(notes, 1000, encoding_ms=1060) is None
    assert taken(notes, 1000, 1060) == ("early", "frame 1060")
    notes.add(note(1050, "images stopped", waited_s=0.2), [])
    assert taken(notes, 1000) == ("images stopped", "frame 1000")
    assert taken(Notes()) is None


def contents(notes):
    return [one.content for one in notes]


def test_a_note_without_an_image_near_is_given_up():
    notes = Notes()
    for name, waited_s in (("old", 3.0), ("new", 0.5)):
        notes.add(note(5000, name, waited_s=waited_s), [])
    assert taken(notes, 1000, 9000) is None
    assert contents(notes.expire([1000 * MS, 9000 * MS])) == ["old"]
    assert notes.expire([]) == []
    assert 0.4 < notes.patience_s() < 0.5


@pytest.mark.parametrize("stamp_ms", [5000, 0])
def test_a_note_outlasts_the_encoding_of_its_image(stamp_ms):
    notes = Notes()
    notes.add(note(stamp_ms, "slow encoder", waited_s=30.0), [])
    assert notes.expire([1000 * MS, 5020 * MS]) == []
    assert taken(notes, 1000, encoding_ms=5020) is None
    assert taken(notes, 1000, 5020) == ("slow encoder", "frame 5020")
    notes.add(note(stamp_ms, "a bad image", waited_s=30.0), [])
    assert contents(notes.expire([])) == ["a bad image"]


def test_a_note_that_cannot_be_taken_is_tried_again_until_its_patience_ends(monkeypatch):
    notes = Notes()
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    for name in ("first", "second"):
        notes.add(Note(1000 * MS, name, None, 100 * MS, now_s), [])
    first, _ = notes.next([1000 * MS], {1000 * MS})
    first.failure = ValueError("no transform yet")
    notes.put_back(first)
    assert taken(notes, 1000) == ("second", "frame 1000"), "others do not wait for it"
    assert taken(notes, 1000) is None
    assert notes.patience_s() == pytest.approx(RETRY_S)
    now_s += RETRY_S + 0.001
    assert taken(notes, 1000) == ("first", "frame 1000")
    notes.put_back(first)
    assert notes.expire([1000 * MS]) == []
    now_s += PATIENCE_S
    assert notes.expire([1000 * MS]) == [first]


def test_only_so_many_wait():
    notes = Notes()
    lost = [notes.add(note(1000, str(i)), []) for i in range(MAX_WAITING_NOTES + 3)]
    assert [contents(some) for some in lost] == [[]] * MAX_WAITING_NOTES + [["0"], ["1"], ["2"]]
    assert taken(notes, 1000) == ("3", "frame 1000")


def test_notes_of_an_image_that_is_here_are_the_last_to_go():
    notes = Notes()
    notes.add(note(1000, "of the image that is encoded"), [1000 * MS])
    lost = [notes.add(note(9000 + i, str(i)), [1000 * MS]) for i in range(MAX_WAITING_NOTES + 1)]
    assert [contents(some) for some in lost] == [[]] * (MAX_WAITING_NOTES - 1) + [["0"], ["1"]]
    assert taken(notes, 1000) == ("of the image that is encoded", "frame 1000")
