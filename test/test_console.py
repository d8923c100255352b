"""What the commands print, and how they end: by an error, a bug, a signal, a full disk, a reader that has gone."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path

import cv2
import pytest
from support.photographs import PIXELS

from spd_cli import listing
from spd_cli.console import INTERRUPTED, TERMINATED, make_console, reported, say
from spd_core import checkpoint
from spd_core.errors import SPDError


def test_a_bug_shows_its_traceback(monkeypatch, spd):
    def faulty(*arguments, **options):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(listing, "_presets", lambda: "")  # as above
    monkeypatch.setattr(listing, "_list_checkpoints", faulty)
    with pytest.raises(ValueError, match="broadcast"):
        spd("info")


def test_an_error_of_several_lines_keeps_them(capsys):
    with pytest.raises(SystemExit), reported():
        raise SPDError("none found. Known:\n  one\n  two")
    assert capsys.readouterr().err == "error: none found. Known:\n  one\n  two\n"


def test_a_warning_is_one_line(capsys):
    with reported():
        warnings.warn("a frame [b]\n  is left out", stacklevel=1)
    assert capsys.readouterr().err == "warning: a frame [b] is left out\n"


def test_long_lines_are_not_broken(capsys):
    say("word " * 100)
    assert capsys.readouterr().out == "word " * 100 + "\n"


def test_an_output_that_cannot_be_written_is_one_line():
    room = Path(checkpoint.__file__).parent / "weights" / "room.jpg"
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "spd_cli", "ask", room, "1,1", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "error: the output could not be written (No space left on device)\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interruption_is_quiet(capsys):
    with pytest.raises(SystemExit) as stop, reported():
        raise KeyboardInterrupt
    assert stop.value.code == INTERRUPTED == 130
    assert capsys.readouterr() == ("", "")


def test_a_service_that_is_stopped_leaves_nothing_behind(tmp_path, capsys):
    """SIGTERM, of systemd, `docker stop` and `timeout`; it would end the process where it stands."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, reported(), tempfile.TemporaryDirectory(dir=tmp_path):
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.code == TERMINATED == 143
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("name", ["a" * 300, "loop"])
def test_a_name_that_cannot_be_opened_is_one_line(tmp_path, capsys, name):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SystemExit) as stop, reported():
        (tmp_path / name).open()
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / name} cannot be opened (")


def test_a_table_that_nobody_reads_ends_as_a_line_does():
    reading, writing = os.pipe()
    os.close(reading)
    console = make_console()
    console.file = os.fdopen(writing, "w")
    with pytest.raises(BrokenPipeError):
        console.print("a table")
    with suppress(BrokenPipeError):
        console.file.close()


def test_interrupted_workers_end_quietly(tmp_path):
    command = [sys.executable, "-m", "spd_cli", "data", "rooms", tmp_path, "--count", "20000", "--size", "[240,320]"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a job in the background ignores
    with subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=heard, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 200
        while len(children.read_text().split()) < 2:  # the workers
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers too
        _, err = process.communicate()
    assert process.returncode == INTERRUPTED, err
    assert b"Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["rooms.json"]  # without waiting for a shard of 250 frames


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(20):
        cv2.imwrite(str(folder / f"{i}.png"), PIXELS)
    command = [sys.executable, "-m", "spd_cli", "ask", str(folder), "--grid", "40x40", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
        asking.stdout.readline()
        asking.stdout.close()
        assert asking.stderr.read() == b""
    assert asking.returncode == 141
