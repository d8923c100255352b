"""Compressed depth images against an encoder written after the paper, and against the quantisation of 32FC1."""

import numpy as np
import pytest
from support.recorded import compressed, png, rvl, rvl_message

from spd_core import rvl as decoder
from spd_core.messages import MessageError, compressed_depth_to_metres

RNG = np.random.default_rng(0)
WALL = (1000 + np.arange(48)[:, None] * 7 + np.arange(64) * 3).astype(np.uint16)


@pytest.mark.parametrize(
    "depth",
    [
        WALL,
        np.where(RNG.random(WALL.shape) < 0.4, 0, WALL).astype(np.uint16),
        RNG.integers(0, 65536, (40, 30)).astype(np.uint16),
        np.array([[65535, 1, 65535, 0, 0, 32768]], np.uint16),
        np.zeros((3, 5), np.uint16),
        np.full((1, 1), 7, np.uint16),
        np.pad(WALL, 20),
    ],
)
def test_what_was_encoded_is_decoded(depth):
    code = np.frombuffer(rvl(depth), np.uint8)
    np.testing.assert_array_equal(decoder.decode(code, depth.size).reshape(depth.shape), depth)
    message = compressed(0, "16UC1; compressedDepth rvl", rvl_message(depth))
    known = np.where(depth == 65535, 0, depth)  # which is no reading
    np.testing.assert_allclose(compressed_depth_to_metres(message), known / 1000, rtol=1e-6)


@pytest.mark.parametrize("coder", ["png", "rvl"])
def test_32fc1_is_quantised_as_inverse_depth(coder):
    """depth_quantization 100 and depth_max 10 m of image_transport: A = 100 * 101, B = 1 - A / 10."""
    depth_m = np.where(RNG.random((20, 30)) < 0.2, 0, RNG.uniform(0.5, 10, (20, 30)))
    a = np.float32(100 * 101)
    b = np.float32(1 - a / 10)
    coded = np.where(depth_m > 0, a / np.maximum(depth_m, 0.1) + b, 0).astype(np.uint16)
    data = rvl_message(coded, a, b) if coder == "rvl" else rvl_message(coded, a, b)[:12] + png(coded)
    decoded_m = compressed_depth_to_metres(compressed(0, f"32FC1; compressedDepth {coder}", data))
    np.testing.assert_allclose(decoded_m, depth_m, atol=0.011)  # one step at 10 m is 1 cm
    assert (decoded_m[depth_m == 0] == 0).all()


def test_a_code_below_b_is_no_reading():
    coded = np.array([[5, 2000]], np.uint16)
    decoded_m = compressed_depth_to_metres(compressed(0, "32FC1; compressedDepth rvl", rvl_message(coded, 1e4, 1000.0)))
    assert decoded_m.tolist() == [[0, 10]]


def test_damaged_code_is_refused_or_decoded_to_the_image_size():
    whole = rvl_message(np.where(RNG.random(WALL.shape) < 0.3, 0, WALL).astype(np.uint16))
    refused = 0
    for i in range(600):
        data = bytearray(whole[: RNG.integers(len(whole))] if i % 2 else whole)
        for _ in range(3):
            if data:
                data[RNG.integers(len(data))] = RNG.integers(256)
        try:
            depth_m = compressed_depth_to_metres(compressed(0, "16UC1; compressedDepth rvl", bytes(data)))
        except MessageError:
            refused += 1
        else:
            assert depth_m.size == np.frombuffer(data[12:20], "<i4").prod()
    assert 300 < refused < 600


@pytest.mark.parametrize("size", [(0, 5), (-1, 5), (1 << 15, 1 << 15)])
def test_an_absurd_size_is_refused_before_memory_is_asked_for(size):
    data = rvl_message(WALL)
    data = data[:12] + np.array(size, "<i4").tobytes() + data[20:]
    with pytest.raises(MessageError, match=f"says that it is {size[0]}x{size[1]} px"):
        compressed_depth_to_metres(compressed(0, "16UC1; compressedDepth rvl", data))


@pytest.mark.parametrize("pixels", [WALL.astype(np.uint8), np.dstack([WALL] * 3)])
def test_pixels_that_cannot_be_depth(pixels):
    with pytest.raises(MessageError, match=r"depth needs one of 16 bits: JPEG and 8-bit PNG"):
        compressed_depth_to_metres(compressed(0, "16UC1; png compressed", png(pixels)))
