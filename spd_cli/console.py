"""What the commands print. Names of files and topics, and all else from outside, are text: never markup, never control
characters of a terminal, whatever the encoding of the output."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from spd_core.errors import SPDError
from spd_core.files import printable

INTERRUPTED = 130  # 128 + SIGINT, as shells count
TERMINATED = 143  # 128 + SIGTERM
UNREAD = 141  # 128 + SIGPIPE
_CLOSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)  # a place that one may not enter, or is none
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Terminated(KeyboardInterrupt):
    """SIGTERM: what ends cleanly on Ctrl-C does so too when a service, a container or `timeout` is stopped."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # as print does; rich would exit with 1


def make_console(stderr: bool = False) -> Console:
    """A console that prints strings as they are."""
    return _Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def say(text: str, style: str = "", stderr: bool = False, title: str = "") -> None:
    """Print a text as it is, unbroken, after a `title` in that style."""
    line = Text(printable(title), style).append(printable(text), "" if title else style)
    make_console(stderr).print(line, soft_wrap=True)


@contextmanager
def reported() -> Iterator[None]:
    """Around a command: an error that the user can mend is one message and exit code 1, an interruption 130 or 143 and
    quiet. Everything else is a bug, and shows its traceback."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if is_main else None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not Unicode
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except SPDError as error:
            say(str(error), "bold red", stderr=True, title="error: ")
            sys.exit(1)
        except BrokenPipeError:  # `spd ... | head` has seen enough
            _drop_output()
            sys.exit(UNREAD)
        except OSError as error:
            if error.errno in _CLOSED and error.filename is not None:
                what = f"{error.filename} cannot be opened"
            elif error.errno in _FULL:
                _drop_output()
                what = "the output could not be written"
            else:
                raise
            say(f"{what} ({error.strerror})", "bold red", stderr=True, title="error: ")
            sys.exit(1)
        except Terminated:
            sys.exit(TERMINATED)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        finally:
            if is_main:
                signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def _drop_output() -> None:
    """What Python still flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(" ".join(str(message).split()), "yellow", stderr=True, title="warning: ")
