"""`spd ask`: depth at pixels of pictures, videos, bags and cameras."""

from __future__ import annotations

import itertools
import json as json_format
import math
import os
import re
import time
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.table import Table

from spd_core import files
from spd_core.camera import cell_centres, inside_image
from spd_core.data.images import check_picture_name, write_picture
from spd_core.errors import SPDError
from spd_core.intrinsics import KnownCamera
from spd_core.pictures import draw_overlay
from spd_core.plausibility import doubt
from spd_core.predictor import EncodedFrame, Predictor
from spd_core.status import Answer, Status

from .console import make_console, say
from .sources import (
    Picture,
    about_the_camera,
    check_frames,
    check_sources,
    focal_length_px,
    in_metres,
    named,
    pictures,
)

POINT = re.compile(r"[-+\d.e]+, *[-+\d.e]+")
TWO_NUMBERS = re.compile(r"(\d+(?:\.\d+)?),? (\d+(?:\.\d+)?)")  # a point that the shell has taken apart
NUMBER = r"[-+]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?|nan|inf(?:inity)?)"
NUMBERS = re.compile(rf"[\s()\[\]{{}}]*{NUMBER}(?:[\s,;:|x×()\[\]{{}}]+{NUMBER})+[\s,;()\[\]{{}}]*", re.IGNORECASE)
MOST_LABELS = 500  # in a picture; more find no room, and looking for it takes seconds


class AskError(SPDError):
    """What was asked cannot be answered."""


@dataclass(frozen=True)
class Asked:
    """A picture, or a frame of a video, with what was asked and answered."""

    name: str
    rgb: np.ndarray  # uint8 [H, W, 3]
    uv: np.ndarray  # [K, 2] px
    known: KnownCamera
    frame: EncodedFrame
    answer: Answer


def ask(
    what: list[str],
    camera: str | None = None,
    fov: float | None = None,
    grid: str | None = None,
    weights: str = "embedded",
    json: bool = False,
    out: Path | None = None,
    device: str = "auto",
    runtime: str = "torch",
    frames: int | None = None,
    image: str | None = None,
) -> None:
    """Depth at pixels of a photograph: spd ask photo.jpg 320,240 100,400.

    Args:
        what: pictures, folders of them, videos, bags or /dev/video0, and pixels u,v: u to the right, v down, of the
            picture as it is shown; 0,0 is the centre of the first. Without pixels the middle is asked.
        camera: "fx,fy,cx,cy" in px, or a file with them or the matrix K, or the YAML of a camera_info, ROS's
            camera_calibration, OpenCV or Kalibr; or a number, 0 for the first, of a camera to look through. Without
            it: a bag's camera_info, camera.txt beside the picture, or EXIF.
        fov: horizontal angle of view in degrees, where that is what you know.
        grid: "8x6" asks at the centres of 8 columns and 6 rows.
        weights: "embedded" or a checkpoint file.
        json: print JSON, one object a line, in place of tables.
        out: write the picture with the points on it; a folder for several, or one that is there.
        device: auto, cpu, cuda or cuda:<n>.
        runtime: what runs the encoder: auto, torch, onnxruntime, compile or cuda_graph.
        frames: of a video, bag or camera, how many; without it until it ends or Ctrl-C.
        image: colour topic of a bag, instead of the one found by name and content.
    """
    points, sources = _told_apart(what)
    if camera is not None and camera.isdecimal():
        sources, camera = [*sources, camera], None
    if not sources:
        raise AskError("no picture was named: spd ask photo.jpg 320,240")
    wanted = _points(points), _grid(grid)
    check_sources(sources)
    check_frames(frames)
    predictor = Predictor.load(weights, device, runtime=runtime)
    outside, about, several = [], "", len(sources) > 1 or os.path.isdir(files.expanded(sources[0]))
    originals = set[Path]()
    if out is not None:  # of the names in a folder the user has chosen none
        originals = _originals(sources, with_neighbours=files.expanded(out).is_dir())
    sizes: dict[KnownCamera, tuple[int, int]] = {}
    failed = 0
    for count, picture in enumerate(pictures(sources, frames, image)):
        name, is_moving = picture.name, picture.is_moving
        if out is not None:  # before what takes long
            file = _file_of(picture, count, out, several, originals)
        try:
            rgb = picture.read()
            asked = _answer(predictor, name, rgb, wanted, picture.known_camera(rgb.shape[:2], camera, fov, sizes))
        except SPDError as error:
            if is_moving or not several:  # in a stream the next frame would fail too
                raise
            say(str(named(error, name)), "bold red", stderr=True, title="error: ")
            failed += 1
            continue
        if json:
            frame = {"frame": count} if is_moving else {}
            print(json_format.dumps({**_record(asked), **frame}), flush=True)
            if asked.known.camera and (why := doubt(asked.known.camera, asked.frame.size)):
                warnings.warn(f"{name}: {why}", stacklevel=1)
        elif is_moving:
            if about != (about := about_the_camera(asked.known, asked.frame)):
                say(about)
            _show_line(asked, count)
        else:
            _show(asked)
        if out is not None:
            write_picture(file, draw_overlay(rgb, asked.uv, asked.answer.depth_m, labels=MOST_LABELS))
            say(f"wrote {file}", stderr=json)
        if not is_moving:
            outside += [(name, rgb.shape, uv) for uv in asked.uv[~inside_image(asked.uv, rgb.shape[:2])]]
    if outside:
        name, (height, width, _), (u, v) = outside[0]
        raise AskError(
            f"no such pixel: {u:g},{v:g} of {name}, which is {width}x{height} px; u is 0 to {width - 1}, v 0 to"
            f" {height - 1}" + (f" (and {len(outside) - 1} more)" if len(outside) > 1 else "")
        )
    if failed:
        raise AskError(f"{failed} of {count + 1} pictures were not answered; the reasons are above")


def _told_apart(what: list[str]) -> tuple[list[str], list[str]]:
    """The words that are pixels, and those that name pictures.

    Raises:
        AskError: a word is meant as a pixel and is none.
    """
    points = [word for word in what if POINT.fullmatch(word)]
    sources = [word for word in what if not POINT.fullmatch(word)]
    for word in sources:
        if NUMBERS.fullmatch(word) and not os.path.exists(word):
            raise AskError(_no_pixel(word))
    for pair in pairwise(what):
        if (apart := TWO_NUMBERS.fullmatch(" ".join(pair))) and not any(map(os.path.exists, pair)):
            raise AskError(f"pixels are u,v: did you mean {apart[1]},{apart[2]}?")
    return points, sources


def _file_of(picture: Picture, count: int, out: Path, several: bool, originals: set[Path]) -> Path:
    """Where the picture with the points on it goes.

    Raises:
        AskError: it would replace one of the originals.
    """
    file = files.expanded(out)
    if several or picture.is_moving or file.is_dir():
        file = _free(file, f"{count:06d}" if picture.is_moving else Path(picture.name).stem, originals)
    if file.resolve() in originals:
        raise AskError(f"--out {out} would replace {file}, which is asked about or beside that; expected another place")
    check_picture_name(file)
    return file


def _originals(sources: list[str], with_neighbours: bool) -> set[Path]:
    """The files that are named, themselves or by their folder; with those beside them, too."""
    named = [files.expanded(source) for source in sources]
    folders = {path if os.path.isdir(path) else path.parent for path in named if with_neighbours or os.path.isdir(path)}
    return {file.resolve() for file in (*named, *(file for folder in folders for file in files.listed(folder, "*")))}


def _free(folder: Path, stem: str, originals: set[Path]) -> Path:
    """A PNG in the folder that is not there yet, or one of the originals, to be refused: the user has not chosen it."""
    ends = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
    files_so_called = (folder / f"{stem}{end}.png" for end in ends)
    return next(file for file in files_so_called if file.resolve() in originals or not file.exists())


def _no_pixel(word: str) -> str:
    """What is wrong with numbers that are no u,v; and what was meant, where they are two."""
    numbers = re.findall(NUMBER, word, re.IGNORECASE)
    if len(numbers) == 2 and all(math.isfinite(float(number)) for number in numbers):
        return f"pixels are u,v; got {word!r}, did you mean {','.join(numbers)}?"
    return f"pixels are u,v, two numbers, say 320,240; got {word!r}"


def _points(words: list[str]) -> np.ndarray:
    try:
        return np.array([[float(number) for number in word.split(",")] for word in words]).reshape(-1, 2)
    except ValueError as error:
        raise AskError(f"pixels are u,v, say 320,240; got {' '.join(words)}") from error


def _grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)[x,](\d+)", text)
    if not match or not 0 < int(match[1]) * int(match[2]) <= 100_000:
        raise AskError(f"a grid is columns x rows, say 8x6, of at most 100,000; got {text!r}")
    return int(match[1]), int(match[2])


def _answer(
    predictor: Predictor,
    name: str,
    rgb: np.ndarray,
    wanted: tuple[np.ndarray, tuple[int, int] | None],
    known: KnownCamera,
) -> Asked:
    points, grid = wanted
    if grid:
        points = np.concatenate([points, cell_centres(rgb.shape[:2], *grid)])
    if not len(points):
        points = np.array([[(rgb.shape[1] - 1) // 2, (rgb.shape[0] - 1) // 2]], float)
    frame = predictor.encode_quietly(rgb, known.camera)  # what is assumed is said with the answer
    return Asked(name, rgb, points, known, frame, frame.answer(points))


def _show(asked: Asked) -> None:
    table = Table("u", "v", "depth, m", "± σ, m", "x, m", "y, m", "z, m", "", title=files.printable(asked.name))
    answer = asked.answer
    for (u, v), depth_m, sigma_m, xyz_m, status in zip(
        asked.uv, answer.depth_m, answer.sigma_m, answer.xyz_m, answer.status
    ):
        numbers = [f"{value:.2f}" if math.isfinite(value) else "" for value in (depth_m, sigma_m, *xyz_m)]
        table.add_row(f"{u:g}", f"{v:g}", *numbers, "" if status == Status.OK else Status(status).name)
    make_console().print(table)
    say(about_the_camera(asked.known, asked.frame) + ("" if asked.known.camera else " Without it there is no x y z."))


def _show_line(asked: Asked, count: int) -> None:
    """A frame of a video in a line."""
    metres = map(in_metres, asked.answer.depth_m, asked.answer.sigma_m)
    said = (f"{u:g},{v:g}: {words}" for (u, v), words in zip(asked.uv, metres))
    say(f"{time.strftime('%H:%M:%S')} #{count}  " + "  ".join(said))


def _record(asked: Asked) -> dict:
    def number(value: float) -> float | None:
        return round(float(value), 4) if math.isfinite(value) else None

    answer = asked.answer
    return {
        "image": asked.name,
        "size": [asked.rgb.shape[1], asked.rgb.shape[0]],
        "focal_px": number(focal_length_px(asked.known, asked.frame)),
        "focal_from": asked.known.source if asked.known.camera else "assumed",
        "points": [
            {
                "u": float(u) if math.isfinite(u) else None,
                "v": float(v) if math.isfinite(v) else None,
                "depth_m": number(answer.depth_m[i]),
                "sigma_m": number(answer.sigma_m[i]),
                "xyz_m": [number(value) for value in answer.xyz_m[i]],
                "status": Status(answer.status[i]).name,
            }
            for i, (u, v) in enumerate(asked.uv)
        ],
    }
