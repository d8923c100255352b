"""Packages that only some work needs: extras in pyproject.toml, imported where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import SPDError


class MissingExtraError(SPDError):
    """A package of an extra is not installed; the message says how to get it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around the imports of what the extra `name` of pyproject.toml brings: says so where it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package.startswith("spd_"):
            raise
        alone = "source a ROS 2 installation" if name == "ros" else f"pip install {package.replace('_', '-')}"
        raise MissingExtraError(
            f"this needs {package}, which is not installed: {alone}, or in SPD's folder: pip install '.[{name}]'"
        ) from error
