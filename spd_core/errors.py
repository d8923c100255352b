"""The base of every error that its user can mend."""


class SPDError(ValueError):
    """Something given to SPD cannot be used: the message names it, what was found, what was expected and the way on.

    The command line prints these in one line; every other exception is a bug and shows its traceback.
    """


def first_line(error: BaseException) -> str:
    """What an exception is, in one line: many bring pages, some not a word."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
