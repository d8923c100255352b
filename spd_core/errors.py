"""The base of every error that its user can mend, and those that several files raise."""

import math


class SPDError(ValueError):
    """Something given to SPD cannot be used: the message names it, what was found, what was expected and the way on.

    The command line prints these in one line; every other exception is a bug and shows its traceback.
    """


class MessageError(SPDError):
    """A message that cannot be used; the text says why."""


MOST_WORKERS = 256  # processes; a system of 16 cores that starts a thousand stands still


def at_least(least: float, most: float = math.inf, /, **values: float) -> None:
    """Raise SPDError for the first of the named values that is below `least`, above `most`, or NaN."""
    for name, value in values.items():
        if not least <= value <= most:
            raise SPDError(f"{name} must be at {f'most {most:g}' if value > most else f'least {least:g}'}, got {value}")


def first_line(error: BaseException) -> str:
    """What an exception is, in one line: many bring pages, some not a word."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
