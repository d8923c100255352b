"""The base of every error that its user can mend."""


class SPDError(ValueError):
    """Something given to SPD cannot be used: the message names it, what was found, what was expected and the way on.

    The command line prints these in one line; every other exception is a bug and shows its traceback.
    """
