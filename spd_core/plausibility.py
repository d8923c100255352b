"""Whether intrinsics can be those of a camera, and of an image, in three degrees.

- `check_plausible`: no camera has such; whoever says so, it is an error.
- `doubt`: they are hardly of this image, and may be all the same, as a part that was cut out of a corner looks like a
  calibration at another size. Of a message, or in a program, it is a warning.
- `check_camera`: the mistakes that are made in files and options. Their users can mend them, so each is an error.
"""

from __future__ import annotations

from dataclasses import replace

from .camera import MOST_PIXEL_ASPECT, Camera, CameraError
from .errors import SPDError

PLAUSIBLE_FOCAL = (0.01, 1000.0)  # least and most focal length, in longer sides of the image: fisheyes to telescopes
# Of the optical axis from the middle of the image, in half sides. FARTHEST: of a sensor, of which a part was cut out.
# AT_THE_EDGE: a picture may be a part of what the camera saw, but one whose axis is at its edge is of another size.
# OTHER_SHARE: seldom so far both ways; and across as far as down to SAME_SHARE, of pictures of another size alone.
FARTHEST, AT_THE_EDGE, OTHER_SHARE, SAME_SHARE = 3.0, 0.84, 0.2, 0.06


def optical_axis(camera: Camera, size: tuple[float, float]) -> tuple[float, float]:
    """The principal point (across, down) in halves of an image of `size` (height, width) px: 1 and 1 in its middle; of
    a calibration of another size, about the ratio of the sizes."""
    height, width = size
    return 2 * (camera.cx + 0.5) / width, 2 * (camera.cy + 0.5) / height


def off_centre(camera: Camera, size: tuple[float, float]) -> float:
    """How far the optical axis is from the middle of an image of `size` (height, width) px, in half sides: across or
    down, what is more."""
    return max(abs(at - 1) for at in optical_axis(camera, size))


def check_aspect(camera: Camera, source: str = "", error: type[SPDError] = CameraError) -> None:
    """Raise `error` where no camera has pixels of such a shape; `source` tells of it."""
    aspect = max(camera.fx / camera.fy, camera.fy / camera.fx)
    if aspect > MOST_PIXEL_ASPECT * 1.01:  # of sizes that were rounded
        raise error(
            f"{source}fx = {camera.fx:g} px and fy = {camera.fy:g} px; expected nearly the same, or where pixels are"
            f" not square at most {MOST_PIXEL_ASPECT:g} times the other"
        )


def check_plausible(camera: Camera, sensor: tuple[float, float]) -> None:
    """Raise CameraError where no camera with a sensor of `sensor` (height, width) px has such intrinsics. Its optical
    axis may be beside the sensor, by a side of it at most: of a part that was cut out of what the camera saw."""
    check_aspect(camera)
    if off_centre(camera, sensor) > FARTHEST:
        raise CameraError(
            f"the optical axis at {camera.cx:g},{camera.cy:g} px, far outside the {sensor[1]:g}x{sensor[0]:g} px that"
            " the camera sees"
        )


def is_out_of_order(camera: Camera, size: tuple[int, int]) -> bool:
    """Whether the four numbers are fx cx fy cy, as K has them row by row: those would have square pixels, and the
    axis in the middle of an image of `size` (height, width) px."""
    is_square, was_square = (max(camera.fx, fy) < 1.1 * min(camera.fx, fy) for fy in (camera.cx, camera.fy))
    return is_square and not was_square and off_centre(replace(camera, fy=camera.cx, cx=camera.fy), size) < 0.1


def doubt(camera: Camera, size: tuple[int, int]) -> str:
    """Why a camera that may be right is hardly that of an image of `size` (height, width) px; "" where it may well
    be."""
    height, width = size
    if is_out_of_order(camera, size):
        numbers = ", ".join(f"{number:g}" for number in (camera.fx, camera.fy, camera.cx, camera.cy))
        return f"the intrinsics {numbers} look like fx cx fy cy; expected fx fy cx cy"
    across, down = optical_axis(camera, size)
    if min(across, down) > 1 + OTHER_SHARE or (min(across, down) > 0 and max(across, down) < 1 - OTHER_SHARE):
        return (
            f"the optical axis at {camera.cx:g},{camera.cy:g} px is far from the middle of {width}x{height} px: the"
            f" calibration of a {across * width:.0f}x{down * height:.0f} image? Depths would be off"
        )
    return ""


def check_camera(camera: Camera, size: tuple[int, int], source: str, error: type[SPDError] = CameraError) -> None:
    """Raise `error` where a camera, of which `source` tells, cannot be that of a picture of `size` (height, width) px:
    its focal length is in mm, its numbers are of the picture at another size, or of no camera."""
    height, width = size
    least, most = (factor * max(size) for factor in PLAUSIBLE_FOCAL)
    if not least <= camera.focal_px <= most:
        raise error(
            f"the focal length of {source} is {camera.focal_px:g} px for a picture of {width}x{height} px; expected"
            f" fx,fy,cx,cy in px, not mm: {least:g} to {most:g}"
        )
    if is_out_of_order(camera, size):
        raise error(f"{source}: {doubt(camera, size)}")
    across, down = optical_axis(camera, size)
    if abs(across - down) < SAME_SHARE * down and abs(across - 1) > OTHER_SHARE:
        raise error(
            f"the optical axis of {source} is at {camera.cx:g},{camera.cy:g}: it looks like the calibration of a"
            f" {across * width:.0f}x{down * height:.0f} picture, and this one is {width}x{height} px; expected"
            f" fx,fy,cx,cy in px of this size: each of them times {2 / (across + down):.3g}"
        )
    if off_centre(camera, size) > AT_THE_EDGE:
        raise error(
            f"the optical axis of {source} is at {camera.cx:g},{camera.cy:g}, outside the picture of {width}x{height}"
            " px or at its edge; expected fx,fy,cx,cy in px of the picture as it is shown (of this size, and turned"
            " where it is portrait)"
        )
    check_aspect(camera, f"{source} has ", error)


def check_upright(camera: Camera, size: tuple[int, int], source: str, error: type[SPDError] = CameraError) -> None:
    """`check_camera` of a camera that nothing more turns with its picture: raise `error`, too, for that of the picture
    before it was turned."""
    check_camera(camera, size, source, error)
    if off_centre(camera.transposed(), size) < SAME_SHARE and off_centre(camera, size) > OTHER_SHARE:
        raise error(
            f"the optical axis of {source} is at {camera.cx:g},{camera.cy:g}, the middle of the picture before it was"
            f" turned; expected fx,fy,cx,cy in px of the picture as it is shown, {size[1]}x{size[0]} px"
        )
