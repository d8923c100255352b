"""ROS messages against references: what a camera driver would publish, and what a broken one might."""

import struct
import zlib
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from spd_core.camera import Camera
from spd_core.message_fields import camera_info_fields
from spd_core.messages import (
    MessageError,
    camera_from_info,
    cloud_to_array,
    compressed_depth_to_metres,
    compressed_to_rgb,
    depth_to_metres,
    image_to_rgb,
    is_rectified_topic,
    point_count,
    query_points,
)
from spd_core.predictor import Answer
from spd_core.status import Status
from spd_ros.conversions import answer_cloud, blocked_probability, depth_to_image, query_cloud, rgb_to_image


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


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_cameras_of_fewer_than_16_bits_leave_them_in_the_low_ones(bits):
    """And are no darker for it, in an Image, Bayer's mosaic, a compressed one and a file."""
    deep = lambda pixels: pixels.astype(np.uint16) << (bits - 8)  # noqa: E731
    assert RGB.max() > 64, "the largest value needs the bits"
    assert np.array_equal(image_to_rgb(message(deep(RGB), "rgb16", big_endian=True)), RGB)
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
    with pytest.raises(MessageError, match="depth encoding 'rgb8' is not supported; expected one of 16UC1"):
        depth_to_metres(message(RGB, "rgb8"))


def test_compressed_depth():
    millimetres = cv2.imencode(".png", (DEPTH_M * 1000).round().astype(np.uint16))[1].tobytes()
    for form, data in (("16UC1; compressedDepth png", bytes(12) + millimetres), ("png", millimetres)):
        np.testing.assert_allclose(
            compressed_depth_to_metres(CompressedImage(format=form, data=data)), DEPTH_M, atol=1e-6
        )
    # as compressed_depth_image_transport quantises 32FC1: depth_quantization 100, depth_max 10
    a = 100.0 * 101.0
    b = 1.0 - a / 10.0
    coded = np.where(DEPTH_M < 10, a / DEPTH_M + b, 0).astype(np.uint16)
    header = np.array([0], "<i4").tobytes() + np.array([a, b], "<f4").tobytes()
    msg = CompressedImage(format="32FC1; compressedDepth png", data=header + cv2.imencode(".png", coded)[1].tobytes())
    out = compressed_depth_to_metres(msg)
    known = DEPTH_M < 9.9
    np.testing.assert_allclose(out[known], DEPTH_M[known], rtol=2e-3)
    assert (out[DEPTH_M >= 10] == 0).all()
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


def info(width=640, height=480, **changes) -> CameraInfo:
    msg = CameraInfo(width=width, height=height, k=[500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0])
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


def test_camera_info_as_it_is_and_scaled():
    camera = camera_from_info(info(), (480, 640))
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (500, 510, 320, 240)
    half = camera_from_info(info(), (240, 320))
    assert (half.fx, half.fy, half.cx, half.cy) == (250, 255, 159.75, 119.75)


def test_binning_and_region_of_interest():
    msg = info(binning_x=2, binning_y=2)
    msg.roi.x_offset, msg.roi.y_offset, msg.roi.width, msg.roi.height = 100, 40, 400, 400
    camera = camera_from_info(msg, (200, 200))
    assert (camera.fx, camera.fy) == (250, 255)
    assert (camera.cx, camera.cy) == ((220.5) / 2 - 0.5, 200.5 / 2 - 0.5)


@pytest.mark.parametrize("k", [[0.0] * 9, [float("nan")] + [1.0] * 8, [-5.0, 0, 1, 0, 5.0, 1, 0, 0, 1]])
def test_uncalibrated_camera(k):
    with pytest.raises(MessageError, match="not calibrated"):
        camera_from_info(info(k=[float(v) for v in k]), (480, 640))


def cloud(fields, points: np.ndarray, **changes) -> PointCloud2:
    msg = PointCloud2(
        height=1,
        width=len(points),
        point_step=points.dtype.itemsize,
        row_step=points.nbytes,
        data=points.tobytes(),
        fields=[PointField(name=n, offset=o, datatype=t, count=1) for n, o, t in fields],
    )
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


UV = np.array([[1.5, 2.5], [np.nan, 7.0], [-3.0, 1e9]])


D = {
    "plumb_bob": [-0.28, 0.07, 0.0011, -0.0007, 0.01],
    "rational_polynomial": [0.6, -0.3, 0.0004, -0.0002, 0.02, 0.9, -0.2, 0.01],
    "equidistant": [-0.02, 0.004, -0.003, 0.0006],
}


def distorted(model, d, x, y):
    """The formulas of the OpenCV documentation, by hand."""
    r2 = x * x + y * y
    if model == "equidistant":
        r = np.sqrt(r2)
        theta = np.arctan(r)
        scale = (
            theta * (1 + d[0] * theta**2 + d[1] * theta**4 + d[2] * theta**6 + d[3] * theta**8) / np.maximum(r, 1e-12)
        )
        return x * scale, y * scale
    k1, k2, p1, p2, k3 = d[:5]
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + sum(k * r2**n for n, k in enumerate(d[5:8], start=1)))
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


@pytest.mark.parametrize("model", D)
def test_distorted_points_become_the_right_rays(model):
    camera = camera_from_info(
        info(d=D[model], distortion_model=model), (240, 320)
    )  # half the size: distortion does not scale
    assert camera.distortion == tuple(D[model])
    xyz = np.random.default_rng(0).uniform([-0.5, -0.4, 1], [0.5, 0.4, 1], (50, 3)) * np.random.default_rng(1).uniform(
        1, 5, (50, 1)
    )
    x, y = distorted(model, D[model], xyz[:, 0] / xyz[:, 2], xyz[:, 1] / xyz[:, 2])
    uv = np.stack([250 * x + 159.75, 255 * y + 119.75], axis=1)
    np.testing.assert_allclose(camera.project(xyz), uv, atol=1e-6)
    np.testing.assert_allclose(camera.unproject(uv, xyz[:, 2]), xyz, atol=1e-5)
    assert np.isnan(camera.unproject(np.array([[np.nan, 1.0]]), np.array([1.0]))[0, :2]).any()
    assert camera.unproject(np.zeros((0, 2)), np.zeros(0)).shape == (0, 3)


def test_distortion_of_zeros_is_none_and_an_unknown_model_an_error():
    assert camera_from_info(info(d=[0.0] * 5, distortion_model="whatever"), (480, 640)) == Camera(500, 510, 320, 240)
    for d, name, expected in (
        ([0.1] * 5, "mystery", r"model 'mystery' with 5 coefficients; expected plumb_bob \(4 or 5"),
        ([0.1] * 3, "plumb_bob", "'plumb_bob' with 3 coefficients"),
        ([0.1] * 5, "fisheye", "'fisheye' with 5 coefficients"),
        ([0.1] * 4, "Inverse Brown Conrady", "'Inverse Brown Conrady' with 4"),
        ([0.1, float("nan"), 0.0, 0.0], "plumb_bob", "not finite"),
    ):
        with pytest.raises(MessageError, match=expected):
            camera_from_info(info(d=d, distortion_model=name), (480, 640))


@pytest.mark.parametrize(
    ("name", "count", "model"),
    [
        ("", 5, "plumb_bob"),
        ("radtan", 4, "plumb_bob"),
        ("Brown Conrady", 5, "plumb_bob"),
        ("plumb_bob", 8, "rational_polynomial"),
        ("rational_polynomial", 5, "plumb_bob"),
        ("fisheye", 4, "equidistant"),
        ("Kannala Brandt4", 4, "equidistant"),
        ("kannala-brandt", 4, "equidistant"),
    ],
)
def test_distortion_models_by_their_other_names(name, count, model):
    d = [0.01 * (i + 1) for i in range(count)]
    expected = Camera(500, 510, 320, 240, tuple(d), model)
    assert camera_from_info(info(d=d, distortion_model=name), (480, 640)) == expected
    filled_up = camera_from_info(info(d=[*d, 0.0], distortion_model=name), (480, 640))
    assert filled_up.distortion_model == model
    assert filled_up.distortion[:count] == tuple(d)
    assert not any(filled_up.distortion[count:])


@pytest.mark.parametrize(("name", "count"), [("equidistant", 4), ("fisheye", 4), ("equidistant", 5)])
def test_a_fisheye_without_coefficients_is_no_pinhole(name, count):
    camera = camera_from_info(info(d=[0.0] * count, distortion_model=name), (480, 640))
    assert camera == Camera(500, 510, 320, 240, (0.0,) * 4, "equidistant")
    ray = camera.unproject(np.array([[820.0, 240.0]]), np.ones(1))[0]
    assert ray[0] == pytest.approx(np.tan(1.0))  # a focal length from the axis is one radian
    assert camera_from_info(info(distortion_model=name), (480, 640)) == Camera(500, 510, 320, 240)


def test_a_camera_without_distortion_is_none_of_any_model():
    for model in ("equidistant", "plumb_bob", "rational_polynomial"):
        camera = Camera(500, 510, 320, 240, (), model)
        assert camera_from_info(CameraInfo(**camera_info_fields(camera, (480, 640))), (480, 640)) == Camera(
            500, 510, 320, 240
        )


# of image_pipeline's calibration tests: a lens whose rectified picture has quite another focal length
RAW_K = [290.050152, 0.0, 399.938345, 0.0, 289.392837, 273.885669, 0.0, 0.0, 1.0]
RECTIFIED_P = [80.425769, 0.0, 287.422318, 0.0, 0.0, 80.243507, 32.874135, 0.0, 0.0, 0.0, 1.0, 0.0]
LENS = [-0.030464, -0.019695, 0.002098, 0.001030]


def test_a_rectified_image_has_the_camera_of_p():
    msg = info(800, 503, k=RAW_K, p=RECTIFIED_P, d=LENS, distortion_model="plumb_bob")
    raw, rectified = (camera_from_info(msg, (503, 800), rectified) for rectified in (False, True))
    assert raw == Camera(290.050152, 289.392837, 399.938345, 273.885669, tuple(LENS))
    assert rectified == Camera(80.425769, 80.243507, 287.422318, 32.874135)
    assert camera_from_info(msg, (1006, 1600), True) == rectified.scaled(2.0)
    msg.distortion_model = "mystery"  # of no interest where distortion was taken out
    assert camera_from_info(msg, (503, 800), True) == rectified


def test_a_rectified_image_without_p():
    assert camera_from_info(info(), (480, 640), rectified=True) == Camera(500, 510, 320, 240)  # no lens: K is P
    with pytest.raises(MessageError, match="fx = 0, fy = 0 in P: the camera is not calibrated"):
        camera_from_info(info(d=LENS, distortion_model="plumb_bob"), (480, 640), rectified=True)
    with pytest.raises(MessageError, match=r"in K: the camera is not calibrated; P is given: is the image rectified\?"):
        camera_from_info(info(k=[0.0] * 9, p=RECTIFIED_P), (480, 640))


@pytest.mark.parametrize(
    ("topic", "is_rectified"),
    [
        ("/camera/image_rect", True),
        ("/camera/image_rect_color/compressed", True),
        ("/zed/rgb/color/rect/image", True),
        ("/left/image_rectified", True),
        ("/camera/image_raw", False),
        ("/camera/direct/image", False),
        ("/camera/unrectified/image", False),
    ],
)
def test_topics_of_rectified_images(topic, is_rectified):
    assert is_rectified_topic(topic) == is_rectified


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (480, 640), (640, 400)])
def test_a_calibration_of_another_part_of_the_view_is_refused(width, height):
    with pytest.raises(MessageError, match=rf"image of {width}x{height} px, this one has 640x480 px"):
        camera_from_info(info(width, height), (480, 640))


@pytest.mark.parametrize(
    ("width", "height", "size"), [(1920, 1080, (1088, 1920)), (1280, 720, (45, 80)), (0, 0, (7, 9))]
)
def test_a_calibration_of_nearly_the_same_view_is_scaled(width, height, size):
    camera = camera_from_info(info(width, height), size)
    assert camera.fx == pytest.approx(500 * size[1] / (width or size[1]))
    assert camera.fy == pytest.approx(510 * size[0] / (height or size[0]))


@pytest.mark.parametrize(
    ("focal", "size", "expected"),
    [
        (1e308, (4800, 6400), "cannot be used"),
        (5e-324, (48, 64), "cannot be used"),
        (1e30, (480, 640), r"focal length of 1e\+30 px for an image of 640x480 px; the camera is not calibrated"),
        (1.0, (480, 640), "focal length of 1 px.*expected 6.4 to 640000 px"),
    ],
)
def test_a_calibration_of_impossible_focal_length(focal, size, expected):
    with pytest.raises(MessageError, match=expected):
        camera_from_info(info(k=[focal, 0.0, 320.0, 0.0, focal, 240.0, 0.0, 0.0, 1.0]), size)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "rgb16", "bayer_rggb8"])
def test_cv_bridge_agrees(encoding):
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge comes with a ROS installation")
    pixels = as_bayer(RGB, "rggb") if encoding.startswith("bayer") else EXACT.get(encoding, GREY)
    msg = message(pixels, encoding)
    theirs = cv_bridge.CvBridge().imgmsg_to_cv2(msg, "rgb8")
    assert np.abs(theirs.astype(int) - image_to_rgb(msg)).max() <= 1


def test_query_round_trip():
    uv, ids = query_points(query_cloud(UV, Header()))
    np.testing.assert_array_equal(uv, UV.astype(np.float32))
    assert ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("names", ["uv", "xy"])
@pytest.mark.parametrize(("size", "datatype"), [("f4", PointField.FLOAT32), ("f8", PointField.FLOAT64)])
def test_query_layouts(names, size, datatype, order):
    points = np.zeros(
        3,
        dtype={
            "names": [names[1], names[0], "id"],
            "formats": [order + size, order + size, order + "i2"],
            "offsets": [8, 16, 2],
            "itemsize": 29,
        },
    )
    points[names[0]], points[names[1]] = UV.T
    points["id"] = [-4, 5, 300]
    fields = [(names[1], 8, datatype), (names[0], 16, datatype), ("id", 2, PointField.INT16)]
    uv, ids = query_points(cloud(fields, points, is_bigendian=order == ">"))
    np.testing.assert_array_equal(uv, UV.astype(size))
    assert ids.tolist() == [-4, 5, 300]


def test_organised_cloud_with_padded_rows():
    points = np.zeros(6, dtype=[("u", "<f4"), ("v", "<f4")])
    points["u"] = np.arange(6)
    rows = np.pad(points.view(np.uint8).reshape(2, 24), ((0, 0), (0, 5)))
    msg = cloud([("u", 0, 7), ("v", 4, 7)], points, height=2, width=3, row_step=29, data=rows.tobytes())
    assert query_points(msg)[0][:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_of_fields_of_one_name_the_first_counts():
    """Padding often has one name for all of it."""
    points = np.arange(8, dtype=np.float32).reshape(2, 4).view([("u", "<f4"), ("_", "<f4"), ("v", "<f4"), ("x", "<f4")])
    msg = cloud([("u", 0, 7), ("_", 4, 7), ("v", 8, 7), ("_", 12, 7), ("u", 4, 7)], points.reshape(-1))
    assert query_points(msg)[0].tolist() == [[0, 2], [4, 6]]


def test_empty_query():
    uv, ids = query_points(query_cloud(np.zeros((0, 2)), Header()))
    assert uv.shape == (0, 2)
    assert ids.shape == (0,)


PAIR = np.zeros(2, dtype=[("a", "<f4"), ("b", "<f4")])


def with_count(msg: PointCloud2, count: int) -> PointCloud2:
    msg.fields[0].count = count
    return msg


@pytest.mark.parametrize(
    ("msg", "expected"),
    [
        (cloud([("a", 0, 7), ("b", 4, 7)], PAIR), r"fields \['a', 'b'\]; expected 'u' and 'v'"),
        (cloud([("u", 0, 6), ("v", 4, 6)], PAIR), "'u' is uint32; expected one float32 or float64"),
        (cloud([("u", 0, 7), ("v", 4, 99)], PAIR), "'v' has the unknown datatype 99"),
        (cloud([("u", 0, 7), ("v", 6, 7)], PAIR), "do not fit in point_step 8"),
        (cloud([("u", 0, 7), ("v", 4, 7)], PAIR, width=1000), "cloud data has 16 bytes"),
        (cloud([("u", 0, 7), ("v", 4, 7)], PAIR, row_step=3), "row_step 3"),
        (cloud([("u", 0, 7), ("v", 4, 7)], PAIR, point_step=0, row_step=16), "do not fit in point_step 0"),
        (with_count(cloud([("u", 0, 7), ("v", 4, 7)], PAIR), 2**32 - 1), "'u' ends at byte 17179869180"),
        (with_count(cloud([("u", 0, 7)], PAIR, point_step=2**32 - 1, width=0), 2**30 - 1), "cannot be read"),
        (cloud([("u", 0, 7), ("u", 4, 7)], PAIR), r"has the fields \['u'\]"),
        (cloud([], PAIR), r"fields \[\]; expected 'u' and 'v'"),
        (cloud([], PAIR, point_step=0, row_step=0, height=2**32 - 1, data=b""), r"fields \[\]"),
    ],
)
def test_broken_queries(msg, expected):
    with pytest.raises(MessageError, match=expected):
        query_points(msg)
    assert point_count(msg) <= len(msg.data)


def test_blocked_is_the_share_of_likely_depths_in_front_of_a_waypoint():
    """Against depths drawn from what depth and sigma say."""
    depth = np.array([2.0, 2.0, 2.0, 2.0, 2.0, np.nan], np.float32)
    sigma = np.array([0.3, 0.3, 0.3, 0.05, np.nan, 0.3], np.float32)
    waypoint = np.array([2.0, 1.6, 3.0, 1.6, 1.6, 1.6], np.float32)
    blocked = blocked_probability(Answer(depth, sigma, np.zeros((6, 3)), np.zeros(6)), waypoint)
    drawn = np.log(depth) + sigma / depth * np.random.default_rng(0).standard_normal((40_000, 1))
    np.testing.assert_allclose(blocked[:4], np.mean(np.exp(drawn) < waypoint, axis=0)[:4], atol=0.01)
    assert np.isnan(blocked[4:]).all()


def test_answer_layout():
    ids = np.array([7, 9], np.uint32)
    depth = np.array([1.5, np.nan], np.float32)
    xyz = np.array([[0.1, 0.2, 1.5], [np.nan] * 3], np.float32)
    msg = answer_cloud(
        Header(frame_id="cam"),
        np.array([[3.0, 4.0], [5.0, 6.0]]),
        ids,
        Answer(depth, depth / 10, xyz, np.array([Status.OK, Status.OUTSIDE_IMAGE])),
        np.array([1.25, np.nan], np.float32),
    )
    assert [(f.name, f.datatype) for f in msg.fields] == [
        ("x", 7),
        ("y", 7),
        ("z", 7),
        ("depth", 7),
        ("sigma", 7),
        ("scale", 7),
        ("u", 7),
        ("v", 7),
        ("id", 6),
        ("status", 2),
    ]
    assert not msg.is_dense
    points = cloud_to_array(msg)
    assert points["id"].tolist() == [7, 9]
    assert points["status"].tolist() == [0, 2]
    np.testing.assert_array_equal(points["z"], depth)
    np.testing.assert_array_equal(points["sigma"], depth / 10)
    np.testing.assert_array_equal(points["scale"], [1.25, np.nan])
    np.testing.assert_allclose(points["x"], xyz[:, 0])
