"""Files of other systems, files that are not what their name says, and files that are replaced."""

import errno
import json
import os
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from spd_core import files
from spd_core.files import FileError


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a b\r\nc\r\n", "a b\r\nc\r\n"),
        ("fünf €".encode(), "fünf €"),
        ("fünf €".encode("utf-8-sig"), "fünf €"),
        ("fünf €".encode("utf-16"), "fünf €"),
        (b"\xfe\xff" + "fünf €".encode("utf-16-be"), "fünf €"),
        ("rgb.png".encode("utf-16-le"), "rgb.png"),
        ("rgb.png".encode("utf-16-be"), "rgb.png"),
        ("fünf €".encode("utf-32"), "fünf €"),
        (b"", ""),
    ],
)
def test_text_is_read_in_every_unicode(tmp_path, content, text):
    (tmp_path / "list.txt").write_bytes(content)
    assert files.read_text(tmp_path / "list.txt") == text


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("a\nb\nfünf".encode("latin-1"), "is not text: line 3 is not UTF-8 .*save it as UTF-8"),
        (b"abc\x00def", "is not text: it has zero bytes"),
        (b"\xff\xfea", "is not text: line 1 is not UTF-16"),
        (b"\xef\xbb\xbf<!DOCTYPE html>", "is a web page"),
        ("<html>".encode("utf-16"), "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
        (b"\x1f\x8b\x08\x00\xff\xff", "is a gzip archive: unpack it first$"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, fault):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(FileError, match=rf"list\.txt {fault}"):
        files.read_text(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty: it was not written or copied to its end"),
        (bytes(5000), "holds zeros, as after a power cut"),
        (b"not a checkpoint at all", "is text that begins with 'not a checkpoint at all'"),
        (b"\x80\x04\x95 a pickle?", "is a Python pickle"),
        (b"\n <!DOCTYPE html>\n<html><head>", "is a web page, the answer of a server in place of the file"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "is a web page"),
        (b'{"error": "not found"}', "is text that begins with"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n",
            "is a git-lfs pointer, not the file itself: `git lfs pull`",
        ),
        (b"\x00\x05\x16\x07" + bytes(4092), "is a leftover of macOS"),
        (b"PK\x03\x04" + bytes(99), "is a zip archive"),
        (b"\x90\x01\x00\x00\x00\x00\x00\x00{" + bytes(range(200)), "is damaged or of another format"),
        (b"WHOLE" + bytes(range(200)), "is damaged, or was not written or copied to its end (205 bytes)"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff", "is a PNG picture"),
        (b"\x1f\x8b\x08\x00\xff\xff", "is a gzip archive: unpack it first"),
        (b"P6\n4 3\n255\n\x00\xff", "is a PNM picture"),
    ],
)
def test_what_lies_in_the_place_of_a_file_is_known_by_its_first_bytes(tmp_path, content, what):
    (tmp_path / "file").write_bytes(content)
    assert files.problem(tmp_path / "file", b"WHOLE").startswith(what)


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(FileError, match=r"nowhere\.txt does not exist"):
        files.read_text(tmp_path / "nowhere.txt")
    with pytest.raises(FileError, match="is a folder, not a file"):
        files.read_text(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileError, match=r"loop cannot be opened \(Too many levels of symbolic links\)"):
        files.read_text(tmp_path / "loop")


def test_lists_pass_over_what_other_systems_leave(tmp_path):
    for name in (
        "b.h5",
        "a.h5",
        "._a.h5",
        ".hidden.h5",
        "__MACOSX/a.h5",
        "x/@eaDir/a.h5",
        "x/c.h5",
        "x/._c.h5",
        "._x/c.h5",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "nowhere.h5").symlink_to(tmp_path / "gone")
    found = [str(file.relative_to(tmp_path)) for file in files.listed(tmp_path, "**/*.h5")]
    assert found == [".hidden.h5", "a.h5", "b.h5", "x/c.h5"]
    assert files.listed(tmp_path / "gone", "*") == []


def test_names_that_another_system_wrote_are_found(tmp_path):
    stored = tmp_path / unicodedata.normalize("NFD", "küche/größe.png")  # as macOS stores it
    stored.parent.mkdir()
    stored.touch()
    for name in ("küche/größe.png", "/küche/größe.png", "küche\\größe.png", "\\küche\\größe.png"):
        for form in ("NFC", "NFD"):
            assert files.beside(tmp_path, unicodedata.normalize(form, name)) == stored
    assert files.beside(tmp_path, "/a/b.png") == tmp_path / "a/b.png"


def test_a_tilde_is_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expanded("~/nyu") == tmp_path / "nyu"
    assert files.expanded("a/~/nyu") == Path("a/~/nyu")
    assert files.expanded("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


# --- writing


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_last(tmp_path, monkeypatch):
    """The order that survives a power cut: content, then the name, then the folder."""
    file, done = tmp_path / "deep" / "state.txt", []
    files.write_text(file, "old")
    fsync, replace = os.fsync, Path.replace

    def synced(handle):
        done.append(("on disk", os.readlink(f"/proc/self/fd/{handle}"), file.read_text()))
        fsync(handle)

    def renamed(path, target):
        done.append(("renamed", str(path), str(target)))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    files.write_text(file, "new")
    [partial] = {written for what, written, _ in done if what == "renamed"}
    assert Path(partial).parent == file.parent
    assert done == [("on disk", partial, "old"), ("renamed", partial, str(file)), ("on disk", str(file.parent), "new")]
    assert [path.name for path in file.parent.iterdir()] == ["state.txt"]


def test_a_writer_that_fails_leaves_the_last_file(tmp_path):
    file = tmp_path / "state.txt"
    files.write_text(file, "old")

    def full(partial):
        partial.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    for raised, expected, match in (
        (full, FileError, r"state\.txt could not be written \(.*No space left.*before is intact. Is the disk full\?"),
        (lambda partial: 1 / 0, ZeroDivisionError, "division"),
    ):
        with pytest.raises(expected, match=match), files.replaced(file) as partial:
            raised(partial)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("state.txt", "old")]


def test_a_killed_writer_leaves_the_last_file(tmp_path):
    files.write_text(tmp_path / "state.txt", "old")
    code = (
        "import sys, os, signal; from spd_core import files\n"
        "with files.replaced(sys.argv[1]) as partial:\n"
        "    partial.write_text('ne'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, tmp_path / "state.txt"], check=False).returncode == -signal.SIGKILL
    )
    assert (tmp_path / "state.txt").read_text() == "old"
    files.write_text(tmp_path / "state.txt", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("state.txt", "new")]


def test_two_writers_of_one_file_leave_it_whole(tmp_path):
    code = (
        "import sys; from spd_core import files\n"
        "for i in range(100): files.write_json(sys.argv[1], [int(sys.argv[2])] * 20_000)"
    )
    file = tmp_path / "result.json"
    writers = [subprocess.Popen([sys.executable, "-c", code, file, str(i)]) for i in range(2)]
    read = []
    while any(writer.poll() is None for writer in writers):
        if file.exists():
            read.append(json.loads(file.read_text()))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert all(len(set(values)) == 1 and len(values) == 20_000 for values in read)
    assert list(tmp_path.iterdir()) == [file]


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"file/a\.txt could not be written .*Choose a place that you may write to"):
        files.write_text(tmp_path / "file" / "a.txt", "")
    with pytest.raises(FileError, match=r"could not be written .*directory"):
        files.write_text(tmp_path, "")
    with (  # whatever a writer makes of a folder
        pytest.raises(FileError, match=r"Is a directory.*Choose a place that you may write to"),
        files.replaced(tmp_path, because=(RuntimeError,)),
    ):
        raise RuntimeError("it failed")
    with pytest.raises(FileError, match=r"the folder .*file/deep cannot be made \(Not a directory\); choose another"):
        files.make_folder(tmp_path / "file" / "deep")


def test_a_file_keeps_its_permissions_and_a_new_one_has_the_usual(tmp_path):
    """Whatever the writer thinks of others: safetensors leaves a file for the owner alone."""
    (tmp_path / "usual").touch()
    (tmp_path / "shared").touch()
    (tmp_path / "shared").chmod(0o664)
    for name, expected in (("new", (tmp_path / "usual").stat().st_mode), ("shared", 0o100664)):
        with files.replaced(tmp_path / name) as partial:
            partial.touch(0o600)
        assert (tmp_path / name).stat().st_mode == expected


def test_what_links_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there/old", "there/new"):  # one that is there, and one that is not yet
        link = tmp_path / Path(name).name
        link.symlink_to(name)
        if name.endswith("old"):
            link.write_text("before")
        files.write_text(link, "now")
        assert link.is_symlink()
        assert (tmp_path / name).read_text() == "now"


def test_no_place_for_a_temporary_folder_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(FileError, match=r"no temporary folder can be made \(.*nowhere.*\); the variable TMPDIR names"):
        files.temporary_folder()


def test_a_device_is_written_to_and_not_replaced():
    before = os.stat(os.devnull)
    files.write_text(os.devnull, "nothing")
    assert os.path.samestat(before, os.stat(os.devnull))
