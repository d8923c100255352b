"""SPD: metric depth at query points of one camera image, with exactly the dense network's values. No ROS in here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .camera import Camera
    from .model import SPD
    from .predictor import Predictor

__all__ = ["SPD", "Camera", "Predictor"]
__version__ = "0.2.0"
# Imported when they are asked for: torch takes seconds, and a robot's node that only reads answers needs none.
_MODULES = {"SPD": ".model", "Camera": ".camera", "Predictor": ".predictor"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_MODULES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
