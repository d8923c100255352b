"""Images of ROS against references: what a camera driver would publish, and what a broken one might."""

import struct
import zlib
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from spd_core.messages import MessageError, compressed_depth_to_metres, compressed_to_rgb, depth_to_metres, image_to_rgb
from spd_ros.conversions import depth_to_image, rgb_to_image


def picture(height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth colour image (so that chroma subsampling and demosaicing lose little), each channel of its own shape."""
    y, x = np.mgrid[:height, :width]
    return np.stack([60 + 4 * x, 200 - 5 * y, 90 + 2 * x + y], axis=-1).clip(0, 255).astype(np.uint8)


def message(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    height, width = pixels.shape[:2]
    rows = (
        np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<")))
        .view(np.uint8)
        .reshape(height, -1)
    )
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return Image(
        height=height,
        width=width,
        encoding=encoding,
        step=rows.shape[1],
        is_bigendian=int(big_endian),
        data=rows.tobytes(),
    )


def as_yuv422(rgb: np.ndarray, order: str) -> np.ndarray:
    """[H, W, 2] by the BT.601 formulas, chroma of each pixel pair averaged."""
    r, g, b = rgb.astype(float).transpose(2, 0, 1)
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    chroma = np.empty_like(y)
    chroma[:, ::2], chroma[:, 1::2] = ((c[:, ::2] + c[:, 1::2]) / 2 for c in (u, v))
    pair = [y, chroma] if order == "yuyv" else [chroma, y]
    return np.stack(pair, axis=-1).round().astype(np.uint8)


def as_bayer(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """Mosaic whose first row starts with the pattern's first two letters."""
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for i, letter in enumerate(pattern):
        mosaic[i // 2 :: 2, i % 2 :: 2] = rgb[i // 2 :: 2, i % 2 :: 2, "rgb".index(letter)]
    return mosaic[..., None]


RGB = picture()
ALPHA = np.full((*RGB.shape[:2], 1), 9, np.uint8)
GREY = RGB[..., :1]
EXACT = {
    "rgb8": RGB,
    "bgr8": RGB[..., ::-1],
    "8UC3": RGB[..., ::-1],
    "rgba8": np.concatenate([RGB, ALPHA], -1),
    "bgra8": np.concatenate([RGB[..., ::-1], ALPHA], -1),
    "rgb16": RGB.astype(np.uint16) * 256 + 13,
    "bgr16": RGB[..., ::-1].astype(np.uint16) * 256 + 13,
    "rgba16": np.concatenate([RGB, ALPHA], -1).astype(np.uint16) * 256 + 200,
    "bgra16": np.concatenate([RGB[..., ::-1], ALPHA], -1).astype(np.uint16) * 256,
}


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", EXACT)
def test_colour_encodings(encoding, padding, big_endian):
    assert np.array_equal(image_to_rgb(message(EXACT[encoding], encoding, padding, big_endian)), RGB)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(
    ("encoding", "pixels"), [("mono8", GREY), ("8UC1", GREY), ("mono16", GREY.astype(np.uint16) * 256 + 5)]
)
def test_grey_encodings(encoding, pixels, big_endian):
    assert np.array_equal(image_to_rgb(message(pixels, encoding, 4, big_endian)), GREY.repeat(3, -1))


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_yuv_encodings(encoding, order):
    out = image_to_rgb(message(as_yuv422(RGB, order), encoding, padding=2))
    assert np.abs(out.astype(int) - RGB).max() <= 8


@pytest.mark.parametrize("order", ["nv12", "nv21"])
def test_planar_yuv_encodings(order):
    luma, chroma = as_yuv422(RGB, "yuyv")[..., 0], as_yuv422(RGB, "yuyv")[..., 1].astype(float)
    u, v = ((chroma[::2, i::2] + chroma[1::2, i::2]) / 2 for i in (0, 1))
    pair = np.stack([u, v] if order == "nv12" else [v, u], axis=-1).round().astype(np.uint8)
    planes = np.concatenate([luma, pair.reshape(12, 32)])
    msg = message(planes[..., None], order, padding=2)
    msg.height = 24
    assert np.abs(image_to_rgb(msg).astype(int) - RGB).max() <= 14  # a step of colour every second row and column
    msg.height = 36
    with pytest.raises(MessageError, match=r"data has 1224 bytes; step 34 x 54 rows"):
        image_to_rgb(msg)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_encodings(pattern, bits):
    mosaic = as_bayer(RGB, pattern)
    out = image_to_rgb(message(mosaic if bits == 8 else mosaic.astype(np.uint16) * 256 + 99, f"bayer_{pattern}{bits}"))
    assert np.abs(out.astype(int) - RGB)[2:-2, 2:-2].max() <= 6


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_cameras_of_fewer_than_16_bits_leave_them_in_the_low_ones(bits):
    """And are no darker for it, in an Image, Bayer's mosaic, a compressed one and a file."""
    deep = lambda pixels: pixels.astype(np.uint16) << (bits - 8)  # noqa: E731
    assert RGB.max() > 64, "the largest value needs the bits"
    assert np.array_equal(image_to_rgb(message(deep(RGB), "rgb16", big_endian=True)), RGB)
    opaque = np.full_like(ALPHA, 65535, np.uint16)
    for order, encoding in ((1, "rgba16"), (-1, "bgra16")):
        pixels = np.concatenate([deep(RGB[..., ::order]), opaque], -1)
        assert np.array_equal(image_to_rgb(message(pixels, encoding, big_endian=True)), RGB)
    assert np.array_equal(image_to_rgb(message(deep(GREY), "mono16")), GREY.repeat(3, -1))
    mosaic = as_bayer(RGB, "grbg")
    expected = image_to_rgb(message(mosaic, "bayer_grbg8"))
    assert np.array_equal(image_to_rgb(message(deep(mosaic), "bayer_grbg16")), expected)
    for pixels, of_eight in ((deep(RGB[..., ::-1]), RGB), (deep(GREY), GREY.repeat(3, -1))):
        png = cv2.imencode(".png", pixels)[1].tobytes()
        assert np.array_equal(compressed_to_rgb(CompressedImage(format="png", data=png)), of_eight)


def test_round_trip_of_our_own_image():
    assert np.array_equal(image_to_rgb(rgb_to_image(RGB, Header())), RGB)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed(suffix):
    data = cv2.imencode(suffix, RGB[..., ::-1])[1].tobytes()
    out = compressed_to_rgb(CompressedImage(format=suffix[1:], data=data))
    assert np.abs(out.astype(int) - RGB).max() <= (0 if suffix == ".png" else 12)


@pytest.mark.parametrize(("bits", "suffix"), [(8, ".png"), (16, ".png"), (8, ".jpg")])
def test_compressed_bayer_is_made_colour(bits, suffix):
    """image_transport codes the mosaic as it is, and says before the semicolon what it was."""
    mosaic = as_bayer(RGB, "grbg")[..., 0]
    mosaic = mosaic if bits == 8 else mosaic.astype(np.uint16) * 256 + 99
    data = cv2.imencode(suffix, mosaic, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    msg = CompressedImage(format=f"bayer_grbg{bits}; {suffix[1:]} compressed ", data=data)
    assert np.abs(compressed_to_rgb(msg).astype(int) - RGB)[2:-2, 2:-2].max() <= (6 if suffix == ".png" else 12)
    msg.data = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()  # of a driver that has made it colour
    assert np.array_equal(compressed_to_rgb(msg), RGB)


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_compressed_depth_is_not_colour(encoding):
    data = cv2.imencode(".png", DEPTH_M.astype(np.uint16))[1].tobytes()
    with pytest.raises(MessageError, match=f"'{encoding}' is not supported; that is a depth image"):
        compressed_to_rgb(CompressedImage(format=f"{encoding}; png compressed ", data=data))


def with_thumbnail(jpeg: bytes) -> bytes:
    """A JPEG with a small one, which has a scan and an end of its own, in its APP1."""
    small = cv2.imencode(".jpg", RGB[:8, :8])[1].tobytes()
    return jpeg[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + jpeg[2:]


@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_that_is_cut_short_is_refused(progressive):
    """libjpeg makes up the rest, and some versions of OpenCV hand that on."""
    jpeg = cv2.imencode(".jpg", RGB[..., ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
    whole = compressed_to_rgb(CompressedImage(format="jpeg", data=jpeg))
    for data in (jpeg, with_thumbnail(jpeg), jpeg[:2] + b"\xff" + jpeg[2:]):  # 0xFF may fill up
        for length in range(len(data) // 2, len(data), 7):
            for rest in (b"", bytes(500)):
                with pytest.raises(MessageError, match="cannot be decoded: its JPEG data are cut short"):
                    compressed_to_rgb(CompressedImage(format="jpeg", data=data[:length] + rest))
        for behind in (b"", bytes(20), b"\xff\xda rubbish"):  # a film of a phone, say
            out = compressed_to_rgb(CompressedImage(format="jpeg", data=data + behind))
            assert np.array_equal(out, whole)


@pytest.mark.parametrize("error", [None, cv2.error("")])
def test_a_png_that_is_cut_short_says_why_it_is_refused(error, monkeypatch):
    """Versions of OpenCV differ: some give nothing, some raise, without a word."""
    png = cv2.imencode(".png", RGB)[1].tobytes()
    if error is not None:
        error.err = ""
        monkeypatch.setattr(cv2, "imdecode", MagicMock(side_effect=error))
    with pytest.raises(MessageError, match="cannot be decoded: expected JPEG or PNG, neither damaged nor cut short"):
        compressed_to_rgb(CompressedImage(format="png", data=png[: len(png) // 2]))


def test_compressed_16_bit_and_rotated():
    deep = cv2.imencode(".png", RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    assert np.array_equal(compressed_to_rgb(CompressedImage(format="png", data=deep)), RGB)
    jpeg = cv2.imencode(".jpg", RGB[..., ::-1])[1].tobytes()
    exif = (  # orientation 6: turned by 90 degrees
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    )
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (
        32,
        24,
        3,
    )  # the file does ask for it
    assert np.array_equal(
        compressed_to_rgb(CompressedImage(format="jpeg", data=turned)),
        compressed_to_rgb(CompressedImage(format="jpeg", data=jpeg)),
    )


DEPTH_M = (np.arange(24 * 32).reshape(24, 32) / 100 + 0.4).astype(np.float32).round(3)


def test_depth_images():
    holes = DEPTH_M.copy()
    holes[0, :3] = [np.nan, np.inf, -1]
    expected = np.where(np.isfinite(holes) & (holes > 0), holes, 0)
    assert np.array_equal(depth_to_metres(depth_to_image(holes, Header())), expected)
    assert np.array_equal(depth_to_metres(message(holes[..., None], "32FC1", padding=4, big_endian=True)), expected)
    for encoding in ("16UC1", "mono16"):
        np.testing.assert_allclose(
            depth_to_metres(message((DEPTH_M * 1000).round().astype(np.uint16)[..., None], encoding)),
            DEPTH_M,
            atol=1e-6,
        )
    saturated = np.array([[65535, 65534], [0, 1000]], np.uint16)
    np.testing.assert_allclose(depth_to_metres(message(saturated[..., None], "16UC1")), [[0, 65.534], [0, 1]])
    with pytest.raises(MessageError, match="depth encoding 'rgb8' is not supported; expected one of 16UC1"):
        depth_to_metres(message(RGB, "rgb8"))


def test_compressed_depth():
    millimetres = cv2.imencode(".png", (DEPTH_M * 1000).round().astype(np.uint16))[1].tobytes()
    for form, data in (
        ("16UC1; compressedDepth png", bytes(12) + millimetres),
        ("16UC1; compressedDepth png", millimetres),
        ("png", millimetres),
    ):
        np.testing.assert_allclose(
            compressed_depth_to_metres(CompressedImage(format=form, data=data)), DEPTH_M, atol=1e-6
        )
    with pytest.raises(MessageError, match="its header alone has 12"):
        compressed_depth_to_metres(CompressedImage(format="16UC1; compressedDepth", data=b"123"))


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG of any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">I", zlib.crc32(header)) + bytes(40)


@pytest.mark.parametrize("data", [b"", b"nonsense", png_header(20, 20), png_header(60_000, 60_000)])
def test_compressed_garbage(data):
    with pytest.raises(MessageError, match="cannot be decoded"):
        compressed_to_rgb(CompressedImage(format="jpeg", data=data))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"encoding": "32FC1"}, "'32FC1' is not supported; that is a depth image"),
        ({"encoding": "hsv9"}, "'hsv9' is not supported; expected one of rgb8"),
        ({"step": 95}, "step is 95 bytes; 32 px of rgb8 need at least 96"),
        ({"step": 100}, "data has 2304 bytes; step 100 x 24 rows is 2400"),
        ({"data": b"short"}, "data has 5 bytes"),
        ({"height": 0}, "image is 32x0 px"),
        ({"width": 0}, "image is 0x24 px"),
        ({"encoding": "yuyv", "width": 31, "step": 96}, "odd width of 31"),
    ],
)
def test_broken_images(changes, expected):
    msg = message(RGB, "rgb8")
    for name, value in changes.items():
        setattr(msg, name, value)
    with pytest.raises(MessageError, match=expected):
        image_to_rgb(msg)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "rgb16", "bayer_rggb8"])
def test_cv_bridge_agrees(encoding):
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge comes with a ROS installation")
    pixels = as_bayer(RGB, "rggb") if encoding.startswith("bayer") else EXACT.get(encoding, GREY)
    msg = message(pixels, encoding)
    theirs = cv_bridge.CvBridge().imgmsg_to_cv2(msg, "rgb8")
    assert np.abs(theirs.astype(int) - image_to_rgb(msg)).max() <= 1
