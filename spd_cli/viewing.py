"""`spd view`: the command, and pictures as its page shows them."""

from __future__ import annotations

import math
import socket
import sys
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

import cv2
import numpy as np
from rich.progress import track

from spd_core import files
from spd_core.camera import cell_centres
from spd_core.errors import SPDError
from spd_core.extras import extra
from spd_core.intrinsics import KnownCamera, centred_camera
from spd_core.pictures import colour_depth, depth_range
from spd_core.pixels import pixel_under
from spd_core.predictor import EncodedFrame, Predictor
from spd_core.status import Answer

from .console import say
from .parser import check_unused
from .sources import Picture, about_the_camera, check_frames, check_sources, focal_length_px, named, pictures
from .views import View

HOST, PORT = "127.0.0.1", 8080
CLOUD_POINTS = 20_000
KEPT_VIEWS = 4  # a photograph of 20 megapixels is 60 MB


class ViewError(SPDError):
    """The page cannot be opened."""


def view(
    what: list[str],
    node: bool = False,
    namespace: str = "",
    camera: str | None = None,
    fov: float | None = None,
    weights: str = "embedded",
    device: str = "auto",
    runtime: str = "auto",
    frames: int = 300,
    image: str | None = None,
    port: int | None = None,
    browser: bool = True,
) -> None:
    """Point at pictures in a local page and read metres: spd view photo.jpg. Or see what a node answers: --node.

    Args:
        what: pictures, folders of them, bags, videos or /dev/video0.
        node: show a running node instead: its images, all that it answers, and its answer where you point.
        namespace: of that node, say front for /front/spd.
        camera: "fx,fy,cx,cy" in px, or a file with them or the matrix K, or the YAML of a camera_info, ROS's
            camera_calibration, OpenCV or Kalibr. Without it: the bag's camera_info, camera.txt beside the picture, or
            EXIF.
        fov: horizontal angle of view in degrees, where that is what you know.
        weights: "embedded" or a checkpoint file.
        device: auto, cpu, cuda or cuda:<n>.
        runtime: what runs the encoder: auto, torch, onnxruntime, compile or cuda_graph.
        frames: how many of a bag, video or camera are kept, from the first.
        image: colour topic of a bag, instead of the one found by name and content.
        port: of the page, on this machine alone; without it 8080, or a free one.
        browser: open the page in the browser; --browser false only says where it is.
    """
    with extra("view"):
        import nicegui  # noqa: F401  # said before minutes of reading

    check_sources(what)
    check_frames(frames)
    if node and what:
        raise ViewError(f"--node shows what a running node sees, and no files besides; got {' '.join(what)}")
    if node and (camera is not None or fov is not None):
        raise ViewError("the node takes its camera from camera_info; --camera and --fov are of files")
    if node and image is not None:
        raise ViewError(f"--image is a topic of a bag, got {image}; a node is found by its --namespace")
    if node:
        why = "only for files; a node has its own"
        check_unused(view, why, weights=weights, device=device, runtime=runtime, frames=frames)
    if namespace and not node:
        raise ViewError(f"--namespace is that of the node to look at, with --node; got {namespace}")
    if not (node or what):
        raise ViewError("nothing to look at was named: spd view photo.jpg, or spd view --node")
    _free_port(port)  # said before minutes of reading, in which another may take it
    if node:
        with extra("ros"):
            from .node_page import serve_node

        serve_node(namespace, HOST, _free_port(port), browser)
        return
    from .picture_page import serve_pictures

    shown = Gallery(_collected(what, frames, image), Predictor.load(weights, device, runtime=runtime), camera, fov)
    _say_what_is_wrong(shown)
    serve_pictures(shown, HOST, _free_port(port), browser)


def _say_what_is_wrong(shown: Gallery) -> None:
    """Of the pictures before the first that can be shown, and of names of nothing; the page says the rest.

    Raises:
        SPDError: none can be shown.
    """
    for index in range(len(shown)):
        try:
            shown[index]
            break
        except SPDError as error:
            if index + 1 == len(shown):
                raise
            say(str(error), "bold red", stderr=True, title="error: ")
    for name in shown.missing(index + 1):  # a word that is no picture, say
        say(f"{name} does not exist", "bold red", stderr=True, title="error: ")


def _free_port(port: int | None) -> int:
    for number in [PORT, 0] if port is None else [port]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            try:
                probe.bind((HOST, number))
                return probe.getsockname()[1]
            except OverflowError as error:
                raise ViewError(f"a port is 1 to 65535, got {number}") from error
            except OSError as error:
                reason = error.strerror
    raise ViewError(f"port {number} of {HOST} cannot be had ({reason}); --port names another")


def _collected(what: list[str], most: int, topic: str | None = None) -> list[Picture]:
    """All pictures that are named. Frames of streams, of which one cannot be read again, are kept as PNG."""
    found = []
    for word in what:
        stream = 0
        opened = pictures([word], most + 1, topic)
        reading = track(opened, f"reading {word}", transient=True, disable=not sys.stdout.isatty())
        for picture in reading:
            if picture.is_moving:
                stream += 1
                if stream > most:
                    say(f"only the first {most} frames of {word} are shown; --frames tells another number", "yellow")
                    continue  # the last: to its end, where a bag says what it left out
                picture = replace(picture, read=partial(_unpacked, _packed(picture.read())))
            found.append(picture)
    return found


def _packed(rgb: np.ndarray) -> np.ndarray:
    return cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]


def _unpacked(png: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.asarray(cv2.imdecode(png, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)


class Gallery(Sequence["PictureView"]):
    """The pictures, each encoded when it is looked at; the last few stay encoded.

    Args:
        pictures: at least one.
        predictor: answers.
        camera, fov_deg: what the user says of all of them, as `camera_of_picture` takes it.
    """

    def __init__(
        self, pictures: list[Picture], predictor: Predictor, camera: str | None = None, fov_deg: float | None = None
    ):
        self._pictures, self._predictor, self._told = pictures, predictor, (camera, fov_deg)
        self._sizes: dict[KnownCamera, tuple[int, int]] = {}
        self._versions: dict[int, Hashable] = {}
        self._kept = lru_cache(KEPT_VIEWS)(self._view)

    def missing(self, first: int) -> list[str]:
        """Pictures from that index on, of other names than those before, that are not there."""
        before = {picture.name for picture in self._pictures[:first]}
        after = dict.fromkeys(p.name for p in self._pictures[first:] if not p.is_moving and p.name not in before)
        return [name for name in after if not files.expanded(name).exists()]

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> PictureView:  # type: ignore[override]  # of no slices
        index = range(len(self))[index]
        return self._kept(index, self._versions[index]) if index in self._versions else self.look(index)

    def look(self, index: int) -> PictureView:
        """The picture as it is now, which `[index]` is from then on: numbers are of the picture that is shown."""
        self._versions[index] = self._pictures[index].version()
        return self[index]

    def _view(self, index: int, version: Hashable) -> PictureView:
        picture = self._pictures[index]
        try:
            rgb = picture.read()
            known = picture.known_camera(rgb.shape[:2], *self._told, self._sizes)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is assumed is said with the picture
                frame = self._predictor.encode(rgb, known.camera)
        except SPDError as error:
            raise named(error, picture.name) from error
        note = about_the_camera(known, frame)
        frame = replace(frame, camera=known.camera or centred_camera(focal_length_px(known, frame), frame.size))
        return PictureView(index, picture.name, rgb, note, known.camera is None, frame)


@dataclass(frozen=True, eq=False)
class PictureView(View):
    """An encoded picture.

    Attributes:
        frame: its encoding; where nothing says what the camera is, with one of the focal length that is assumed.
        note: where the focal length comes from.
        is_assumed: it comes from nothing.
    """

    frame: EncodedFrame

    def answer(self, uv: np.ndarray) -> Answer:
        """What the frame answers at points [K, 2] px."""
        return self.frame.answer(uv)

    @cached_property
    def dense(self) -> tuple[bytes, float, float]:
        """Depth of every pixel in colours, PNG, and the near and far end of their scale, m."""
        depth_m = self.frame.dense_depth()
        near_m, far_m = depth_range(depth_m)
        return self.encoded(colour_depth(depth_m, near_m, far_m), ".png"), near_m, far_m

    @cached_property
    def cloud(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Points float32 [N, 3] m in the optical frame, on a grid of about CLOUD_POINTS pixels; their colours, float32
        [N, 3] of 0 to 1; and how far neighbours are apart at the median depth, m. Those without x y z are left out."""
        height, width = self.size
        share = min(1.0, math.sqrt(CLOUD_POINTS / (height * width)))
        uv = cell_centres((height, width), max(1, round(width * share)), max(1, round(height * share)))
        xyz_m = self.frame.answer(uv).xyz_m
        column, row = pixel_under(uv).T
        known = np.isfinite(xyz_m).all(axis=1)
        xyz_m, colours = xyz_m[known], (self.rgb[row, column][known] / 255).astype(np.float32)
        focal_px = self.frame.camera.focal_px if self.frame.camera else math.inf
        return xyz_m, colours, float(np.median(xyz_m[:, 2])) / share / focal_px if len(xyz_m) else 0.0
