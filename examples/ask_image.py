"""How far away are the things at some pixels of a photograph?

    python examples/ask_image.py photo.jpg 320,240 100,50 --camera 519,519,319.5,239.5

The camera is fx,fy,cx,cy in px of this photograph; without it, metres assume the focal length that the network was
trained at, and are off in proportion.
"""

import argparse

import cv2
import numpy as np

from spd_core import Camera, Predictor
from spd_core.status import Status


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("pixels", nargs="+", type=numbers, metavar="u,v", help="(0, 0) is the centre of the first")
    parser.add_argument("--camera", type=numbers, metavar="fx,fy,cx,cy")
    parser.add_argument("--weights", default="embedded", help="a checkpoint file instead of SPD's own")
    arguments = parser.parse_args()

    bgr = cv2.imread(arguments.image, cv2.IMREAD_COLOR)
    if bgr is None:
        parser.error(f"{arguments.image} is not an image that OpenCV can read")
    camera = Camera(*arguments.camera) if arguments.camera else None

    predictor = Predictor.load(arguments.weights)  # once
    frame = predictor.encode(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), camera)  # once for each image: the costly part
    answer = frame.answer(np.array(arguments.pixels))  # as often as there are questions about it

    for (u, v), depth_m, (x, y, z), status in zip(arguments.pixels, answer.depth_m, answer.xyz_m, answer.status):
        print(f"({u:g}, {v:g}) px: {depth_m:.2f} m, xyz ({x:.2f}, {y:.2f}, {z:.2f}) m, {Status(status).name}")


if __name__ == "__main__":
    main()
