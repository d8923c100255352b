"""Photographs and videos as cameras write them."""

import json

import cv2
import numpy as np
from PIL import Image

SIZE = (96, 128)
PIXELS = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
ORIENTATION, F35 = 0x0112, 0xA405  # tags of EXIF


def photograph(file, exif=(), size=SIZE, orientation=None):
    """A JPEG as a camera writes it. `exif`: what it says in the Exif directory."""
    picture, tags = Image.fromarray(cv2.resize(PIXELS, size[::-1])), Image.Exif()
    if orientation:
        tags[ORIENTATION] = orientation
    tags.get_ifd(0x8769).update(dict(exif))
    picture.save(file, exif=tags, quality=95)
    return file


def video(file, count=3):
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE[::-1])
    for _ in range(count):
        writer.write(PIXELS)
    writer.release()


def records(said):
    """What `spd ask --json` said of each."""
    return [json.loads(line) for line in said.out.splitlines()]
