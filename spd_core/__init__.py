"""SPD: metric depth at query points of one camera image, with exactly the dense network's values. No ROS in here."""

from .camera import Camera
from .model import SPD
from .predictor import Predictor

__all__ = ["SPD", "Camera", "Predictor"]
__version__ = "0.2.0"
