"""`spd` in this process, or in one of its own."""

import json
import signal
import subprocess
import sys
from functools import partial

import pytest

from spd_cli import main


def spd(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["spd", *map(str, arguments)])
    main()


def failing(monkeypatch, capsys, *arguments, code=1):
    """What a command says that does not succeed: one line, on the error stream."""
    with pytest.raises(SystemExit) as stop:
        spd(monkeypatch, *arguments)
    said = capsys.readouterr().err
    assert stop.value.code == code, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    return said


def spd_process(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "spd_cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # which a job in the background ignores
        **options,
    )


def ask(monkeypatch, *arguments):
    spd(monkeypatch, "ask", *arguments)


def records(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]
