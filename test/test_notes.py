"""Notes on images: which image they go to, and how long they wait."""

import time

import pytest

from spd_ros.notes import MAX_WAITING_NOTES, Note, Notes

MS = 1_000_000


def note(stamp_ms, name="", tolerance_ms=100, waited_s=0.0):
    return Note(stamp_ms * MS, name, None, tolerance_ms * MS, time.monotonic() - waited_s)


def taken(notes, *stamps_ms, encoding_ms=None):
    kept = {stamp * MS: f"frame {stamp}" for stamp in stamps_ms}
    found = notes.next(kept, None if encoding_ms is None else encoding_ms * MS)
    return None if found is None else (found[0].content, found[1])


@pytest.mark.parametrize(
    ("stamp_ms", "frame"),
    [(1000, "frame 1000"), (1030, "frame 1000"), (1040, "frame 1066"), (1000 - 90, "frame 1000"), (0, "frame 1066")],
)
def test_a_note_goes_to_the_nearest_image(stamp_ms, frame):
    notes = Notes()
    notes.add(note(stamp_ms, "a"))
    assert taken(notes, 1000, 1066) == ("a", frame)
    assert taken(notes, 1000, 1066) is None


def test_a_note_waits_for_an_image_that_may_be_nearer():
    notes = Notes()
    notes.add(note(1050, "early"))
    assert taken(notes, 1000) is None
    assert taken(notes, 1000, encoding_ms=1060) is None
    assert taken(notes, 1000, 1060) == ("early", "frame 1060")
    notes.add(note(1050, "images stopped", waited_s=0.2))
    assert taken(notes, 1000) == ("images stopped", "frame 1000")
    assert taken(Notes()) is None


def test_a_note_without_an_image_near_is_given_up():
    notes = Notes()
    for name, waited_s in (("old", 3.0), ("new", 0.5)):
        notes.add(note(5000, name, waited_s=waited_s))
    assert taken(notes, 1000, 9000) is None
    assert notes.expire(2.0) == 1
    assert notes.expire(2.0) == 0
    assert notes.expire(0.1) == 1


def test_only_so_many_wait():
    notes = Notes()
    lost = [notes.add(note(1000, str(i))) for i in range(MAX_WAITING_NOTES + 3)]
    assert lost == [0] * MAX_WAITING_NOTES + [1] * 3
    assert taken(notes, 1000) == ("3", "frame 1000")
