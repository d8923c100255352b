"""What is said of every point of an answer."""

from enum import IntEnum


class Status(IntEnum):
    """Why a point has the depth it has; the `status` field of an answer."""

    OK = 0
    NO_CAMERA_INFO = 1  # depth is answered for the training focal length; x y z are NaN
    OUTSIDE_IMAGE = 2
    NOT_FINITE = 3  # the point itself is NaN or infinite
    NO_IMAGE = 4  # no image with that stamp (or none at all) came
    FRAME_SKIPPED = 5  # the image came, but a newer one was encoded instead
    TIMED_OUT = 6  # the image came, but was not encoded, or the query not answered, in time
    BAD_IMAGE = 7  # the image message could not be decoded
    BAD_QUERY = 8  # the query message could not be read
    SHUTTING_DOWN = 9
    BEHIND_CAMERA = 10  # a waypoint that is not in front of the camera
    NO_TRANSFORM = 11  # a waypoint's frame is not known relative to the camera's
    FRAME_EXPIRED = 12  # the image was encoded, but is not kept any more
    FAILED = 13  # the network failed on this image or these points (out of memory, say); the log says how
    INVALID_RAY = 14  # the lens model says nothing of this pixel: depth is answered, x y z are NaN
    NETWORK_NAN = 15  # the network's depth is not a finite number
