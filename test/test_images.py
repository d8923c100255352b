"""Pictures from files, held against what Pillow makes of them."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features
from support.photographs import ORIENTATION, PIXELS, SIZE, photograph

from spd_core.data.images import orientation_of, read_colour, write_picture
from spd_core.data.samples import DataError

SMOOTH = cv2.resize(PIXELS[:6, :8], SIZE[::-1], interpolation=cv2.INTER_CUBIC)
HAS_AVIF = features.check("avif") and cv2.haveImageWriter("p.avif")
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "big.tif", "avif", "xmp.jpg"])
def test_pictures_are_turned_as_pillow_turns_them(tmp_path, kind, orientation):
    if kind == "avif" and not HAS_AVIF:
        pytest.skip("libraries without AVIF")
    tags, file = Image.Exif(), tmp_path / f"p.{kind}"
    tags[ORIENTATION] = orientation
    about = {"xmp": XMP.format(orientation).encode()} if kind == "xmp.jpg" else {"exif": tags}
    Image.fromarray(SMOOTH).save(file, quality=95, big_tiff=kind == "big.tif", **about)
    with Image.open(file) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    turned = read_colour(file, turned=True)
    assert turned.shape == (SIZE if orientation < 5 else SIZE[::-1]) + (3,)
    assert np.abs(turned.astype(float) - expected).mean() < 3  # decoders differ
    if "tif" not in kind:
        assert np.abs(read_colour(file).astype(float) - SMOOTH).mean() < 6, "as it is stored"


def test_exif_is_read_of_the_largest_photographs_that_phones_take(tmp_path):
    file = photograph(tmp_path / "p.jpg", orientation=6)
    jpeg = bytearray(file.read_bytes())
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 12240, 16320)
    assert orientation_of(io.BytesIO(jpeg)) == orientation_of(file) == 6


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_what_is_masked_in_a_tiff_is_not_black(tmp_path, alpha, big):
    Image.fromarray(np.dstack([PIXELS, np.full(SIZE, alpha, np.uint8)])).save(tmp_path / "p.tif", big_tiff=big)
    np.testing.assert_array_equal(read_colour(tmp_path / "p.tif"), PIXELS)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_that_are_no_colours_are_named(tmp_path, channels):
    cv2.imwrite(str(tmp_path / "p.tif"), np.ones((*SIZE, channels), np.float32))
    with pytest.raises(DataError, match=r"p\.tif is no picture in colours: its pixels are float32; expected uint8 or"):
        read_colour(tmp_path / "p.tif")


def test_what_is_no_picture_at_all_is_named(tmp_path):
    picture = io.BytesIO()
    Image.fromarray(PIXELS).save(picture, "png")
    (tmp_path / "p.png").write_bytes(picture.getvalue()[:2000])
    with pytest.raises(DataError, match=r"p\.png is damaged, or was not written .*; it cannot be decoded"):
        read_colour(tmp_path / "p.png")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".jp2"])
def test_formats_that_are_written_are_read(tmp_path, suffix):
    write_picture(tmp_path / f"p{suffix}", SMOOTH)
    assert np.abs(read_colour(tmp_path / f"p{suffix}").astype(float) - SMOOTH).mean() < 6


@pytest.mark.parametrize(("suffix", "width"), [(".webp", 16_384), (".jpg", 65_536), (".gif", 65_536)])
def test_a_picture_that_a_format_cannot_hold_is_said_and_not_written(tmp_path, suffix, width):
    with pytest.raises(DataError, match=rf"p\{suffix} cannot hold a picture of {width}x8 px; expected another format"):
        write_picture(tmp_path / f"p{suffix}", np.zeros((8, width, 3), np.uint8))
    assert not any(tmp_path.iterdir())
